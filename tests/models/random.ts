/**
 * Random numbers for test models: xoshiro128**, seeded by a name, so that every tensor has a stream of its own.
 *
 * Only integer steps and exactly rounded arithmetic are used (no Math.log or Math.cos, whose last bits differ between
 * engines), so the same seed gives the same bytes on every platform.
 *
 * @see Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number, stream = "") {
    // FNV-1a over the stream's name, then splitmix32 steps, so that near seeds start far apart.
    let hash = 0x811c9dc5 ^ seed;
    for (let i = 0; i < stream.length; i++) hash = Math.imul(hash ^ stream.charCodeAt(i), 0x01000193);
    const next = () => {
      hash = (hash + 0x9e3779b9) | 0;
      let mixed = Math.imul(hash ^ (hash >>> 16), 0x21f0aaad);
      mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
      return mixed ^ (mixed >>> 15);
    };
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#d = next() | 1;
  }

  /** 32 random bits, 0 to 2^32 - 1. */
  bits(): number {
    const scrambled = Math.imul(this.#b, 5);
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0;
    const shifted = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= shifted;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** A whole number, 0 to bound - 1. */
  below(bound: number): number {
    return Math.floor((this.bits() / 4294967296) * bound);
  }

  /** Near enough to a standard normal number: four uniform ones summed, mean 0, deviation 1, at most 3.46 away. */
  normal(): number {
    const x = this.bits();
    const y = this.bits();
    const sum = (x >>> 16) + (x & 0xffff) + (y >>> 16) + (y & 0xffff);
    return (sum - 131070) / 37837.227;
  }

  /** Fills with mean + deviation x normal numbers, rounded to 32 bit. */
  fill(values: Float32Array, mean: number, deviation: number): void {
    for (let i = 0; i < values.length; i++) values[i] = mean + deviation * this.normal();
  }

  /** The whole numbers 0 to length - 1 in random order. */
  order(length: number): number[] {
    const order = Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const kept = order[i]!;
      order[i] = order[j]!;
      order[j] = kept;
    }
    return order;
  }
}

/** The test writers' own 16-bit formats, written from the standard so that they can check the project's. */

/** 32-bit numbers as IEEE binary16 bits, rounded to nearest, ties to even. Finite input only. */
export function toF16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const sign = (bits[i]! >>> 16) & 0x8000;
    const magnitude = Math.abs(values[i]!);
    if (magnitude >= 65520) {
      halves[i] = sign | 0x7c00;
    } else if (magnitude < 2 ** -14) {
      // Subnormal: steps of 2^-24. Scaling by a power of two is exact.
      halves[i] = sign | roundHalfEven(magnitude * 2 ** 24);
    } else {
      const exponent = ((bits[i]! >>> 23) & 0xff) - 127;
      const steps = roundHalfEven(magnitude * 2 ** (10 - exponent));
      // steps is 1024 to 2048: at 2048 the carry moves into the exponent by itself.
      halves[i] = sign | (((exponent + 15) << 10) + (steps - 1024));
    }
  }
  return halves;
}

/** 32-bit numbers as bfloat16 bits, rounded to nearest, ties to even. Finite input only. */
export function toBF16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const word = bits[i]!;
    halves[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return halves;
}

export function fromF16(halves: Uint16Array): Float32Array {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >>> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
    return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
  });
}

export function fromBF16(halves: Uint16Array): Float32Array {
  const bits = Uint32Array.from(halves, (half) => half << 16);
  return new Float32Array(bits.buffer);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest > 0.5 || (rest === 0.5 && floor % 2 === 1)) return floor + 1;
  return floor;
}

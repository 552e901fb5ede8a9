import { elementTypeOf, KV_TYPES, type KVType, rowBytes } from "../files/element-types.js";

/** The version of the layout below. Part of every block id: another layout is another block. */
export const BLOCK_KV_FORMAT_VERSION = 2;

/**
 * What a block KV holds: keys [L, Hkv, T, D], then values [L, Hkv, T, D], contiguous, in one piece of memory. A block's keys are
 * those before RoPE, since it may stand anywhere. A page's are turned to its place, the only one that it has: so they are laid
 * out again to the last bit.
 */
export interface BlockKVShape {
  /** L. */
  readonly numLayers: number;
  /** Hkv. */
  readonly numKvHeads: number;
  /** D, in elements. */
  readonly headSize: number;
  /** T, 1 or more: an empty block has no KV. */
  readonly numTokens: number;
  readonly type: KVType;
}

/** The memory of one block. Whoever holds it disposes it, once. */
export interface BlockMemory extends Disposable {
  readonly byteLength: number;
  /** A copy of the bytes. */
  read(): Uint8Array;
  /**
   * Sets bytes, from an offset on. Only before the block is handed to a store: from then on they are immutable.
   * @returns once they are there; undefined where they are at once.
   */
  write(bytes: Uint8Array, offset?: number): Promise<void> | undefined;
}

/**
 * The size of a block KV, in bytes: 2 x L x Hkv x T heads of D elements.
 *
 * @throws RangeError if a size is not a whole number from 1 on, a head is not whole blocks of the type, or the product is past 2^53 - 1.
 * @example 2 layers, 1 head of 4, 3 tokens, f16: 96
 */
export function blockKVByteLength(shape: BlockKVShape): number {
  for (const name of ["numLayers", "numKvHeads", "headSize", "numTokens"] as const) {
    const size = shape[name];
    if (!Number.isSafeInteger(size) || size < 1) {
      throw new RangeError(`Cannot size a block KV: ${name} is ${size}, wanted a whole number from 1 on`);
    }
  }
  if (!KV_TYPES.includes(shape.type)) {
    throw new RangeError(`Cannot size a block KV: type is "${shape.type}", wanted ${KV_TYPES.join(", ")}`);
  }
  const numHeads = 2 * shape.numLayers * shape.numKvHeads * shape.numTokens;
  const byteLength = numHeads * rowBytes(elementTypeOf(shape.type), shape.headSize);
  if (!Number.isSafeInteger(byteLength)) {
    throw new RangeError(`Cannot size a block KV: ${byteLength} bytes are past what a number counts exactly`);
  }
  return byteLength;
}

export function sameShape(a: BlockKVShape, b: BlockKVShape): boolean {
  return (
    a.numLayers === b.numLayers &&
    a.numKvHeads === b.numKvHeads &&
    a.headSize === b.headSize &&
    a.numTokens === b.numTokens &&
    a.type === b.type
  );
}

/** One line for error messages, for instance "2 layers, 1 KV heads of 4, 3 tokens, f16". */
export function describeShape(shape: BlockKVShape): string {
  return `${shape.numLayers} layers, ${shape.numKvHeads} KV heads of ${shape.headSize}, ${shape.numTokens} tokens, ${shape.type}`;
}

/** The keys before RoPE and the values of one block, and the one holder of their memory. */
export class BlockKV<M extends BlockMemory = BlockMemory> implements Disposable {
  readonly shape: BlockKVShape;
  readonly byteLength: number;
  #memory: M | undefined;

  /**
   * Takes the memory over: it is disposed with the block.
   *
   * @throws RangeError if the memory's size is not the shape's; the memory then stays the caller's.
   */
  constructor(shape: BlockKVShape, memory: M) {
    const byteLength = blockKVByteLength(shape);
    if (memory.byteLength !== byteLength) {
      throw new RangeError(
        `Cannot make a block KV: the memory has ${memory.byteLength} bytes, ${describeShape(shape)} need ${byteLength}`,
      );
    }
    this.shape = Object.freeze({ ...shape });
    this.byteLength = byteLength;
    this.#memory = memory;
  }

  get isDisposed(): boolean {
    return this.#memory === undefined;
  }

  /**
   * The memory, to compute with. It stays the block's, and its bytes stay as they are.
   *
   * @throws Error if the block was disposed.
   */
  get memory(): M {
    if (this.#memory === undefined) {
      throw new Error(`Cannot read a block KV: it was disposed (${describeShape(this.shape)})`);
    }
    return this.#memory;
  }

  /** A copy of the bytes. */
  read(): Uint8Array {
    return this.memory.read();
  }

  /** Frees the memory; again does nothing. */
  [Symbol.dispose](): void {
    const memory = this.#memory;
    this.#memory = undefined;
    memory?.[Symbol.dispose]();
  }
}

import { elementTypeOf, type KVType } from "../files/element-types.js";
import { type BlockKVShape, type BlockMemory, blockKVByteLength } from "../kv/block-kv.js";
import type { Decoder } from "../model/decoder.js";
import { KVRows, rowElements } from "../model/kv-rows.js";
import type { KVMemory, Region } from "./kv-memory.js";

/** What a block of this many tokens looks like at rest. */
export function blockShape(decoder: Decoder, kvType: KVType, numTokens: number): BlockKVShape {
  const { numLayers, numKvHeads, headSize } = decoder.config;
  return { numLayers, numKvHeads, headSize, numTokens, type: kvType };
}

/** A block KV's bytes in a device's memory, which graphs read and write. */
export class DeviceBlockMemory implements BlockMemory {
  readonly byteLength: number;
  readonly #memory: KVMemory;
  readonly #region: Region;
  readonly #shape: BlockKVShape;

  /** @throws Error if the device has not enough memory. */
  constructor(memory: KVMemory, shape: BlockKVShape) {
    this.byteLength = blockKVByteLength(shape);
    this.#memory = memory;
    this.#shape = shape;
    this.#region = memory.allocate(elementTypeOf(shape.type), 2 * rowElements(shape, shape.numTokens));
  }

  /** Keys before RoPE. */
  get keys(): KVRows {
    return this.#rows(0);
  }

  get values(): KVRows {
    return this.#rows(rowElements(this.#shape, this.#shape.numTokens));
  }

  read(): Uint8Array {
    const { tensor, offset } = this.#region;
    return this.#memory.backend.read(tensor, offset * tensor.nb[0], this.byteLength);
  }

  write(bytes: Uint8Array): void {
    if (bytes.byteLength !== this.byteLength) {
      throw new RangeError(`Cannot write a block's bytes: ${bytes.byteLength} are given, wanted ${this.byteLength}`);
    }
    const { tensor, offset } = this.#region;
    this.#memory.backend.set(tensor, bytes, offset * tensor.nb[0]);
  }

  [Symbol.dispose](): void {
    this.#region[Symbol.dispose]();
  }

  #rows(first: number): KVRows {
    const { tensor, offset } = this.#region;
    return new KVRows(this.#shape, { tensor, offset: offset + first, capacity: this.#shape.numTokens });
  }
}

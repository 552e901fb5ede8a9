import { elementTypeOf, isInBlocks, type KVType } from "../files/element-types.js";
import { Limit } from "../files/limit.js";
import { BlockKV, type BlockKVShape, type BlockMemory, blockKVByteLength } from "../kv/block-kv.js";
import { LowerTier } from "../kv/lower-tier.js";
import type { Decoder } from "../model/decoder.js";
import { KVRows, rowElements } from "../model/kv-rows.js";
import type { KVMemory, Region } from "./kv-memory.js";

/** What a block of this many tokens looks like at rest. */
export function blockShape(decoder: Decoder, kvType: KVType, numTokens: number): BlockKVShape {
  const { numLayers, numKvHeads, headSize } = decoder.config;
  return { numLayers, numKvHeads, headSize, numTokens, type: kvType };
}

/** The same of a page: what a context holds, to the last bit, where a block's type is rounded to before its first use. */
export function pageShape(decoder: Decoder, kvType: KVType, numTokens: number): BlockKVShape {
  return blockShape(decoder, isInBlocks(kvType) ? "f16" : kvType, numTokens);
}

/** So many are written off the event loop: fewer are there before a thread answers. */
const asyncBytes = 2 ** 16;

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
    const { tensor, byteOffset } = this.#region;
    return this.#memory.backend.read(tensor, byteOffset, this.byteLength);
  }

  write(bytes: Uint8Array, offset = 0): Promise<void> | undefined {
    if (offset + bytes.byteLength > this.byteLength) {
      throw new RangeError(
        `Cannot write a block's bytes: ${bytes.byteLength} are given from ${offset} on, and it has ${this.byteLength}`,
      );
    }
    const { tensor, byteOffset } = this.#region;
    const { backend } = this.#memory;
    if (bytes.byteLength >= asyncBytes) return backend.write(tensor, bytes, byteOffset + offset);
    backend.set(tensor, bytes, byteOffset + offset);
    return undefined;
  }

  /** Copies the bytes to or from a block of the same shape in the CPU's memory, beside graphs that do not write them. */
  async copy(direction: "to" | "from", host: DeviceBlockMemory): Promise<void> {
    const { tensor, byteOffset } = this.#region;
    await this.#memory.backend.copy(direction, tensor, host.#region.address, byteOffset, this.byteLength);
  }

  [Symbol.dispose](): void {
    this.#region[Symbol.dispose]();
  }

  #rows(first: number): KVRows {
    const { tensor, offset } = this.#region;
    return new KVRows(this.#shape, { tensor, offset: offset + first, capacity: this.#shape.numTokens });
  }
}

/**
 * A tier of blocks in the CPU's memory below a device's. One block is copied down at a time, and one up: each copy takes one of the
 * few threads that graphs start on too.
 *
 * @param host the CPU's memory.
 * @param capBytes of the blocks' own bytes.
 */
export function hostTier(memory: KVMemory, host: KVMemory, capBytes: number): LowerTier<DeviceBlockMemory> {
  const [down, up] = [new Limit(1), new Limit(1)];
  /** Memory for a block with the bytes of another one. */
  const copied = async (into: KVMemory, shape: BlockKVShape, copy: (made: DeviceBlockMemory) => Promise<void>) => {
    const made = new DeviceBlockMemory(into, shape);
    try {
      await copy(made);
      return made;
    } catch (error) {
      made[Symbol.dispose]();
      throw error;
    }
  };
  return new LowerTier({
    capBytes,
    medium: {
      name: "host",
      save: async ({ shape, memory: source }) => {
        const saved = await down.run(() => copied(host, shape, (made) => source.copy("to", made)));
        return {
          load: async () => {
            const loaded = await up.run(() => copied(memory, shape, (made) => made.copy("from", saved)));
            return new BlockKV(shape, loaded);
          },
          free: () => {
            saved[Symbol.dispose]();
            return undefined;
          },
        };
      },
    },
  });
}

import { elementTypes, isInBlocks, type KVType, rowBytes } from "../files/element-types.js";
import type { Backend } from "../ggml/backend.js";
import type { TensorStorage } from "../ggml/memory.js";
import type { Pointer } from "../ggml/symbols.js";
import type { Tensor } from "../ggml/tensor.js";
import type { RowShape } from "../model/kv-rows.js";

/** Regions start at multiples of this, in bytes, as GPUs require of tensors. */
const alignment = 256;
const defaultSlabBytes = 64 * 2 ** 20;
/** Regions above this share of a slab get a slab of their own, so that no slab ends in a large gap. */
const largestShare = 1 / 4;

type KVElementType = Uppercase<KVType>;

/** Part of a slab: memory with one owner, who gives it back by disposing it; again does nothing. */
export interface Region extends Disposable {
  /** The whole slab's. */
  readonly tensor: Tensor;
  /** Where the region starts in the tensor, in elements. */
  readonly offset: number;
  /** The same, in bytes. */
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Of its first byte: of use where the memory is the CPU's. */
  readonly address: Pointer;
}

/** Free elements of a slab, in order, no two of them neighbours. */
interface Gap {
  offset: number;
  size: number;
}

interface Slab {
  readonly storage: TensorStorage;
  readonly type: KVElementType;
  readonly size: number;
  gaps: Gap[];
}

export interface KVMemoryStats {
  /** Bytes of all regions, as they were asked for. */
  readonly usedBytes: number;
  /** Bytes of all slabs, as the device gave them. */
  readonly reservedBytes: number;
  readonly numSlabs: number;
}

/**
 * The memory of all keys and values of a model on a device: blocks, contexts, slots and shared rows. Regions are cut from a
 * few large pieces of memory, slabs, each from the smallest gap that holds it. Neighbouring gaps are joined when regions come
 * back, and an empty slab is freed.
 */
export class KVMemory {
  /** The element type of contexts. Blocks of other types are widened: ggml's attention takes F32 and F16. */
  readonly contextType: "F16" | "F32";
  readonly #slabBytes: number;
  readonly #isOnHost: boolean;
  readonly #slabs = new Set<Slab>();
  #usedBytes = 0;

  /**
   * @param options.slabBytes the size of a slab that several regions share.
   * @param options.isOnHost whether it is the CPU's memory beside the device, which graphs do not read.
   */
  constructor(
    readonly backend: Backend,
    /** What a row of keys, or of values, is. */
    readonly shape: RowShape,
    readonly kvType: KVType,
    options: { readonly slabBytes?: number; readonly isOnHost?: boolean } = {},
  ) {
    const { slabBytes = defaultSlabBytes, isOnHost = false } = options;
    this.contextType = kvType === "f16" || isInBlocks(kvType) ? "F16" : "F32";
    this.#isOnHost = isOnHost;
    this.#slabBytes = Math.min(slabBytes, backend.maxBufferBytes);
  }

  get stats(): KVMemoryStats {
    const reservedBytes = [...this.#slabs].reduce((sum, { storage }) => sum + storage.byteLength, 0);
    return { usedBytes: this.#usedBytes, reservedBytes, numSlabs: this.#slabs.size };
  }

  /**
   * A region, whose elements hold what its last owner left there.
   * @throws Error if the device has not enough memory.
   */
  allocate(type: KVElementType, numElements: number): Region {
    const { blockSize, typeSize } = elementTypes[type];
    // Whole blocks of the type that end at the alignment: its odd factors are the type's alone.
    const step = (blockSize * alignment) / (typeSize & -typeSize);
    const size = Math.ceil(numElements / step) * step;
    const [slab, gap] = this.#smallestGap(type, size) ?? this.#newSlab(type, size);
    const { offset } = gap;
    gap.offset += size;
    gap.size -= size;
    if (gap.size === 0) slab.gaps.splice(slab.gaps.indexOf(gap), 1);
    const [byteLength, byteOffset] = [rowBytes(type, numElements), rowBytes(type, offset)];
    this.#usedBytes += byteLength;
    let isOut = true;
    return {
      tensor: slab.storage.get("slab"),
      offset,
      byteOffset,
      byteLength,
      address: slab.storage.address + BigInt(byteOffset),
      [Symbol.dispose]: () => {
        if (!isOut) return;
        isOut = false;
        this.#usedBytes -= byteLength;
        this.#giveBack(slab, { offset, size });
      },
    };
  }

  #smallestGap(type: KVElementType, size: number): readonly [Slab, Gap] | undefined {
    let best: readonly [Slab, Gap] | undefined;
    for (const slab of this.#slabs) {
      if (slab.type !== type) continue;
      for (const gap of slab.gaps) {
        if (gap.size >= size && (best === undefined || gap.size < best[1].size)) best = [slab, gap];
      }
    }
    return best;
  }

  #newSlab(type: KVElementType, size: number): readonly [Slab, Gap] {
    const { blockSize, typeSize } = elementTypes[type];
    const shared = Math.floor(this.#slabBytes / typeSize) * blockSize;
    const slabSize = size > shared * largestShare ? size : shared;
    const tensors = [{ name: "slab", type, ne: [slabSize] }];
    const storage = this.#isOnHost ? this.backend.allocateOnHost(tensors) : this.backend.allocate(tensors);
    const gap = { offset: 0, size: slabSize };
    const slab: Slab = { storage, type, size: slabSize, gaps: [gap] };
    this.#slabs.add(slab);
    return [slab, gap];
  }

  #giveBack(slab: Slab, { offset, size }: Gap): void {
    const next = slab.gaps.findIndex((gap) => gap.offset > offset);
    const at = next < 0 ? slab.gaps.length : next;
    const [before, after] = [slab.gaps[at - 1], slab.gaps[at]];
    const joinsBefore = before !== undefined && before.offset + before.size === offset;
    const joinsAfter = after !== undefined && offset + size === after.offset;
    const gap = {
      offset: joinsBefore ? before.offset : offset,
      size: size + (joinsBefore ? before.size : 0) + (joinsAfter ? after.size : 0),
    };
    slab.gaps.splice(joinsBefore ? at - 1 : at, Number(joinsBefore) + Number(joinsAfter), gap);
    if (gap.size < slab.size) return;
    this.#slabs.delete(slab);
    slab.storage[Symbol.dispose]();
  }
}

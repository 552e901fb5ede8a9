import { elementTypes } from "../files/element-types.js";
import { KVRows, rowElements } from "../model/kv-rows.js";
import type { KVMemory, Region } from "./kv-memory.js";

/** Slots that are made at a time, at most, and the bytes that they may take together. */
const maxSlotsAtATime = 16;
const maxBytesAtATime = 512 * 2 ** 20;
/** Up to here sizes of slots grow by a third or a half, beyond by this many rows. */
const largeSlotRows = 16_384;
const largeSlotStep = 4096;
const smallestSlotRows = 64;

/** Room for one sequence's keys and values, beside those of others. It is given back by disposing. */
export interface DecodeSlot extends Disposable {
  readonly group: SlotGroup;
  /** The slot's place in its group. */
  readonly index: number;
  readonly keys: KVRows;
  readonly decodeValues: KVRows;
}

/** Slots of one size side by side in one piece of memory, so that one product attends over several of them. */
export interface SlotGroup {
  readonly id: number;
  /** In elements, from slot to slot. */
  readonly stride: number;
}

interface Group extends SlotGroup {
  readonly capacity: number;
  readonly keys: Region;
  readonly decodeValues: Region;
  readonly isUsed: boolean[];
}

/** The rows of the slot that holds so many: sizes are few, so that sequences of about the same length share a group. */
export function slotRows(rows: number): number {
  if (rows > largeSlotRows) return Math.ceil(rows / largeSlotStep) * largeSlotStep;
  for (let size = smallestSlotRows; ; size *= 2) {
    if (rows <= size) return size;
    if (size >= 2 * smallestSlotRows && rows <= 1.5 * size) return 1.5 * size;
  }
}

/**
 * The memory of sequences that are decoded. Groups of slots are made when they are needed, the more at a time the more
 * sequences there are, and freed when their last slot comes back.
 */
export class DecodeSlots {
  readonly #memory: KVMemory;
  readonly #capBytes: number;
  readonly #onFree: (group: SlotGroup) => void;
  readonly #groups = new Set<Group>();
  #nextId = 0;

  /**
   * @param options.capBytes spare slots are made only up to here.
   * @param options.onFree told before a group's memory is freed.
   */
  constructor(memory: KVMemory, options: { readonly capBytes: number; readonly onFree: (group: SlotGroup) => void }) {
    this.#memory = memory;
    this.#capBytes = options.capBytes;
    this.#onFree = options.onFree;
  }

  /** @throws Error if the device has not enough memory. */
  take(rows: number): DecodeSlot {
    const capacity = slotRows(rows);
    const same = [...this.#groups].filter((group) => group.capacity === capacity);
    const withRoom = same.filter(({ isUsed }) => isUsed.includes(false));
    // The largest first, so that the small ones of the beginning run empty.
    withRoom.sort((a, b) => b.isUsed.length - a.isUsed.length || a.id - b.id);
    const group = withRoom[0] ?? this.#newGroup(capacity, same);
    const index = group.isUsed.indexOf(false);
    group.isUsed[index] = true;
    const place = ({ tensor, offset }: Region) => ({ tensor, offset: offset + index * group.stride, capacity });
    const { shape, backend } = this.#memory;
    let isOut = true;
    return {
      group,
      index,
      keys: new KVRows(shape, place(group.keys)),
      decodeValues: new KVRows(shape, place(group.decodeValues), backend.policy.decodeLayout),
      [Symbol.dispose]: () => {
        if (!isOut) return;
        isOut = false;
        group.isUsed[index] = false;
        if (!group.isUsed.includes(true)) this.#free(group);
      },
    };
  }

  /** Three times as many slots as there are in use, so that a few groups hold many sequences. */
  #newGroup(capacity: number, same: readonly Group[]): Group {
    const numUsed = same.reduce((sum, { isUsed }) => sum + isUsed.length, 0);
    const { shape, contextType } = this.#memory;
    const stride = rowElements(shape, capacity);
    const slotBytes = 2 * stride * elementTypes[contextType].typeSize;
    const takenBytes = [...this.#groups].reduce((sum, { keys }) => sum + 2 * keys.byteLength, 0);
    const room = Math.floor(Math.min(maxBytesAtATime, this.#capBytes - takenBytes) / slotBytes);
    const numSlots = Math.max(1, Math.min(maxSlotsAtATime, 3 * numUsed, room));
    const keys = this.#memory.allocate(contextType, stride * numSlots);
    let decodeValues: Region;
    try {
      decodeValues = this.#memory.allocate(contextType, stride * numSlots);
    } catch (error) {
      keys[Symbol.dispose]();
      throw error;
    }
    const isUsed = Array.from({ length: numSlots }, () => false);
    const group: Group = { id: this.#nextId, stride, capacity, keys, decodeValues, isUsed };
    this.#nextId += 1;
    this.#groups.add(group);
    return group;
  }

  #free(group: Group): void {
    this.#groups.delete(group);
    this.#onFree(group);
    for (const region of [group.keys, group.decodeValues]) region[Symbol.dispose]();
  }
}

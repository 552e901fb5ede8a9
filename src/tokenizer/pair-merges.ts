import type { Steps } from "./steps.js";

const emptySlot = -1;
/** Ranks and ids stay below it, so that a rank and a position fit into one exact double. */
export const maxTokens = 2 ** 22;
const positionRange = 2 ** 31;
/** A few milliseconds' worth. */
const stepsBetweenYields = 8192;

/** Which pairs of neighbouring symbols merge, how early, and into what. A hash table over flat arrays: a quarter of a million pairs cost 8 MB. */
export class PairMerges {
  readonly #mask: number;
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #rank: Int32Array;
  readonly #merged: Int32Array;

  /** @param capacity the most pairs that it will hold. */
  constructor(capacity: number) {
    let size = 16;
    while (size < capacity * 2) size *= 2;
    this.#mask = size - 1;
    this.#left = new Int32Array(size).fill(emptySlot);
    this.#right = new Int32Array(size);
    this.#rank = new Int32Array(size);
    this.#merged = new Int32Array(size);
  }

  #slot(left: number, right: number): number {
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right + 1, 0x85ebca6b)) >>> 0;
    slot = (slot ^ (slot >>> 15)) & this.#mask;
    while (this.#left[slot] !== emptySlot && (this.#left[slot] !== left || this.#right[slot] !== right)) {
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }

  /** Sets what a pair merges into; an earlier entry of the same pair is replaced. Lower ranks merge earlier. */
  set(left: number, right: number, rank: number, merged: number): void {
    const slot = this.#slot(left, right);
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#rank[slot] = rank;
    this.#merged[slot] = merged;
  }

  has(left: number, right: number): boolean {
    return this.#left[this.#slot(left, right)] !== emptySlot;
  }

  /**
   * Merges neighbours until no pair is left: always the pair of the lowest rank, the leftmost among equals.
   * O(n log n): one word of a million characters takes a second. It yields every few thousand steps.
   *
   * @param symbols the symbols' ids.
   * @returns the ids after all merges.
   * @example pairs (a, b) before (ab, c): [a, b, c] gives [abc]
   */
  *apply(symbols: readonly number[]): Steps<number[]> {
    const n = symbols.length;
    if (n < 2) return [...symbols];
    const ids = new Int32Array(n);
    // Neighbours still alive: n stands for none on the right, -1 for none on the left; a merged-away symbol has id -1.
    const next = new Int32Array(n);
    const previous = new Int32Array(n);
    const heap: number[] = [];
    for (let i = 0; i < n; i++) {
      ids[i] = symbols[i]!;
      next[i] = i + 1;
      previous[i] = i - 1;
      if (i % stepsBetweenYields === stepsBetweenYields - 1) yield;
    }
    for (let i = 0; i + 1 < n; i++) {
      this.#offer(heap, ids, i, i + 1);
      if (i % stepsBetweenYields === stepsBetweenYields - 1) yield;
    }
    for (let numSteps = 1; heap.length > 0; numSteps++) {
      if (numSteps % stepsBetweenYields === 0) yield;
      const top = popSmallest(heap);
      const rank = Math.floor(top / positionRange);
      const left = top % positionRange;
      const right = next[left]!;
      if (ids[left] === -1 || right === n) continue;
      const slot = this.#slot(ids[left]!, ids[right]!);
      // The neighbours have changed since this was offered; their new pair has an offer of its own.
      if (this.#left[slot] === emptySlot || this.#rank[slot] !== rank) continue;
      ids[left] = this.#merged[slot]!;
      ids[right] = -1;
      const after = next[right]!;
      next[left] = after;
      if (after < n) {
        previous[after] = left;
        this.#offer(heap, ids, left, after);
      }
      const before = previous[left]!;
      if (before >= 0) this.#offer(heap, ids, before, left);
    }
    const merged: number[] = [];
    for (let i = 0; i < n; i = next[i]!) {
      merged.push(ids[i]!);
      if (merged.length % stepsBetweenYields === 0) yield;
    }
    return merged;
  }

  #offer(heap: number[], ids: Int32Array, left: number, right: number): void {
    const slot = this.#slot(ids[left]!, ids[right]!);
    if (this.#left[slot] !== emptySlot) push(heap, this.#rank[slot]! * positionRange + left);
  }
}

function push(heap: number[], value: number): void {
  let i = heap.length;
  heap.push(value);
  while (i > 0) {
    const parent = (i - 1) >> 1;
    if (heap[parent]! <= value) break;
    heap[i] = heap[parent]!;
    i = parent;
  }
  heap[i] = value;
}

function popSmallest(heap: number[]): number {
  const smallest = heap[0]!;
  const last = heap.pop()!;
  const n = heap.length;
  if (n === 0) return smallest;
  let i = 0;
  for (;;) {
    let child = 2 * i + 1;
    if (child >= n) break;
    if (child + 1 < n && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= last) break;
    heap[i] = heap[child]!;
    i = child;
  }
  heap[i] = last;
  return smallest;
}

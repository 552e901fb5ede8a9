/** One piece of text cut by rule, as merging sees it. */
export interface MergePiece {
  /** Its length in characters (code points). */
  readonly numCharacters: number;
  /** Pieces of one message carry the same number; pairs inside one message merge first. */
  readonly message: number;
  /** Whether the piece stands right after the one before it, so that the two may merge. */
  readonly followsPrevious: boolean;
}

/**
 * Merges neighbouring pieces until at most `maxPieces` are left: always the pair with the fewest characters, the
 * leftmost on a tie; pairs inside one message before pairs across messages. Pieces that have no neighbour stay, so
 * more than `maxPieces` can be left.
 *
 * Runs in O(n log n): pairs wait in a heap, and a pair whose pieces have changed since is dropped when it comes up.
 *
 * @returns the indices of the pieces that each merged piece takes, as [first, end), ascending.
 */
export function mergePieces(pieces: readonly MergePiece[], maxPieces: number): [number, number][] {
  const numPieces = pieces.length;
  const sizes = Float64Array.from(pieces, (piece) => piece.numCharacters);
  // Linked list: merging takes the right piece out, and the left one grows.
  const next = Int32Array.from(pieces, (_, i) => i + 1);
  const previous = Int32Array.from(pieces, (_, i) => i - 1);
  const isGone = new Uint8Array(numPieces);
  let numLeft = numPieces;

  for (const isAcross of [false, true]) {
    if (numLeft <= maxPieces) break;
    const heap = new PairHeap();
    const offer = (left: number) => {
      const right = left < 0 ? numPieces : next[left]!;
      if (right >= numPieces || !pieces[right]!.followsPrevious) return;
      if (isAcross || pieces[left]!.message === pieces[right]!.message) heap.push(sizes[left]! + sizes[right]!, left);
    };
    for (let left = 0; left < numPieces; left = next[left]!) offer(left);

    while (numLeft > maxPieces) {
      const pair = heap.pop();
      if (pair === undefined) break;
      const { size, left } = pair;
      const right = next[left]!;
      const isStale = isGone[left] === 1 || right >= numPieces || sizes[left]! + sizes[right]! !== size;
      if (isStale) continue;
      sizes[left] = size;
      isGone[right] = 1;
      next[left] = next[right]!;
      if (next[left]! < numPieces) previous[next[left]!] = left;
      numLeft--;
      offer(previous[left]!);
      offer(left);
    }
  }

  const merged: [number, number][] = [];
  for (let first = 0; first < numPieces; first = next[first]!) merged.push([first, next[first]!]);
  return merged;
}

/** A binary heap of pairs, the smallest first, the leftmost of equals first. */
class PairHeap {
  readonly #sizes: number[] = [];
  readonly #lefts: number[] = [];

  push(size: number, left: number): void {
    let at = this.#sizes.length;
    this.#sizes.push(size);
    this.#lefts.push(left);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(size, left, parent)) break;
      this.#copy(parent, at);
      at = parent;
    }
    this.#sizes[at] = size;
    this.#lefts[at] = left;
  }

  pop(): { size: number; left: number } | undefined {
    const size = this.#sizes[0];
    const left = this.#lefts[0];
    const lastSize = this.#sizes.pop();
    const lastLeft = this.#lefts.pop();
    if (size === undefined || left === undefined || lastSize === undefined || lastLeft === undefined) return undefined;
    const length = this.#sizes.length;
    if (length === 0) return { size, left };
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && this.#isBefore(this.#sizes[child + 1]!, this.#lefts[child + 1]!, child)) child++;
      if (this.#isBefore(lastSize, lastLeft, child)) break;
      this.#copy(child, at);
      at = child;
    }
    this.#sizes[at] = lastSize;
    this.#lefts[at] = lastLeft;
    return { size, left };
  }

  #isBefore(size: number, left: number, other: number): boolean {
    const otherSize = this.#sizes[other]!;
    return size < otherSize || (size === otherSize && left < this.#lefts[other]!);
  }

  #copy(from: number, to: number): void {
    this.#sizes[to] = this.#sizes[from]!;
    this.#lefts[to] = this.#lefts[from]!;
  }
}

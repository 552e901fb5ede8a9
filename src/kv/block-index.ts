import type { BlockRequest } from "./block-store.js";

type Wanted = Pick<BlockRequest, "owner" | "context" | "tokenIds">;
type Entry = { readonly request: Wanted };

/**
 * Blocks by the context that they saw, plain ones by their owner, and there in the order of their tokens, so that those
 * that begin alike are neighbours.
 */
export class BlockIndex<T extends Entry> {
  readonly #ordered = new Map<string, OrderedEntries<T>>();

  /** @param maxListLength a longer list of entries is halved, so that adding one among very many moves few. */
  constructor(private readonly maxListLength = 512) {}

  add(entry: T): void {
    const key = keyOf(entry.request);
    const entries = this.#ordered.get(key) ?? new OrderedEntries<T>(this.maxListLength);
    this.#ordered.set(key, entries);
    entries.add(entry);
  }

  remove(entry: T): void {
    const key = keyOf(entry.request);
    const entries = this.#ordered.get(key) as OrderedEntries<T>;
    entries.remove(entry);
    if (entries.isEmpty) this.#ordered.delete(key);
  }

  /** The block that has the most tokens in common with what is wanted, from the first on: at least one. */
  mostAlike(wanted: Wanted): { readonly entry: T; readonly numShared: number } | undefined {
    const { before, from } = this.#ordered.get(keyOf(wanted))?.around(wanted.tokenIds) ?? {};
    // Neighbours in the order of tokens begin most alike; the one behind first, since it may be all that is wanted.
    let best: { entry: T; numShared: number } | undefined;
    for (const entry of [from, before]) {
      const numShared = entry === undefined ? 0 : commonLength(entry.request.tokenIds, wanted.tokenIds);
      if (entry !== undefined && numShared > (best?.numShared ?? 0)) best = { entry, numShared };
    }
    return best;
  }

  /** Those whose tokens are the first ones of this block's, the longest first. */
  shorter({ request }: Entry): T[] {
    const shorter: T[] = [];
    for (let length = request.tokenIds.length - 1; length > 0; ) {
      const first = request.tokenIds.subarray(0, length);
      const { before, from } = this.#ordered.get(keyOf(request))?.around(first) ?? {};
      const isThere = from?.request.tokenIds.length === length && commonLength(from.request.tokenIds, first) === length;
      if (isThere) shorter.push(from);
      // What has fewer of these tokens, and them alone, stands before; others may stand between.
      length = before === undefined ? 0 : commonLength(before.request.tokenIds, first);
    }
    return shorter;
  }
}

function keyOf({ owner, context }: Wanted): string {
  return context ?? `owner ${owner}`;
}

/** Entries in the order of their tokens. */
class OrderedEntries<T extends Entry> {
  /** One after another. None is empty, but where there are no entries. */
  readonly #lists: T[][] = [[]];

  constructor(private readonly maxListLength: number) {}

  get isEmpty(): boolean {
    return this.#lists[0]?.length === 0;
  }

  add(entry: T): void {
    const [at, place] = this.#placeOf(entry.request.tokenIds);
    const list = this.#lists[at] as T[];
    list.splice(place, 0, entry);
    if (list.length > this.maxListLength) this.#lists.splice(at + 1, 0, list.splice(list.length >>> 1));
  }

  remove(entry: T): void {
    const [first] = this.#placeOf(entry.request.tokenIds);
    // Further on where others have the same tokens.
    const at = this.#lists.findIndex((list, i) => i >= first && list.includes(entry));
    const list = this.#lists[at] as T[];
    list.splice(list.indexOf(entry), 1);
    if (list.length === 0 && this.#lists.length > 1) this.#lists.splice(at, 1);
  }

  /** The last entry that stands before these tokens, and the first one that does not. */
  around(tokenIds: Int32Array): { readonly before: T | undefined; readonly from: T | undefined } {
    const [at, place] = this.#placeOf(tokenIds);
    const list = this.#lists[at] as T[];
    return { before: list[place - 1], from: list[place] ?? this.#lists[at + 1]?.[0] };
  }

  /** The list in which tokens stand, or would stand, and where in it. */
  #placeOf(tokenIds: Int32Array): readonly [at: number, place: number] {
    const isBefore = (entry: T | undefined) => entry !== undefined && compare(entry.request.tokenIds, tokenIds) < 0;
    const at = Math.max(0, numFirst(this.#lists, ([first]) => isBefore(first)) - 1);
    return [at, numFirst(this.#lists[at] as T[], isBefore)];
  }
}

/** How many of the first ones are so: all of them stand before those that are not. */
function numFirst<T>(list: readonly T[], isSo: (one: T) => boolean): number {
  let [first, end] = [0, list.length];
  while (first < end) {
    const middle = (first + end) >>> 1;
    if (isSo(list[middle] as T)) first = middle + 1;
    else end = middle;
  }
  return first;
}

function compare(a: Int32Array, b: Int32Array): number {
  const common = commonLength(a, b);
  return common === a.length || common === b.length
    ? a.length - b.length
    : (a[common] as number) - (b[common] as number);
}

/** How many tokens two lists have in common, from the first on. */
export function commonLength(a: Int32Array, b: Int32Array): number {
  const length = Math.min(a.length, b.length);
  let common = 0;
  while (common < length && a[common] === b[common]) common += 1;
  return common;
}

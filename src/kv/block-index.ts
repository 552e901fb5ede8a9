import type { ContextId } from "./block-id.js";
import type { BlockRequest } from "./block-store.js";

type Wanted = Pick<BlockRequest, "context" | "tokenIds">;

/** Blocks by the context that they saw, and there in the order of their tokens, so that those that begin alike are neighbours. */
export class BlockIndex<T extends { readonly request: Wanted }> {
  readonly #lists = new Map<ContextId | undefined, T[]>();

  add(entry: T): void {
    const { context } = entry.request;
    const list = this.#lists.get(context);
    if (list === undefined) this.#lists.set(context, [entry]);
    else list.splice(placeOf(list, entry.request.tokenIds), 0, entry);
  }

  remove(entry: T): void {
    const { context } = entry.request;
    const list = this.#lists.get(context) as T[];
    list.splice(list.indexOf(entry, placeOf(list, entry.request.tokenIds)), 1);
    if (list.length === 0) this.#lists.delete(context);
  }

  /** The block that has the most tokens in common with what is wanted, from the first on: at least one. */
  mostAlike(wanted: Wanted): { readonly entry: T; readonly numShared: number } | undefined {
    const list = this.#lists.get(wanted.context) ?? [];
    const place = placeOf(list, wanted.tokenIds);
    // Neighbours in the order of tokens begin most alike; the one behind first, since it may be all that is wanted.
    let best: { entry: T; numShared: number } | undefined;
    for (const entry of [list[place], list[place - 1]]) {
      const numShared = entry === undefined ? 0 : commonLength(entry.request.tokenIds, wanted.tokenIds);
      if (entry !== undefined && numShared > (best?.numShared ?? 0)) best = { entry, numShared };
    }
    return best;
  }

  /** Those whose tokens are the first ones of this block's, the longest first. */
  shorter({ request }: T): T[] {
    const list = this.#lists.get(request.context) ?? [];
    const shorter: T[] = [];
    for (let length = request.tokenIds.length - 1; length > 0; ) {
      const first = request.tokenIds.subarray(0, length);
      const place = placeOf(list, first);
      const entry = list[place];
      const isThere =
        entry?.request.tokenIds.length === length && commonLength(entry.request.tokenIds, first) === length;
      if (isThere) shorter.push(entry);
      // What has fewer of these tokens, and them alone, stands before; others may stand between.
      const before = list[place - 1];
      length = before === undefined ? 0 : commonLength(before.request.tokenIds, first);
    }
    return shorter;
  }
}

/** Where tokens stand, or would stand, in a list that is in order. */
function placeOf(list: readonly { readonly request: Wanted }[], tokenIds: Int32Array): number {
  let [first, end] = [0, list.length];
  while (first < end) {
    const middle = (first + end) >>> 1;
    if (compare((list[middle] as { request: Wanted }).request.tokenIds, tokenIds) < 0) first = middle + 1;
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

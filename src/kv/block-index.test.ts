import fc from "fast-check";
import { expect, test } from "vitest";
import type { ContextId } from "./block-id.js";
import { BlockIndex, commonLength } from "./block-index.js";
import type { BlockRequest } from "./block-store.js";

const tokens = fc.array(fc.nat(2), { minLength: 1, maxLength: 6 });
const block = fc.record({ context: fc.constantFrom("a", "b", undefined), tokens });
const blocks = fc.uniqueArray(block, { maxLength: 30, selector: (one) => `${one.context} ${one.tokens}` });
const leaving = fc.array(fc.nat(29));

function entryOf({
  context,
  tokens: ids,
}: {
  readonly context: string | undefined;
  readonly tokens: readonly number[];
}) {
  const request: Pick<BlockRequest, "owner" | "context" | "tokenIds"> = {
    owner: "",
    context: context as ContextId,
    tokenIds: Int32Array.from(ids),
  };
  return { request };
}

test("BlockIndex: finds what a search through all finds, also after entries left", () => {
  fc.assert(
    fc.property(blocks, leaving, block, (given, places, asked) => {
      const index = new BlockIndex<ReturnType<typeof entryOf>>(3);
      const all = given.map(entryOf);
      for (const entry of all) index.add(entry);
      const left = new Set(places.map((place) => all[place]).filter((entry) => entry !== undefined));
      for (const entry of left) index.remove(entry);
      const wanted = entryOf(asked);
      const { context, tokenIds } = wanted.request;
      const there = all.filter((entry) => !left.has(entry) && entry.request.context === context);
      const sharedWith = ({ request }: (typeof all)[number]) => commonLength(request.tokenIds, tokenIds);

      const most = Math.max(0, ...there.map(sharedWith));
      const found = index.mostAlike(wanted.request);
      expect(found?.numShared ?? 0).toBe(most);
      if (found) expect([there.includes(found.entry), sharedWith(found.entry)]).toEqual([true, most]);
      // What is wanted itself is found before what only begins with it.
      const itself = there.find((entry) => `${entry.request.tokenIds}` === `${tokenIds}`);
      if (itself) expect(found?.entry).toBe(itself);

      const shorter = there.filter((entry) => {
        const { length } = entry.request.tokenIds;
        return length < tokenIds.length && sharedWith(entry) === length;
      });
      const longestFirst = shorter.sort((a, b) => b.request.tokenIds.length - a.request.tokenIds.length);
      expect(index.shorter(wanted)).toEqual(longestFirst);
    }),
    { numRuns: 500 },
  );
});

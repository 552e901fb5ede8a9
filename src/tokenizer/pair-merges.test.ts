import fc from "fast-check";
import { expect, test } from "vitest";
import { PairMerges } from "./pair-merges.js";
import { runToEnd } from "./steps.js";

/** The rule itself: the lowest rank anywhere, the leftmost among equals, until none is left. */
function mergeSlowly(
  symbols: readonly number[],
  pairs: ReadonlyMap<string, { rank: number; merged: number }>,
): number[] {
  const ids = [...symbols];
  for (;;) {
    let best: { at: number; rank: number; merged: number } | undefined;
    for (let at = 0; at + 1 < ids.length; at++) {
      const pair = pairs.get(`${ids[at]} ${ids[at + 1]}`);
      if (pair !== undefined && (best === undefined || pair.rank < best.rank)) best = { at, ...pair };
    }
    if (best === undefined) return ids;
    ids.splice(best.at, 2, best.merged);
  }
}

test("PairMerges.apply(): gives what merging one pair after the other gives", () => {
  const pair = fc.record({ left: fc.nat(7), right: fc.nat(7), rank: fc.nat(5), merged: fc.nat(7) });
  fc.assert(
    fc.property(fc.array(pair, { maxLength: 20 }), fc.array(fc.nat(7), { maxLength: 30 }), (pairs, symbols) => {
      const merges = new PairMerges(pairs.length);
      const slow = new Map<string, { rank: number; merged: number }>();
      for (const { left, right, rank, merged } of pairs) {
        merges.set(left, right, rank, merged);
        slow.set(`${left} ${right}`, { rank, merged });
      }
      expect(runToEnd(merges.apply(symbols))).toEqual(mergeSlowly(symbols, slow));
    }),
  );
});

test("PairMerges.apply(): merges the earlier pair first", () => {
  const [a, b, c, ab, abc] = [0, 1, 2, 3, 4];
  const merges = new PairMerges(2);
  merges.set(a, b, 0, ab);
  merges.set(ab, c, 1, abc);
  expect(runToEnd(merges.apply([a, b, c]))).toEqual([abc]);
});

test("PairMerges.apply(): takes a million symbols of one word in seconds", () => {
  const merges = new PairMerges(16);
  for (let i = 0; i < 16; i++) merges.set(i, i, i, i + 1);
  expect(runToEnd(merges.apply(new Array(2 ** 18).fill(0)))).toHaveLength(4);
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { bestPassages, PASSAGE_ORDERS } from "./best-passages.js";

test("bestPassages(): the three orders, and equal scores go by place", () => {
  expect(bestPassages([1, 3, 2], 2, "best-first")).toEqual([1, 2]);
  expect(bestPassages([1, 3, 2], 2, "best-last")).toEqual([2, 1]);
  expect(bestPassages([1, 3, 2], 2, "as-is")).toEqual([1, 2]);
  expect(bestPassages([2, 5, 5, 1], 3, "best-first")).toEqual([1, 2, 0]);
  expect(bestPassages([2, 5, 5, 1], 9, "as-is")).toEqual([0, 1, 2, 3]);
  expect(bestPassages([], 3, "best-first")).toEqual([]);
});

test("bestPassages(): none that is left out is better than one that is kept, in any order", () => {
  const scores = fc.array(fc.integer({ min: -3, max: 3 }), { maxLength: 12 });
  fc.assert(
    fc.property(scores, fc.nat(14), fc.constantFrom(...PASSAGE_ORDERS), (all, count, order) => {
      const kept = bestPassages(all, count, order);
      expect(new Set(kept).size).toBe(Math.min(count, all.length));
      const keptScores = kept.map((place) => all[place] as number);
      const others = all.filter((_, place) => !kept.includes(place));
      expect(Math.min(Infinity, ...keptScores)).toBeGreaterThanOrEqual(Math.max(-Infinity, ...others));
      const wanted = [...keptScores].sort((a, b) => (order === "best-last" ? a - b : b - a));
      if (order === "as-is") expect(kept).toEqual([...kept].sort((a, b) => a - b));
      else expect(keptScores).toEqual(wanted);
    }),
  );
});

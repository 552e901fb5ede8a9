import fc from "fast-check";
import { expect, test } from "vitest";
import { topIds } from "./top-ids.js";

test("topIds(): greatest first, lower index first on a tie", () => {
  expect(topIds([1, 3, 2, 3], 3)).toEqual([1, 3, 2]);
  expect(topIds([1, 2], 5)).toEqual([1, 0]);
  expect(topIds([1, 2], 0)).toEqual([]);
  expect(topIds([], 3)).toEqual([]);
});

test("topIds(): equals a full sort cut after k", () => {
  const values = fc.array(fc.oneof(fc.nat(4), fc.constantFrom(Number.NEGATIVE_INFINITY, 0.5)), { maxLength: 60 });
  fc.assert(
    fc.property(values, fc.nat(60), (list, k) => {
      const sorted = [...list.keys()].sort((a, b) => (list[a] === list[b] ? a - b : list[b]! > list[a]! ? 1 : -1));
      expect(topIds(Float32Array.from(list), k)).toEqual(sorted.slice(0, k));
    }),
    { numRuns: 500 },
  );
});

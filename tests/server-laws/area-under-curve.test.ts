import { expect, test } from "vitest";
import { areaUnderCurve, chanceDeviation } from "./area-under-curve.js";

test("areaUnderCurve(): 1 where a threshold separates, 0.5 where nothing does", () => {
  expect(areaUnderCurve([1, 2], [3, 4])).toBe(1);
  expect(areaUnderCurve([3, 4], [1, 2])).toBe(0);
  expect(areaUnderCurve([1, 2], [1, 2])).toBe(0.5);
  expect(areaUnderCurve([1, 3], [2, 4])).toBe(0.75);
});

test("chanceDeviation(): what the areas of equal samples spread by", () => {
  // Both samples of one value each: the area is 0 or 1 with equal probability.
  expect(chanceDeviation(1, 1)).toBe(0.5);
  expect(chanceDeviation(200, 200)).toBeCloseTo(0.0289, 4);
});

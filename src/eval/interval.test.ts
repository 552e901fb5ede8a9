import { expect, test } from "vitest";
import { bootstrapIntervals, pairedDifferences, quantile } from "./interval.js";

const shares = (numOnes: number, numAll: number) =>
  Float64Array.from({ length: numAll }, (_, i) => (i < numOnes ? 1 : 0));

test("bootstrapIntervals(): as wide as the normal approximation of many questions", () => {
  for (const share of [0.5, 0.9]) {
    const numAll = 4000;
    const [interval] = bootstrapIntervals([shares(share * numAll, numAll)]);
    const halfWidth = 1.96 * Math.sqrt((share * (1 - share)) / numAll);
    expect(interval?.mean).toBeCloseTo(share, 12);
    // A twentieth of the width: 10,000 draws know their tails that well.
    expect(Math.abs((interval?.low ?? 0) - (share - halfWidth))).toBeLessThan(halfWidth / 10);
    expect(Math.abs((interval?.high ?? 0) - (share + halfWidth))).toBeLessThan(halfWidth / 10);
  }
});

test("bootstrapIntervals(): equal seeds give equal intervals, others do not", () => {
  const column = shares(30, 100);
  const [one, same] = [bootstrapIntervals([column], { seed: "a" }), bootstrapIntervals([column], { seed: "a" })];
  expect(one).toEqual(same);
  const other = bootstrapIntervals([Float64Array.from({ length: 100 }, (_, i) => i)], { seed: "b", range: [0, 99] });
  const again = bootstrapIntervals([Float64Array.from({ length: 100 }, (_, i) => i)], { seed: "c", range: [0, 99] });
  expect(other).not.toEqual(again);
});

test("bootstrapIntervals(): values that are all alike do not make it certain", () => {
  const [none, all] = bootstrapIntervals([shares(0, 20), shares(20, 20)]);
  const bound = 1 - 0.025 ** (1 / 20);
  expect(none).toEqual({ mean: 0, low: 0, high: bound });
  expect(all).toEqual({ mean: 1, low: 1 - bound, high: 1 });
});

test("bootstrapIntervals(): columns that do not fit", () => {
  expect(() => bootstrapIntervals([])).toThrow("the columns have no values, wanted equally many");
  expect(() => bootstrapIntervals([shares(1, 2), shares(1, 3)])).toThrow("the columns have 2, 3 values");
});

test("pairedDifferences(): narrower than two intervals, and won and lost are counted", () => {
  const ours = Float64Array.from({ length: 400 }, (_, i) => (i % 2 === 0 || i < 21 ? 1 : 0));
  const theirs = Float64Array.from({ length: 400 }, (_, i) => (i % 2 === 0 && i !== 200 ? 1 : 0));
  const [difference] = pairedDifferences([ours], [theirs]);
  expect(difference).toMatchObject({ won: 11, lost: 0, tied: 389 });
  expect(difference?.mean).toBeCloseTo(11 / 400, 12);
  expect(difference?.low).toBeGreaterThan(0);
  expect((difference?.high ?? 1) - (difference?.low ?? 0)).toBeLessThan(0.04);
});

test("quantile(): between neighbours in proportion", () => {
  expect([0, 0.25, 0.5, 1].map((share) => quantile([10, 20, 40], share))).toEqual([10, 15, 20, 40]);
});

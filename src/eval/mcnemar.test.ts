import fc from "fast-check";
import { expect, test } from "vitest";
import { mcnemarExact } from "./compare.js";

/** The same by whole numbers of any size: 2 · Σ C(n, k) / 2^n. */
function byWholeNumbers(won: number, lost: number): number {
  const numDraws = BigInt(won + lost);
  let choose = 1n;
  let sum = 0n;
  for (let k = 0n; k <= BigInt(Math.min(won, lost)); k++) {
    sum += choose;
    choose = (choose * (numDraws - k)) / (k + 1n);
  }
  const digits = 10n ** 17n;
  return Math.min(1, Number((2n * sum * digits) / 2n ** numDraws) / 1e17);
}

test("mcnemarExact(): the example, and counts worked out by hand", () => {
  expect(mcnemarExact(8, 2)).toBeCloseTo(0.109375, 12);
  // 2 · (1 + 5) / 32
  expect(mcnemarExact(1, 4)).toBeCloseTo(0.375, 12);
  expect(mcnemarExact(6, 0)).toBeCloseTo(2 / 64, 12);
  expect([mcnemarExact(0, 0), mcnemarExact(3, 3)]).toEqual([1, 1]);
});

test("mcnemarExact(): equals the sum in whole numbers, whichever side won", () => {
  fc.assert(
    fc.property(fc.nat(150), fc.nat(150), (won, lost) => {
      expect(mcnemarExact(won, lost)).toBeCloseTo(byWholeNumbers(won, lost), 9);
      expect(mcnemarExact(lost, won)).toBe(mcnemarExact(won, lost));
    }),
    { numRuns: 200 },
  );
});

test("mcnemarExact(): thousands of draws", () => {
  // As near as the normal approximation is, with its correction for whole numbers: z = (|2100 - 1900| - 1) / sqrt(4000).
  expect(mcnemarExact(2100, 1900)).toBeCloseTo(0.00165, 4);
  expect(mcnemarExact(4000, 0)).toBe(0);
});

test("mcnemarExact(): counts that are none", () => {
  expect(() => mcnemarExact(-1, 2)).toThrow("a count is -1, wanted a whole number from 0 on");
  expect(() => mcnemarExact(1, 0.5)).toThrow("a count is 0.5");
});

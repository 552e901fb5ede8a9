import fc from "fast-check";
import { expect, test } from "vitest";
import { mixSizes } from "./mix-rows.js";

test("mixSizes(): equal numbers, shares, and a total", () => {
  expect(mixSizes([100, 30], [1, 1], undefined)).toEqual([30, 30]);
  expect(mixSizes([100, 30], [2, 1], undefined)).toEqual([60, 30]);
  expect(mixSizes([100, 30, 50], [0.5, 0.2, 0.3], undefined)).toEqual([75, 30, 45]);
  expect(mixSizes([100, 30], [1, 1], 11)).toEqual([6, 5]);
  expect(() => mixSizes([100, 30], [1, 1], 80)).toThrow("40 rows of input 2 are wanted, it has 30");
  expect(() => mixSizes([100, 30], [1], 80)).toThrow("there are 2 inputs and 1 shares");
});

test("mixSizes(): takes no more than there is, and cannot take a row more in the same shares", () => {
  const inputs = fc.array(fc.tuple(fc.integer({ min: 1, max: 1000 }), fc.integer({ min: 1, max: 9 })), {
    minLength: 1,
    maxLength: 5,
  });
  fc.assert(
    fc.property(inputs, (pairs) => {
      const [rows, shares] = [pairs.map(([count]) => count), pairs.map(([, share]) => share)];
      const sizes = mixSizes(rows, shares, undefined);
      const most = Math.min(...rows.map((count, i) => count / (shares[i] as number)));
      expect(sizes.every((size, i) => size <= (rows[i] as number))).toBe(true);
      for (const [i, size] of sizes.entries()) expect(Math.abs(size - most * (shares[i] as number))).toBeLessThan(1);
      // The input that is scarce is used up.
      expect(sizes.some((size, i) => size === rows[i])).toBe(true);
      const sum = sizes.reduce((a, b) => a + b, 0);
      const total = Math.max(1, sum - shares.length);
      expect(mixSizes(rows, shares, total).reduce((a, b) => a + b, 0)).toBe(total);
    }),
  );
});

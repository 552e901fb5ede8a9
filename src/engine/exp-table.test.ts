import fc from "fast-check";
import { expect, test } from "vitest";
import { createExp } from "./exp-table.js";

test("createExp(): e^x within 1e-11 for x from -44 to 0, and 0 far below", () => {
  const exp = createExp();
  fc.assert(
    fc.property(fc.double({ min: -44, max: 0, noNaN: true }), (x) => {
      expect(Math.abs(exp(x) / Math.exp(x) - 1)).toBeLessThan(1e-11);
    }),
    { numRuns: 2000 },
  );
  expect(exp(0)).toBe(1);
  expect(exp(-45)).toBe(0);
  expect(exp(Number.NEGATIVE_INFINITY)).toBe(0);
});

test("createExp(): never rises as x falls", () => {
  const exp = createExp();
  let last = 1;
  for (let x = 0; x > -46; x -= 0.0007) {
    expect(exp(x)).toBeLessThanOrEqual(last);
    last = exp(x);
  }
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { createExp, tokenLogprobs, topIds } from "./logprobs.js";

const exp = createExp();

test("createExp(): e^x within 1e-11 for x from -44 to 0, and 0 far below", () => {
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
  let last = 1;
  for (let x = 0; x > -46; x -= 0.0007) {
    expect(exp(x)).toBeLessThanOrEqual(last);
    last = exp(x);
  }
});

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

test("tokenLogprobs(): natural logarithms of the softmax, likeliest first", () => {
  const { logprob, top } = tokenLogprobs(Float32Array.of(0, Math.log(3), 0), 0, 2, exp);
  expect(logprob).toBeCloseTo(Math.log(0.2), 6);
  expect(top.map(({ id }) => id)).toEqual([1, 0]);
  expect(top[0]?.logprob).toBeCloseTo(Math.log(0.6), 6);
});

test("tokenLogprobs(): logits far from 0 do not overflow", () => {
  expect(tokenLogprobs(Float32Array.of(5000, 5000), 1, 0, exp).logprob).toBeCloseTo(Math.log(0.5), 6);
  expect(tokenLogprobs(Float32Array.of(-5000, -5000), 1, 0, exp).logprob).toBeCloseTo(Math.log(0.5), 6);
});

test("tokenLogprobs(): ids without text and tokens that cannot be are not told, and the first count in the sum", () => {
  const { logprob, top } = tokenLogprobs(Float32Array.of(0, -Infinity, 0, 0), 0, 9, exp, { numTokens: 3 });
  expect(logprob).toBeCloseTo(-Math.log(3), 6);
  expect(top.map(({ id }) => id)).toEqual([0, 2]);
});

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
  "tokenLogprobs(): a logit of %s",
  (logit) => {
    expect(() => tokenLogprobs(Float32Array.of(0, logit), 1, 1, exp)).toThrow(`the logit of token 1 is ${logit}`);
  },
);

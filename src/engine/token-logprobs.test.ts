import { expect, test } from "vitest";
import { tokenLogprobs } from "./token-logprobs.js";

test("tokenLogprobs(): natural logarithms of the softmax, likeliest first", () => {
  const { logprob, top } = tokenLogprobs(Float32Array.of(0, Math.log(3), 0), 0, 2);
  expect(logprob).toBeCloseTo(Math.log(0.2), 6);
  expect(top.map(({ id }) => id)).toEqual([1, 0]);
  expect(top[0]?.logprob).toBeCloseTo(Math.log(0.6), 6);
});

test("tokenLogprobs(): logits far from 0 do not overflow", () => {
  expect(tokenLogprobs(Float32Array.of(5000, 5000), 1, 0).logprob).toBeCloseTo(Math.log(0.5), 6);
  expect(tokenLogprobs(Float32Array.of(-5000, -5000), 1, 0).logprob).toBeCloseTo(Math.log(0.5), 6);
});

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
  "tokenLogprobs(): a logit of %s",
  (logit) => {
    expect(() => tokenLogprobs(Float32Array.of(0, logit), 0, 1)).toThrow(`Cannot score: a logit is ${logit}`);
  },
);

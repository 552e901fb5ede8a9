import { expect, test } from "vitest";
import { optionsOf } from "../files/options.js";
import { samplingFields, samplingOf } from "./sampling-options.js";

const parse = (input: unknown) => samplingOf(optionsOf(samplingFields)("sample", input));

test("samplingOf(): the defaults are greedy, 200 tokens, all else off", () => {
  expect(parse({})).toEqual({
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    seed: undefined,
    logitBias: new Map(),
    maxTokens: 200,
    stop: [],
    logprobs: true,
    topLogprobs: 0,
  });
});

test("samplingOf(): keeps what is given", () => {
  const input = { temperature: 0.7, topK: 40, topP: 0.9, minP: 0.05, repetitionPenalty: 1.1, seed: 2 ** 53 - 1 };
  expect(parse({ ...input, logitBias: { 5: -100, 7: 1.5 }, stop: ["\n\n", "😀"] })).toMatchObject({
    ...input,
    logitBias: new Map([
      [5, -100],
      [7, 1.5],
    ]),
    stop: ["\n\n", "😀"],
  });
});

test.each([
  [{ temperature: -1 }, "Cannot sample: temperature is -1, wanted a finite number from 0 on"],
  [{ logprobs: false, topLogprobs: 1 }, "topLogprobs is 1, wanted 0 where logprobs is false"],
  [{ logprobs: 1 }, "logprobs is 1, wanted true or false"],
  [{ temperature: Number.NaN }, "temperature is NaN"],
  [{ temperature: Number.POSITIVE_INFINITY }, "temperature is Infinity"],
  [{ temperature: "hot" }, 'temperature is "hot"'],
  [{ temperature: null }, "temperature is null"],
  [{ topK: -1 }, "topK is -1"],
  [{ topK: 1.5 }, "topK is 1.5"],
  [{ topP: 0 }, "topP is 0, wanted a number over 0 and up to 1"],
  [{ topP: 1.01 }, "topP is 1.01"],
  [{ minP: -0.1 }, "minP is -0.1"],
  [{ minP: 2 }, "minP is 2"],
  [{ repetitionPenalty: 0 }, "repetitionPenalty is 0"],
  [{ presencePenalty: 3 }, "presencePenalty is 3"],
  [{ frequencyPenalty: -3 }, "frequencyPenalty is -3"],
  [{ seed: -1 }, "seed is -1"],
  [{ seed: 2 ** 53 }, "seed is 9007199254740992"],
  [{ seed: 1n }, "seed is 1"],
  [{ logitBias: { x: 1 } }, 'logitBias is {"x":1}'],
  [{ logitBias: { "-1": 1 } }, "logitBias is"],
  [{ logitBias: { 1: 101 } }, "logitBias is"],
  [{ logitBias: [1] }, "logitBias is [1]"],
  [{ maxTokens: -1 }, "maxTokens is -1"],
  [{ stop: "x" }, 'stop is "x"'],
  [{ stop: [""] }, 'stop is [""]'],
  [{ stop: ["a\ud800"] }, "wanted up to 64 strings of whole characters"],
  [{ stop: Array.from({ length: 65 }, () => "x") }, "…, wanted up to 64 strings"],
  [{ topLogprobs: 21 }, "topLogprobs is 21"],
  [{ heat: 1 }, 'there is no option "heat"'],
  [{ top_p: 1 }, 'there is no option "top_p", wanted "topP"'],
  [undefined, "the options are undefined, wanted an object"],
  ["x", 'the options are "x", wanted an object'],
  [[], "the options are [], wanted an object"],
])("samplingOf(): refuses %o", (input, message) => {
  expect(() => parse(input)).toThrow(message);
  expect(() => parse(input)).toThrow(/^Cannot sample: [^\n]*$/);
});

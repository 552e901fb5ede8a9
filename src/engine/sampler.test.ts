import fc from "fast-check";
import { expect, test } from "vitest";
import { optionsOf } from "../files/options.js";
import { createSampler, type TokenHistory } from "./sampler.js";
import { type SamplingInput, samplingFields, samplingOf } from "./sampling-options.js";

const parse = (input: unknown) => samplingOf(optionsOf(samplingFields)("sample", input));

const NO_HISTORY: TokenHistory = { promptIds: [], generatedIds: [] };

function samplerOf(input: SamplingInput, vocabSize: number) {
  return createSampler(parse(input), { vocabSize, drawSeed: () => 1 });
}

function sampleOne(input: SamplingInput, logits: readonly number[], history = NO_HISTORY) {
  return samplerOf(input, logits.length).sample(Float32Array.from(logits), history);
}

/** How often each id is drawn over the steps of one answer, as shares of 1. */
function shares(input: SamplingInput, logits: readonly number[], numDraws = 4000): number[] {
  const sampler = samplerOf({ temperature: 1, seed: 7, ...input }, logits.length);
  const counts = logits.map(() => 0);
  const generatedIds: number[] = [];
  for (let n = 0; n < numDraws; n++) {
    counts[sampler.sample(Float32Array.from(logits), { promptIds: [], generatedIds }).id]! += 1;
    generatedIds.push(0);
  }
  return counts.map((count) => count / numDraws);
}

function softmax(logits: readonly number[]): number[] {
  const weights = logits.map((logit) => Math.exp(logit));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** 4,000 draws: five standard deviations are less than 0.04. */
function expectShares(found: readonly number[], expected: readonly number[]): void {
  for (const [id, share] of found.entries()) {
    expect(Math.abs(share - expected[id]!)).toBeLessThan(0.04);
    if (expected[id] === 0) expect(share).toBe(0);
  }
}

test("createSampler(): greedy takes the greatest logit, the lowest id on a tie", () => {
  expect(sampleOne({}, [1, 5, 2]).id).toBe(1);
  expect(sampleOne({}, [1, 5, 5]).id).toBe(1);
  expect(sampleOne({}, [Number.NEGATIVE_INFINITY, -1e30]).id).toBe(1);
});

test("createSampler(): the greatest logit alone decides greedily where it is the only one, finite and of a token with text", () => {
  const context = { vocabSize: 5, numTokens: 4, drawSeed: () => 1 };
  const { sampleGreatest } = createSampler(parse({ logprobs: false }), context);
  expect(sampleGreatest?.({ id: 3, logit: 2, numLess: 4 })).toEqual({ id: 3, logprob: undefined, top: [] });
  for (const other of [{ numLess: 3 }, { logit: Number.NaN }, { logit: Number.POSITIVE_INFINITY }, { id: 4 }]) {
    expect(sampleGreatest?.({ id: 3, logit: 2, numLess: 4, ...other })).toBeUndefined();
  }
  const changed = [{ temperature: 1 }, { logprobs: true }, { logitBias: { 1: 5 } }];
  for (const input of [...changed, { repetitionPenalty: 1.1 }, { presencePenalty: 1 }, { frequencyPenalty: 1 }]) {
    expect(
      createSampler(parse({ logprobs: false, ...input }), context).sampleGreatest,
      JSON.stringify(input),
    ).toBeUndefined();
  }
});

test("createSampler(): logprobs are of the raw logits, whatever the options", () => {
  const logits = [1, 2, 3, 3];
  const expected = softmax(logits).map(Math.log);
  for (const input of [{}, { temperature: 2, topK: 1 }, { logitBias: { 2: -100 } }]) {
    const { id, logprob, top } = sampleOne({ ...input, topLogprobs: 3 }, logits);
    expect(logprob).toBeCloseTo(expected[id]!, 12);
    expect(top.map((token) => token.id)).toEqual([2, 3, 1]);
    for (const token of top) expect(token.logprob).toBeCloseTo(expected[token.id]!, 12);
  }
});

test("createSampler(): logprobs neither overflow nor underflow", () => {
  expect(sampleOne({}, [1e30, 0]).logprob).toBe(0);
  expect(sampleOne({}, [-1e30, -1e30]).logprob).toBeCloseTo(0, 12); // -1e30 + ln 2 rounds to -1e30
  expect(sampleOne({}, [1000, 1000]).logprob).toBeCloseTo(-Math.LN2, 12);
  const { top } = sampleOne({ topLogprobs: 3 }, [0, Number.NEGATIVE_INFINITY, 0]);
  expect(top.map((token) => token.id)).toEqual([0, 2]);
});

test("createSampler(): draws by probability", () => {
  const logits = [0, 1, 2, -1];
  expectShares(shares({}, logits), softmax(logits));
  expectShares(shares({ temperature: 0.5 }, logits), softmax(logits.map((logit) => logit / 0.5)));
  expectShares(shares({ topK: 2 }, logits), [0, ...softmax([1, 2]), 0]);
  // Probabilities 0.09, 0.24, 0.64, 0.03: two reach 0.8.
  expectShares(shares({ topP: 0.8 }, logits), [0, ...softmax([1, 2]), 0]);
  expectShares(shares({ topP: 0.001 }, logits), [0, 0, 1, 0]);
  // e^-1 = 0.37 and e^-2 = 0.14 of the likeliest.
  expectShares(shares({ minP: 0.3 }, logits), [0, ...softmax([1, 2]), 0]);
  expectShares(shares({ minP: 1 }, logits), [0, 0, 1, 0]);
  expectShares(shares({ topK: 3, topP: 0.95, minP: 0.2 }, logits), [0, ...softmax([1, 2]), 0]);
  expectShares(shares({ temperature: 1e-300 }, logits), [0, 0, 1, 0]);
  expectShares(shares({ temperature: 1e300 }, logits), [0.25, 0.25, 0.25, 0.25]);
});

test("createSampler(): top-p over a flat vocabulary keeps its share of it", () => {
  const logits = new Float32Array(5000);
  const sampler = samplerOf({ temperature: 1, topP: 0.5, seed: 3 }, logits.length);
  for (let n = 0; n < 200; n++) {
    const { id } = sampler.sample(logits, { promptIds: [], generatedIds: Array.from({ length: n }, () => 0) });
    expect(id).toBeLessThan(2500);
  }
  for (let size = 1; size < 60; size++)
    expect(sampleOne({ temperature: 1, topP: 1e-300 }, new Array(size).fill(0.1)).id).toBe(0);
});

test("createSampler(): bias adds, and -100 bans", () => {
  expect(sampleOne({ logitBias: { 0: 5 } }, [1, 5]).id).toBe(0);
  expect(sampleOne({ logitBias: { 1: -100 } }, [1, 500]).id).toBe(0);
  expect(() => sampleOne({ logitBias: { 0: -100, 1: -100 } }, [1, 500])).toThrow("logitBias bans every token");
  expect(() => samplerOf({ logitBias: { 9: 1 } }, 9)).toThrow("logitBias names token 9, the vocabulary has 9");
});

test("createSampler(): penalties as Transformers' and OpenAI's", () => {
  const history = { promptIds: [0], generatedIds: [1, 1] };
  // 2 / 1.5 = 1.33 and 1.9 / 1.5 = 1.27 fall under 1.5; a negative logit falls as well.
  expect(sampleOne({ repetitionPenalty: 1.5 }, [2, 1.9, 1.5], history).id).toBe(2);
  expect(sampleOne({ repetitionPenalty: 2 }, [-1, -1.5, -1.9], history).id).toBe(2);
  // The prompt does not count for OpenAI's penalties; presence counts once, frequency twice.
  expect(sampleOne({ presencePenalty: 1 }, [2, 2.9, 0], history).id).toBe(0);
  expect(sampleOne({ presencePenalty: 1 }, [2, 3.1, 0], history).id).toBe(1);
  expect(sampleOne({ frequencyPenalty: 1 }, [2, 3.9, 0], history).id).toBe(0);
  expect(sampleOne({ frequencyPenalty: 1 }, [2, 4.1, 0], history).id).toBe(1);
});

test("createSampler(): same seed, same tokens, pinned; another seed, others", () => {
  const logits = Float32Array.from({ length: 50 }, (_, id) => Math.sin(id));
  const answer = (seed: number): number[] => {
    const sampler = samplerOf({ temperature: 1, seed }, 50);
    const ids: number[] = [];
    while (ids.length < 8) ids.push(sampler.sample(logits, { promptIds: [], generatedIds: ids }).id);
    return ids;
  };
  expect(answer(42)).toEqual(answer(42));
  expect(answer(42)).not.toEqual(answer(43));
  expect(answer(2 ** 53 - 1)).toHaveLength(8);
  // The same by a few lines of Python over hashlib.
  expect(answer(42)).toEqual([48, 1, 46, 18, 2, 15, 37, 46]);
});

test("createSampler(): draws a seed where none is given, and says it", () => {
  const seeded = createSampler(parse({}), { vocabSize: 1, drawSeed: () => 99 });
  expect(seeded.seed).toBe(99);
  expect(samplerOf({ seed: 5 }, 1).seed).toBe(5);
});

test.each([
  [[0, Number.NaN], "the logit of token 1 is NaN"],
  [[0, Number.POSITIVE_INFINITY], "the logit of token 1 is Infinity"],
  [[Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY], "no token has a finite logit"],
  [[], "no token has a finite logit"],
])("createSampler(): refuses the logits %o", (logits, message) => {
  for (const input of [{}, { temperature: 1 }, { temperature: 1, logitBias: { 0: 1 } }]) {
    if (logits.length > 0 || !("logitBias" in input)) expect(() => sampleOne(input, logits)).toThrow(message);
  }
});

test("createSampler(): refuses logits of another vocabulary, and leaves them as they are", () => {
  expect(() => samplerOf({}, 3).sample(new Float32Array(2), NO_HISTORY)).toThrow("there are 2 logits");
  const logits = Float32Array.from([1, 2]);
  samplerOf({ temperature: 1, logitBias: { 0: 1 }, repetitionPenalty: 2 }, 2).sample(logits, {
    promptIds: [0],
    generatedIds: [1],
  });
  expect([...logits]).toEqual([1, 2]);
});

test("createSampler(): any options give a token that the logits allow", () => {
  const input = fc.record({
    temperature: fc.constantFrom(0, 1e-9, 0.5, 1, 100),
    topK: fc.nat(6),
    topP: fc.constantFrom(1e-9, 0.3, 0.9, 1),
    minP: fc.constantFrom(0, 0.1, 1),
    repetitionPenalty: fc.constantFrom(0.5, 1, 2),
    seed: fc.nat(),
  });
  const logits = fc.array(
    fc.oneof(fc.float({ min: -50, max: 50, noNaN: true }), fc.constant(Number.NEGATIVE_INFINITY)),
    { minLength: 1, maxLength: 8 },
  );
  fc.assert(
    fc.property(input, logits, (options, values) => {
      fc.pre(values.some((value) => value > Number.NEGATIVE_INFINITY));
      const { id, logprob } = sampleOne(options, values, { promptIds: [0], generatedIds: [0] });
      expect(values[id]!).toBeGreaterThan(Number.NEGATIVE_INFINITY);
      expect(logprob).toBeLessThanOrEqual(1e-9);
    }),
    { numRuns: 500 },
  );
});

test("createSampler(): ids without text are never chosen or told, but count in probabilities", () => {
  const sampler = createSampler(parse({ topLogprobs: 3 }), {
    vocabSize: 3,
    numTokens: 2,
    drawSeed: () => 1,
  });
  const { id, logprob, top } = sampler.sample(Float32Array.of(0, 0, 5), { promptIds: [], generatedIds: [] });
  expect(id).toBe(0);
  expect(logprob).toBeCloseTo(-Math.log(2 + Math.exp(5)), 10);
  expect(top.map((token) => token.id)).toEqual([0, 1]);
  const hot = createSampler(parse({ temperature: 100 }), {
    vocabSize: 3,
    numTokens: 2,
    drawSeed: () => 1,
  });
  const history = { promptIds: [2], generatedIds: [] as number[] };
  for (let i = 0; i < 50; i++) {
    const sampled = hot.sample(Float32Array.of(0, 0, 500), history);
    expect(sampled.id).toBeLessThan(2);
    history.generatedIds.push(sampled.id);
  }
});

test("Sampler.sample(): a mask rules tokens out, drawn or not, and log-probabilities stay the model's own", () => {
  const logits = Float32Array.from({ length: 40 }, (_, id) => -id);
  const mask = Int32Array.of(0, 1 << 3);
  for (const temperature of [0, 5]) {
    const found = samplerOf({ temperature, seed: 1, topLogprobs: 2 }, 40).sample(logits, NO_HISTORY, mask);
    expect(found).toMatchObject({ id: 35, top: [{ id: 0 }, { id: 1 }] });
    expect(found.logprob).toBeLessThan(-34);
  }
  const context = { vocabSize: 40, isConstrained: true, drawSeed: () => 1 };
  expect(createSampler(parse({ logprobs: false }), context).sampleGreatest).toBeUndefined();
});

test("createSampler(): the fewest likeliest tokens are found without sorting all, and drawn as if they were sorted, flat or peaked", () => {
  const vocabSize = 20_000;
  // A multiplicative generator: some scores occur twice.
  let state = 1;
  const random = () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  const spread = (width: number) =>
    Float32Array.from({ length: vocabSize }, () => Math.round(random() * width * 100) / 100);
  const ways: SamplingInput[] = [{ topP: 0.95 }, { topP: 0.5, minP: 0.2 }, { topP: 0.999, minP: 0.001 }];
  for (const logits of [spread(0), spread(0.5), spread(3), spread(12), spread(60)]) {
    for (const way of ways) {
      const options = { temperature: 0.9, seed: 5, logprobs: false, ...way };
      const [found, sorted] = [samplerOf(options, vocabSize), samplerOf({ ...options, topK: vocabSize }, vocabSize)];
      for (let step = 0; step < 12; step++) {
        const history = { promptIds: [], generatedIds: Array<number>(step).fill(0) };
        expect(found.sample(logits, history).id).toBe(sorted.sample(logits, history).id);
      }
    }
  }
});

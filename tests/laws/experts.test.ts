import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { openModel } from "../../src/model/open-model.js";
import { llamaCppScores, whyNoLlamaCpp } from "../llama-cpp/llama-cpp-oracle.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import { countTokens } from "../models/random-tokenizer.js";
import { askEngine, distanceFromOracle, logprobBounds, oracleAnswer } from "../oracles/compare-engine.js";
import { borderOf, type ExpertChoice, watchExperts } from "../oracles/expert-choices.js";
import { type BoundCase, expectBound, expectOnlyRight } from "../oracles/faults.js";
import { OnePassModel } from "../oracles/one-pass.js";
import { deviceRounds, testDevice } from "../test-device.js";
import { drawIds, LawModels, lawEngine } from "./law-models.js";

const models = new LawModels();

// A token goes through other experts where two were nearly as good, and what it computes jumps: decision 0022.
test.each(deviceRounds ? (["f32", "f16", "bf16"] as const) : (["f16", "bf16"] as const))(
  "Engine.score(): through the CPU's experts of F32 KV, %s equals one pass",
  async (kvType) => {
    const model = models.huggingFace(architectureModels.qwen3_moe!);
    const oracle = new OnePassModel(await openModel(model));
    const { vocabSize } = oracle.config;
    const random = new Random(0, "experts");
    const blocks = [30, 45, 12, 60, 25, 8, 20].map((length) => drawIds(random, length));
    const asked = { blockTokenIds: blocks, continuationTokenIds: drawIds(random, 8) };
    const conversation = { ...asked, isGlobal: [..."LGGLLLG"].map((kind) => kind === "G") };
    const cases = [
      ["blocks, miss", asked, asked, {}],
      ["blocks, hit", asked, asked, { stepwise: true }],
      ["conversation", conversation, conversation, {}],
      ["full mode", asked, { ...asked, blockTokenIds: [blocks.flat()] }, { mode: "full" }],
    ] as const;
    await using exact = await lawEngine(model, { device: "CPU" });
    await using engine = await lawEngine(model, { kvType });
    const bounded: BoundCase[] = [];
    for (const [name, prompt, read, how] of cases) {
      const ask = (one: LocalEngine) => askEngine(one, prompt, { ...how, vocabSize });
      const { choices } = await watchExperts(() => ask(exact));
      const { answer } = await watchExperts(() => ask(engine), choices);
      const distance: BoundCase["distance"] = (fault) =>
        distanceFromOracle(answer, oracleAnswer(oracle.score(read, fault), read));
      bounded.push({ name, prompt: read, distance });
    }
    expectBound(logprobBounds[kvType], bounded);
  },
);

test("Engine.score(): where two experts are as good to the last bits, it equals llama.cpp with one of them", async ({
  skip,
}) => {
  const reason = testDevice === "CPU" ? await whyNoLlamaCpp() : "the tie is one on the CPU";
  if (reason !== undefined) skip(reason);
  const settings = { num_experts: 8, num_experts_per_tok: 3, moe_intermediate_size: 256, norm_topk_prob: true };
  const shape = { architecture: "qwen3_moe", numLayers: 4, hiddenSize: 256, numHeads: 4, settings, seed: 3 } as const;
  const model = await models.gguf({ ...shape, type: "F32" });
  const random = new Random(3, "ties");
  // The scores of the third and fourth expert of its last row, in the last layer, are both 1.15550.
  const [, ids] = [1400, 1112].map((length) => Array.from({ length }, () => random.below(countTokens())));
  const prompt = { blockTokenIds: [ids!], continuationTokenIds: [5] };
  await using engine = await lawEngine(model, { keepPrefixes: false });
  const { vocabSize } = engine.info;
  const ask = () => askEngine(engine, prompt, { mode: "full", vocabSize });
  const { answer, choices } = await watchExperts(ask);
  const last = choices.at(-1)!.at(-1)!;
  const row = last.chosen.length / last.numUsed - 1;
  const { inside, outside, margin } = borderOf(last, row);
  // Scores are as near to another program's as log-probabilities are.
  expect(margin).toBeLessThan(logprobBounds.f32);
  const place = last.chosen.indexOf(inside, row * last.numUsed);
  const other: ExpertChoice = { ...last, chosen: last.chosen.with(place, outside) };
  const swapped = choices.with(-1, choices.at(-1)!.with(-1, other));
  const { answer: otherwise } = await watchExperts(ask, swapped);
  const [steps] = await llamaCppScores(model, [ids!], prompt.continuationTokenIds, { threads: 1 });
  const wanted = { logprobs: steps!.map(({ logprob }) => logprob), top: steps!.map(({ top }) => top) };
  const [near, far] = [answer, otherwise].map((one) => distanceFromOracle(one, wanted)).sort((a, b) => a - b);
  expectOnlyRight(logprobBounds.f32, near!, { "the token has another expert": far! });
});

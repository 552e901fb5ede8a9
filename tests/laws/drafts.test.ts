import { expect, test } from "vitest";
import type { GenerateOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { PromptInput } from "../../src/engine/prompt.js";
import type { GenerateEvent, GenerateResult } from "../../src/engine/results.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import { logprobBounds } from "../oracles/compare-engine.js";
import { testDevice } from "../test-device.js";
import { drawIds, expectIdle, expectOnlyBlocks, LawModels, lawEngine, liveCounts, noEnd } from "./law-models.js";

// Other devices compute none.
const onCpu = test.skipIf(testDevice !== "CPU");
const models = new LawModels();
const random = new Random(7, "drafts");
/** So few ids that answers repeat what they hold and what the prompt holds, and go on otherwise now and then. */
const few = [5, 6, 7, 8];
const favoured = { ...noEnd, ...Object.fromEntries(few.map((id) => [id, 60])) };
const ofFew = (length: number) => Array.from({ length }, () => few[random.below(few.length)] as number);

interface Answered {
  readonly results: readonly GenerateResult[];
  readonly tokens: readonly (GenerateEvent & { kind: "token" })[];
}

async function answer(engine: LocalEngine, input: PromptInput, options: GenerateOptions): Promise<Answered> {
  const [results, tokens]: [GenerateResult[], (GenerateEvent & { kind: "token" })[]] = [[], []];
  for await (const event of engine.generate(input, { ...options, keepPrefixes: false })) {
    if (event.kind === "token") tokens.push(event);
    if (event.kind === "done") results[event.index] = event.result;
  }
  return { results, tokens };
}

const ways: Readonly<Record<string, GenerateOptions>> = {
  greedy: {},
  "without log-probabilities": { logprobs: false },
  "drawn, top-k": { temperature: 0.8, topK: 3, seed: 3 },
  "drawn, top-p and min-p": { temperature: 0.5, topP: 0.9, minP: 0.02, seed: 4 },
  penalties: { repetitionPenalty: 1.02, presencePenalty: 0.2, frequencyPenalty: 0.1 },
  "three answers": { n: 3, temperature: 0.6, seed: 5 },
  "three answers that begin alike": { n: 3 },
  "one token": { maxTokens: 1 },
  "five tokens": { maxTokens: 5 },
};

onCpu.each(["llama", "qwen3", "qwen3_moe", "phi3", "gemma3_text"] as const)(
  "Engine.generate(): with drafts the same tokens come as without, alone and side by side, %s",
  async (name) => {
    const model = models.huggingFace({ ...architectureModels[name]!, contextLength: 1024 });
    const before = await liveCounts();
    {
      await using plain = await lawEngine(model, { drafts: "off" });
      await using drafted = await lawEngine(model, { drafts: 7 });
      const idle = await liveCounts();
      const input = { blockTokenIds: [[...drawIds(random, 40), ...ofFew(20)], ofFew(70), ofFew(9)] };
      const expected = new Map<string, Answered>();
      let [accepted, rejected] = [0, 0];
      const compare = async (way: string): Promise<void> => {
        const options = { maxTokens: 60, topLogprobs: 2, logitBias: favoured, ...ways[way] };
        const asked = options.logprobs === false ? { ...options, topLogprobs: 0 } : options;
        const wanted = expected.get(way) ?? (await answer(plain, input, asked));
        expected.set(way, wanted);
        const found = await answer(drafted, input, asked);
        for (const [i, result] of found.results.entries()) {
          const { tokenIds, text, finishReason, usage } = result;
          expect([way, i, tokenIds, text, finishReason]).toEqual([
            way,
            i,
            wanted.results[i]!.tokenIds,
            wanted.results[i]!.text,
            wanted.results[i]!.finishReason,
          ]);
          accepted += usage.drafts!.accepted;
          rejected += usage.drafts!.rejected;
          expect(wanted.results[i]!.usage.drafts).toBeUndefined();
        }
        const byAnswer = ({ tokens }: Answered) => [...tokens].sort((a, b) => a.index - b.index);
        const theirs = byAnswer(wanted);
        for (const [i, { index, logprob, top }] of byAnswer(found).entries()) {
          expect(index).toBe(theirs[i]!.index);
          if (logprob !== undefined) expect(Math.abs(logprob - theirs[i]!.logprob!)).toBeLessThan(logprobBounds.f32);
          expect(top.map(({ id }) => id)).toEqual(theirs[i]!.top.map(({ id }) => id));
        }
      };
      for (const way of Object.keys(ways)) await compare(way);
      await Promise.all(Object.keys(ways).map(compare));
      expect(accepted).toBeGreaterThan(100);
      expect(rejected).toBeGreaterThan(100);
      const { decodeGraphs, decodedTokens, draftTokens, acceptedDraftTokens } = drafted.stats().batching;
      expect([acceptedDraftTokens, draftTokens - acceptedDraftTokens]).toEqual([accepted, rejected]);
      expect(decodeGraphs).toBeLessThan(decodedTokens);
      for (const engine of [plain, drafted]) expectIdle(engine);
      await expectOnlyBlocks(idle, plain, drafted);
    }
    expect(await liveCounts()).toEqual(before);
  },
);

onCpu(
  "Engine.generate(): stop texts end drafted answers where they end others, and no token after them is given out",
  async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 1024, seed: 5 });
    await using plain = await lawEngine(model, { drafts: "off" });
    await using drafted = await lawEngine(model, { drafts: 15 });
    const input = { blockTokenIds: [ofFew(90)] };
    const options = { maxTokens: 60, logitBias: favoured };
    const whole = await plain.complete(input, options);
    const reported = new Set<string>();
    for (let at = 3; at + 4 < whole.text.length; at += 3) {
      const stop = [whole.text.slice(at, at + 4)];
      const [one, other] = [
        await plain.complete(input, { ...options, stop }),
        await drafted.complete(input, { ...options, stop }),
      ];
      expect([other.text, other.tokenIds, other.finishReason]).toEqual([one.text, one.tokenIds, one.finishReason]);
      if (other.usage.drafts!.accepted > 0) reported.add(stop[0]!);
    }
    expect(reported.size).toBeGreaterThan(1);
  },
);

onCpu(
  "Engine.generate(): a prediction is drafted from the first token on, and changes no token, whether right or wrong",
  async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 1024, seed: 6 });
    await using plain = await lawEngine(model, { drafts: "off" });
    await using drafted = await lawEngine(model, { drafts: 7 });
    const { tokenizer } = drafted.model;
    // A text whose tokens are its own when it is tokenized.
    const words = tokenizer.encode("one two three four five six seven eight nine ten eleven twelve", "none");
    const logitBias = { ...noEnd, ...Object.fromEntries(words.map((id) => [id, 100])) };
    const input = { blockTokenIds: [drawIds(random, 50)] };
    const { text, tokenIds } = await plain.complete(input, { maxTokens: 40, logitBias });
    const predict = (prediction: string) => drafted.complete(input, { maxTokens: 40, logitBias, prediction });
    const isOwn = tokenizer.encode(text, "none").join() === tokenIds.join();
    const [none, right, wrong] = [await predict(""), await predict(text), await predict("nothing of the kind, at all")];
    for (const result of [none, right, wrong]) expect(result.tokenIds).toEqual(tokenIds);
    if (isOwn) expect(right.usage.drafts!.accepted).toBeGreaterThan(30);
    expect(right.usage.drafts!.accepted).toBeGreaterThan(none.usage.drafts!.accepted);
  },
);

onCpu("Engine.generate(): pages that drafted answers leave are what a conversation goes on from", async () => {
  const model = models.huggingFace({ architecture: "llama", contextLength: 2048, seed: 8 });
  await using drafted = await lawEngine(model, { drafts: 7, mode: "full" });
  let ids = [...drawIds(random, 30), ...ofFew(60)];
  let numAccepted = 0;
  for (let turn = 0; turn < 4; turn++) {
    await using fresh = await lawEngine(model, { drafts: "off", mode: "full" });
    const options = { maxTokens: 90, logitBias: favoured };
    const expected = await fresh.complete({ blockTokenIds: [ids] }, options);
    const found = await drafted.complete({ blockTokenIds: [ids] }, options);
    expect(found.tokenIds).toEqual(expected.tokenIds);
    if (turn > 0) expect(found.usage.cachedTokens).toBeGreaterThan(ids.length - 60);
    numAccepted += found.usage.drafts!.accepted;
    ids = [...ids, ...found.tokenIds, ...drawIds(random, 20)];
  }
  expect(numAccepted).toBeGreaterThan(20);
});

onCpu(
  "Engine.generate(): drafted answers end at an abort, wait for slow readers, and leave nothing behind",
  async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 4096, seed: 9 });
    await using drafted = await lawEngine(model, { drafts: 15, readerTimeoutMs: 60_000 });
    const input = { blockTokenIds: [ofFew(120)] };
    const options = { maxTokens: 3000, logitBias: favoured };
    for (const after of [1, 7, 40]) {
      const controller = new AbortController();
      let numTokens = 0;
      for await (const event of drafted.generate(input, { ...options, signal: controller.signal })) {
        if (event.kind === "token" && ++numTokens === after) controller.abort();
        if (event.kind === "done") expect(event.result.finishReason).toBe("cancelled");
      }
      expectIdle(drafted);
    }
    // A reader who reads nothing: what is computed ahead of it stays bounded.
    const reader = drafted.generate(input, { ...options, maxTokens: 400 })[Symbol.asyncIterator]();
    const before = drafted.stats().batching.decodedTokens;
    await reader.next();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(drafted.stats().batching.decodedTokens - before).toBeLessThanOrEqual(32);
    await reader.return?.();
    expectIdle(drafted);
  },
);

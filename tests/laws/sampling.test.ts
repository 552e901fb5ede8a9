import { expect, test } from "vitest";
import type { ScoreOptions } from "../../src/engine/engine-options.js";
import type { GenerateEvent } from "../../src/engine/results.js";
import { expectSameLogprobs } from "../oracles/compare-engine.js";
import { expectIdle, LawModels, lawEngine, noEnd } from "./law-models.js";

const models = new LawModels();
const model = () => models.huggingFace({ architecture: "llama", contextLength: 128, seed: 101 });
const input = { blocks: ["one passage\n", "another passage\n", "Question: which?\nAnswer:"] };

async function events(generate: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const all: GenerateEvent[] = [];
  for await (const event of generate) all.push(event);
  return all;
}

test("Engine.generate(): a seed gives the same tokens, in any engine; another seed gives others", async () => {
  const options = { temperature: 1.2, topK: 100, topP: 0.95, maxTokens: 30, logitBias: noEnd };
  await using engine = await lawEngine(model());
  const first = await engine.complete(input, { ...options, seed: 42 });
  expect((await engine.complete(input, { ...options, seed: 42 })).tokenIds).toEqual(first.tokenIds);
  expect((await engine.complete(input, { ...options, seed: 43 })).tokenIds).not.toEqual(first.tokenIds);
  await using other = await lawEngine(model());
  expect((await other.complete(input, { ...options, seed: 42 })).tokenIds).toEqual(first.tokenIds);
  const drawn = await engine.complete(input, options);
  expect((await engine.complete(input, { ...options, seed: drawn.seed })).tokenIds).toEqual(drawn.tokenIds);
});

test("Engine.generate(): events come in order, and their texts put together are the answer", async () => {
  await using engine = await lawEngine(model());
  const all = await events(engine.generate(input, { maxTokens: 40, logitBias: noEnd }));
  expect(all.map(({ kind }) => kind)).toEqual(["prompt", ...new Array(40).fill("token"), "done"]);
  const text = all.map((event) => ("text" in event ? event.text : "")).join("");
  const done = all.at(-1) as GenerateEvent & { kind: "done" };
  expect(done.result.text).toBe(text);
  expect(engine.model.tokenizer.decode(done.result.tokenIds)).toBe(text);
  expect(done.result).toMatchObject({ finishReason: "length", usage: { completionTokens: 40, cachedTokens: 0 } });
  const { ttftMs, ...times } = done.result.timings;
  for (const ms of [ttftMs, ...Object.values(times)]) expect(ms).toBeGreaterThanOrEqual(0);
});

test("Engine.generate(): a stop text across tokens ends the answer, and none of it is given out", async () => {
  await using engine = await lawEngine(model());
  const options = { maxTokens: 40, logitBias: noEnd };
  const whole = await engine.complete(input, options);
  const characters = [...whole.text];
  let numTried = 0;
  // From the midst of one token to the midst of another, wherever the answer's tokens end.
  for (let start = 2; start + 5 < characters.length; start++) {
    const stop = characters.slice(start, start + 5).join("");
    if (stop.includes("\ufffd")) continue;
    numTried += 1;
    const result = await engine.complete(input, { ...options, stop: [stop] });
    expect(result.finishReason).toBe("stop");
    expect(result.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(result.tokenIds).toEqual(whole.tokenIds.slice(0, result.tokenIds.length));
  }
  expect(numTried).toBeGreaterThan(3);
});

test("Engine.generate(): any end id ends the answer and is not in it", async () => {
  await using engine = await lawEngine(model());
  expect(engine.model.endTokenIds.size).toBeGreaterThan(1);
  for (const id of engine.model.endTokenIds) {
    const result = await engine.complete(input, { logitBias: { [id]: 100 } });
    expect(result).toMatchObject({ finishReason: "stop", tokenIds: [], text: "", usage: { completionTokens: 0 } });
  }
});

test("Engine.generate(): no tokens asked for, none given", async () => {
  await using engine = await lawEngine(model());
  const all = await events(engine.generate(input, { maxTokens: 0 }));
  expect(all.map(({ kind }) => kind)).toEqual(["prompt", "done"]);
  expect(all.at(-1)).toMatchObject({ result: { finishReason: "length", tokenIds: [], text: "" } });
  expectIdle(engine);
});

test("Engine.generate(): a prompt as long as the context, and an answer that would pass it, end with length", async () => {
  await using engine = await lawEngine(model());
  for (const mode of ["block", "full"] as const) {
    for (const room of [0, 1, 2, 7]) {
      const blocks = [new Array(100).fill(5), new Array(28 - room).fill(6)];
      const result = await engine.complete({ blockTokenIds: blocks }, { mode, logitBias: noEnd });
      expect(result).toMatchObject({
        finishReason: "length",
        usage: { promptTokens: 128 - room, completionTokens: room },
      });
    }
  }
});

test("Engine.generate(): tokens one by one have the log-probabilities that score() gives them", async () => {
  await using engine = await lawEngine(model(), { kvType: "f32" });
  const wrong = {
    block: {
      "the mask is full mode's": { mode: "full" },
      "blocks keep their own positions": { positionReencoding: false },
    },
    full: { "the mask is block mode's": { mode: "block" } },
  } as const;
  for (const mode of ["block", "full"] as const) {
    const all = await events(engine.generate(input, { mode, maxTokens: 20, topLogprobs: 3, logitBias: noEnd }));
    const tokens = all.filter((event) => event.kind === "token");
    expect(tokens).toHaveLength(20);
    const ids = tokens.map(({ tokenId }) => tokenId);
    const found = tokens.flatMap(({ logprob, top }) => [logprob!, ...top.map((token) => token.logprob)]);
    for (const stepwise of [true, false]) {
      const ask = async (how: ScoreOptions) => {
        const score = await engine.score(input, ids, { mode, stepwise, top: 352, ...how });
        return tokens.flatMap(({ top }, i) => {
          const same = top.map(({ id }) => score.top[i]!.find((scored) => scored.id === id)!.logprob);
          return [score.logprobs[i]!, ...same];
        });
      };
      await expectSameLogprobs(1e-3, found, ask, wrong[mode]);
    }
  }
});

test("Engine.load(): one warning, in the words of `info`, where the model was not trained for block attention", async () => {
  const warnings: string[] = [];
  await using engine = await lawEngine(model(), { mode: undefined, onWarning: (warning) => warnings.push(warning) });
  for (let i = 0; i < 3; i++) await engine.complete(input, { maxTokens: 1 });
  expect(warnings).toEqual([engine.info.reuseNote]);
  expect(warnings[0]).toContain("71.3 to 49.9");
  // An answer says so too, where it has passages that another mode would find in any order, and nobody chose full mode.
  const { blocks } = input;
  const warningsOf = async (texts: readonly string[], mode?: "block" | "full") =>
    (await engine.complete({ blocks: texts }, { mode, maxTokens: 1 })).warnings;
  expect(await warningsOf(blocks)).toEqual(warnings);
  expect(await warningsOf(blocks.slice(1))).toEqual([]);
  expect([await warningsOf(blocks, "full"), await warningsOf(blocks, "block")]).toEqual([[], []]);
});

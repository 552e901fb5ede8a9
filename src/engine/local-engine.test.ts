import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { noEnd } from "../../tests/laws/law-models.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { Engine } from "./engine.js";
import { engineSuite } from "./engine.suite.js";
import type { EngineOptions } from "./engine-options.js";
import type { LocalEngine } from "./local-engine.js";
import type { GenerateEvent, ScoreResult } from "./results.js";

engineSuite("LocalEngine", () => Engine.load({ threads: 1 }));

async function smallEngine(options: EngineOptions = {}): Promise<LocalEngine> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama", contextLength: 2048 });
  return Engine.load({ model: folder, threads: 1, ...options });
}

const input = {
  blockTokenIds: [
    [5, 6, 7],
    [8, 9],
  ],
};

async function until(isSo: () => boolean, timeoutMs = 5_000): Promise<void> {
  for (const startedAt = performance.now(); !isSo(); await sleep(5)) {
    if (performance.now() - startedAt > timeoutMs) throw new Error("Cannot wait any longer: it is not so");
  }
}

/** Takes an answer's first token, and no more. */
async function firstToken(events: AsyncIterator<GenerateEvent>): Promise<void> {
  for (let event = await events.next(); event.value?.kind !== "token"; event = await events.next()) {
    expect(event.done).not.toBe(true);
  }
}

test("Engine.generate(): an answer waits for its reader once 32 events are unread, and keeps nobody else waiting", async () => {
  await using engine = await smallEngine();
  const slow = engine.generate(input, { maxTokens: 500, logitBias: noEnd });
  await firstToken(slow);
  const { contexts } = engine.stats();
  await until(() => engine.stats().batching.decodedTokens >= 31);
  await sleep(30);
  const { decodedTokens } = engine.stats().batching;
  expect(decodedTokens).toBeLessThan(40);
  const other = await engine.complete(input, { maxTokens: 100, logitBias: noEnd });
  expect(other.usage.completionTokens).toBe(100);
  // The first answer stood still meanwhile, and kept its place.
  expect(engine.stats().batching.decodedTokens).toBe(decodedTokens + 99);
  expect(engine.stats().contexts.usedBytes).toBe(contexts.usedBytes);
  let numTokens = 1;
  for await (const event of slow) if (event.kind === "token") numTokens += 1;
  expect(numTokens).toBe(500);
  const alone = await engine.complete(input, { maxTokens: 500, logitBias: noEnd });
  expect(alone.usage.completionTokens).toBe(500);
});

test("Engine.generate(): a reader who takes nothing for readerTimeoutMs gets what was told, then an error; the rest goes back at once", async () => {
  await using engine = await smallEngine({ readerTimeoutMs: 50 });
  const slow = engine.generate(input, { maxTokens: 500, logitBias: noEnd });
  await firstToken(slow);
  expect(engine.stats().requests.running).toBe(1);
  await until(() => engine.stats().requests.running === 0);
  expect(engine.stats().contexts.usedBytes).toBe(0);
  let numTokens = 1;
  const reading = (async () => {
    for await (const event of slow) if (event.kind === "token") numTokens += 1;
  })();
  await expect(reading).rejects.toMatchObject({
    code: "slow_reader",
    message: "Cannot go on with the answer: for 50 ms nobody read it while 32 events waited",
  });
  expect(numTokens).toBeGreaterThan(30);
});

test("Engine.generate(): an abort frees a request at once whose reader is away, and its last event says so", async () => {
  await using engine = await smallEngine();
  const controller = new AbortController();
  const { signal } = controller;
  const away = engine.generate(input, { maxTokens: 500, logitBias: noEnd, signal });
  await firstToken(away);
  controller.abort();
  await until(() => engine.stats().requests.running === 0);
  expect(engine.stats().contexts.usedBytes).toBe(0);
  const rest: GenerateEvent[] = [];
  for await (const event of away) rest.push(event);
  expect(rest.at(-1)).toMatchObject({ kind: "done", result: { finishReason: "cancelled" } });
});

test("Engine.generate(): an answer that nobody holds any more is given up", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  await using engine = await smallEngine();
  await (async () => {
    await firstToken(engine.generate(input, { maxTokens: 1000, logitBias: noEnd }));
  })();
  expect(engine.stats().requests.running).toBe(1);
  await until(() => {
    collect();
    return engine.stats().requests.running === 0;
  });
  expect(engine.stats().contexts.usedBytes).toBe(0);
  expect(engine.stats().requests.cancelled).toBe(1);
});

const prompt = { blocks: ["- Title: The key\nThe red key hangs in the hall.\n", "Question: Where is the red key?"] };

test("LocalEngine.generate(): an echo with log-probabilities, those of score()", async () => {
  await using engine = await Engine.load({ threads: 1 });
  const [passage, question] = prompt.blocks as [string, string];
  const options = { mode: "full", echo: true, maxTokens: 0, topLogprobs: 2 } as const;
  const echo = [];
  for await (const event of engine.generate(prompt, options)) if (event.kind === "echo") echo.push(...event.tokens);
  const context = engine.model.tokenizer.encode(passage, "all");
  const scored = await engine.score({ blockTokenIds: [context] }, question, { mode: "full", top: 2 });
  const tail = echo.slice(-scored.logprobs.length);
  expect(tail.map(({ id }) => id)).toEqual(scored.continuationTokenIds);
  const unseen = await engine.score({ blockTokenIds: [context.slice(1)] }, question, { mode: "full" });
  const distance = ({ logprobs }: ScoreResult) => Math.max(...logprobs.map((x, i) => Math.abs(x - tail[i]!.logprob!)));
  expectOnlyRight(5e-4, distance(scored), { "the first token is not seen": distance(unseen) });
  expect(tail.map(({ top }) => top.map(({ id }) => id))).toEqual(scored.top.map((top) => top.map(({ id }) => id)));
});

test("LocalEngine.generate(): n answers tokenize their prompt once", async () => {
  await using engine = await Engine.load({ threads: 1 });
  let numReads = 0;
  const counted = () => ({
    get blocks() {
      numReads += 1;
      return prompt.blocks;
    },
  });
  for await (const _ of engine.generate(counted(), { maxTokens: 1 }));
  const readsOfOne = numReads;
  expect(readsOfOne).toBeGreaterThan(0);
  numReads = 0;
  for await (const _ of engine.generate(counted(), { maxTokens: 1, n: 3 }));
  expect(numReads).toBe(readsOfOne);
});

test("LocalEngine.generate(): more requests than may wait are refused as queue_full", async () => {
  await using engine = await Engine.load({ threads: 1, maxRunning: 1, maxQueued: 1 });
  const asked = Array.from({ length: 3 }, () => engine.complete(prompt).catch((error: unknown) => error));
  const answers = await Promise.all(asked);
  expect(answers.filter((answer) => answer instanceof Error)).toMatchObject([
    { name: "EngineError", code: "queue_full" },
  ]);
});

test("LocalEngine: a device that fails is an EngineError of code failed with its cause, whatever was asked", async () => {
  await using engine = await Engine.load({ threads: 1 });
  const broken = new Error("Cannot compute: the device is broken");
  engine.model.backend.compute = () => Promise.reject(broken);
  const failed = expect.objectContaining({ name: "EngineError", code: "failed", cause: broken });
  await expect(engine.complete(prompt)).rejects.toEqual(failed);
  await expect(engine.complete(prompt, { n: 2 })).rejects.toEqual(failed);
  await expect(engine.score(prompt, "a")).rejects.toEqual(failed);
  await expect(engine.encode(["a passage of its own\n"])).rejects.toEqual(failed);
  expect(engine.stats().requests).toMatchObject({ queued: 0, running: 0, finished: 0 });
});

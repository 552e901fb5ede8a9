import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { noEnd } from "../../tests/laws/law-models.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { Engine } from "./engine.js";
import type { EngineOptions } from "./engine-options.js";
import type { GenerateEvent } from "./results.js";

async function smallEngine(options: EngineOptions = {}): Promise<Engine> {
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

import { copyFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { noEnd } from "../../tests/laws/law-models.js";
import { writeRandomGguf } from "../../tests/models/random-gguf.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { Engine } from "./engine.js";
import { engineSuite } from "./engine.suite.js";
import type { EngineOptions } from "./engine-options.js";
import { LocalEngine } from "./local-engine.js";
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

test("LocalEngine.load(): a file that is replaced while it is loaded is an error, and nothing stays", async () => {
  const folder = await temporaryFolder();
  const [path, other] = [join(folder, "model.gguf"), join(folder, "other.gguf")];
  for (const [file, seed] of [[path, 1] as const, [other, 2] as const])
    writeRandomGguf(file, { architecture: "llama", type: "F16", seed });
  const onEstimate = () => renameSync(other, path);
  for (const mapWeights of [true, false]) {
    copyFileSync(path, other);
    await expectError(
      LocalEngine.load({ model: path, threads: 1, mapWeights, onEstimate }),
      /^Cannot load ".*model\.gguf": it was replaced or written to meanwhile$/,
    );
    expect(loadGgml(await findGgmlDirectory("cpu")).live.buffers).toBe(0);
  }
});

test("LocalEngine: a device that fails is an EngineError of code failed with its cause, whatever was asked", async () => {
  await using engine = await Engine.load({ threads: 1 });
  const broken = new Error("Cannot compute: the device is broken");
  engine.model.backend.compute = () => Promise.reject(broken);
  const failed = expect.objectContaining({ name: "EngineError", code: "failed", cause: broken });
  await expect(engine.complete(prompt)).rejects.toEqual(failed);
  await expect(engine.generate(prompt, { n: 2 }).next()).rejects.toEqual(failed);
  await expect(engine.score(prompt, "a")).rejects.toEqual(failed);
  await expect(engine.encode(["a passage of its own\n"])).rejects.toEqual(failed);
  expect(engine.stats().requests).toMatchObject({ queued: 0, running: 0, finished: 0 });
});

test("Engine.generate(): n answers go on from one prompt, computed once, and are the answers that each is alone", async () => {
  await using engine = await smallEngine({ maxRunning: 3, kvType: "f32", keepPrefixes: false });
  const prompt = { blockTokenIds: [Array.from({ length: 90 }, (_, i) => 5 + (i % 60)), [8, 9, 10]] };
  const sampling = { temperature: 1, seed: 11, logitBias: noEnd, maxTokens: 40 };
  const alone: (readonly number[])[] = [];
  for (let i = 0; i < 7; i++) {
    alone.push((await engine.complete(prompt, { ...sampling, seed: 11 + i })).tokenIds);
  }
  const before = engine.stats();
  const ids = Array.from({ length: 7 }, (): number[] => []);
  const ends: GenerateEvent[] = [];
  for await (const event of engine.generate(prompt, { ...sampling, n: 7 })) {
    if (event.kind === "token") ids[event.index]!.push(event.tokenId);
    if (event.kind === "done") ends.push(event);
  }
  expect(ids).toEqual(alone);
  expect(ends.map((event) => event.kind === "done" && event.result.finishReason)).toEqual(Array(7).fill("length"));
  const after = engine.stats();
  // The prompt's rows, in whole groups.
  expect(after.batching.rows - before.batching.rows).toBe(96);
  expect(after.requests.finished - before.requests.finished).toBe(7);
  expect(after.contexts.usedBytes).toBe(0);
  expect(after.kvMemory.usedBytes).toBe(before.kvMemory.usedBytes);
});

test("Engine.generate(): n answers within little memory, of one token, of none, and cancelled in the midst", async () => {
  const prompt = { blockTokenIds: [Array.from({ length: 90 }, (_, i) => 5 + (i % 60)), [8, 9, 10]] };
  const answers = async (
    engine: Engine,
    options: { maxTokens: number; n: number; signal?: AbortSignal },
    stop?: () => void,
  ) => {
    const reasons: string[] = [];
    for await (const event of engine.generate(prompt, { logitBias: noEnd, temperature: 1, ...options })) {
      if (event.kind === "token") stop?.();
      if (event.kind === "done") reasons.push(`${event.index} ${event.result.finishReason}`);
    }
    expect(engine.stats()).toMatchObject({ contexts: { usedBytes: 0 }, requests: { queued: 0, running: 0 } });
    return reasons.sort();
  };
  {
    await using engine = await smallEngine();
    const whole = engine.stats().contexts.capBytes;
    expect(whole).toBeGreaterThan(0);
    expect(await answers(engine, { maxTokens: 1, n: 3 })).toEqual(["0 length", "1 length", "2 length"]);
    expect(await answers(engine, { maxTokens: 0, n: 2 })).toEqual(["0 length", "1 length"]);
    const controller = new AbortController();
    const cancelled = await answers(engine, { maxTokens: 900, n: 40, signal: controller.signal }, () =>
      controller.abort(),
    );
    expect(cancelled.length).toBe(40);
    expect(new Set(cancelled.map((one) => one.split(" ")[1]))).toEqual(new Set(["cancelled"]));
    for await (const event of engine.generate(prompt, { n: 5, logitBias: noEnd, maxTokens: 500 }))
      if (event.kind === "token") break;
    expect(engine.stats()).toMatchObject({ contexts: { usedBytes: 0 }, requests: { queued: 0, running: 0 } });
  }
  // Room for the prompt and two answers: the others wait for theirs.
  const elements = 3 * 128 + 2 * 2 * 64;
  const { numLayers, numKvHeads, headSize } = await (async () => {
    await using engine = await smallEngine();
    return engine.model.source.config;
  })();
  await using tight = await smallEngine({ contextBytes: 2 * elements * numLayers * numKvHeads * headSize });
  expect(await answers(tight, { maxTokens: 40, n: 5 })).toEqual([0, 1, 2, 3, 4].map((i) => `${i} length`));
  await expect(answers(tight, { maxTokens: 600, n: 2 })).rejects.toMatchObject({ code: "too_long" });
});

test("Engine.generate(): n answers of several owners, one place and memory for one prompt: each goes on when its turn comes", async () => {
  await using roomy = await smallEngine();
  const { numLayers, numKvHeads, headSize } = roomy.model.source.config;
  const bytes = 2 * (3 * 128 + 2 * 64) * numLayers * numKvHeads * headSize;
  await using engine = await smallEngine({ maxRunning: 1, contextBytes: bytes, mode: "full" });
  const prompt = { blockTokenIds: [Array.from({ length: 100 }, (_, i) => 5 + (i % 60))] };
  const numEnds = await Promise.all(
    ["a", "b", "c"].map(async (salt) => {
      let count = 0;
      for await (const { kind } of engine.generate(prompt, { n: 4, salt, maxTokens: 20, logitBias: noEnd }))
        if (kind === "done") count += 1;
      return count;
    }),
  );
  expect(numEnds).toEqual([4, 4, 4]);
  expect(engine.stats()).toMatchObject({ contexts: { usedBytes: 0 }, requests: { finished: 12, running: 0 } });
});

test("Engine.generate(): answers that the device fails are counted as failed, one or several", async () => {
  for (const n of [1, 3]) {
    await using engine = await smallEngine();
    const { backend } = engine.model;
    const compute = backend.compute.bind(backend);
    let numGraphs = 0;
    backend.compute = (...args: Parameters<typeof compute>) => {
      numGraphs += 1;
      return numGraphs > 6 ? Promise.reject(new Error("Cannot compute: no more")) : (compute(...args) as never);
    };
    const answers = engine.generate({ blocks: ["a question"] }, { n, maxTokens: 50, logitBias: noEnd });
    const read = async () => {
      for await (const _ of answers);
    };
    await expect(read()).rejects.toMatchObject({ code: "failed" });
    expect(engine.stats().requests).toEqual({ queued: 0, running: 0, finished: 0, cancelled: 0, failed: n });
  }
});

test("Engine.generate(): an owner who leaves early is charged what was computed", async () => {
  await using engine = await smallEngine({ maxRunning: 1, mode: "full" });
  const ask = (salt: string, maxTokens: number) =>
    engine.generate({ blockTokenIds: [[5, 6, 7]] }, { salt, maxTokens, logitBias: noEnd });
  const order: string[] = [];
  const whole = async (salt: string) => {
    for await (const { kind } of ask(salt, 20)) if (kind === "done") order.push(salt);
  };
  // Both have asked already when the place is free: who leaves after few tokens has been given fewer.
  const holder = ask("holder", 100);
  await holder.next();
  const leaving = (async () => {
    for await (const { kind } of ask("leaves", 400)) if (kind === "token") break;
    await whole("leaves");
  })();
  const others = Promise.all([whole("stays"), whole("stays"), whole("stays")]);
  await holder.return();
  await Promise.all([leaving, others]);
  expect(order.indexOf("leaves")).toBeLessThan(2);
});

test("Engine.scoreEach(): continuations after a prompt that is computed once are as likely as each alone", async () => {
  await using engine = await smallEngine({ kvType: "f32" });
  const prompt = { blockTokenIds: [Array.from({ length: 70 }, (_, i) => 5 + (i % 60)), [8, 9, 10, 11]] };
  const long = Array.from({ length: 300 }, (_, i) => 4 + ((i * 7) % 90));
  const continuations = [[20, 21, 22], [30], long, [40, 41], long.toReversed(), " a word"];
  for (const mode of ["block", "full"] as const) {
    for (const stepwise of [false, true]) {
      const alone = [];
      for (const one of continuations) alone.push(await engine.score(prompt, one, { mode, stepwise }));
      const { rows, decodedTokens } = engine.stats().batching;
      const together = await engine.scoreEach(prompt, continuations, { mode, stepwise });
      const { batching, contexts } = engine.stats();
      const numRows = batching.rows - rows;
      // The prompt's rows once (in full mode all of them), and each continuation's but its last.
      const continued = together.reduce((sum, { continuationTokenIds }) => sum + continuationTokenIds.length - 1, 0);
      const promptRows = mode === "full" ? 74 : 4;
      if (stepwise) expect(batching.decodedTokens - decodedTokens).toBe(continued);
      expect(numRows - promptRows - (stepwise ? 0 : continued)).toBeLessThan(16);
      expect(contexts.usedBytes).toBe(0);
      for (const [i, { logprobs, ...rest }] of together.entries()) {
        const { logprobs: expected, ...others } = alone[i]!;
        expect(rest).toMatchObject({ continuationTokenIds: others.continuationTokenIds, mode });
        for (const [t, logprob] of logprobs.entries()) expect(Math.abs(logprob - expected[t]!)).toBeLessThan(1e-4);
      }
    }
  }
  expect(await engine.scoreEach(prompt, [])).toEqual([]);
});

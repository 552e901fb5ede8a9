import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { GenerateEvent, GenerateResult } from "../../src/engine/results.js";
import { expectError } from "../../src/files/test-files.suite.js";
import { expectInTime } from "../in-time.js";
import { Random } from "../models/random.js";
import { deviceTimeout, testDevice } from "../test-device.js";
import { drawIds, expectIdle, expectOnlyBlocks, LawModels, lawEngine, liveCounts, noEnd } from "./law-models.js";

const isCpu = testDevice === "CPU";
/** From the abort to the answer's end, in ms. Other devices compute a graph to its end, however long that takes them. */
const maxDelayMs = isCpu ? 200 : Number.POSITIVE_INFINITY;
// Room for attempts on a busy machine.
const patient = { timeout: deviceTimeout(60_000) };

const random = new Random(4, "cancel");
const prompt = (...lengths: number[]) => ({ blockTokenIds: lengths.map((length) => drawIds(random, length)) });

interface Cancelled {
  readonly result: GenerateResult;
  readonly delayMs: number;
}

/** Aborts a request when `when` says so, and gives its end. */
async function cancel(
  engine: LocalEngine,
  input: { blockTokenIds: number[][] },
  when: { readonly afterMs: number } | { readonly at: GenerateEvent["kind"]; readonly thenMs: number },
): Promise<Cancelled> {
  const controller = new AbortController();
  let abortedAt = 0;
  const abortIn = (ms: number) =>
    setTimeout(() => {
      abortedAt = performance.now();
      controller.abort();
    }, ms);
  if ("afterMs" in when) abortIn(when.afterMs);
  for await (const event of engine.generate(input, { signal: controller.signal, logitBias: noEnd, maxTokens: 4000 })) {
    if ("at" in when && event.kind === when.at && abortedAt === 0) {
      abortedAt = performance.now();
      abortIn(when.thenMs);
    }
    if (event.kind !== "done") continue;
    expect(event.result.finishReason).toBe("cancelled");
    expect(getEventListeners(controller.signal, "abort")).toEqual([]);
    return { result: event.result, delayMs: performance.now() - abortedAt };
  }
  throw new Error("Cannot cancel: there was no end");
}

/** An abort ends a request within 200 ms at every stage, and nothing of it stays. */
export function cancelSuite(numTimes: number): void {
  const models = new LawModels();
  // Some 100 ms a graph of 64 rows on one busy core: long beside a node, short beside the whole. A software device has no such haste.
  const sizes = isCpu
    ? { hiddenSize: 512, intermediateSize: 1024, numLayers: 6, numHeads: 8, numKvHeads: 4 }
    : { hiddenSize: 128, numLayers: 2, numHeads: 4, numKvHeads: 2 };
  const slowModel = () => models.huggingFace({ architecture: "llama", ...sizes, dtype: "F16", seed: 71 });
  const bytesPerToken = (2 * 4 * sizes.numLayers * sizes.numKvHeads * sizes.hiddenSize) / sizes.numHeads;

  /** Runs `stage`, which gives the ms from the abort to the end, then checks that the engine is as it was and answers as before. */
  async function unharmed(stage: (engine: LocalEngine) => Promise<number>): Promise<void> {
    await using engine = await lawEngine(slowModel(), { kvType: "f16" });
    const idle = await liveCounts();
    const input = prompt(10, 12, 5);
    const answer = () => engine.complete(input, { maxTokens: 3, logitBias: noEnd });
    const expected = await answer();
    for (let i = 0; i < numTimes; i++) await expectInTime(maxDelayMs, () => stage(engine));
    expectIdle(engine);
    await expectOnlyBlocks(idle, engine);
    expect((await answer()).tokenIds).toEqual(expected.tokenIds);
  }

  test("Engine.generate(): an abort while a block is encoded", patient, () =>
    unharmed(async (engine) => {
      const numBlocks = engine.stats().store.numBlocks;
      const { result, delayMs } = await cancel(engine, prompt(3500, 5), { afterMs: 150 });
      expect(result.usage).toMatchObject({ promptTokens: 3505, completionTokens: 0 });
      expect(engine.stats().store.numBlocks).toBe(numBlocks);
      return delayMs;
    }),
  );

  test("Engine.generate(): an abort while the final block is computed", patient, () =>
    unharmed(async (engine) => {
      const { delayMs } = await cancel(engine, prompt(10, 3500), { at: "prompt", thenMs: 150 });
      return delayMs - 150;
    }),
  );

  test("Engine.generate(): an abort while tokens are decoded", patient, () =>
    unharmed(async (engine) => {
      const { result, delayMs } = await cancel(engine, prompt(10, 50), { at: "token", thenMs: 100 });
      expect(result.usage.completionTokens).toBeGreaterThan(0);
      return delayMs - 100;
    }),
  );

  test("Engine.generate(): an abort while another request has the device", patient, () =>
    unharmed(async (engine) => {
      const other = cancel(engine, prompt(3500, 5), { afterMs: 600 });
      const { delayMs } = await cancel(engine, prompt(40, 5), { afterMs: 100 });
      await other;
      return delayMs;
    }),
  );

  test("Engine.generate(): an abort while waiting for a block that another request encodes", patient, () =>
    unharmed(async (engine) => {
      const shared = prompt(3500, 5);
      const other = cancel(engine, shared, { afterMs: 600 });
      const { delayMs } = await cancel(engine, shared, { afterMs: 100 });
      await other;
      return delayMs;
    }),
  );

  test("Engine.generate(): a cancelled encoding is taken over by who waits for it", patient, async () => {
    await using engine = await lawEngine(slowModel(), { kvType: "f16" });
    const shared = prompt(300, 5);
    const first = cancel(engine, shared, { afterMs: 20 });
    const second = await engine.complete(shared, { maxTokens: 2, logitBias: noEnd });
    await first;
    expect(second.finishReason).toBe("length");
    await using other = await lawEngine(slowModel(), { kvType: "f16" });
    const { tokenIds } = await other.complete(shared, { maxTokens: 2, logitBias: noEnd });
    expect(second.tokenIds).toEqual(tokenIds);
  });

  test("Engine.generate(): an abort while waiting for room among the contexts", patient, async () => {
    const before = await liveCounts();
    // The CPU's contexts have their values twice while tokens are decoded.
    const roomForOne = 7600 * bytesPerToken * (isCpu ? 1.5 : 1);
    {
      await using engine = await lawEngine(slowModel(), { contextBytes: roomForOne });
      const { contexts } = engine.stats();
      await expectInTime(maxDelayMs, async () => {
        const other = cancel(engine, prompt(3500, 5), { afterMs: 500 });
        const { delayMs } = await cancel(engine, prompt(10, 5), { afterMs: 100 });
        await other;
        expect(engine.stats().contexts).toEqual(contexts);
        expectIdle(engine);
        return delayMs;
      });
    }
    expect(await liveCounts()).toEqual(before);
  });

  test("Engine.generate(): an abort before the start", patient, () =>
    unharmed(async (engine) => {
      const signal = AbortSignal.abort();
      const result = await engine.complete(prompt(10, 5), { signal });
      expect(result).toMatchObject({ finishReason: "cancelled", tokenIds: [], text: "" });
      return 0;
    }),
  );

  test("Engine.generate(): leaving the loop early frees everything", patient, () =>
    unharmed(async (engine) => {
      for (const kind of ["prompt", "token"]) {
        for await (const event of engine.generate(prompt(20, 5), { logitBias: noEnd })) if (event.kind === kind) break;
        expectIdle(engine);
      }
      return 0;
    }),
  );

  test("Engine.score(), .encode(): an abort rejects with the signal's reason, and nothing stays", patient, () =>
    unharmed(async (engine) => {
      const reason = new Error("Cannot go on: enough");
      let delayMs = 0;
      for (const start of [
        (signal: AbortSignal) => engine.score(prompt(10, 3000), [1, 2], { signal }),
        (signal: AbortSignal) => engine.encode(["passage ".repeat(400)], { signal }),
      ]) {
        const controller = new AbortController();
        const promise = start(controller.signal);
        promise.catch(() => undefined);
        await new Promise((resolve) => setTimeout(resolve, 100));
        const abortedAt = performance.now();
        controller.abort(reason);
        await expect(promise).rejects.toBe(reason);
        delayMs = Math.max(delayMs, performance.now() - abortedAt);
      }
      return delayMs;
    }),
  );

  test("Engine: closing ends running requests with an error and frees everything", patient, async () => {
    const before = await liveCounts();
    await expectInTime(maxDelayMs, async () => {
      const engine = await lawEngine(slowModel());
      const running = [
        engine.complete(prompt(3000, 5)),
        engine.complete(prompt(40, 3000)),
        engine.score(prompt(50, 2000), [1]),
        engine.encode(["passage ".repeat(300)]),
      ];
      const failures = running.map((promise) => expectError(promise, "the engine was closed"));
      await new Promise((resolve) => setTimeout(resolve, 50));
      const from = performance.now();
      await engine[Symbol.asyncDispose]();
      const delayMs = performance.now() - from;
      await Promise.all(failures);
      expect(await liveCounts()).toEqual(before);
      await expectError(engine.complete(prompt(3, 4)), "the engine was closed");
      await expectError(engine.encode(["a passage"]), "the engine was closed");
      await engine[Symbol.asyncDispose]();
      expect(engine.stats().computeBytes).toBe(0);
      expect(await liveCounts()).toEqual(before);
      return delayMs;
    });
  });

  test("Engine: closing in the midst of an answer's loop does not wait for the loop", patient, async () => {
    const before = await liveCounts();
    const engine = await lawEngine(slowModel());
    const answer = async () => {
      for await (const event of engine.generate(prompt(20, 5), { logitBias: noEnd })) {
        if (event.kind === "token") await engine[Symbol.asyncDispose]();
      }
    };
    await expectError(answer(), "the engine was closed");
    expect(await liveCounts()).toEqual(before);
  });
}

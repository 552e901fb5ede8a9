import { expect, onTestFinished, test, vi } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { optionsOf } from "../files/options.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { transfersOf } from "../ggml/transfers.suite.js";
import { AssembledContext, contextBytes } from "./assemble.js";
import { DecodeSteps, type DecodeWork } from "./decode-steps.js";
import { type LoadedModel, loadModel } from "./model.js";
import type { LikelyToken } from "./results.js";
import { RowGraph } from "./row-graph.js";
import type { PrefillPart } from "./row-queue.js";
import { createSampler } from "./sampler.js";
import { samplingFields, samplingOf } from "./sampling-options.js";
import { Scheduler } from "./scheduler.js";
import { Task } from "./task.js";

interface Setting {
  readonly model: LoadedModel;
  readonly scheduler: Scheduler;
  /** A context to decode over, after a prompt of so many tokens. */
  started(numTokens: number, capacity?: number): Promise<AssembledContext>;
}

async function setUp(): Promise<Setting> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama", contextLength: 4096 });
  const model = await loadModel({ model: folder, threads: 1 });
  onTestFinished(() => model[Symbol.dispose]());
  const { backend, decoder } = model;
  const before = { ...backend.ggml.live };
  const scheduler = new Scheduler(backend, decoder, "f32");
  onTestFinished(async () => {
    await scheduler.idle();
    expect(backend.ggml.live).toEqual(before);
    scheduler[Symbol.dispose]();
  });
  return {
    model,
    scheduler,
    async started(numTokens, capacity = numTokens + 64) {
      const slot = scheduler.slots.take(capacity);
      const context = new AssembledContext(scheduler.memory, capacity, { slot });
      await lastOf(scheduler.prefill(context, ids(numTokens), 0, numTokens - 1));
      return context;
    },
  };
}

const ids = (length: number, seed = 1) => Int32Array.from({ length }, (_, i) => (i * 31 + seed * 17) % 250);

async function lastOf(rows: AsyncIterable<Float32Array>): Promise<Float32Array> {
  let last: Float32Array | undefined;
  for await (const row of rows) last = row;
  return last as Float32Array;
}

/** Decodes the same token again and again. @param onToken told how many there are. */
function decodeMany(
  scheduler: Scheduler,
  context: AssembledContext,
  count: number,
  onToken: (numTokens: number) => boolean | undefined = () => true,
): Promise<void> {
  let numTokens = 0;
  const sequence = {
    context,
    isPaused: false,
    get next() {
      return { tokenId: 7, position: context.length };
    },
    take: () => {
      numTokens += 1;
      return onToken(numTokens) !== false && numTokens < count;
    },
  };
  return scheduler.decode(sequence);
}

test("Scheduler.decode(): sequences share graphs, which are built once for many steps", async () => {
  const { scheduler, started } = await setUp();
  const contexts = await Promise.all([10, 30, 25].map((length) => started(length)));
  const before = scheduler.stats;
  await Promise.all(contexts.map((context) => decodeMany(scheduler, context, 20)));
  const { decodeGraphs, decodedTokens, builtDecodeGraphs } = scheduler.stats;
  expect(decodedTokens - before.decodedTokens).toBe(60);
  expect(decodeGraphs - before.decodeGraphs).toBeLessThan(25);
  expect(builtDecodeGraphs - before.builtDecodeGraphs).toBeLessThan(6);
  for (const context of contexts) context[Symbol.dispose]();
});

test("Scheduler.prefill(): short prompts share a graph with each other and with blocks", async () => {
  const { scheduler } = await setUp();
  const contexts = Array.from({ length: 4 }, () => new AssembledContext(scheduler.memory, 64));
  const encoded = (async () => {
    for await (const block of scheduler.encode([ids(20), ids(33)])) block[Symbol.dispose]();
  })();
  const alone = await Promise.all(
    contexts.map((context, i) => lastOf(scheduler.prefill(context, ids(9 + i, i), 0, 8 + i))),
  );
  await encoded;
  expect(scheduler.stats.rowGraphs).toBe(1);
  for (const [i, context] of contexts.entries()) {
    context.length = 0;
    const again = await lastOf(scheduler.prefill(context, ids(9 + i, i), 0, 8 + i));
    const distance = (logits: Float32Array) => Math.max(...again.map((logit, id) => Math.abs(logits[id]! - logit)));
    const other = alone[(i + 1) % alone.length]!;
    expectOnlyRight(1e-4, distance(alone[i]!), { "the logits are another prompt's": distance(other) });
    context[Symbol.dispose]();
  }
});

test("Scheduler: a long prompt stops another's tokens for one piece at a time", async () => {
  const { scheduler, started } = await setUp();
  using decoding = await started(20, 512);
  await decodeMany(scheduler, decoding, 1);
  using long = new AssembledContext(scheduler.memory, 2000);
  const before = scheduler.stats;
  let isDone = false;
  const prompt = lastOf(scheduler.prefill(long, ids(2000), 0, 1999)).finally(() => {
    isDone = true;
  });
  let numTokens = 0;
  await decodeMany(scheduler, decoding, 400, (count) => {
    numTokens = count;
    return !isDone;
  });
  await prompt;
  const { rowGraphs, rows, maxRowsBesideDecoding } = scheduler.stats;
  expect(maxRowsBesideDecoding).toBe(128);
  expect(rows - before.rows).toBe(2000);
  // A token after each piece.
  expect(rowGraphs - before.rowGraphs).toBe(Math.ceil(2000 / 128));
  expect(numTokens).toBeGreaterThanOrEqual(rowGraphs - before.rowGraphs - 1);
});

test("Scheduler.encode(): a long block is the same whatever goes on beside it, and stops tokens for a piece at a time", async () => {
  const { scheduler, started } = await setUp();
  const encode = async (): Promise<Buffer> => {
    for await (const block of scheduler.encode([ids(1300, 5)])) {
      using made = block;
      return Buffer.from(made.memory.read());
    }
    throw new Error("Cannot encode: nothing came");
  };
  const alone = await encode();
  using decoding = await started(20, 512);
  await decodeMany(scheduler, decoding, 1);
  const before = scheduler.stats;
  const [beside] = await Promise.all([encode(), decodeMany(scheduler, decoding, 30)]);
  expect(beside.equals(alone)).toBe(true);
  expect(scheduler.stats.rowGraphs - before.rowGraphs).toBe(11);
  expect(scheduler.stats.maxRowsBesideDecoding).toBe(128);
});

test("Scheduler: a short prompt passes a long one that came before it", async () => {
  const { scheduler } = await setUp();
  const contexts = [3000, 30].map((rows) => new AssembledContext(scheduler.memory, rows));
  const order: string[] = [];
  const long = lastOf(scheduler.prefill(contexts[0]!, ids(3000), 0, 2999)).then(() => order.push("long"));
  await new Promise((resolve) => setTimeout(resolve, 20));
  const short = lastOf(scheduler.prefill(contexts[1]!, ids(30), 0, 29)).then(() => order.push("short"));
  await Promise.all([long, short]);
  expect(order).toEqual(["short", "long"]);
  for (const context of contexts) context[Symbol.dispose]();
});

test("Scheduler: who cancels leaves a shared graph at once, the others stay, and memory stays as long as the graph", async () => {
  const { model, scheduler } = await setUp();
  const { backend } = model;
  const contexts = [60, 60].map((rows) => new AssembledContext(scheduler.memory, rows));
  const compute = backend.compute.bind(backend);
  let finish: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const spy = vi.spyOn(backend, "compute").mockImplementationOnce(async (graph, read, signal) => {
    await held;
    return compute(graph, read, signal);
  });
  onTestFinished(() => spy.mockRestore());
  const controller = new AbortController();
  const first = lastOf(scheduler.prefill(contexts[0]!, ids(40), 0, 39, controller));
  const second = lastOf(scheduler.prefill(contexts[1]!, ids(50), 0, 49));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(spy).toHaveBeenCalledTimes(1);
  const used = scheduler.memory.stats.usedBytes;
  controller.abort(new Error("enough"));
  await expect(first).rejects.toThrow("enough");
  contexts[0]![Symbol.dispose]();
  expect(scheduler.memory.stats.usedBytes).toBe(used);
  finish();
  expect((await second).every(Number.isFinite)).toBe(true);
  await scheduler.idle();
  expect(scheduler.memory.stats.usedBytes).toBe(used - contextBytes(scheduler.memory, 60, "prefill"));
  contexts[1]![Symbol.dispose]();
});

test("Scheduler: a graph that all have cancelled is stopped, and their blocks are freed", async () => {
  const { model, scheduler } = await setUp();
  const before = { ...model.backend.ggml.live };
  const controllers = [0, 1].map(() => new AbortController());
  const encodings = controllers.map(async ({ signal }, i) => {
    for await (const block of scheduler.encode([ids(1000, i)], { signal })) block[Symbol.dispose]();
  });
  const failures = encodings.map((encoding, i) => expect(encoding).rejects.toThrow(`stop ${i}`));
  await new Promise((resolve) => setTimeout(resolve, 10));
  for (const [i, controller] of controllers.entries()) controller.abort(new Error(`stop ${i}`));
  await Promise.all(failures);
  await scheduler.idle();
  expect(model.backend.ggml.live).toEqual(before);
});

test("Scheduler: a failing graph fails its own work, and the rest goes on", async () => {
  const { model, scheduler, started } = await setUp();
  const contexts = await Promise.all([10, 12].map((length) => started(length)));
  await Promise.all(contexts.map((context) => decodeMany(scheduler, context, 1)));
  const spy = vi.spyOn(model.backend, "compute").mockRejectedValueOnce(new Error("Cannot compute: test"));
  onTestFinished(() => spy.mockRestore());
  const failed = await Promise.allSettled(contexts.map((context) => decodeMany(scheduler, context, 1)));
  expect(failed.map((one) => one.status)).toEqual(["rejected", "rejected"]);
  await Promise.all(contexts.map((context) => decodeMany(scheduler, context, 2)));
  await expect(
    scheduler.runnerOf().run(1, () => {
      throw new Error("Cannot build: test");
    }),
  ).rejects.toThrow("Cannot build: test");
  await Promise.all(contexts.map((context) => decodeMany(scheduler, context, 1)));
  for (const context of contexts) context[Symbol.dispose]();
});

test("Scheduler: what cannot be computed is refused", async () => {
  const { scheduler } = await setUp();
  using small = new AssembledContext(scheduler.memory, 10);
  await expect(lastOf(scheduler.prefill(small, ids(65), 0, 64))).rejects.toThrow(
    "Cannot compute 65 rows: the context has room for 64 and holds 0",
  );
  await expect(decodeMany(scheduler, small, 1)).rejects.toThrow("the context has no slot");
  const reason = new Error("before");
  await expect(scheduler.runnerOf().run(1, () => undefined, AbortSignal.abort(reason))).rejects.toBe(reason);
});

test("DecodeSteps: more runs than a graph has room for are decoded in several graphs, and give the same", async () => {
  const { model, scheduler, started } = await setUp();
  // Slots of two sizes are not neighbours.
  const contexts = await Promise.all([10, 300].map((length) => started(length)));
  for (const context of contexts) await context.startDecoding(scheduler.runnerOf());
  const works = contexts.map((context) => ({ context, tokenId: 7, position: context.length }));
  const all: Float32Array[][] = [];
  for (const most of [2, 1]) {
    using steps = new DecodeSteps(model.backend, model.decoder, { maxRuns: () => most });
    const computed = await steps.compute(works, new AbortController().signal);
    all.push(computed.map(({ next }) => next[0] as Float32Array));
    expect(steps.numBuilt).toBe(3 - most);
    for (const context of contexts) context.length -= 1;
  }
  for (const [i, logits] of all[0]!.entries()) {
    for (const [id, x] of logits.entries()) expect(Math.abs(all[1]![i]![id]! - x)).toBeLessThan(1e-4);
  }
  for (const context of contexts) context[Symbol.dispose]();
});

test("DecodeSteps: greedy sequences choose by their greatest logits alone, by all where those do not decide or one is not greedy", async () => {
  const { model, scheduler, started } = await setUp();
  const contexts = await Promise.all([10, 30].map((length) => started(length)));
  for (const context of contexts) await context.startDecoding(scheduler.runnerOf());
  const { vocabSize } = model.decoder.config;
  const greedy = createSampler(samplingOf(optionsOf(samplingFields)("sample", { logprobs: false })), {
    vocabSize,
    drawSeed: () => 1,
  });
  const step = async (choosesGreatest: boolean, samplers: readonly DecodeWork["sampleGreatest"][]) => {
    (model.decoder.device as { choosesGreatest: boolean }).choosesGreatest = choosesGreatest;
    using steps = new DecodeSteps(model.backend, model.decoder, { maxRuns: () => 2 });
    const works = contexts.map((context, i) => ({
      context,
      tokenId: 7,
      position: context.length,
      sampleGreatest: samplers[i],
    }));
    let found: (Float32Array | LikelyToken)[] = [];
    const { readBytes } = await transfersOf(model.backend.ggml, async () => {
      const computed = await steps.compute(works, new AbortController().signal);
      found = computed.map(({ next }) => next[0] as Float32Array | LikelyToken);
    });
    for (const context of contexts) context.length -= 1;
    return { found, readBytes };
  };
  const { sampleGreatest } = greedy;
  const whole = await step(false, [sampleGreatest, sampleGreatest]);
  expect(whole.readBytes).toBe(2 * 4 * vocabSize);
  const history = { promptIds: [], generatedIds: [] };
  const wanted = whole.found.map((logits) => greedy.sample(logits as Float32Array, history));
  expect(wanted[0]).not.toEqual(wanted[1]);
  expect(await step(true, [sampleGreatest, sampleGreatest])).toEqual({ found: wanted, readBytes: 2 * 12 });
  expect(await step(true, [sampleGreatest, () => undefined])).toEqual({
    ...whole,
    readBytes: whole.readBytes + 2 * 12,
  });
  expect(await step(true, [sampleGreatest, undefined])).toEqual(whole);
  for (const context of contexts) context[Symbol.dispose]();
});

const task = <T>() => new Task<T>(undefined, () => undefined);

test("RowGraph: a short piece is counted once another share asks for room, not alone", async () => {
  const { model, scheduler } = await setUp();
  using context = new AssembledContext(scheduler.memory, 300);
  let numCounted = 0;
  const ofPiece = (rows: number) => {
    numCounted += 1;
    return rows;
  };
  const graph = new RowGraph(model.decoder, scheduler.memory, { room: 100, ofBlock: (rows) => rows, ofPiece });
  const tokens = { tokenIds: ids(90), positions: 0, firstWanted: 89 };
  graph.add({ kind: "prefill", owner: "", task: task<PrefillPart>(), context, ...tokens }, 512);
  expect(numCounted).toBe(0);
  const blocks = [ids(8), ids(8)];
  expect(graph.add({ kind: "encode", owner: "", task: task(), blocks }, 512)?.rows).toHaveLength(1);
  expect(numCounted).toBe(1);
  graph.release();
});

test("RowGraph: a piece has as many rows as the graph has room for, and what has none comes in the next", async () => {
  const { model, scheduler } = await setUp();
  using context = new AssembledContext(scheduler.memory, 300);
  const sizes = { room: 100, ofBlock: (rows: number) => rows, ofPiece: (rows: number) => rows };
  const graph = new RowGraph(model.decoder, scheduler.memory, sizes);
  const tokens = { tokenIds: ids(300), positions: 0, firstWanted: 299 };
  const prompt = { kind: "prefill", owner: "", task: task<PrefillPart>(), context, ...tokens } as const;
  expect(graph.add(prompt, 512)?.numRows).toBe(64);
  expect(graph.add(prompt, 512)).toBeUndefined();
  const blocks = [20, 12, 8].map((length) => ids(length));
  expect(graph.add({ kind: "encode", owner: "", task: task(), blocks }, 512)?.rows).toHaveLength(2);
  graph.release();
});

test("Scheduler: few rows of several owners and a graph of another's all go on where a device takes pieces of any size", async () => {
  const { model } = await setUp();
  const { backend, decoder } = model;
  const device = new Proxy(decoder.device, {
    get: (policy, name) => {
      if (name === "pieceStep") return 1;
      const value: unknown = Reflect.get(policy, name, policy);
      return typeof value === "function" ? value.bind(policy) : value;
    },
  });
  const scheduler = new Scheduler(backend, { ...decoder, device }, "f32");
  const contexts = [1, 2].map(() => new AssembledContext(scheduler.memory, 64));
  // Whoever's graph comes last in line waits for those before it.
  const works = contexts.map((context, i) => lastOf(scheduler.prefill(context, ids(i + 1), 0, i, { payer: `${i}` })));
  let isComputed = false;
  const graph = scheduler.runnerOf("2").run(1, () => {
    isComputed = true;
  });
  await Promise.all([...works, graph]);
  expect(isComputed).toBe(true);
  await scheduler.idle();
  for (const context of contexts) context[Symbol.dispose]();
  scheduler[Symbol.dispose]();
});

test("Scheduler: work over a context that was disposed fails by itself, and the others go on", async () => {
  const { scheduler, started } = await setUp();
  const gone = new AssembledContext(scheduler.memory, 100);
  using other = await started(20, 512);
  const prefill = lastOf(scheduler.prefill(gone, ids(90), 0, 89));
  const failed = expect(prefill).rejects.toThrow("it was disposed");
  gone[Symbol.dispose]();
  await Promise.all([failed, decodeMany(scheduler, other, 5)]);
  const decoded = await started(20);
  const decoding = decodeMany(scheduler, decoded, 30, (count) => {
    if (count === 2) decoded[Symbol.dispose]();
    return true;
  });
  await expect(Promise.all([decoding, decodeMany(scheduler, other, 40)])).rejects.toThrow("it was disposed");
  await decodeMany(scheduler, other, 5);
});

test("Scheduler.step(): what goes wrong between graphs is everybody's error, once", async () => {
  const { scheduler, started } = await setUp();
  using first = await started(20, 512);
  using second = await started(30, 512);
  const both = [first, second].map((context) => decodeMany(scheduler, context, 20));
  let numSteps = 0;
  const step = scheduler.step.bind(scheduler);
  scheduler.step = async () => {
    numSteps += 1;
    if (numSteps === 5) throw new Error("Cannot step: test");
    await step();
  };
  const ends = await Promise.allSettled(both);
  expect(ends.map((end) => end.status === "rejected" && end.reason)).toEqual(
    Array(2).fill(new Error("Cannot step: test")),
  );
  expect(numSteps).toBe(5);
  await decodeMany(scheduler, second, 3);
});

import { expect, onTestFinished, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { AssembledContext, contextBytes } from "./assemble.js";
import { loadModel } from "./model.js";
import { Scheduler } from "./scheduler.js";

/** Of logits: a fork against the same sequence computed apart. */
const bounds = { f32: 1e-3, f16: 5e-2 } as const;
const kvTypes = ["f32", "f16"] as const;

async function setUp(kvType: keyof typeof bounds): Promise<Scheduler> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "qwen3", numLayers: 3, seed: 12, contextLength: 4096 });
  const model = await loadModel({ model: folder, threads: 1 });
  onTestFinished(() => model[Symbol.dispose]());
  const scheduler = new Scheduler(model.backend, model.decoder, kvType);
  const { memory } = scheduler;
  // What is cut from the slab holds what is no number: a product with a row that nobody cleared is none either.
  const [garbage, kept] = [1 << 20, 64].map((size) => memory.allocate(memory.contextType, size));
  const { tensor, offset, byteLength } = garbage!;
  memory.backend.set(tensor, new Uint8Array(byteLength).fill(0xff), offset * tensor.nb[0]);
  garbage![Symbol.dispose]();
  onTestFinished(async () => {
    await scheduler.idle();
    kept![Symbol.dispose]();
    scheduler[Symbol.dispose]();
    expect(scheduler.memory.stats).toEqual({ usedBytes: 0, reservedBytes: 0, numSlabs: 0 });
  });
  return scheduler;
}

const ids = (length: number, seed = 1) => Int32Array.from({ length }, (_, i) => (i * 31 + seed * 17) % 250);

async function prefill(scheduler: Scheduler, context: AssembledContext, tokens: Int32Array): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  for await (const row of scheduler.prefill(context, tokens, context.length, 0)) rows.push(row.slice());
  return rows;
}

/** Decodes these tokens. @returns the logits after each. */
async function decode(scheduler: Scheduler, context: AssembledContext, tokens: Int32Array): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  await scheduler.decode({
    context,
    isPaused: false,
    get next() {
      return { tokenId: tokens[rows.length] as number, position: context.length };
    },
    take: (logits) => rows.push((logits as Float32Array).slice()) < tokens.length,
  });
  return rows;
}

/** A fork that decodes from the start. */
function forkToDecode(scheduler: Scheduler, parent: AssembledContext, numTokens: number): AssembledContext {
  return parent.fork(parent.length + numTokens, { slot: scheduler.slots.take(numTokens) });
}

/** The logits after each token of a sequence of its own, in one go. */
async function apart(scheduler: Scheduler, tokens: readonly Int32Array[]): Promise<Float32Array[]> {
  const whole = Int32Array.from(tokens.flatMap((some) => [...some]));
  using context = new AssembledContext(scheduler.memory, whole.length);
  return await prefill(scheduler, context, whole);
}

function expectNear(found: readonly Float32Array[], wanted: readonly Float32Array[], bound: number): void {
  expect(found).toHaveLength(wanted.length);
  let most = 0;
  for (const [i, row] of wanted.entries()) {
    for (const [id, x] of row.entries()) {
      const difference = Math.abs((found[i] as Float32Array)[id]! - x);
      if (!(difference <= most)) most = difference;
    }
  }
  expect(most).toBeLessThan(bound);
}

test.each(kvTypes)("AssembledContext.fork(): forks decode what sequences apart would, KV %s", async (kvType) => {
  const scheduler = await setUp(kvType);
  const prompt = ids(77);
  const parent = new AssembledContext(scheduler.memory, prompt.length);
  await prefill(scheduler, parent, prompt);
  const answers = [20, 70, 1, 33].map((length, i) => ids(length, 40 + i));
  const forks = answers.map(({ length }) => forkToDecode(scheduler, parent, length));
  parent[Symbol.dispose]();
  const before = scheduler.stats;
  const found = await Promise.all(forks.map((fork, i) => decode(scheduler, fork, answers[i]!)));
  // They are decoded together, in graphs that are built once for many tokens.
  expect(scheduler.stats.decodeGraphs - before.decodeGraphs).toBeLessThan(75);
  expect(scheduler.stats.builtDecodeGraphs - before.builtDecodeGraphs).toBeLessThan(8);
  for (const [i, answer] of answers.entries()) {
    expectNear(found[i]!, (await apart(scheduler, [prompt, answer])).slice(prompt.length), bounds[kvType]);
    expect(forks[i]!.length).toBe(prompt.length + answer.length);
  }
  for (const fork of forks) fork[Symbol.dispose]();
});

test.each(kvTypes)(
  "AssembledContext.fork(): forks of forks, prompts over them, and of one that decodes, KV %s",
  async (kvType) => {
    const scheduler = await setUp(kvType);
    const [prompt, second, third] = [ids(50), ids(70, 2), ids(9, 3)];
    using first = new AssembledContext(scheduler.memory, 50);
    await prefill(scheduler, first, prompt);
    const numRows = 50 + second.length + third.length;
    using continued = first.fork(numRows, { slot: scheduler.slots.take(numRows - 50), prefills: true });
    const overFirst = await prefill(scheduler, continued, second);
    expectNear(overFirst, (await apart(scheduler, [prompt, second])).slice(50), bounds[kvType]);
    const tokens = ids(6, 4);
    const decoded = await decode(scheduler, continued, tokens);
    const wanted = await apart(scheduler, [prompt, second, tokens]);
    expectNear(decoded, wanted.slice(120), bounds[kvType]);
    // Its own rows have their values transposed alone: a prompt over them reads those.
    using again = continued.fork(200);
    const overBoth = await prefill(scheduler, again, third);
    expectNear(overBoth, (await apart(scheduler, [prompt, second, tokens, third])).slice(126), bounds[kvType]);
    using last = again.fork(220, { slot: scheduler.slots.take(10) });
    using other = continued.fork(180, { slot: scheduler.slots.take(10) });
    const [a, b] = await Promise.all([decode(scheduler, last, ids(4, 5)), decode(scheduler, other, ids(7, 6))]);
    expect(last.shared).toHaveLength(3);
    expectNear(a!, (await apart(scheduler, [prompt, second, tokens, third, ids(4, 5)])).slice(135), bounds[kvType]);
    expectNear(b!, (await apart(scheduler, [prompt, second, tokens, ids(7, 6)])).slice(126), bounds[kvType]);
  },
);

test("AssembledContext.fork(): bytes are those that contextBytes() tells, and go with the last holder in any order", async () => {
  const scheduler = await setUp("f16");
  const { memory } = scheduler;
  const idleBytes = memory.stats.usedBytes;
  const usedNow = () => memory.stats.usedBytes - idleBytes;
  const orders = [0, 1, 2].flatMap((a) => [0, 1, 2].filter((b) => b !== a).map((b) => [a, b, 3 - a - b] as const));
  for (const order of orders) {
    let isRoomTaken = true;
    const room = {
      [Symbol.dispose]: () => {
        expect(isRoomTaken).toBe(true);
        isRoomTaken = false;
      },
    };
    const parent = new AssembledContext(memory, 100, { room });
    expect(usedNow()).toBe(contextBytes(memory, 100, "prefill"));
    await prefill(scheduler, parent, ids(100));
    const forks = [30, 200].map((numTokens) => forkToDecode(scheduler, parent, numTokens));
    const ofForks = [30, 200].map((numTokens) => contextBytes(memory, numTokens, "fork"));
    await Promise.all(forks.map((fork) => decode(scheduler, fork, ids(3))));
    const ofParent = contextBytes(memory, 100, "shared");
    let usedBytes = ofParent + ofForks[0]! + ofForks[1]!;
    expect(usedNow()).toBe(usedBytes);
    const holders = [parent, ...forks];
    for (const [i, index] of order.entries()) {
      expect(isRoomTaken).toBe(true);
      holders[index]![Symbol.dispose]();
      holders[index]![Symbol.dispose]();
      usedBytes -= (index === 0 ? 0 : ofForks[index - 1]!) + (i === 2 ? ofParent : 0);
      expect(usedNow()).toBe(usedBytes);
    }
    expect(isRoomTaken).toBe(false);
  }
});

test("AssembledContext.fork(): a fork that is given up while rows are made ready leaves the others theirs", async () => {
  const scheduler = await setUp("f32");
  const parent = new AssembledContext(scheduler.memory, 300);
  await prefill(scheduler, parent, ids(300));
  const forks = [10, 10].map((numTokens) => forkToDecode(scheduler, parent, numTokens));
  const runner = scheduler.runnerOf();
  const giveUp = new AbortController();
  const first = forks[0]!.startDecoding(runner, giveUp.signal);
  const second = forks[1]!.startDecoding(runner);
  giveUp.abort(new Error("enough"));
  await expect(first).rejects.toThrow("enough");
  forks[0]![Symbol.dispose]();
  parent[Symbol.dispose]();
  await second;
  const found = await decode(scheduler, forks[1]!, ids(5, 2));
  expectNear(found, (await apart(scheduler, [ids(300), ids(5, 2)])).slice(300), bounds.f32);
  forks[1]![Symbol.dispose]();
});

test("AssembledContext.fork(): rows that others hold are nobody's to write", async () => {
  const scheduler = await setUp("f32");
  using parent = new AssembledContext(scheduler.memory, 40);
  expect(() => parent.fork(50)).toThrow("Cannot fork a context: it is empty");
  await prefill(scheduler, parent, ids(30));
  {
    using _ = parent.pin();
    expect(() => parent.fork(50)).toThrow("a graph is under way");
  }
  using fork = parent.fork(50);
  expect([parent.length, parent.capacity]).toEqual([30, 30]);
  expect([fork.length, fork.capacity]).toEqual([30, 94]);
  await expect(prefill(scheduler, parent, ids(1))).rejects.toThrow("has room for 30 and holds 30");
  expect(() => parent.keys).toThrow("others stand on its rows");
  await expect(decode(scheduler, fork, ids(1))).rejects.toThrow("the context has no slot");
});

import { expect, test, vi } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { type BlockId, blockId } from "../kv/block-id.js";
import { BLOCK_KV_FORMAT_VERSION, BlockKV, blockKVByteLength } from "../kv/block-kv.js";
import type { Reservation } from "../kv/block-store.js";
import { MemoryStore } from "../kv/memory-store.js";
import { ByteBudget } from "./byte-budget.js";
import { ContextMaker, newTimings, type Prepared, type RequestOf } from "./context-maker.js";
import { blockShape, DeviceBlockMemory } from "./device-memory.js";
import { loadModel } from "./model.js";
import { type PromptSpan, TokenizedPrompt } from "./prompt.js";
import { promptParts } from "./prompt-parts.js";
import { Scheduler } from "./scheduler.js";

const span = (kind: PromptSpan["kind"], length: number): PromptSpan => ({
  kind,
  tokenIds: Int32Array.from({ length }, (_, i) => (i * 7 + length) % 250),
});
/** A block of 30 tokens, two pages and what is left, a block of 20, and a page that is partly filled. */
const spans = [span("local", 30), span("global", 140), span("local", 20), span("global", 50)];

/** A maker over a small model, and a store that keeps so many tokens. */
async function setUp(capTokens: number, asked = spans) {
  const prompt = new TokenizedPrompt("block", asked, [], [], true);
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama", headSize: 8 });
  const model = await loadModel({ model: folder, threads: 1 });
  const { backend, decoder } = model;
  const shape = (tokens: number) => blockShape(decoder, "f32", tokens);
  const store = new MemoryStore<DeviceBlockMemory>({ capBytes: blockKVByteLength(shape(capTokens)) });
  const scheduler = new Scheduler(backend, decoder, "f32");
  const budget = new ByteBudget(1 << 24);
  const maker = new ContextMaker(model, "f32", store, budget, scheduler);
  const { signal } = new AbortController();
  const of: RequestOf = { owner: "", payer: "", signal, positionReencoding: true, keepPrefixes: true, explain: false };
  const fields = {
    model: await model.identity,
    kvType: "f32",
    formatVersion: BLOCK_KV_FORMAT_VERSION,
    salt: "",
  } as const;
  const parts = [...promptParts(prompt, fields, { positionReencoding: true })];
  /** The prompt's context with all of its rows. */
  const compute = async (): Promise<Prepared> => {
    const needs = maker.needs(prompt, {});
    const prepared = await maker.prepare(prompt, needs, await budget.take(needs.bytes), of, newTimings());
    for await (const _ of maker.lastRows(prepared, prepared.finalTokens.length - 1, of));
    return prepared;
  };
  const keep = (prepared: Prepared) => maker.keep(prompt, prepared.context, [], of, true);
  /** Which parts are there. */
  const there = async (): Promise<number[]> => {
    const found = await Promise.all(parts.map(({ id }) => store.find(id, "")));
    return [...parts.keys()].filter((i) => found[i] !== undefined);
  };
  let numPut = 0;
  /** Puts another block there. */
  const put = async (tokens: number): Promise<BlockId> => {
    numPut += 1;
    const tokenIds = Int32Array.from({ length: tokens }, () => numPut);
    const request = {
      id: blockId({ ...fields, salt: "other", tokenIds }),
      shape: shape(tokens),
      owner: "other",
      tokenIds,
    };
    const [miss] = await store.acquire([request]);
    const block = new BlockKV(request.shape, new DeviceBlockMemory(scheduler.memory, request.shape));
    (miss as Reservation<DeviceBlockMemory>).commit(block)[Symbol.dispose]();
    return request.id;
  };
  /** Evicts block by block, and expects that what stands on others goes before them. */
  const expectLastFirst = async (): Promise<void> => {
    let before = await there();
    while (before.length > 0) {
      await put(1);
      const now = await there();
      // Pages: each stands on all before it. Blocks stand on nothing.
      for (const i of now)
        if (parts[i]?.kind === "page") expect(now).toEqual(expect.arrayContaining([...Array(i).keys()]));
      before = now;
    }
  };
  const close = async (): Promise<void> => {
    expect(store.stats()).toMatchObject({ leasedBytes: 0, unkeptBytes: 0, numEncoding: 0 });
    await store[Symbol.asyncDispose]();
    expect(budget.usedBytes).toBe(0);
    expect(scheduler.memory.stats.usedBytes).toBe(0);
    model[Symbol.dispose]();
  };
  return {
    ...{ store, maker, of, backend, parts, shape, compute, keep, there, put, expectLastFirst },
    [Symbol.asyncDispose]: close,
  };
}

test("ContextMaker.keep(): pages go before what they stand on, also those that were copied again", async () => {
  await using made = await setUp(300);
  {
    using prepared = await made.compute();
    await made.keep(prepared);
    expect(await made.there()).toEqual([0, 1, 2, 3, 4, 5]);
    // The page after it is found, and this one copied.
    await made.store.delete((made.parts[1] as { id: BlockId }).id, "");
    using again = await made.compute();
    expect(again.reused).toEqual({ blocks: 50, prefix: 0, conversation: 0 });
    await made.keep(prepared);
    expect(await made.there()).toEqual([0, 1, 2, 3, 4, 5]);
  }
  await made.expectLastFirst();
});

test("ContextMaker.prepare(): pages that are used and not kept anew go before what they stand on", async () => {
  await using made = await setUp(300);
  using prepared = await made.compute();
  await made.keep(prepared);
  using again = await made.compute();
  expect(again.cachedTokens).toBe(239);
  await made.expectLastFirst();
});

test("ContextMaker.keep(): nothing is kept that stands on a block that is not kept", async () => {
  await using made = await setUp(300);
  using prepared = await made.compute();
  await made.store.delete((made.parts[4] as { id: BlockId }).id, "");
  await made.keep(prepared);
  expect(await made.there()).toEqual([0, 1, 2, 3]);

  // In use by others, and too large for the store.
  const few = [span("local", 30), span("global", 12)];
  await using small = await setUp(29, few);
  using other = await small.compute();
  using leased = await small.maker.blocks.lease(few.slice(0, 1), small.of);
  await small.keep(other);
  expect(await small.there()).toEqual([0]);
  expect(leased.served).toHaveLength(1);
});

test("ContextMaker.keep(): what others take of the store's room ends what is kept, not in the midst", async () => {
  await using made = await setUp(300);
  using prepared = await made.compute();
  const { store } = made;
  const acquire = store.acquire.bind(store);
  let used: Disposable | undefined;
  store.acquire = async (requests, options) => {
    const acquired = await acquire(requests, options);
    if (requests[0]?.tokenIds.length !== 12) return acquired;
    // Three pages are to be copied: now there is room for the last of them, which has 12 tokens, alone.
    used = await store.lease(await made.put(215));
    return acquired;
  };
  await made.keep(prepared);
  expect(used).toBeDefined();
  used?.[Symbol.dispose]();
  expect(await made.there()).toEqual([0, 4]);
});

test("ContextMaker.keep(): pages that another gives up are copied in its place", async () => {
  await using made = await setUp(300);
  using prepared = await made.compute();
  const { id, tokenIds, context } = made.parts[1] as (typeof made.parts)[number] & { kind: "page" };
  const request = { ...{ id, owner: "", tokenIds, context, isPage: true }, shape: made.shape(64) };
  const [theirs] = await made.store.acquire([request]);
  let isKept = false;
  const keeping = made.keep(prepared).then(() => {
    isKept = true;
  });
  await expect.poll(() => made.store.stats().numEncoding).toBe(1);
  for (let i = 0; i < 50; i++) await new Promise(setImmediate);
  expect(isKept).toBe(false);
  theirs?.[Symbol.dispose]();
  await keeping;
  expect(await made.there()).toEqual([0, 1, 2, 3, 4, 5]);
});

test("ContextMaker.keep(): a device that fails or has no memory left ends what is kept, and all goes back", async () => {
  await using made = await setUp(300);
  using prepared = await made.compute();
  const { backend } = made;
  const compute = backend.compute.bind(backend);
  backend.compute = () => Promise.reject(new Error("the device is gone"));
  await made.keep(prepared);
  expect(await made.there()).toEqual([0, 4]);
  expect(made.store.stats().numEncoding).toBe(0);
  backend.compute = compute;
  await made.keep(prepared);
  expect(await made.there()).toEqual([0, 1, 2, 3, 4, 5]);
});

test("ContextMaker: others have turns of the event loop while a prompt's pages are looked for", async () => {
  await using made = await setUp(2000, [span("global", 1500)]);
  using prepared = await made.compute();
  await made.keep(prepared);
  // Everything is there: nothing but the search takes time, a millisecond a page.
  let now = 0;
  const clock = vi.spyOn(performance, "now").mockImplementation(() => now++);
  let numTurns = 0;
  const count = () => {
    numTurns += 1;
    turn = setImmediate(count);
  };
  let turn = setImmediate(count);
  try {
    await made.keep(prepared);
  } finally {
    clock.mockRestore();
    clearImmediate(turn);
  }
  expect(numTurns).toBeGreaterThan(1);
});

import { expect, test } from "vitest";
import type { BlockKV } from "./block-kv.js";
import type { BlockRequest, BlockStore } from "./block-store.js";
import { testRequest } from "./block-store.suite.js";
import { leaseBlocks } from "./lease-blocks.js";
import { MemoryLedger } from "./memory-ledger.suite.js";
import { MemoryStore } from "./memory-store.js";

const a = testRequest(1);
const b = testRequest(2);
const c = testRequest(3);

/** An encoder that stops at a gate until the test opens it. */
class GatedEncoder {
  readonly calls: (readonly BlockRequest[])[] = [];
  readonly #ledger: MemoryLedger;
  #open!: (error?: Error) => void;
  readonly #gate: Promise<Error | undefined>;

  constructor(ledger: MemoryLedger) {
    this.#ledger = ledger;
    this.#gate = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  open(error?: Error): void {
    this.#open(error);
  }

  readonly encode = (misses: readonly BlockRequest[]): AsyncIterable<BlockKV> => this.#encode(misses);

  async *#encode(misses: readonly BlockRequest[]): AsyncGenerator<BlockKV> {
    this.calls.push(misses);
    const error = await this.#gate;
    if (error !== undefined) throw error;
    for (const miss of misses) yield this.#ledger.block(miss.shape);
  }
}

function setUp() {
  const store: BlockStore = new MemoryStore({ capBytes: 1000 });
  const ledger = new MemoryLedger();
  const encoder = () => new GatedEncoder(ledger);
  return { store, ledger, encoder };
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("leaseBlocks(): says which blocks came from the store", async () => {
  const { store, encoder } = setUp();
  const first = encoder();
  first.open();
  (await leaseBlocks(store, [a, b], first.encode))[Symbol.dispose]();
  using leased = await leaseBlocks(store, [b, c, c, a], first.encode);
  expect(leased.blocks.map(({ fromStore }) => fromStore)).toEqual([true, false, true, true]);
  expect(first.calls).toEqual([[a, b], [c]]);
  expect(leased.blocks[1]!.block).toBe(leased.blocks[2]!.block);
});

test("leaseBlocks(): two requests that wait for each other's blocks both end", async () => {
  const { store, ledger, encoder } = setUp();
  const [x, y] = [encoder(), encoder()];
  const first = leaseBlocks(store, [a], x.encode);
  const second = leaseBlocks(store, [b, a], y.encode);
  await tick();
  const third = leaseBlocks(store, [a, b], x.encode);
  x.open();
  y.open();
  for (const leased of await Promise.all([first, second, third])) leased[Symbol.dispose]();
  expect(ledger.numMade).toBe(2);
  expect(store.stats().leasedBytes).toBe(0);
});

test("leaseBlocks(): takes over while it still waits for another, in either order", async () => {
  // p is given up and offered to `left`, q to `right`, while each waits for the other's as well.
  const { store, ledger, encoder } = setUp();
  const [holderOfP, holderOfQ, left, right] = [encoder(), encoder(), encoder(), encoder()];
  const p = leaseBlocks(store, [a], holderOfP.encode);
  const q = leaseBlocks(store, [b], holderOfQ.encode);
  await tick();
  const leftLeased = leaseBlocks(store, [b, a], left.encode);
  await tick();
  const rightLeased = leaseBlocks(store, [a, b], right.encode);
  await tick();
  left.open();
  right.open();
  holderOfP.open(new Error("p failed"));
  await expect(p).rejects.toThrow("p failed");
  await tick();
  holderOfQ.open(new Error("q failed"));
  await expect(q).rejects.toThrow("q failed");
  for (const leased of await Promise.all([leftLeased, rightLeased])) leased[Symbol.dispose]();
  expect(left.calls.length + right.calls.length).toBe(2);
  expect(ledger.liveBytes).toBe(store.stats().idleBytes);
});

test("leaseBlocks(): what was cancelled together is taken over together", async () => {
  const { store, encoder } = setUp();
  const [first, second] = [encoder(), encoder()];
  const failed = leaseBlocks(store, [a, b, c], first.encode);
  const taking = leaseBlocks(store, [a, b, c], second.encode);
  first.open(new Error("cancelled"));
  second.open();
  await expect(failed).rejects.toThrow("cancelled");
  (await taking)[Symbol.dispose]();
  expect(second.calls).toEqual([[a, b, c]]);
});

test("leaseBlocks(): bytes come back when encoding fails midway, and what was done stays", async () => {
  const { store, ledger } = setUp();
  const encode = async function* (misses: readonly BlockRequest[]) {
    yield ledger.block(misses[0]!.shape);
    throw new Error("Cannot encode: test");
  };
  await expect(leaseBlocks(store, [a, b, a, b], encode)).rejects.toThrow("Cannot encode: test");
  expect(store.stats()).toMatchObject({ numBlocks: 1, numEncoding: 0, leasedBytes: 0 });
  expect(ledger.liveBytes).toBe(store.stats().idleBytes);
});

test("leaseBlocks(): too few, too many or wrong blocks are errors, and none leaks", async () => {
  const { store, ledger } = setUp();
  const encoder = (...requests: BlockRequest[]) =>
    async function* () {
      for (const request of requests) yield ledger.block(request.shape);
    };
  await expect(leaseBlocks(store, [a, b], encoder(a))).rejects.toThrow("1 were encoded, wanted 2");
  await store.clear();
  await expect(leaseBlocks(store, [a], encoder(a, b))).rejects.toThrow("more than 1 were encoded");
  await store.clear();
  await expect(leaseBlocks(store, [a], encoder(testRequest(1, 2)))).rejects.toThrow("Cannot commit block");
  expect(ledger.numLive).toBe(0);
  expect(store.stats().numEncoding).toBe(0);
});

test("leaseBlocks(): an aborted request stops waiting and gives all back", async () => {
  const { store, ledger, encoder } = setUp();
  const [slow, quick] = [encoder(), encoder()];
  const holder = leaseBlocks(store, [a], slow.encode);
  const cancel = new AbortController();
  quick.open();
  const waiting = leaseBlocks(store, [b, a], quick.encode, { signal: cancel.signal });
  await tick();
  cancel.abort(new Error("cancelled"));
  await expect(waiting).rejects.toThrow("cancelled");
  slow.open();
  (await holder)[Symbol.dispose]();
  expect(store.stats()).toMatchObject({ leasedBytes: 0, numBlocks: 2, numEncoding: 0 });
  expect(ledger.liveBytes).toBe(store.stats().idleBytes);
});

import fc from "fast-check";
import { expect, test, vi } from "vitest";
import type { BlockId } from "./block-id.js";
import { BlockKV, type BlockMemory } from "./block-kv.js";
import type { Acquisition, BlockRequest, Lease, Reservation, Wait } from "./block-store.js";
import { BYTES_PER_TOKEN, blockStoreSuite, testPage, testRequest } from "./block-store.suite.js";
import { leaseBlocks } from "./lease-blocks.js";
import { LowerTier } from "./lower-tier.js";
import { MemoryLedger } from "./memory-ledger.suite.js";
import { MemoryStore } from "./memory-store.js";

blockStoreSuite("MemoryStore", (capBytes) => new MemoryStore({ capBytes }));

test.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY])("MemoryStore: refuses a cap of %s bytes", (capBytes) => {
  expect(() => new MemoryStore({ capBytes })).toThrow(`capBytes is ${capBytes}`);
});

test("MemoryStore: a request of 300 waits adds one listener to its signal", async () => {
  const store = new MemoryStore({ capBytes: 1 });
  const requests = Array.from({ length: 300 }, (_, n) => testRequest(n));
  const held = await store.acquire(requests);
  const cancel = new AbortController();
  let numListeners = 0;
  const add = cancel.signal.addEventListener.bind(cancel.signal);
  cancel.signal.addEventListener = (...args: Parameters<typeof add>) => {
    numListeners += 1;
    add(...args);
  };
  const waits = await store.acquire(requests, { signal: cancel.signal });
  expect(numListeners).toBe(1);
  for (const acquisition of [...held, ...waits]) acquisition[Symbol.dispose]();
});

test("MemoryStore: 30,000 blocks are looked up, leased and evicted, not each by going through all", {
  timeout: 20_000,
}, async () => {
  const numBlocks = 30_000;
  const store = new MemoryStore({ capBytes: numBlocks * BYTES_PER_TOKEN });
  const ledger = new MemoryLedger();
  const { shape } = testRequest(0);
  const requestAt = (n: number) => ({
    ...{ id: n.toString(16).padStart(64, "0") as BlockId, shape, owner: "" },
    tokenIds: Int32Array.of(n),
  });
  const put = async (from: number) => {
    const start = performance.now();
    const acquired = await store.acquire(Array.from({ length: numBlocks }, (_, i) => requestAt(from + i)));
    for (const reservation of acquired as Reservation[]) reservation.commit(ledger.block(shape))[Symbol.dispose]();
    return performance.now() - start;
  };
  await put(0);
  const evictMs = await put(numBlocks);
  const start = performance.now();
  for (let n = 0; n < 1000; n++) {
    const [hit] = await store.acquire([requestAt(numBlocks + n * 29)]);
    expect(hit!.kind).toBe("hit");
    hit![Symbol.dispose]();
  }
  const lookUpMs = performance.now() - start;
  expect(store.stats()).toMatchObject({ evictions: numBlocks, numBlocks });
  // Loose, for busy machines: linear time would take minutes.
  expect(evictMs).toBeLessThan(10_000);
  expect(lookUpMs).toBeLessThan(1_000);
});

test("MemoryStore.longestMatch(): among a thousand plain blocks it reads the tokens of a few", async () => {
  const store = new MemoryStore({ capBytes: 1000 * BYTES_PER_TOKEN });
  const ledger = new MemoryLedger();
  const { shape } = testRequest(0);
  let numReads = 0;
  const requests = Array.from({ length: 1000 }, (_, n) => ({
    ...{ id: n.toString(16).padStart(64, "0") as BlockId, shape, owner: "" },
    get tokenIds() {
      numReads += 1;
      return Int32Array.of(n);
    },
  }));
  const acquired = await store.acquire(requests);
  for (const reservation of acquired as Reservation[]) reservation.commit(ledger.block(shape))[Symbol.dispose]();
  numReads = 0;
  using match = await store.longestMatch({ owner: "", tokenIds: Int32Array.of(700, 1) });
  expect(match?.numShared).toBe(1);
  expect(numReads).toBeLessThan(50);
});

/** The store as a list that is searched from its start, oldest use first. */
class SlowStore {
  readonly blocks: { n: number; size: number; numLeases: number; kept: boolean; found: boolean }[] = [];
  readonly encodings: { n: number; size: number; found: boolean; line: number[] }[] = [];
  readonly cap: number;

  constructor(cap: number) {
    this.cap = cap;
  }

  keptSize(leased: boolean): number {
    return this.blocks.filter((b) => b.kept && b.numLeases > 0 === leased).reduce((sum, b) => sum + b.size, 0);
  }

  stats() {
    const leased = this.keptSize(true);
    const idle = this.keptSize(false);
    return {
      leasedBytes: leased * BYTES_PER_TOKEN,
      idleBytes: idle * BYTES_PER_TOKEN,
      freeBytes: (this.cap - leased - idle) * BYTES_PER_TOKEN,
      unkeptBytes: this.blocks.filter((b) => !b.kept).reduce((sum, b) => sum + b.size, 0) * BYTES_PER_TOKEN,
      numBlocks: this.blocks.filter((b) => b.found).length,
      numEncoding: this.encodings.length,
    };
  }

  commit(encoding: SlowStore["encodings"][number]): SlowStore["blocks"][number] {
    const { n, size, found } = encoding;
    const kept = found && this.keptSize(true) + size <= this.cap;
    while (kept && this.keptSize(true) + this.keptSize(false) + size > this.cap) {
      this.blocks.splice(
        this.blocks.findIndex((b) => b.numLeases === 0),
        1,
      );
    }
    const block = { n, size, numLeases: 1 + encoding.line.length, kept, found };
    this.blocks.push(block);
    this.encodings.splice(this.encodings.indexOf(encoding), 1);
    return block;
  }

  release(block: SlowStore["blocks"][number]): void {
    block.numLeases -= 1;
    if (block.numLeases > 0) return;
    this.blocks.splice(this.blocks.indexOf(block), 1);
    if (block.kept && block.found) this.blocks.push(block);
  }

  delete(n: number): void {
    for (const entry of [...this.blocks, ...this.encodings]) if (entry.n === n) entry.found = false;
    const idle = this.blocks.findIndex((b) => b.n === n && b.numLeases === 0);
    if (idle >= 0) this.blocks.splice(idle, 1);
  }
}

type Held =
  | { kind: "hit"; real: Lease; block: SlowStore["blocks"][number] }
  | { kind: "miss"; real: Reservation; encoding: SlowStore["encodings"][number] }
  | { kind: "pending"; real: Acquisition; key: number; encoding: SlowStore["encodings"][number] };

test("MemoryStore: does what a slow, obvious list does, and each block's memory goes back once", async () => {
  const numbers = fc.nat(5);
  const operation = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant("acquire" as const), ns: fc.array(numbers, { maxLength: 4 }) }),
    },
    { weight: 5, arbitrary: fc.record({ do: fc.constant("commit or release" as const), pick: fc.nat(50) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("give back" as const), pick: fc.nat(50) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("delete" as const), n: numbers }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("clear" as const) }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.nat(8), fc.array(operation, { maxLength: 60, size: "max" }), async (cap, operations) => {
      const store = new MemoryStore({ capBytes: cap * BYTES_PER_TOKEN });
      const slow = new SlowStore(cap);
      const ledger = new MemoryLedger();
      let held: Held[] = [];
      let nextKey = 0;
      /** Blocks 0 to 5 have 1 to 3 tokens. */
      const request = (n: number) => testRequest(n, 1 + (n % 3));

      const acquire = async (ns: readonly number[]): Promise<void> => {
        const real = await store.acquire(ns.map(request));
        for (const [i, n] of ns.entries()) {
          const acquisition = real[i]!;
          const block = slow.blocks.find((b) => b.n === n && b.found);
          const encoding = slow.encodings.find((e) => e.n === n && e.found);
          if (block !== undefined) {
            expect(acquisition.kind).toBe("hit");
            block.numLeases += 1;
            held.push({ kind: "hit", real: acquisition as Lease, block });
          } else if (encoding !== undefined) {
            expect(acquisition.kind).toBe("pending");
            held.push({ kind: "pending", real: acquisition, key: nextKey, encoding });
            encoding.line.push(nextKey++);
          } else {
            expect(acquisition.kind).toBe("miss");
            const fresh = { n, size: 1 + (n % 3), found: true, line: [] };
            slow.encodings.push(fresh);
            held.push({ kind: "miss", real: acquisition as Reservation, encoding: fresh });
          }
        }
      };
      /** Replaces waits whose encoding ended by what they settled to. */
      const settle = async (keys: readonly number[], outcome: (real: Lease | Reservation) => Held): Promise<void> => {
        for (const [i, entry] of held.entries()) {
          if (entry.kind !== "pending" || !keys.includes(entry.key) || entry.real.kind !== "pending") continue;
          held[i] = outcome(await entry.real.settled);
        }
      };
      const commit = async (entry: Held & { kind: "miss" }): Promise<void> => {
        const { encoding } = entry;
        const block = slow.commit(encoding);
        const real = entry.real.commit(ledger.block(request(encoding.n).shape, encoding.n));
        held.push({ kind: "hit", real, block });
        await settle(encoding.line, (settled) => {
          expect(settled.kind).toBe("hit");
          return { kind: "hit", real: settled as Lease, block };
        });
      };
      const giveBack = async (entry: Held): Promise<void> => {
        entry.real[Symbol.dispose]();
        switch (entry.kind) {
          case "hit":
            slow.release(entry.block);
            break;
          case "pending":
            entry.encoding.line.splice(entry.encoding.line.indexOf(entry.key), 1);
            break;
          case "miss": {
            const { encoding } = entry;
            const next = encoding.line.shift();
            if (next === undefined) slow.encodings.splice(slow.encodings.indexOf(encoding), 1);
            else {
              await settle([next], (settled) => {
                expect(settled.kind).toBe("miss");
                return { kind: "miss", real: settled as Reservation, encoding };
              });
            }
          }
        }
      };

      for (const step of operations) {
        const pick = "pick" in step && held.length > 0 ? held[step.pick % held.length] : undefined;
        if (step.do === "acquire") await acquire(step.ns);
        else if (step.do === "delete") {
          await store.delete(request(step.n).id, "");
          slow.delete(step.n);
        } else if (step.do === "clear") {
          await store.clear();
          for (let n = 0; n <= 5; n++) slow.delete(n);
        } else if (pick !== undefined) {
          if (step.do === "give back") {
            held = held.filter((entry) => entry !== pick);
            await giveBack(pick);
          } else if (pick.kind !== "pending") {
            held = held.filter((entry) => entry !== pick);
            if (pick.kind === "miss") await commit(pick);
            else await giveBack(pick);
          }
        }
        const stats = store.stats();
        expect(stats).toMatchObject(slow.stats());
        expect(ledger.liveBytes).toBe(stats.leasedBytes + stats.idleBytes + stats.unkeptBytes);
        for (const entry of held) {
          if (entry.kind === "hit") expect(entry.real.block.read()[0]).toBe(entry.block.n);
        }
      }
      for (let entry = held.pop(); entry !== undefined; entry = held.pop()) await giveBack(entry);
      const stats = store.stats();
      expect(stats).toMatchObject({ leasedBytes: 0, unkeptBytes: 0, numEncoding: 0 });
      expect(ledger.liveBytes).toBe(stats.idleBytes);
      await store[Symbol.asyncDispose]();
      expect(ledger.numLive).toBe(0);
    }),
    { numRuns: 300 },
  );
});

/** A tier whose copies take a turn of the event loop, and its copies. */
function tierOf(capTokens: number, ledger: MemoryLedger, copies = new MemoryLedger()) {
  const tier = new LowerTier<BlockMemory>({
    capBytes: capTokens * BYTES_PER_TOKEN,
    maxSavingBytes: capTokens * BYTES_PER_TOKEN,
    medium: {
      name: "test",
      save: async (block) => {
        const [bytes, memory] = [block.read(), copies.allocate(block.byteLength)];
        await new Promise(setImmediate);
        memory.write(bytes);
        const { shape } = block;
        return {
          load: async () => {
            await new Promise(setImmediate);
            const loaded = ledger.allocate(memory.byteLength);
            loaded.write(memory.read());
            return new BlockKV(shape, loaded);
          },
          free: () => {
            memory[Symbol.dispose]();
            return undefined;
          },
        };
      },
    },
  });
  return { tier, copies };
}

blockStoreSuite("MemoryStore with a tier below that nothing reaches", (capBytes) => {
  const { tier } = tierOf(1, new MemoryLedger());
  const store = new MemoryStore({ capBytes, tiers: [tier] });
  vi.spyOn(tier, "take").mockImplementation((_request, _block, done) => done());
  return store;
});

test("MemoryStore: what leaves its memory rests below, comes back with the same bytes, and no byte is lost on the way", async () => {
  const [ledger, cap] = [new MemoryLedger(), 4];
  const { tier, copies } = tierOf(40, ledger);
  const store = new MemoryStore({ capBytes: cap * BYTES_PER_TOKEN, tiers: [tier] });
  const requests = Array.from({ length: 10 }, (_, n) => testRequest(n, 1 + (n % 3)));
  for (const [n, request] of requests.entries()) {
    const [miss] = await store.acquire([request]);
    (miss as Reservation).commit(ledger.block(request.shape, n))[Symbol.dispose]();
    // Each is copied before the next comes.
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
  }
  const [below] = store.stats().tiers;
  expect(below).toMatchObject({ numBlocks: 8, saves: 8, loads: 0, drops: 0, evictions: 0 });
  expect(ledger.liveBytes + copies.liveBytes).toBe(19 * BYTES_PER_TOKEN);
  expect(await store.find(requests[0]!.id, "")).toMatchObject({ tokens: 1, inUse: false });
  expect(await store.find(requests[0]!.id, "another")).toBeUndefined();
  // Two ask at the same time: it is copied once.
  const [[first], [second]] = await Promise.all([store.acquire([requests[0]!]), store.acquire([requests[0]!])]);
  const [one, two] = await Promise.all([first, second].map((wait) => (wait as Wait).settled));
  expect([one!.kind, two!.kind]).toEqual(["hit", "hit"]);
  expect((one as Lease).block.read()).toEqual(new Uint8Array(BYTES_PER_TOKEN).fill(0));
  for (const acquisition of [first!, second!]) acquisition[Symbol.dispose]();
  expect(store.stats()).toMatchObject({ hits: 1, misses: 10, waits: 1, tiers: [{ loads: 1 }] });
  // All at once, more than its memory keeps: the others are used and go back.
  using leased = await leaseBlocks(store, requests, () => {
    throw new Error("Cannot encode: nothing is missing");
  });
  for (const [n, { block, fromStore }] of leased.blocks.entries()) {
    expect(fromStore).toBe(true);
    expect(new Set(block.read())).toEqual(new Set([n]));
  }
  leased[Symbol.dispose]();
  expect(await store.delete(requests[3]!.id, "another")).toBe(false);
  expect(await store.delete(requests[3]!.id, "")).toBe(true);
  expect(await store.delete(requests[3]!.id, "")).toBe(false);
  expect((await store.acquire([requests[3]!]))[0]!.kind).toBe("miss");
  await store[Symbol.asyncDispose]();
  expect([ledger.liveBytes, copies.liveBytes]).toEqual([0, 0]);
});

test("MemoryStore: a page that rests below is found by its tokens, and a longer one takes its place there too", async () => {
  const ledger = new MemoryLedger();
  const { tier, copies } = tierOf(40, ledger);
  const store = new MemoryStore({ capBytes: 0, tiers: [tier] });
  const put = async (request: BlockRequest) => {
    const [miss] = await store.acquire([request]);
    (miss as Reservation).commit(ledger.block(request.shape, 7))[Symbol.dispose]();
  };
  await put(testPage("full", [1, 2, 3]));
  const wanted = testPage("full", [1, 2, 9]);
  {
    using match = await store.longestMatch(wanted);
    expect(match?.numShared).toBe(2);
    expect(match?.lease.block.read()[0]).toBe(7);
  }
  await put(testPage("full", [1, 2, 9, 4]));
  await put(testPage("full", [1, 2, 3, 4]));
  expect(store.stats().tiers[0]?.numBlocks).toBe(2);
  // Once it is copied, the copy is all there is.
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
  const { loads } = tier.stats;
  using held = await store.lease(testPage("full", [1, 2, 3, 4]).id);
  expect(() => held?.block).toThrow(/^Cannot read block ".*": it rests below the store's memory$/);
  expect(tier.stats.loads).toBe(loads);
  await store[Symbol.asyncDispose]();
  expect([ledger.liveBytes, copies.liveBytes]).toEqual([0, 0]);
});

test("LowerTier: the cap holds at every moment, and what does not fit or fails is dropped and counted", async () => {
  const ledger = new MemoryLedger();
  const { tier, copies } = tierOf(6, ledger);
  const take = (n: number, tokens: number) => {
    const block = ledger.block(testRequest(n, tokens).shape, n);
    tier.take(testRequest(n, tokens), block, () => block[Symbol.dispose]());
  };
  const settle = async () => {
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
  };
  take(1, 7);
  expect(tier.stats).toMatchObject({ usedBytes: 0, drops: 1 });
  for (const n of [2, 3, 4]) take(n, 2);
  take(5, 2);
  // The first three are still being copied: nothing can go for it.
  expect(tier.stats).toMatchObject({ usedBytes: 6 * BYTES_PER_TOKEN, numBlocks: 3, drops: 2, evictions: 0 });
  await settle();
  take(6, 3);
  expect(tier.stats).toMatchObject({ usedBytes: 5 * BYTES_PER_TOKEN, numBlocks: 2, evictions: 2 });
  await settle();
  expect([2, 3, 4, 6].map((n) => tier.find(testRequest(n, 2).id) !== undefined)).toEqual([false, false, true, true]);
  // Forgotten while it is copied: its bytes are there until then.
  const loading = tier.load(testRequest(4, 2));
  const deleting = tier.delete(testRequest(4, 2).id);
  expect(tier.find(testRequest(4, 2).id)).toBeUndefined();
  expect(tier.stats.usedBytes).toBe(5 * BYTES_PER_TOKEN);
  const loaded = await loading;
  expect(new Set(loaded?.read())).toEqual(new Set([4]));
  loaded?.[Symbol.dispose]();
  expect(await deleting).toBe(true);
  expect(tier.stats.usedBytes).toBe(3 * BYTES_PER_TOKEN);
  expect(await tier.load(testRequest(4, 2))).toBeUndefined();
  copies.allocate = () => {
    throw new Error("Cannot allocate: test");
  };
  take(8, 1);
  await settle();
  expect(tier.stats).toMatchObject({ usedBytes: 3 * BYTES_PER_TOKEN, drops: 3 });
  await tier[Symbol.asyncDispose]();
  expect([ledger.liveBytes, copies.liveBytes]).toEqual([0, 0]);
  expect(() => new LowerTier({ capBytes: 0, medium: { name: "test", save: () => Promise.reject() } })).toThrow(
    "capBytes is 0, wanted a whole number from 1 on",
  );
});

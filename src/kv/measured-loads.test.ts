import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { BlockMemory } from "./block-kv.js";
import { BYTES_PER_TOKEN, testRequest } from "./block-store.suite.js";
import { leaseBlocks } from "./lease-blocks.js";
import { LowerTier } from "./lower-tier.js";
import { MeasuredRate } from "./measured-loads.js";
import { MemoryLedger } from "./memory-ledger.suite.js";
import { MemoryStore } from "./memory-store.js";

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("MeasuredRate: what was measured lately counts most, and small samples do not", () => {
  const rate = new MeasuredRate(10);
  rate.add(9, 1000);
  expect(rate.timeOf(1)).toBeUndefined();
  rate.add(10, 10);
  expect(rate.timeOf(20)).toBe(20);
  for (let i = 0; i < 60; i++) rate.add(10, 20);
  expect(rate.timeOf(20)).toBeCloseTo(40, 0);
});

/**
 * A store over blocks that rest on a medium, and a device that computes one block at a time; both take time that the test's clock
 * counts.
 */
function setUp({ loadMs, computeMs, numBlocks = 40 }: { loadMs: () => number; computeMs: number; numBlocks?: number }) {
  const ledger = new MemoryLedger();
  let [medium, numLoads, numComputed]: [Promise<void>, number, number] = [Promise.resolve(), 0, 0];
  const tier = new LowerTier<BlockMemory>({
    capBytes: 2 ** 20,
    isLasting: true,
    medium: { name: "slow", save: () => Promise.reject(new Error("Cannot save: this is no test of that")) },
  });
  const requests = Array.from({ length: numBlocks }, (_, n) => testRequest(n));
  for (const request of requests) {
    const load = async () => {
      numLoads += 1;
      // One after another.
      medium = medium.then(() => sleep(loadMs()));
      await medium;
      return ledger.block(request.shape);
    };
    tier.restore({ request, numBytes: BYTES_PER_TOKEN, saved: { load, free: () => undefined } });
  }
  const store = new MemoryStore({ capBytes: 0, tiers: [tier], computeTime: (numTokens) => numTokens * computeMs });
  /** @returns how long all blocks took, in ms. */
  const ask = async (some = requests): Promise<number> => {
    const start = performance.now();
    const leasing = leaseBlocks(store, some, async function* (misses) {
      for (const { shape } of misses) {
        await sleep(computeMs);
        numComputed += 1;
        yield ledger.block(shape);
      }
    });
    let isOver = false;
    void leasing.finally(() => {
      isOver = true;
    });
    while (!isOver) await vi.advanceTimersByTimeAsync(10);
    (await leasing)[Symbol.dispose]();
    return performance.now() - start;
  };
  const counts = () => {
    const { computed, late } = store.stats().tiers[0]!;
    const found = { numLoads, numComputed, computed, late };
    [numLoads, numComputed] = [0, 0];
    return found;
  };
  return { ask, counts, requests, ledger, store };
}

test("MeasuredLoads: a fast medium's blocks are loaded, all of them", async () => {
  const { ask, counts } = setUp({ loadMs: () => 10, computeMs: 50 });
  for (let i = 0; i < 3; i++) {
    expect(await ask()).toBeLessThan(500);
    expect(counts()).toEqual({ numLoads: 40, numComputed: 0, computed: 0, late: 0 });
  }
});

test("MeasuredLoads: of a slow medium's blocks a few are tried, then computed, until it is tried again", async () => {
  let loadMs = 200;
  const { ask, counts, requests } = setUp({ loadMs: () => loadMs, computeMs: 50 });
  const alone = 40 * 50;
  // None was measured yet: each is waited for as long as computing it and those before it takes.
  expect(await ask()).toBeLessThan(2 * alone);
  expect(counts().numComputed).toBeGreaterThan(20);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(await ask()).toBeLessThan(1.1 * alone);
  expect(counts()).toMatchObject({ numLoads: 0, numComputed: 40 });
  loadMs = 5;
  await vi.advanceTimersByTimeAsync(60_000);
  await ask(requests.slice(0, 1));
  expect(await ask()).toBeLessThan(300);
  expect(counts()).toMatchObject({ numLoads: 41, numComputed: 0 });
});

test("MeasuredLoads: a medium that hangs is waited for once, and what comes at last is freed", async () => {
  let loadMs = 10;
  const { ask, counts, ledger, requests } = setUp({ loadMs: () => loadMs, computeMs: 50 });
  await ask();
  expect(counts()).toMatchObject({ numComputed: 0 });
  loadMs = 30_000;
  // As long as it took before, some times over, and no longer.
  expect(await ask(requests.slice(0, 10))).toBeLessThan(10 * 50 + 4 * 10 * 10 + 100);
  expect(counts()).toEqual({ numLoads: 10, numComputed: 10, computed: 0, late: 10 });
  expect(await ask(requests.slice(0, 10))).toBeLessThan(10 * 50 + 20);
  expect(counts()).toMatchObject({ numLoads: 0, numComputed: 10, computed: 10 });
  await vi.advanceTimersByTimeAsync(400_000);
  expect(ledger.numLive).toBe(0);
});

import { describe, expect, test } from "vitest";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { GenerateResult } from "../../src/engine/results.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import { expectSameLogprobs } from "../oracles/compare-engine.js";
import { deviceBound } from "../test-device.js";
import {
  copiesEnded,
  drawBlocks,
  drawIds,
  expectIdle,
  expectOnlyBlocks,
  LawModels,
  lawEngine,
  liveCounts,
  noEnd,
} from "./law-models.js";

export interface ReuseSize {
  readonly numRequests: number;
  readonly numOrders: number;
  /** How many answers are compared with a new engine's instead of the engine's that keeps everything. */
  readonly numFresh: number;
}

/** What two runs of one request must agree in, to the bit. */
interface Answer {
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly number[];
}

async function answer(engine: LocalEngine, blocks: number[][]): Promise<Answer & { readonly result: GenerateResult }> {
  const logprobs: number[] = [];
  const input = { blockTokenIds: blocks };
  for await (const event of engine.generate(input, { maxTokens: 6, logitBias: noEnd })) {
    if (event.kind === "token") logprobs.push(event.logprob as number);
    if (event.kind === "done") return { tokenIds: event.result.tokenIds, logprobs, result: event.result };
  }
  throw new Error("Cannot answer: there was no end");
}

const only = ({ tokenIds, logprobs }: Answer): Answer => ({ tokenIds, logprobs });

/** The same stored bytes serve any order, any place, and any number of requests (invariants I3 and I6). */
export function reuseSuite(size: ReuseSize, options: Pick<EngineOptions, "hostStoreBytes"> = {}): void {
  const models = new LawModels();
  for (const [name, shape] of Object.entries(architectureModels)) {
    describe(name, () => reuseTests(size, () => models.huggingFace(shape), options));
  }
}

function reuseTests(size: ReuseSize, model: () => string, options: Pick<EngineOptions, "hostStoreBytes">): void {
  test("Engine: the same passages in any order are all taken from the store", async () => {
    await using engine = await lawEngine(model(), { kvType: "f16" });
    const random = new Random(1, "orders");
    const passages = drawBlocks(random, 12, 40);
    const first = await engine.complete({ blockTokenIds: [...passages, drawIds(random, 9)] }, { maxTokens: 1 });
    expect(first.usage.cachedTokens).toBe(0);
    for (let i = 0; i < size.numOrders; i++) {
      const order = random.order(passages.length).map((index) => passages[index] as number[]);
      const final = drawIds(random, 1 + random.below(30));
      const { usage, blocks } = await engine.complete({ blockTokenIds: [...order, final] }, { maxTokens: 1 });
      expect(usage.cachedTokens).toBe(usage.promptTokens - final.length);
      expect(blocks.every(({ hit }) => hit)).toBe(true);
    }
    expectIdle(engine);
  });

  test("Engine: requests at the same time over the same blocks answer as one after another", async () => {
    const random = new Random(2, "concurrent");
    const passages = drawBlocks(random, 10, 40);
    const prompts = Array.from({ length: size.numOrders }, () => [
      ...random.order(passages.length).map((index) => passages[index] as number[]),
      drawIds(random, 5),
    ]);
    await using engine = await lawEngine(model());
    const together = await Promise.all(prompts.map((blocks) => answer(engine, blocks)));
    expect(engine.stats().store.misses).toBe(passages.length);
    expectIdle(engine);
    await using other = await lawEngine(model());
    for (const [i, blocks] of prompts.entries()) {
      const { tokenIds, logprobs } = together[i] as Answer;
      expect(tokenIds).toEqual((await answer(other, blocks)).tokenIds);
      // Products of several rows round otherwise than those of one.
      await expectSameLogprobs(deviceBound(5e-4), logprobs, async (how) => {
        return (await other.score({ blockTokenIds: blocks }, tokenIds, { stepwise: true, ...how })).logprobs;
      });
    }
  });

  test("Engine: a store that holds ten of sixty passages answers as a new engine", async () => {
    const random = new Random(3, "sixty passages");
    const passages = Array.from({ length: 60 }, () => drawIds(random, 20 + random.below(20)));
    const before = await liveCounts();
    {
      await using probe = await lawEngine(model(), { kvType: "f16" });
      // As many tokens as ten passages.
      await probe.complete({ blockTokenIds: [drawIds(random, 300), [1]] }, { maxTokens: 0 });
      const storeBytes = probe.stats().store.idleBytes;
      await using engine = await lawEngine(model(), { kvType: "f16", storeBytes, ...options });
      await using keeper = await lawEngine(model(), { kvType: "f16" });
      const idle = await liveCounts();
      for (let i = 0; i < size.numRequests; i++) {
        const chosen = random.order(passages.length).slice(0, 1 + random.below(14));
        const blocks = [...chosen.map((index) => passages[index] as number[]), drawIds(random, 1 + random.below(20))];
        const found = await answer(engine, blocks);
        expect(only(found), `request ${i}`).toEqual(only(await answer(keeper, blocks)));
        const hits = found.result.blocks.filter(({ hit }) => hit).reduce((sum, { tokens }) => sum + tokens, 0);
        expect(found.result.usage.cachedTokens).toBe(hits);
        if (i % Math.ceil(size.numRequests / size.numFresh) === 0) {
          await using fresh = await lawEngine(model(), { kvType: "f16" });
          expect(only(found), `request ${i}`).toEqual(only(await answer(fresh, blocks)));
        }
        await copiesEnded(engine);
        expectIdle(engine);
      }
      const { store } = engine.stats();
      if (store.tiers[0]) expect(store.tiers[0].loads).toBeGreaterThan(0);
      expect(store.evictions).toBeGreaterThan(0);
      expect(store.hits).toBeGreaterThan(0);
      await expectOnlyBlocks(idle, engine, keeper);
    }
    expect(await liveCounts()).toEqual(before);
  });
}

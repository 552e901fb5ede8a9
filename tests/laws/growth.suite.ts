import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { Random } from "../models/random.js";
import {
  drawBlocks,
  drawIds,
  expectIdle,
  expectOnlyBlocks,
  LawModels,
  lawEngine,
  liveCounts,
  noEnd,
} from "./law-models.js";

export interface GrowthSize {
  readonly numRequests: number;
  /** What the process may grow by after the first tenth of the requests, in bytes. */
  readonly marginBytes: number;
}

/** Nothing grows, however many requests come: memory, native objects, the store's accounts, listeners. */
export function growthSuite(size: GrowthSize): void {
  const models = new LawModels();

  test("Engine: nothing grows with the number of requests", async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 1024, seed: 91 });
    const before = await liveCounts();
    {
      const random = new Random(5, "growth");
      await using engine = await lawEngine(model, { kvType: "f16", storeBytes: 1 << 19 });
      const idle = await liveCounts();
      const passages = drawBlocks(random, 40, 60);
      const controller = new AbortController();
      const request = async (i: number) => {
        const chosen = random.order(passages.length).slice(0, random.below(12));
        const blocks = [...chosen.map((index) => passages[index] as number[]), drawIds(random, 1 + random.below(30))];
        const input = { blockTokenIds: blocks };
        const { signal } = i % 2 === 0 ? controller : new AbortController();
        switch (i % 5) {
          case 0:
            await engine.score(input, [1, 2, 3], { signal });
            return;
          case 1:
            for await (const event of engine.generate(input, { signal })) if (event.kind === "token") break;
            return;
          case 2: {
            const abort = new AbortController();
            const answer = engine.complete(input, { signal: abort.signal, logitBias: noEnd });
            setTimeout(() => abort.abort(), random.below(6));
            await answer;
            return;
          }
          case 3:
            await engine.complete({ blockTokenIds: [[-1]] }, { signal }).catch(() => undefined);
            await engine.complete({ blocks: ["one", "two"] }, { signal, temperature: 1, maxTokens: 3, stop: ["e"] });
            return;
          default:
            await engine.complete(input, { signal, maxTokens: 4, logitBias: noEnd });
        }
      };
      const warmUp = Math.ceil(size.numRequests / 10);
      let baseline = 0;
      for (let i = 0; i < size.numRequests; i++) {
        await request(i);
        expectIdle(engine);
        if (i === warmUp) baseline = await settledBytes();
      }
      const grownBytes = (await settledBytes()) - baseline;
      expect(grownBytes).toBeLessThan(size.marginBytes);
      expect(getEventListeners(controller.signal, "abort")).toEqual([]);
      await expectOnlyBlocks(idle, engine);
    }
    expect(await liveCounts()).toEqual(before);
  });

  test("Engine.load(): nothing stays of engines that were closed", async () => {
    const model = models.huggingFace({ architecture: "qwen2", seed: 92 });
    const before = await liveCounts();
    const times = Math.ceil(size.numRequests / 20);
    let baseline = 0;
    for (let i = 0; i < times; i++) {
      {
        await using engine = await lawEngine(model);
        await engine.complete({ blocks: ["one", "two"] }, { maxTokens: 2 });
      }
      expect(await liveCounts()).toEqual(before);
      if (i === Math.ceil(times / 10)) baseline = await settledBytes();
    }
    expect((await settledBytes()) - baseline).toBeLessThan(size.marginBytes);
  });
}

/** The process's resident bytes once garbage has had the time to go. */
async function settledBytes(): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 5; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
    least = Math.min(least, process.memoryUsage.rss());
  }
  return least;
}

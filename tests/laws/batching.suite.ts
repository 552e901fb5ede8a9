import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { GenerateResult } from "../../src/engine/results.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import { logprobBounds } from "../oracles/compare-engine.js";
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

export interface BatchingSize {
  readonly numRequests: number;
  readonly numAtOnce: number;
  readonly longTokens: number;
}

/** Where the two likeliest tokens are nearer than this, rounding may decide between them. */
const clearMargin = 2 * logprobBounds.f16;

interface Asked {
  readonly blocks: number[][];
  readonly mode: "block" | "full";
  readonly maxTokens: number;
  readonly cancelAfterMs: number | undefined;
  /** How long the reader takes over a token now and then. */
  readonly pauseMs: number | undefined;
}

function draw(random: Random, passages: readonly number[][], size: BatchingSize): Asked {
  const chosen = random.order(passages.length).slice(0, random.below(6));
  const isLong = random.below(8) === 0;
  const final = drawIds(random, isLong ? size.longTokens : 1 + random.below(60));
  return {
    blocks: [...chosen.map((index) => passages[index] as number[]), final],
    mode: random.below(3) === 0 ? "full" : "block",
    maxTokens: random.below(24),
    cancelAfterMs: random.below(4) === 0 ? random.below(150) : undefined,
    pauseMs: random.below(5) === 0 ? 1 + random.below(15) : undefined,
  };
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function answer(engine: LocalEngine, asked: Asked): Promise<GenerateResult> {
  const { blocks, mode, maxTokens, cancelAfterMs, pauseMs } = asked;
  const controller = new AbortController();
  const timer = cancelAfterMs === undefined ? undefined : setTimeout(() => controller.abort(), cancelAfterMs);
  try {
    const options = { mode, maxTokens, logitBias: noEnd, signal: controller.signal, logprobs: false };
    for await (const event of engine.generate({ blockTokenIds: blocks }, options)) {
      if (event.kind === "done") return event.result;
      if (pauseMs !== undefined) await sleep(pauseMs);
    }
  } finally {
    clearTimeout(timer);
  }
  throw new Error("Cannot answer: there was no end");
}

/** Requests whose work shares graphs answer as each would alone, and leave nothing behind. */
export function batchingSuite(size: BatchingSize): void {
  const models = new LawModels();

  test.each(Object.entries(architectureModels))(
    "Engine: many requests at once pick what each would pick alone, %s",
    async (name, shape) => {
      const model = models.huggingFace({ ...shape, contextLength: 2048 });
      const random = new Random(91, name);
      const passages = drawBlocks(random, 12, 60);
      const requests = Array.from({ length: size.numRequests }, () => draw(random, passages, size));
      const before = await liveCounts();
      {
        await using engine = await lawEngine(model, { kvType: "f16", maxRunning: 20 });
        const idle = await liveCounts();
        const results: (readonly [Asked, GenerateResult])[] = [];
        const waiting = [...requests];
        const client = async () => {
          for (let asked = waiting.pop(); asked; asked = waiting.pop())
            results.push([asked, await answer(engine, asked)]);
        };
        await Promise.all(Array.from({ length: size.numAtOnce }, client));
        expect(results).toHaveLength(size.numRequests);
        expectIdle(engine);
        const { batching, requests: counts } = engine.stats();
        await expectOnlyBlocks(idle, engine);
        expect(counts.finished + counts.cancelled).toBe(size.numRequests);
        expect(batching.decodeGraphs).toBeLessThan(batching.decodedTokens);

        await using alone = await lawEngine(model, { kvType: "f16" });
        const banned = new Set(Object.keys(noEnd).map(Number));
        const { vocabSize } = alone.model.tokenizer;
        const top = alone.model.source.config.vocabSize;
        let numClear = 0;
        for (const [{ blocks, mode, maxTokens, cancelAfterMs }, { tokenIds, finishReason }] of results) {
          if (cancelAfterMs === undefined) expect(tokenIds).toHaveLength(maxTokens);
          expect(finishReason === "length" || cancelAfterMs !== undefined).toBe(true);
          if (tokenIds.length === 0) continue;
          // All at once, as a prompt is computed: another way than the one that is held against it.
          const scored = await alone.score({ blockTokenIds: blocks }, tokenIds, { mode, top });
          for (const [step, id] of tokenIds.entries()) {
            const [first, second] = scored.top[step]!.filter((token) => token.id < vocabSize && !banned.has(token.id));
            if (first!.logprob - second!.logprob <= clearMargin) continue;
            expect(id, `token ${step}`).toBe(first!.id);
            numClear += 1;
          }
        }
        expect(numClear).toBeGreaterThan(size.numRequests);
      }
      expect(await liveCounts()).toEqual(before);
    },
  );
}

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { ScoreOptions } from "../../src/engine/engine-options.js";
import { openModel } from "../../src/model/open-model.js";
import { Random } from "../models/random.js";
import type { RandomModelOptions } from "../models/random-model.js";
import { OnePassModel } from "../oracles/one-pass.js";
import { drawBlocks, drawIds, LawModels, lawEngine } from "./law-models.js";

/** The bounds of invariant I1, in log-probability. */
const bounds = { f32: 1e-3, f16: 5e-2, bf16: 3e-1 } as const;

const architectures: Readonly<Record<string, RandomModelOptions>> = {
  "llama, llama3 RoPE": { architecture: "llama", rope: "llama3", seed: 31 },
  "llama, YaRN, biases": { architecture: "llama", rope: "yarn", attentionBias: true, mlpBias: true, seed: 32 },
  "mistral, MQA": { architecture: "mistral", numKvHeads: 1, headSize: 32, seed: 33 },
  "qwen2, tied": { architecture: "qwen2", tied: true, rope: "linear", seed: 34 },
  "qwen3, YaRN": { architecture: "qwen3", headSize: 32, rope: "yarn", seed: 35 },
};

type Case = readonly [name: string, blocks: number[][], options?: ScoreOptions];

function cases(seed: number, size: OnePassSize): Case[] {
  const random = new Random(seed, "one pass");
  const draw = (length: number) => drawIds(random, length);
  const passages = [30, 45, 12, 60, 25, 8].map(draw);
  const question = draw(20);
  const shuffled = random.order(passages.length).map((i) => passages[i]!);
  const [a, b, c] = passages as [number[], number[], number[]];
  return [
    ["one block", [draw(40)]],
    ["six passages", [...passages, question]],
    ["six passages, shuffled", [...shuffled, question]],
    ["repeated blocks", [a, b, a, a, c, b, question]],
    ["blocks of one token", [...Array.from({ length: 40 }, () => draw(1)), draw(1)]],
    ["empty blocks", [[], a, [], [], b, c, [], question]],
    [`${size.manyBlocks} blocks`, [...drawBlocks(random, size.manyBlocks - 1, 5), question]],
    [`${size.longTokens} tokens`, [draw(130), draw(size.longTokens - 210), draw(80)]],
    ["stepwise", [...passages, question], { stepwise: true }],
    ["full mode", [...passages, question], { mode: "full" }],
    ["no position re-encoding", [...shuffled, question], { positionReencoding: false }],
  ];
}

export interface OnePassSize {
  readonly manyBlocks: number;
  readonly longTokens: number;
  readonly numRuns: number;
}

/** Invariant I1: what the engine computes from stored blocks equals one pass over the whole prompt. */
export function onePassSuite(size: OnePassSize): void {
  const models = new LawModels();
  describe.each(Object.entries(architectures))("Engine.score() of %s", (_, options) => {
    const folder = models.huggingFace(options);
    const continuation = drawIds(new Random(options.seed ?? 0, "continuation"), 8);
    let oracle: OnePassModel | undefined;
    const answers = new Map<string, Float64Array[]>();

    /** The greatest difference in log-probability over the whole vocabulary. */
    const error = async (engine: Engine, blocks: number[][], scoreOptions: ScoreOptions): Promise<number> => {
      oracle ??= new OnePassModel(await openModel(folder));
      const { vocabSize } = oracle.config;
      const cut = scoreOptions.mode === "full" ? [blocks.flat()] : blocks;
      const key = JSON.stringify([cut, scoreOptions.positionReencoding]);
      const expected = answers.get(key) ?? oracle.score(cut, continuation, scoreOptions.positionReencoding);
      answers.set(key, expected);
      const { logprobs, top } = await engine.score({ blockTokenIds: blocks }, continuation, {
        ...scoreOptions,
        top: vocabSize,
      });
      let most = 0;
      for (const [i, row] of expected.entries()) {
        most = Math.max(most, Math.abs(row[continuation[i]!]! - logprobs[i]!));
        expect(top[i]).toHaveLength(vocabSize);
        for (const { id, logprob } of top[i]!) most = Math.max(most, Math.abs(row[id]! - logprob));
      }
      return most;
    };

    test.each(["f32", "f16", "bf16"] as const)("equals one pass with the block mask, KV %s", async (kvType) => {
      await using engine = await lawEngine(folder, { kvType });
      for (const [name, blocks, scoreOptions = {}] of cases(options.seed ?? 0, size)) {
        // The first time blocks are encoded, the second time they come from the store.
        for (const time of ["miss", "hit"]) {
          const most = await error(engine, blocks, scoreOptions);
          expect(most, `${name}, ${time}`).toBeLessThan(bounds[kvType]);
        }
      }
    });

    test("Engine.generate(): promptLogprobs equal one pass with the block mask, local blocks and full mode", async () => {
      oracle ??= new OnePassModel(await openModel(folder));
      await using engine = await lawEngine(folder);
      const random = new Random(options.seed ?? 0, "prompt logprobs");
      const blocks = [drawIds(random, 9), drawIds(random, 1), drawIds(random, 70), drawIds(random, 12)];
      for (const [mode, cut] of [
        ["block", blocks],
        ["block", blocks],
        ["full", [blocks.flat()]],
      ] as const) {
        const expected = oracle.rows(cut, [0]);
        const wanted = { mode, maxTokens: 0, promptLogprobs: 3 };
        for await (const event of engine.generate({ blockTokenIds: blocks }, wanted)) {
          if (event.kind !== "prompt") continue;
          expect(event.promptTokenIds).toEqual(blocks.flat());
          const found = event.promptLogprobs!;
          expect(found.map(({ id }) => id)).toEqual(blocks.flat());
          expect(found[0]).toMatchObject({ logprob: undefined, top: [] });
          for (const [i, { id, logprob, top }] of found.entries()) {
            if (i === 0) continue;
            const row = expected[i - 1]!;
            expect(Math.abs(row[id]! - logprob!), `${mode}, token ${i}`).toBeLessThan(bounds.f32);
            expect(top).toHaveLength(3);
            for (const one of top) expect(Math.abs(row[one.id]! - one.logprob)).toBeLessThan(bounds.f32);
          }
        }
      }
    });

    test("equals one pass for random block lengths", async () => {
      await using engine = await lawEngine(folder);
      const lengths = fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 9 });
      await fc.assert(
        fc.asyncProperty(lengths, fc.integer({ min: 1, max: 70 }), fc.nat(1000), fc.boolean(), fc.boolean(), run),
        { numRuns: size.numRuns, seed: 7 },
      );
      async function run(local: number[], last: number, seed: number, stepwise: boolean, reencode: boolean) {
        const random = new Random(seed, "lengths");
        const blocks = [...local, last].map((length) => drawIds(random, length));
        const most = await error(engine, blocks, { stepwise, positionReencoding: reencode });
        expect(most).toBeLessThan(bounds.f32);
      }
    });
  });
}

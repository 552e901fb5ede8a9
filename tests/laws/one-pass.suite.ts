import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ScoreOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { GenerateEvent, ScoreResult } from "../../src/engine/results.js";
import { isInBlocks, type KVType } from "../../src/files/element-types.js";
import { openModel } from "../../src/model/open-model.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import type { RandomModelShape } from "../models/random-shape.js";
import {
  askEngine,
  boundedKvTypes,
  distanceFromOracle,
  logprobBounds,
  oracleAnswer,
  roundedTo,
} from "../oracles/compare-engine.js";
import { type BoundCase, expectBound, type Fault, type OraclePrompt } from "../oracles/faults.js";
import { OnePassModel } from "../oracles/one-pass.js";
import { drawBlocks, drawIds, LawModels, lawEngine } from "./law-models.js";

const shapes: Readonly<Record<string, RandomModelShape>> = {
  ...architectureModels,
  "llama, YaRN, biases": { architecture: "llama", rope: "yarn", attentionBias: true, mlpBias: true, seed: 32 },
};

type Prompt = Omit<OraclePrompt, "continuationTokenIds"> & Pick<ScoreOptions, "mode">;
type Case = readonly [name: string, blocks: number[][], options?: ScoreOptions & Pick<OraclePrompt, "isGlobal">];

function cases(seed: number, size: OnePassSize): Case[] {
  const random = new Random(seed, "one pass");
  const draw = (length: number) => drawIds(random, length);
  const passages = [30, 45, 12, 60, 25, 8].map(draw);
  const question = draw(20);
  const shuffled = random.order(passages.length).map((i) => passages[i]!);
  const [a, b, c] = passages as [number[], number[], number[]];
  const turn = [a, draw(90), draw(14), b, c];
  const kinds = (letters: string): boolean[] => [...letters].map((letter) => letter === "G");
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
    ["a conversation", [...turn, question], { isGlobal: kinds("LGGLLG") }],
    // More global text than a page holds, behind the spans of the turn before.
    ["its next turn", [...turn, question, draw(70), c, draw(9)], { isGlobal: kinds("LGGLLGGLG") }],
    [
      "its last turn",
      [...turn, question, draw(70), c, draw(9), a, draw(5)],
      {
        isGlobal: kinds("LGGLLGGLGLG"),
        stepwise: true,
      },
    ],
    ["spans, no position re-encoding", [...turn, question], { isGlobal: kinds("LGGLLG"), positionReencoding: false }],
  ];
}

interface RoundedCase extends BoundCase {
  /** From an oracle that stores no block in another type. */
  unrounded(): number;
}

export interface OnePassSize {
  readonly manyBlocks: number;
  readonly longTokens: number;
  readonly numRuns: number;
  /** With F32 KV each fault is tried on all prompts up to so many tokens, else on the shortest. */
  readonly everyCaseUpTo: number;
}

/** Invariant I1: what the engine computes from stored blocks equals one pass over the whole prompt, and no pass with a fault. */
export function onePassSuite(size: OnePassSize): void {
  const models = new LawModels();
  const named = Object.entries(shapes).filter(([, shape]) => boundedKvTypes(shape).length > 0);
  describe.each(named)("Engine.score() of %s", (_, options) => {
    const folder = models.huggingFace(options);
    const continuation = drawIds(new Random(options.seed ?? 0, "continuation"), 8);
    const loaded = new Map<boolean | KVType, OnePassModel>();
    const onePass = async (kvType: KVType = "f32") => {
      // Other types are near enough.
      const key = isInBlocks(kvType) && kvType;
      const model = loaded.get(key) ?? new OnePassModel(await openModel(folder), undefined, await roundedTo(kvType));
      loaded.set(key, model);
      return model;
    };

    /** An engine's answer beside what the oracle says of its prompt. */
    const ask = async (engine: LocalEngine, name: string, asked: Prompt, stepwise = false): Promise<RoundedCase> => {
      const [oracle, exact] = [await onePass(engine.kvType), await onePass()];
      const { vocabSize } = oracle.config;
      const prompt = { ...asked, continuationTokenIds: continuation };
      const isFull = asked.mode === "full";
      const found = await askEngine(engine, prompt, { mode: asked.mode, stepwise, vocabSize });
      for (const row of found.top) expect(row).toHaveLength(vocabSize);
      const read = isFull ? { ...prompt, blockTokenIds: [prompt.blockTokenIds.flat()] } : prompt;
      return {
        name,
        prompt: read,
        distance: (fault) => distanceFromOracle(found, oracleAnswer(oracle.score(read, fault), read)),
        unrounded: () => distanceFromOracle(found, oracleAnswer(exact.score(read), read)),
      };
    };

    test.each(boundedKvTypes(options))("equals one pass with the block mask, KV %s", async (kvType) => {
      await using engine = await lawEngine(folder, { kvType });
      const bounded: RoundedCase[] = [];
      for (const [name, blockTokenIds, { stepwise, ...how } = {}] of cases(options.seed ?? 0, size)) {
        // The first time blocks are encoded, the second time they come from the store.
        for (const time of ["miss", "hit"]) {
          bounded.push(await ask(engine, `${name}, ${time}`, { blockTokenIds, ...how }, stepwise));
        }
      }
      if (kvType === "q4_0") {
        const unrounded = bounded.map(({ unrounded }) => unrounded());
        expect(Math.max(...unrounded), "an oracle that does not round").toBeGreaterThan(logprobBounds.q4_0);
      }
      expectBound(logprobBounds[kvType], bounded, { everyCaseUpTo: kvType === "f32" ? size.everyCaseUpTo : 0 });
    });

    test("Engine.generate(): an echo equals one pass with the block mask, local blocks and full mode", async () => {
      const oracle = await onePass();
      await using engine = await lawEngine(folder);
      const random = new Random(options.seed ?? 0, "prompt logprobs");
      const blocks = [drawIds(random, 9), drawIds(random, 1), drawIds(random, 70), drawIds(random, 12)];
      const bounded: BoundCase[] = [];
      for (const [mode, blockTokenIds] of [
        ["block", blocks],
        ["block", blocks],
        ["full", [blocks.flat()]],
      ] as const) {
        const wanted = { mode, maxTokens: 0, echo: true, topLogprobs: 3 };
        const told = await events(engine.generate({ blockTokenIds: blocks }, wanted));
        const echo = told.flatMap((event) => (event.kind === "echo" ? event.tokens : []));
        expect(echo.map(({ id }) => id)).toEqual(blocks.flat());
        const [first, ...found] = echo;
        expect(first).toMatchObject({ logprob: undefined, top: [] });
        for (const { top } of found) expect(top).toHaveLength(3);
        const prompt = { blockTokenIds, continuationTokenIds: [0] };
        const distance = (fault?: Fault) => {
          const rows = oracle.rows(prompt, fault);
          const distances = found.flatMap(({ id, logprob, top }, i) =>
            [{ id, logprob: logprob! }, ...top].map((told) => Math.abs(rows[i]![told.id]! - told.logprob)),
          );
          return Math.max(...distances);
        };
        bounded.push({ name: mode, prompt, distance });
      }
      expectBound(logprobBounds.f32, bounded, { everyCaseUpTo: size.everyCaseUpTo });
    });

    test("Engine.scoreEach(): a continuation beside another equals one pass of its own", async () => {
      const { vocabSize } = (await onePass()).config;
      await using engine = await lawEngine(folder);
      const blockTokenIds = drawBlocks(new Random(options.seed ?? 0, "beside"), 4, 45);
      for (const mode of ["block", "full"] as const) {
        const both = [continuation.toReversed(), continuation];
        const scored = await engine.scoreEach({ blockTokenIds }, both, { mode, top: vocabSize });
        const blocks = mode === "full" ? [blockTokenIds.flat()] : blockTokenIds;
        for (const [i, continuationTokenIds] of both.entries()) {
          const prompt = { blockTokenIds: blocks, continuationTokenIds };
          const expected = oracleAnswer((await onePass()).score(prompt), prompt);
          expect(distanceFromOracle(scored[i] as ScoreResult, expected), mode).toBeLessThan(logprobBounds.f32);
        }
      }
    });

    test.each(["blocks", "spans"])("equals one pass for random lengths of %s", async (form) => {
      await using engine = await lawEngine(folder);
      const lengths = fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 9 });
      await fc.assert(
        fc.asyncProperty(lengths, fc.integer({ min: 1, max: 70 }), fc.nat(1000), fc.boolean(), fc.boolean(), run),
        { numRuns: size.numRuns, seed: 7 },
      );
      async function run(first: number[], last: number, seed: number, stepwise: boolean, positionReencoding: boolean) {
        const random = new Random(seed, "lengths");
        const blockTokenIds = [...first, last].map((length) => drawIds(random, length));
        const isGlobal = form === "spans" ? [...first.map(() => random.below(2) === 0), true] : undefined;
        const { distance } = await ask(engine, "", { blockTokenIds, isGlobal, positionReencoding }, stepwise);
        expect(distance()).toBeLessThan(logprobBounds.f32);
      }
    });
  });
}

async function events(generate: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const all: GenerateEvent[] = [];
  for await (const event of generate) all.push(event);
  return all;
}

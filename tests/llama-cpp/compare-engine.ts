import { expect } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { elementTypes, type TensorType } from "../../src/files/element-types.js";
import type { ModelSource } from "../../src/model/model-source.js";
import { architectureModels } from "../models/architecture-models.js";
import { ggmlQuantizer } from "../models/ggml-quantizer.js";
import { Random } from "../models/random.js";
import { type RandomGgufOptions, writeRandomGguf } from "../models/random-gguf.js";
import { countTokens } from "../models/random-tokenizer.js";
import { distanceFromOracle } from "../oracles/compare-engine.js";
import { expectOnlyRight } from "../oracles/faults.js";
import { deviceBound, testDevice } from "../test-device.js";
import { type LlamaCppStep, llamaCppGreedy, llamaCppScores } from "./llama-cpp-oracle.js";

/**
 * How far the engine may be from llama.cpp in log-probability for each layer, by the type of the weights; with F32 KV
 * on both sides.
 *
 * Both run ggml's kernels over the same file, with graphs of their own. F32: sums run in another order, as for I1. The
 * other products first round their input to the weights' company: F16 to 11 bits, BF16 to 8, the rest to whole 127ths
 * of the largest of 32 numbers, types of blocks of 256 of 256, whose largest is 1.4 times as far out. Where the last bits differ, some
 * of it is rounded the other way; each layer adds its own. IQ types, which have another kernel from eight rows on: rows that are few
 * here and many there begin farther apart (llama.cpp is up to 0.05 a layer from itself at another batch size).
 */
function logprobBoundPerLayer(type: TensorType): number {
  const floats: Partial<Record<TensorType, number>> = { F32: 2.5e-4, F16: 5e-3, BF16: 2.5e-2 };
  const ofBlocks = elementTypes[type].blockSize === 256 ? 7e-2 : 5e-2;
  return floats[type] ?? (type.startsWith("IQ") && ofBlocks > 5e-2 ? 1e-1 : ofBlocks);
}

/** How far the engine may be from llama.cpp on this model: by the coarsest type of its weights, for each layer. */
function logprobBound({ tensors, config: { architecture, numLayers } }: ModelSource): number {
  const perLayer = [...tensors.values()].map(({ type }) => logprobBoundPerLayer(type));
  // llama.cpp's GELU on a CPU is a table of 16-bit floats: as if the products were F16's.
  if (architecture === "gemma3_text") perLayer.push(logprobBoundPerLayer("F16"));
  return Math.max(...perLayer) * numLayers;
}

/** Of one request to llama.cpp: a real model has minutes to compute. */
const timeoutMs = 3_000_000;

export interface Agreement {
  /** Steps where llama.cpp's token stood farther before the next than two errors of the bound's size. */
  readonly numCounted: number;
  /** How far the log-probabilities of llama.cpp's five likeliest tokens are apart at most, over all steps. */
  readonly worstLogprob: number;
  readonly bound: number;
}

/** Shapes with rows of 256 and more, which every type divides. */
export const comparedModels: Readonly<Record<string, RandomGgufOptions>> = {
  llama: { architecture: "llama", rope: "llama3", hiddenSize: 256, numHeads: 8, tied: true, seed: 31 },
  mistral: { architecture: "mistral", hiddenSize: 256, headSize: 64, numHeads: 8, theta: 1_000_000, seed: 32 },
  qwen2: { architecture: "qwen2", hiddenSize: 256, numHeads: 4, theta: 1_000_000, seed: 33 },
  qwen3: { architecture: "qwen3", hiddenSize: 256, headSize: 64, numHeads: 4, rope: "yarn", tied: true, seed: 34 },
  qwen3_moe: {
    architecture: "qwen3_moe",
    hiddenSize: 256,
    numHeads: 4,
    settings: { num_experts: 8, num_experts_per_tok: 3, moe_intermediate_size: 256, norm_topk_prob: true },
    seed: 39,
  },
  smollm3: {
    architecture: "smollm3",
    hiddenSize: 256,
    numHeads: 8,
    numLayers: 4,
    theta: 500_000,
    tied: true,
    seed: 35,
  },
  phi3: {
    architecture: "phi3",
    hiddenSize: 256,
    numHeads: 4,
    numKvHeads: 2,
    rope: "longrope",
    rotatedShare: 0.75,
    tied: true,
    seed: 37,
  },
  gemma3: {
    architecture: "gemma3_text",
    hiddenSize: 256,
    headSize: 64,
    numHeads: 8,
    numLayers: 3,
    theta: 1_000_000,
    slidingPattern: 3,
    tied: true,
    seed: 38,
  },
  olmo2: { architecture: "olmo2", hiddenSize: 256, numHeads: 4, theta: 500_000, seed: 36 },
  granite: { ...architectureModels.granite!, rope: "llama3", hiddenSize: 256, numHeads: 4 },
};

/**
 * Full mode against llama.cpp on the same file (invariant I4).
 *
 * @param lengths of the prompts, in tokens.
 * @param threads one where other work may hold the cores: two wait for each other at every node.
 */
export async function compareWithLlamaCpp(
  path: string,
  options: RandomGgufOptions,
  lengths: readonly number[],
  numSteps: number,
  threads: number,
): Promise<Agreement> {
  const { seed = 1 } = options;
  const written = { ...options, quantizeRows: await ggmlQuantizer() };
  writeRandomGguf(path, written);
  // The same weights, with RoPE at a quarter of each position.
  const moved = `${path}.moved.gguf`;
  writeRandomGguf(moved, { ...written, rope: "linear" });
  const random = new Random(seed, "llama.cpp prompts");
  const prompts = lengths.map((length) => Array.from({ length }, () => random.below(countTokens())));
  await using engine = await Engine.load({ model: path, kvType: "f32", threads, device: testDevice });
  // Awaited, so that the engine is there till then.
  return await expectLlamaCpp(engine, path, prompts, { numSteps, threads, moved });
}

/**
 * llama.cpp continues each prompt greedily, the engine is fed its tokens and asked how likely it holds each, and what it
 * would have picked. Then llama.cpp is asked about one of the prompts with faults, which the bound must catch.
 */
export async function expectLlamaCpp(
  engine: LocalEngine,
  path: string,
  prompts: readonly (readonly number[])[],
  how: {
    readonly numSteps: number;
    readonly threads: number;
    readonly moved?: string;
    /** False where types need a bound that one token of a text does not exceed. Default true. */
    readonly showsFaults?: boolean;
  },
): Promise<Agreement> {
  const { numSteps, threads, moved, showsFaults = true } = how;
  const bound = deviceBound(logprobBound(engine.model.source));
  const expected = await llamaCppGreedy(path, prompts, numSteps, { threads }, timeoutMs);
  const answers: Answer[] = [];
  for (const [i, ids] of prompts.entries()) answers.push(await answer(engine, ids, expected[i]!));

  const worstLogprob = Math.max(...answers.map(({ distance }, i) => distance(expected[i]!)));
  if (showsFaults) {
    // A prompt of one token has none that could be unseen.
    const index = prompts.findIndex((ids) => ids.length > 1);
    const [compared, prompt] = [answers[index]!, prompts[index]!];
    const half = prompt.length >> 1;
    const otherToken = prompt.with(half, (prompt[half]! + 1) % engine.model.source.config.vocabSize);
    const wrong = [prompt.slice(1), otherToken];
    const [unseen, other] = await llamaCppScores(path, wrong, compared.tokens, { threads }, timeoutMs);
    const [turned] = moved === undefined ? [] : await llamaCppScores(moved, [prompt], compared.tokens, { threads });
    expectOnlyRight(bound, worstLogprob, {
      "the first token is not seen": compared.distance(unseen!),
      "a token is another": compared.distance(other!),
      ...(turned && { "positions are a quarter": compared.distance(turned) }),
    });
  } else {
    expect(worstLogprob).toBeLessThan(bound);
  }
  // Where two tokens are nearer than that, rounding may decide between them.
  const clear = answers.flatMap(({ choices }) => choices).filter(({ margin }) => margin > 2 * bound);
  expect(clear.filter(({ wanted, found }) => found !== wanted)).toEqual([]);
  return { numCounted: clear.length, worstLogprob, bound };
}

interface Answer {
  readonly tokens: readonly number[];
  /** What llama.cpp picked at each step, how far it stood before the next, and what the engine holds likeliest. */
  readonly choices: readonly { step: number; wanted: number; margin: number; found: number }[];
  /** From the engine's log-probabilities to llama.cpp's, over the picked tokens and the five likeliest of each step. */
  distance(steps: readonly (LlamaCppStep & { readonly logprob?: number })[]): number;
}

async function answer(engine: LocalEngine, prompt: readonly number[], steps: readonly LlamaCppStep[]): Promise<Answer> {
  const tokens = steps.map(({ token }) => token);
  // A token of llama.cpp's five likeliest that is not among them is infinitely far.
  const options = { mode: "full", stepwise: true, top: Math.min(1000, engine.model.source.config.vocabSize) } as const;
  const found = await engine.score({ blockTokenIds: [prompt] }, tokens, options);
  return {
    tokens,
    choices: steps.map(({ token, margin }, step) => ({ step, wanted: token, margin, found: found.top[step]![0]!.id })),
    distance: (told) => {
      const logprobs = told.map(({ logprob, top }) => logprob ?? top[0]![1]);
      return distanceFromOracle(found, { logprobs, top: told.map(({ top }) => top) });
    },
  };
}

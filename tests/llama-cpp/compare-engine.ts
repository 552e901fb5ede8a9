import { Engine } from "../../src/engine/engine.js";
import type { TensorType } from "../../src/files/element-types.js";
import { ggmlQuantizer } from "../models/ggml-quantizer.js";
import { Random } from "../models/random.js";
import { type RandomGgufOptions, writeRandomGguf } from "../models/random-gguf.js";
import { countTokens } from "../models/random-tokenizer.js";
import { llamaCppGreedy } from "./llama-cpp-oracle.js";

/** How clear llama.cpp's choice must be, in nats, for the engine to owe the same: rounding decides nearer ones. */
function neededMargin(type: TensorType): number {
  return type === "F32" ? 0.05 : 0.2;
}

export interface Agreement {
  /** Steps whose margin was large enough to count. */
  readonly numCounted: number;
  /** Those where the engine held another token likeliest. */
  readonly differences: readonly { prompt: number; step: number; wanted: number; found: number; margin: number }[];
  /** How far the log-probabilities of llama.cpp's tokens were apart at most, over all steps. */
  readonly worstLogprob: number;
}

/** Shapes with rows of 256 and more, which every type divides. */
export const comparedModels: Readonly<Record<string, RandomGgufOptions>> = {
  llama: { architecture: "llama", rope: "llama3", hiddenSize: 256, numHeads: 8, tied: true, seed: 31 },
  mistral: { architecture: "mistral", hiddenSize: 256, headSize: 64, numHeads: 8, theta: 1_000_000, seed: 32 },
  qwen2: { architecture: "qwen2", hiddenSize: 256, numHeads: 4, theta: 1_000_000, seed: 33 },
  qwen3: { architecture: "qwen3", hiddenSize: 256, headSize: 64, numHeads: 4, rope: "yarn", tied: true, seed: 34 },
};

/**
 * Full mode against llama.cpp on the same file (invariant I4): llama.cpp continues each prompt greedily, the engine is
 * fed its tokens and asked what it holds likeliest at each step.
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
  const { type = "F32", seed = 1 } = options;
  writeRandomGguf(path, { ...options, quantizeRows: await ggmlQuantizer() });
  const random = new Random(seed, "llama.cpp prompts");
  const prompts = lengths.map((length) => Array.from({ length }, () => random.below(countTokens())));
  const expected = await llamaCppGreedy(path, prompts, numSteps, { threads }, 600_000);
  await using engine = await Engine.load({ model: path, kvType: "f32", threads });
  let numCounted = 0;
  let worstLogprob = 0;
  const differences: Agreement["differences"][number][] = [];
  for (const [prompt, ids] of prompts.entries()) {
    const steps = expected[prompt]!;
    const continuation = steps.map(({ token }) => token);
    const { logprobs, top } = await engine.score({ blockTokenIds: [ids] }, continuation, {
      mode: "full",
      stepwise: true,
      top: 1,
    });
    for (const [step, { token, margin, top: wanted }] of steps.entries()) {
      worstLogprob = Math.max(worstLogprob, Math.abs(logprobs[step]! - wanted[0]![1]));
      if (margin <= neededMargin(type)) continue;
      numCounted += 1;
      const found = top[step]![0]!.id;
      if (found !== token) differences.push({ prompt, step, wanted: token, found, margin });
    }
  }
  return { numCounted, differences, worstLogprob };
}

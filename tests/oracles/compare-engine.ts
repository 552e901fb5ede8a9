import { expect } from "vitest";
import type { ScoreOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { promptSpans, TokenizedPrompt } from "../../src/engine/prompt.js";
import type { ScoreResult } from "../../src/engine/results.js";
import { elementTypeOf, isInBlocks, KV_TYPES, type KVType, kvTypeFits } from "../../src/files/element-types.js";
import { findGgmlDirectory, loadGgml } from "../../src/ggml/library.js";
import { dequantizeRows, quantizeRows } from "../models/ggml-quantizer.js";
import { type RandomModelShape, resolveShape } from "../models/random-shape.js";
import { deviceBound, deviceRounds, testDevice } from "../test-device.js";
import { expectOnlyRight, type OraclePrompt } from "./faults.js";

/**
 * What invariant I1 allows in log-probability, by the element type of block KV. Weights are F32. Of types in blocks, from an oracle that
 * rounds as they do.
 */
export const logprobBounds = {
  f32: deviceBound(1e-3),
  f16: deviceBound(5e-2),
  bf16: deviceBound(3e-1),
  q8_0: deviceBound(5e-2),
  q4_0: deviceBound(5e-2),
} as const;

/**
 * The types of block KV in which a model's answers stay near. In 16 bit, a token here and there gets another expert than in 32 bit,
 * where two were nearly as good, and so another answer: decision 0022, `tests/laws/experts.test.ts`. On a device whose products round
 * to 16 bit it does so in every type.
 */
export function boundedKvTypes(shape: RandomModelShape): readonly KVType[] {
  if (shape.settings?.num_experts_per_tok !== undefined) return deviceRounds ? [] : ["f32"];
  const { headSize } = resolveShape(shape);
  return KV_TYPES.filter((type) => kvTypeFits(type, headSize) && (testDevice === "CPU" || !isInBlocks(type)));
}

/** What becomes of numbers in a type in blocks: packed by ggml, and unpacked. */
export async function roundedTo(type: KVType) {
  if (!isInBlocks(type)) return undefined;
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  const element = elementTypeOf(type);
  return (head: Float64Array<ArrayBuffer>) =>
    Float64Array.from(dequantizeRows(ggml, element, quantizeRows(ggml, element, Float32Array.from(head), head.length)));
}

/** What an oracle answers: natural logarithms. */
export interface OracleAnswer {
  /** One a continuation token, given all before it. */
  readonly logprobs: readonly number[];
  /** The likeliest tokens at each of those steps, best first, as [id, log-probability]. */
  readonly top: readonly (readonly (readonly [number, number])[])[];
}

/** The engine's answer to a prompt, with the whole vocabulary's log-probabilities at each step. */
export function askEngine(
  engine: LocalEngine,
  { blockTokenIds, isGlobal, continuationTokenIds, positionReencoding }: OraclePrompt,
  options: ScoreOptions & { readonly vocabSize: number },
): Promise<ScoreResult> {
  const { vocabSize, ...scoreOptions } = options;
  // No form of a prompt gives ids with their kinds.
  const kinds = isGlobal?.map((kind) => ({ isGlobal: kind }));
  const spans = kinds && promptSpans(blockTokenIds, undefined, kinds);
  const prompt = spans ? new TokenizedPrompt("block", spans, blockTokenIds, [], true) : { blockTokenIds };
  return engine.score(prompt, continuationTokenIds, { positionReencoding, top: vocabSize, ...scoreOptions });
}

/** How far an answer is from the oracle's at most, over the continuation's tokens and over those that the oracle names. */
export function distanceFromOracle(found: Pick<ScoreResult, "logprobs" | "top">, expected: OracleAnswer): number {
  let worst = 0;
  for (const [step, logprob] of found.logprobs.entries()) {
    worst = Math.max(worst, Math.abs(logprob - expected.logprobs[step]!));
    const told = new Map(found.top[step]!.map((token) => [token.id, token.logprob]));
    for (const [id, wanted] of expected.top[step]!) {
      worst = Math.max(worst, Math.abs((told.get(id) ?? -Infinity) - wanted));
    }
  }
  return worst;
}

/** The log-probabilities of all tokens at each step, as an oracle's answer that names the `numTop` likeliest. */
export function oracleAnswer(
  rows: readonly Float64Array[],
  { continuationTokenIds }: Pick<OraclePrompt, "continuationTokenIds">,
  numTop = Number.POSITIVE_INFINITY,
): OracleAnswer {
  return {
    logprobs: rows.map((row, step) => row[continuationTokenIds[step]!]!),
    top: rows.map((row) => [...row.entries()].sort((a, b) => b[1] - a[1]).slice(0, numTop)),
  };
}

/** How to ask an engine otherwise. */
type Asked = Pick<ScoreOptions, "mode" | "positionReencoding">;

/** Ways to ask about a prompt in block mode with two local blocks or more: as wrong oracles. */
const wrongAsks: Readonly<Record<string, Asked>> = {
  "the mask is full mode's": { mode: "full" },
  "blocks keep their own positions": { positionReencoding: false },
};

/**
 * Expects log-probabilities within a bound of what an engine gives when it is asked rightly, and not when wrongly.
 * @param ask in the given way; none is the right one.
 */
export async function expectSameLogprobs(
  bound: number,
  found: readonly number[],
  ask: (how: Asked) => Promise<readonly number[]>,
  wrong = wrongAsks,
): Promise<void> {
  const distanceOf = async (how: Asked): Promise<number> => {
    const asked = await ask(how);
    expect(asked).toHaveLength(found.length);
    return Math.max(...asked.map((logprob, i) => Math.abs(logprob - found[i]!)));
  };
  const distances: Record<string, number> = {};
  for (const [fault, how] of Object.entries(wrong)) distances[fault] = await distanceOf(how);
  expectOnlyRight(bound, await distanceOf({}), distances);
}

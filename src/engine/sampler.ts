import { createHash } from "node:crypto";
import { InputRangeError } from "../files/input-error.js";
import { createExp, likeliestId, tokenLogprobs, topIds } from "./logprobs.js";
import type { LikelyToken } from "./results.js";
import type { SamplingOptions } from "./sampling-options.js";

/** What came before the token to sample. */
export interface TokenHistory {
  readonly promptIds: readonly number[];
  /** The answer so far. */
  readonly generatedIds: readonly number[];
}

export interface Sampler {
  /** The seed in use, drawn if none was given: with it the answer can be had again. */
  readonly seed: number;
  /**
   * Chooses the next token. Depends on the options, the seed and its arguments alone, so a request may be set aside and
   * gone on with.
   *
   * @param logits of the whole vocabulary, [vocab]; not changed. -Infinity rules a token out.
   * @param mask a bit for each token, the lowest ones first: only those that are 1 are chosen. Default: all.
   * @throws RangeError if a logit is NaN or +Infinity and its token not banned, if none is finite, if bias bans every token, or if their number
   * is not the vocabulary's.
   */
  sample(logits: Float32Array, history: TokenHistory, mask?: Int32Array): LikelyToken;
  /** Chooses the same token without all logits; there where the greatest one decides alone. */
  readonly sampleGreatest?: (greatest: Greatest) => LikelyToken | undefined;
}

/** A greatest logit, of one row. */
export interface Greatest {
  readonly id: number;
  readonly logit: number;
  /** How many logits are less: all others, unless some are as great, or NaN. */
  readonly numLess: number;
}

/**
 * A sampler for one request.
 *
 * The steps, in Transformers' order: logit bias, repetition penalty, presence and frequency penalty (over the answer only,
 * as OpenAI's), temperature, top-k, top-p, min-p, then one draw. Temperature 0 takes the greatest logit after the
 * penalties. Ties go to the lowest id.
 *
 * The draw for token n of an answer is the first 53 bits of SHA-256 over seed and n (little endian u64s), so a seed gives
 * the same tokens on every platform.
 *
 * @param context.numTokens ids from it on have no text (rows that pad the embedding): they are never chosen or told, but
 * count in probabilities. Default: the vocabulary's size.
 * @param context.isConstrained whether masks come with the logits: then all of them are looked at.
 * @param context.drawSeed gives a seed where the options have none: a whole number from 0 to 2^53 - 1.
 * @throws RangeError if logitBias names a token that the vocabulary does not have, or bans every token.
 */
export function createSampler(
  options: SamplingOptions,
  context: {
    readonly vocabSize: number;
    readonly numTokens?: number;
    readonly isConstrained?: boolean;
    readonly drawSeed: () => number;
  },
): Sampler {
  const { vocabSize, numTokens = vocabSize } = context;
  for (const id of options.logitBias.keys()) {
    if (id >= numTokens) {
      throw new InputRangeError(`Cannot sample: logitBias names token ${id}, the vocabulary has ${numTokens}`);
    }
  }
  let numBanned = 0;
  for (const bias of options.logitBias.values()) if (bias === -100) numBanned += 1;
  if (numBanned > 0 && numBanned === numTokens) throw new InputRangeError("Cannot sample: logitBias bans every token");
  const seed = options.seed ?? context.drawSeed();
  const exp = createExp();
  const { temperature, logitBias, repetitionPenalty, presencePenalty, frequencyPenalty, logprobs } = options;
  const isChanged = logitBias.size > 0 || repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  /** Made once: its pages cost more than what is done to them. */
  let copy: Float32Array | undefined;
  let weights: Float64Array | undefined;
  return {
    seed,
    sample(logits, history, mask) {
      if (logits.length !== vocabSize) {
        throw new RangeError(`Cannot sample: there are ${logits.length} logits, the vocabulary has ${vocabSize}`);
      }
      const known = numTokens < vocabSize ? logits.subarray(0, numTokens) : logits;
      let scores = known;
      if (isChanged || mask) {
        copy ??= new Float32Array(numTokens);
        copy.set(known);
        scores = copy;
        adjust(scores, options, history);
        if (mask) hide(scores, mask);
      }
      const best = likeliestId(scores);
      if (temperature > 0) weights ??= new Float64Array(numTokens);
      const id =
        options.temperature === 0
          ? best
          : draw(scores, weights!, scores[best]!, options, uniform(seed, history.generatedIds.length), exp);
      if (!options.logprobs) return { id, logprob: undefined, top: [] };
      // Of the model's own logits: those of the scores, where nothing was added to them.
      const max = scores === logits ? logits[best]! : undefined;
      return { id, ...tokenLogprobs(logits, id, options.topLogprobs, exp, { max, numTokens }) };
    },
    ...(temperature === 0 && !isChanged && !context.isConstrained && !logprobs && { sampleGreatest }),
  };

  /** @returns undefined where all logits are to be looked at: the lowest of equal ones wins, and NaN is an error. */
  function sampleGreatest({ id, logit, numLess }: Greatest): LikelyToken | undefined {
    const decides = numLess === vocabSize - 1 && Number.isFinite(logit) && id < numTokens;
    return decides ? { id, logprob: undefined, top: [] } : undefined;
  }
}

/** Rules out the tokens whose bit is 0. */
function hide(scores: Float32Array, mask: Int32Array): void {
  for (let first = 0; first < scores.length; first += 32) {
    const bits = mask[first >> 5] ?? 0;
    if (bits === -1) continue;
    const end = Math.min(first + 32, scores.length);
    for (let id = first; id < end; id++) if (((bits >>> (id - first)) & 1) === 0) scores[id] = Number.NEGATIVE_INFINITY;
  }
}

/** Adds bias and penalties to logits. */
function adjust(scores: Float32Array, options: SamplingOptions, history: TokenHistory): void {
  const { logitBias, repetitionPenalty, presencePenalty, frequencyPenalty } = options;
  const hasRepetition = repetitionPenalty !== 1;
  const hasCounts = presencePenalty !== 0 || frequencyPenalty !== 0;
  for (const [id, bias] of logitBias) scores[id] = bias === -100 ? Number.NEGATIVE_INFINITY : scores[id]! + bias;
  if (hasRepetition) {
    for (const id of new Set([...history.promptIds, ...history.generatedIds])) {
      const score = scores[id]!;
      scores[id] = score > 0 ? score / repetitionPenalty : score * repetitionPenalty;
    }
  }
  if (hasCounts) {
    const counts = new Map<number, number>();
    for (const id of history.generatedIds) counts.set(id, (counts.get(id) ?? 0) + 1);
    for (const [id, count] of counts) scores[id] = scores[id]! - presencePenalty - count * frequencyPenalty;
  }
}

/**
 * Draws a token by its probability after temperature and filters.
 *
 * @param weights room for a number for each score; whatever it holds.
 * @param max the greatest score.
 * @param u from 0, less than 1.
 */
function draw(
  scores: Float32Array,
  weights: Float64Array,
  max: number,
  options: SamplingOptions,
  u: number,
  exp: (x: number) => number,
): number {
  const { temperature, topK, topP, minP } = options;
  const isWhole = (topK === 0 || topK >= scores.length) && topP === 1 && minP === 0;
  let ids: number[] | undefined;
  if (topK > 0 && !isWhole) {
    // Nobody looks at the others' weights.
    ids = topIds(scores, topK);
    for (const id of ids) weights[id] = exp((scores[id]! - max) / temperature);
    if (topP < 1) ids = firstReaching(weights, ids, topP * sumOf(weights, ids));
  } else if (topP === 1 && minP > 0) {
    // Far from the bound the exponential is not needed to tell.
    const leastLog = Math.log(minP) - 1e-6;
    ids = [];
    for (let id = 0; id < scores.length; id++) {
      const log = (scores[id]! - max) / temperature;
      if (log < leastLog) continue;
      weights[id] = exp(log);
      ids.push(id);
    }
  } else {
    let sum = 0;
    for (let id = 0; id < scores.length; id++) {
      const weight = exp((scores[id]! - max) / temperature);
      weights[id] = weight;
      sum += weight;
    }
    if (isWhole) return pick(weights, sum, u, scores.length, (i) => i);
    // A few heavy ids mostly do.
    ids = heavyIds(weights, 1e-4 * sum);
    if (sumOf(weights, ids) < topP * sum) return pickOfNucleus(scores, weights, { topP, minP, sum, u });
    ids.sort((a, b) => scores[b]! - scores[a]! || a - b);
    ids = firstReaching(weights, ids, topP * sum);
  }
  // The likeliest weighs 1, so min-p is a bound on the weights themselves.
  const kept = ids.filter((id) => weights[id]! >= minP);
  return pick(weights, sumOf(weights, kept), u, kept.length, (i) => kept[i]!);
}

function heavyIds(weights: Float64Array, minWeight: number): number[] {
  const ids: number[] = [];
  for (let id = 0; id < weights.length; id++) if (weights[id]! >= minWeight) ids.push(id);
  return ids;
}

/** Groups of ids of about the same score, by which the likeliest are found without sorting all. */
const numBins = 4096;

/**
 * One of the fewest likeliest ids whose weights reach `topP` of all, but for those that weigh less than `minP`: what a draw among all of them
 * in order, the likeliest first, gives. Only two bins are put in order: the one in which the ids end, and the drawn one.
 */
function pickOfNucleus(
  scores: Float32Array,
  weights: Float64Array,
  { topP, minP, sum, u }: { readonly topP: number; readonly minP: number; readonly sum: number; readonly u: number },
): number {
  const counts = (id: number) => weights[id]! >= minP && weights[id]! > 0;
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let id = 0; id < scores.length; id++) {
    if (!counts(id)) continue;
    const score = scores[id]!;
    if (score < least) least = score;
    if (score > most) most = score;
  }
  const perScore = most > least ? (numBins - 1) / (most - least) : 0;
  const sums = new Float64Array(numBins);
  const bins = new Int16Array(scores.length);
  for (let id = 0; id < scores.length; id++) {
    const bin = counts(id) ? Math.floor((most - scores[id]!) * perScore) : -1;
    bins[id] = bin;
    if (bin >= 0) sums[bin]! += weights[id]!;
  }
  /** The ids of a bin, the likeliest first. */
  const ordered = (bin: number): number[] => {
    const ids: number[] = [];
    for (let id = 0; id < bins.length; id++) if (bins[id] === bin) ids.push(id);
    return ids.sort((x, y) => scores[y]! - scores[x]! || x - y);
  };
  const wanted = topP * sum;
  let total = 0;
  let last = 0;
  while (last < numBins - 1 && total + sums[last]! < wanted) total += sums[last++]!;
  const ending = firstReaching(weights, ordered(last), wanted - total);
  total += sumOf(weights, ending);
  let left = u * total;
  let drawn = 0;
  while (drawn < last && left >= sums[drawn]!) left -= sums[drawn++]!;
  const ids = drawn === last ? ending : ordered(drawn);
  // The last bin may be empty by rounding alone: the likeliest of all is not.
  const among = ids.length > 0 ? ids : ordered(0);
  return pick(weights, 1, left, among.length, (i) => among[i]!);
}

function sumOf(weights: Float64Array, ids: readonly number[]): number {
  let sum = 0;
  for (const id of ids) sum += weights[id]!;
  return sum;
}

/** The first ids, one at least, whose weights reach `wanted`; all of them if rounding leaves them just under it. */
function firstReaching(weights: Float64Array, ids: number[], wanted: number): number[] {
  let total = 0;
  for (let i = 0; i < ids.length; i++) {
    total += weights[ids[i]!]!;
    if (total >= wanted) return ids.slice(0, i + 1);
  }
  return ids;
}

function pick(weights: Float64Array, sum: number, u: number, length: number, idAt: (i: number) => number): number {
  const wanted = u * sum;
  let total = 0;
  let last = idAt(0);
  for (let i = 0; i < length; i++) {
    const id = idAt(i);
    if (weights[id] === 0) continue;
    last = id;
    total += weights[id]!;
    if (total > wanted) return id;
  }
  // Rounding may leave the total just under the sum.
  return last;
}

/** A number from 0, less than 1, for token `step` of the answer. */
function uniform(seed: number, step: number): number {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(BigInt(seed), 0);
  bytes.writeBigUInt64LE(BigInt(step), 8);
  const digest = createHash("sha256").update(bytes).digest();
  return Number(digest.readBigUInt64LE(0) >> 11n) / 2 ** 53;
}

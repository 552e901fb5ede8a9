import { z } from "zod";
import { InputRangeError } from "../files/input-error.js";
import { schemaOf, wholeNumber } from "../files/options.js";
import { aNumber, defaulted, setting } from "../files/settings.js";
import { EngineError } from "./engine-error.js";

/** An answer's length, ends and choice of tokens. Every field has a default in `samplingFields`. */
export interface SamplingOptions {
  /** 0: always the likeliest token. */
  readonly temperature: number;
  /** Keeps the k likeliest tokens; 0: all. */
  readonly topK: number;
  /** Keeps the likeliest tokens that together have this probability; 1: all. */
  readonly topP: number;
  /** Keeps tokens at least this many times as likely as the likeliest; 0: all. */
  readonly minP: number;
  /** Divides the positive logits of tokens that occurred, prompt included, and multiplies the negative ones; 1: off. */
  readonly repetitionPenalty: number;
  /** Taken once from the logits of tokens that the answer holds already. */
  readonly presencePenalty: number;
  /** Taken from a token's logit for each time that the answer holds it. */
  readonly frequencyPenalty: number;
  /** Undefined: a new one is drawn. */
  readonly seed: number | undefined;
  /** Added to the logits of token ids; -100 bans the token. */
  readonly logitBias: ReadonlyMap<number, number>;
  readonly maxTokens: number;
  /** Texts that end the answer, and are not in it. */
  readonly stop: readonly string[];
  /** Whether each token's log-probability is told: it costs a sum over the vocabulary. */
  readonly logprobs: boolean;
  /** How many of the likeliest tokens are reported at each step; only with `logprobs`. */
  readonly topLogprobs: number;
}

const penalty = { schema: z.number().min(-2).max(2).default(0), wanted: "a number from -2 to 2" };
/** A lone surrogate would never be matched: answers hold whole characters. */
export const stopText = { schema: z.string().regex(/^\P{Surrogate}+$/u), wanted: "whole characters, one or more" };

/** Those that are flags of commands too have names, defaults and words here alone. */
export const samplingFields = {
  maxTokens: defaulted(wholeNumber(0), "n", "the longest answer in tokens", 200),
  temperature: defaulted(
    aNumber("a finite number from 0 on", z.number().min(0)),
    "n",
    "0 takes the likeliest token",
    0,
  ),
  seed: setting(wholeNumber(0), "n", "makes a drawn answer the same again", "a new one"),
  topK: defaulted(wholeNumber(0), "n", "draw among the k likeliest tokens; 0 is off", 0),
  topP: defaulted(
    aNumber("a number over 0 and up to 1", z.number().gt(0).lte(1)),
    "n",
    "draw among the likeliest tokens that sum to p; 1 is off",
    1,
  ),
  minP: defaulted(
    aNumber("a number from 0 to 1", z.number().min(0).max(1)),
    "n",
    "draw among tokens at least p times as likely as the first",
    0,
  ),
  repetitionPenalty: defaulted(
    aNumber("a finite number over 0", z.number().gt(0)),
    "n",
    "over 1 makes repeating unlikelier",
    1,
  ),
  presencePenalty: penalty,
  frequencyPenalty: penalty,
  logitBias: {
    schema: z.record(z.string().regex(/^(0|[1-9]\d{0,9})$/), z.number().min(-100).max(100)).default({}),
    wanted: "an object of token ids and numbers from -100 to 100",
  },
  stop: {
    schema: z.array(stopText.schema).max(64).default([]),
    wanted: "up to 64 strings of whole characters, none empty",
  },
  logprobs: { schema: z.boolean().default(true), wanted: "true or false" },
  topLogprobs: defaulted(wholeNumber(0, 20), "n", "tell the n likeliest tokens at each step, 0 to 20", 0),
};

const schema = schemaOf(samplingFields);

/** Sampling options as a caller gives them: all optional; logitBias as an object, as JSON has it. */
export type SamplingInput = z.input<typeof schema>;

/** What a caller gave and `samplingFields` checked, with the defaults. @throws RangeError for options that do not go together. */
export function samplingOf({ seed, logitBias, ...rest }: z.output<typeof schema>): SamplingOptions {
  if (!rest.logprobs && rest.topLogprobs > 0) {
    throw new InputRangeError(`Cannot sample: topLogprobs is ${rest.topLogprobs}, wanted 0 where logprobs is false`);
  }
  return {
    ...rest,
    seed,
    logitBias: new Map(Object.entries(logitBias).map(([id, bias]) => [Number(id), bias])),
  };
}

/** @throws EngineError where an answer could be told more log-probabilities than it may. */
export function requireLogprobs(numLogprobs: number, maxLogprobs = Infinity): void {
  if (numLogprobs <= maxLogprobs) return;
  throw new EngineError(
    "invalid",
    `Cannot tell log-probabilities: there could be ${numLogprobs}, wanted up to ${maxLogprobs}; ask for fewer answers, shorter ones, or fewer likeliest tokens`,
  );
}

/** The seed of one of several answers. Seeds start again at 0 after the last, 2^53 - 1. */
export function seedOfAnswer(seed: number | undefined, index: number): number | undefined {
  if (seed === undefined) return undefined;
  const room = Number.MAX_SAFE_INTEGER - seed;
  return index <= room ? seed + index : index - room - 1;
}

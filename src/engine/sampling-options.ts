import { z } from "zod";
import { InputRangeError } from "../files/input-error.js";
import { optionsOf, schemaOf } from "../files/options.js";

/** An answer's length, ends and choice of tokens. Every field has a default; `parseSamplingOptions` fills them in. */
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

export const samplingFields = {
  temperature: { schema: z.number().min(0).default(0), wanted: "a finite number from 0 on" },
  topK: { schema: z.int().min(0).default(0), wanted: "a whole number from 0 on (0 is off)" },
  topP: { schema: z.number().gt(0).lte(1).default(1), wanted: "a number over 0 and up to 1" },
  minP: { schema: z.number().min(0).max(1).default(0), wanted: "a number from 0 to 1" },
  repetitionPenalty: { schema: z.number().gt(0).default(1), wanted: "a finite number over 0" },
  presencePenalty: { schema: z.number().min(-2).max(2).default(0), wanted: "a number from -2 to 2" },
  frequencyPenalty: { schema: z.number().min(-2).max(2).default(0), wanted: "a number from -2 to 2" },
  seed: { schema: z.int().min(0).optional(), wanted: "a whole number from 0 to 2^53 - 1" },
  logitBias: {
    schema: z.record(z.string().regex(/^(0|[1-9]\d{0,9})$/), z.number().min(-100).max(100)).default({}),
    wanted: "an object of token ids and numbers from -100 to 100",
  },
  maxTokens: { schema: z.int().min(0).default(200), wanted: "a whole number from 0 on" },
  stop: {
    // A lone surrogate would never be matched: answers hold whole characters.
    schema: z
      .array(z.string().regex(/^\P{Surrogate}+$/u))
      .max(64)
      .default([]),
    wanted: "up to 64 strings of whole characters, none empty",
  },
  logprobs: { schema: z.boolean().default(true), wanted: "true or false" },
  topLogprobs: { schema: z.int().min(0).max(20).default(0), wanted: "a whole number from 0 to 20" },
} as const;

const schema = schemaOf(samplingFields);
const read = optionsOf(samplingFields);

/** Sampling options as a caller gives them: all optional; logitBias as an object, as JSON has it. */
export type SamplingInput = z.input<typeof schema>;

/**
 * Checks a caller's sampling options and fills in the defaults: temperature 0, 200 tokens, all else off.
 *
 * @throws TypeError, RangeError as `optionsOf`.
 * @example { temperature: -1 }: "Cannot sample: temperature is -1, wanted a finite number from 0 on"
 */
export function parseSamplingOptions(input: unknown): SamplingOptions {
  return samplingOf(read("sample", input));
}

/** parseSamplingOptions() of what was checked. @throws RangeError for options that do not go together. */
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

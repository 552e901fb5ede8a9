import { z } from "zod";

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

const fields = {
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

const schema = z.strictObject({
  temperature: fields.temperature.schema,
  topK: fields.topK.schema,
  topP: fields.topP.schema,
  minP: fields.minP.schema,
  repetitionPenalty: fields.repetitionPenalty.schema,
  presencePenalty: fields.presencePenalty.schema,
  frequencyPenalty: fields.frequencyPenalty.schema,
  seed: fields.seed.schema,
  logitBias: fields.logitBias.schema,
  maxTokens: fields.maxTokens.schema,
  stop: fields.stop.schema,
  logprobs: fields.logprobs.schema,
  topLogprobs: fields.topLogprobs.schema,
});

/** Sampling options as a caller gives them: all optional; logitBias as an object, as JSON has it. */
export type SamplingInput = z.input<typeof schema>;

/**
 * Checks a caller's sampling options and fills in the defaults: temperature 0, 200 tokens, all else off.
 *
 * @throws RangeError that names the option, its value and what was wanted; for an option that does not exist, too.
 * @example { temperature: -1 }: "Cannot sample: temperature is -1, wanted a finite number from 0 on"
 */
export function parseSamplingOptions(input: unknown): SamplingOptions {
  const result = schema.safeParse(input);
  if (!result.success) throw new RangeError(`Cannot sample: ${explain(result.error, input)}`);
  const { seed, logitBias, ...rest } = result.data;
  if (!rest.logprobs && rest.topLogprobs > 0) {
    throw new RangeError(`Cannot sample: topLogprobs is ${rest.topLogprobs}, wanted 0 where logprobs is false`);
  }
  return {
    ...rest,
    seed,
    logitBias: new Map(Object.entries(logitBias).map(([id, bias]) => [Number(id), bias])),
  };
}

function explain(error: z.ZodError, input: unknown): string {
  const issue = error.issues[0];
  if (issue?.code === "unrecognized_keys") return `there is no option "${issue.keys[0]}"`;
  const name = issue?.path[0];
  if (typeof name !== "string" || !Object.hasOwn(fields, name))
    return `the options are ${show(input)}, wanted an object`;
  const value = (input as Record<string, unknown>)[name];
  return `${name} is ${show(value)}, wanted ${fields[name as keyof typeof fields].wanted}`;
}

function show(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  let text: string;
  try {
    text = JSON.stringify(value) ?? typeof value;
  } catch {
    text = typeof value;
  }
  return text.length <= 80 ? text : `${text.slice(0, 80)}…`;
}

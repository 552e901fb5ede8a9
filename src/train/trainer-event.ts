import { z } from "zod";

/**
 * What the trainer tells with `--progress-json`, a line each. Fields that no code here reads are kept, so that
 * `--json` hands on all of them.
 *
 * @see python/block_attention_trainer/progress.py
 */
const schema = z.discriminatedUnion("event", [
  /** What goes on from now on, as a line for people. */
  z.looseObject({ event: z.literal("stage"), stage: z.string() }),
  z.looseObject({
    event: z.literal("start"),
    run: z.string(),
    steps: z.number(),
    firstStep: z.number(),
    samples: z.number(),
    /** Of the model; all of them, and those that learn. */
    weights: z.number(),
    trained: z.number(),
    device: z.string(),
    processes: z.number(),
    precision: z.string(),
    modes: z.array(z.string()),
  }),
  z.looseObject({
    event: z.literal("step"),
    step: z.number(),
    steps: z.number(),
    /** In nats a response token. */
    loss: z.number(),
    /** Absent after the first step, which also pays for starting up. */
    tokensPerSecond: z.number().optional(),
    secondsLeft: z.number().optional(),
  }),
  z.looseObject({
    event: z.literal("evaluation"),
    step: z.number(),
    /** `block_loss`, `full_loss`, `full_minus_block_loss` and so on. */
    metrics: z.record(z.string(), z.number()),
  }),
  z.looseObject({
    event: z.literal("answer"),
    mode: z.string(),
    sample: z.string(),
    gold: z.string(),
    answer: z.string(),
    isRight: z.boolean(),
  }),
  z.looseObject({ event: z.literal("checkpoint"), step: z.number(), path: z.string() }),
  z.looseObject({ event: z.literal("export"), path: z.string() }),
  z.looseObject({ event: z.literal("end"), why: z.string(), step: z.number() }),
]);

export type TrainerEvent = z.infer<typeof schema>;

/** The event of a line; undefined for a line that is none, such as a library's print. */
export function parseTrainerEvent(line: string): TrainerEvent | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return schema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

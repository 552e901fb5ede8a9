import { z } from "zod";
import type { SpelledLogprob, SpelledToken } from "../../engine/results.js";
import { type AnswerHead, finishReason } from "./answer-head.js";
import { type GatheredChoice, mapChoices } from "./gather.js";
import type { ChoiceEvent } from "./run-choices.js";
import { reportOf, reportSchema, usageOf, usageSchema } from "./usage.js";

const tokenShape = {
  token: z.string(),
  logprob: z.number().describe("Natural logarithm of the model's own probability."),
  bytes: z.array(z.int()).describe("The token's bytes: one alone need not be whole characters."),
};

const logprobsSchema = z.object({
  content: z.array(z.object({ ...tokenShape, top_logprobs: z.array(z.object(tokenShape)) })),
  refusal: z.null(),
});

const finishReasonSchema = z.enum(["stop", "length"]);

export const chatAnswerSchema = z
  .object({
    id: z.string(),
    object: z.literal("chat.completion"),
    created: z.int(),
    model: z.string(),
    system_fingerprint: z.string(),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({ role: z.literal("assistant"), content: z.string(), refusal: z.null() }),
        logprobs: logprobsSchema.nullable(),
        finish_reason: finishReasonSchema,
      }),
    ),
    usage: usageSchema,
    ...reportSchema.shape,
  })
  .describe("An answer to a conversation.");

/** A whole answer. @param n answers of each prompt. */
export async function chatAnswer(
  head: AnswerHead,
  choices: readonly GatheredChoice[],
  n: number,
): Promise<z.output<typeof chatAnswerSchema>> {
  const results = choices.map(({ result }) => result);
  return {
    ...head,
    object: "chat.completion",
    choices: await mapChoices(choices, ({ text, tokens, result }, index) => ({
      index,
      message: { role: "assistant" as const, content: text, refusal: null },
      logprobs: tokens.length > 0 ? logprobsOf(tokens) : null,
      finish_reason: finishReason(result),
    })),
    usage: usageOf(
      results.map(({ usage }) => usage),
      n,
    ),
    ...reportOf(results[0]!),
  };
}

interface ChatChunkChoice {
  readonly index: number;
  readonly delta: { readonly role?: "assistant"; readonly content?: string };
  readonly logprobs: z.output<typeof logprobsSchema> | null;
  readonly finish_reason: z.output<typeof finishReasonSchema> | null;
}

/** What an event adds to a streamed answer: the `choices` of none, one or two chunks. */
export function chatChunks({ index, event }: ChoiceEvent): ChatChunkChoice[] {
  const chunk = (delta: ChatChunkChoice["delta"], rest: Partial<ChatChunkChoice> = {}): ChatChunkChoice => ({
    index,
    delta,
    logprobs: null,
    finish_reason: null,
    ...rest,
  });
  switch (event.kind) {
    case "echo":
      return [];
    case "prompt":
      return [chunk({ role: "assistant", content: "" })];
    case "token":
      // Text that may be the start of a stop text, or half a character, comes with a later token.
      if (event.text === "" && event.spelled === undefined) return [];
      return [
        chunk({ content: event.text }, { logprobs: event.spelled === undefined ? null : logprobsOf([event.spelled]) }),
      ];
    case "done": {
      const end = chunk({}, { finish_reason: finishReason(event.result) });
      return event.text === "" ? [end] : [chunk({ content: event.text }), end];
    }
    default:
      return event satisfies never;
  }
}

function logprobsOf(tokens: readonly SpelledToken[]): z.output<typeof logprobsSchema> {
  const content = tokens.map(({ text, bytes, logprob, top }) => ({
    token: text,
    logprob: finite(logprob ?? 0),
    bytes: [...bytes],
    top_logprobs: top.map(topOf),
  }));
  return { content, refusal: null };
}

function topOf({ text, logprob, bytes }: SpelledLogprob): z.output<z.ZodObject<typeof tokenShape>> {
  return { token: text, logprob: finite(logprob), bytes: [...bytes] };
}

/** JSON has no infinity; -9999 is what OpenAI tells of tokens that are out of reach. */
export function finite(logprob: number): number {
  return Math.max(logprob, -9999);
}

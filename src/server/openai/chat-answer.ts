import { randomBytes } from "node:crypto";
import { z } from "zod";
import type { GenerateResult, SpelledLogprob, SpelledToken } from "../../engine/results.js";
import { type AnswerHead, finishReason } from "./answer-head.js";
import { type AnswerPiece, AnswerReader, type AnswerReaderOptions } from "./answer-reader.js";
import { type GatheredChoice, mapChoices } from "./gather.js";
import type { ChoiceEvent } from "./run-choices.js";
import { reportOf, reportSchema, usageOf, usageSchema } from "./usage.js";

const tokenShape = {
  token: z.string(),
  logprob: z.number().describe("Natural logarithm of the model's own probability."),
  bytes: z.array(z.int()).describe("The token's bytes: one alone need not be whole characters."),
};

export const logprobsSchema = z.object({
  content: z.array(z.object({ ...tokenShape, top_logprobs: z.array(z.object(tokenShape)) })),
  refusal: z.null(),
});

const finishReasonSchema = z.enum(["stop", "length", "tool_calls"]);

const toolCallSchema = z.object({
  id: z.string(),
  type: z.literal("function"),
  function: z.object({ name: z.string(), arguments: z.string().describe("A JSON object.") }),
});
type AnsweredCall = z.output<typeof toolCallSchema>;

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
        message: z.object({
          role: z.literal("assistant"),
          content: z.string().nullable().describe("Null where it calls tools and says nothing."),
          reasoning_content: z.string().optional().describe("What the model thought first."),
          tool_calls: z.array(toolCallSchema).optional(),
          refusal: z.null(),
        }),
        logprobs: logprobsSchema.nullable(),
        finish_reason: finishReasonSchema,
      }),
    ),
    usage: usageSchema,
    ...reportSchema.shape,
  })
  .describe("An answer to a conversation.");

/** A whole answer. @param n answers of each prompt. @param how it is read. */
export async function chatAnswer(
  head: AnswerHead,
  choices: readonly GatheredChoice[],
  n: number,
  how: AnswerReaderOptions = {},
): Promise<z.output<typeof chatAnswerSchema>> {
  const results = choices.map(({ result }) => result);
  return {
    ...head,
    object: "chat.completion",
    choices: await mapChoices(choices, (choice, index) => {
      const { tokens, result } = choice;
      const { hasCalls, ...said } = answered(choice, how);
      return {
        index,
        message: { role: "assistant" as const, ...said, refusal: null },
        logprobs: tokens.length > 0 ? logprobsOf(tokens) : null,
        finish_reason: finishOf(result, hasCalls),
      };
    }),
    usage: usageOf(
      results.map(({ usage }) => usage),
      n,
    ),
    ...reportOf(results[0]!),
  };
}

/** A whole answer's reasoning, text and calls. */
function answered({ text, opensReasoning }: GatheredChoice, how: AnswerReaderOptions) {
  const reader = new AnswerReader(how);
  if (opensReasoning) reader.openReasoning();
  let content = "";
  let reasoning = "";
  const calls: AnsweredCall[] = [];
  for (const piece of [...reader.push(text), ...reader.end()]) {
    if (piece.kind === "text") content += piece.text;
    else if (piece.kind === "reasoning") reasoning += piece.text;
    else if (piece.kind === "call") calls.push(callOf(piece.name));
    else calls[piece.index]!.function.arguments += piece.text;
  }
  const hasCalls = calls.length > 0;
  return {
    hasCalls,
    content: hasCalls ? content || null : content,
    ...(reasoning !== "" && { reasoning_content: reasoning }),
    ...(hasCalls && { tool_calls: calls }),
  };
}

function callOf(name: string): AnsweredCall {
  return { id: newCallId(), type: "function", function: { name, arguments: "" } };
}

/** Nine letters and digits, as Mistral's templates want ids. */
export function newCallId(): string {
  return randomBytes(5).toString("hex").slice(0, 9);
}

function finishOf(result: GenerateResult, hasCalls: boolean): z.output<typeof finishReasonSchema> {
  const reason = finishReason(result);
  return reason === "stop" && hasCalls ? "tool_calls" : reason;
}

type CallDelta = { readonly index: number } & (AnsweredCall | { readonly function: { readonly arguments: string } });

interface ChatChunkChoice {
  readonly index: number;
  readonly delta: {
    readonly role?: "assistant";
    readonly content?: string;
    readonly reasoning_content?: string;
    readonly tool_calls?: readonly CallDelta[];
  };
  readonly logprobs: z.output<typeof logprobsSchema> | null;
  readonly finish_reason: z.output<typeof finishReasonSchema> | null;
}

/** Makes of events what they add to a streamed answer: the `choices` of some chunks. @param how answers are read. */
export function chatChunks(how: AnswerReaderOptions = {}): (arrival: ChoiceEvent) => ChatChunkChoice[] {
  const readers = new Map<number, AnswerReader>();
  return (arrival) => {
    const reader = readers.get(arrival.index) ?? new AnswerReader(how);
    readers.set(arrival.index, reader);
    return chunksOf(arrival, reader);
  };
}

function chunksOf({ index, event }: ChoiceEvent, reader: AnswerReader): ChatChunkChoice[] {
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
      if (event.opensReasoning) reader.openReasoning();
      return [chunk({ role: "assistant", content: "" })];
    case "token": {
      // Text that may be the start of a stop text, of a call, or half a character, comes with a later token.
      const deltas = reader.push(event.text).map(deltaOf);
      const { spelled } = event;
      if (deltas.length === 0 && spelled !== undefined) deltas.push({ content: "" });
      return deltas.map((delta, i) => chunk(delta, i === 0 && spelled ? { logprobs: logprobsOf([spelled]) } : {}));
    }
    case "done": {
      const deltas = [...reader.push(event.text), ...reader.end()].map(deltaOf);
      const end = chunk({}, { finish_reason: finishOf(event.result, reader.hasCalls) });
      return [...deltas.map((delta) => chunk(delta)), end];
    }
    default:
      return event satisfies never;
  }
}

function deltaOf(piece: AnswerPiece): ChatChunkChoice["delta"] {
  switch (piece.kind) {
    case "text":
      return { content: piece.text };
    case "reasoning":
      return { reasoning_content: piece.text };
    case "call":
      return { tool_calls: [{ index: piece.index, ...callOf(piece.name) }] };
    case "arguments":
      return { tool_calls: [{ index: piece.index, function: { arguments: piece.text } }] };
    default:
      return piece satisfies never;
  }
}

export function logprobsOf(tokens: readonly SpelledToken[]): z.output<typeof logprobsSchema> {
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

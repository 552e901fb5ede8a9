import { randomBytes } from "node:crypto";
import { z } from "zod";
import { type ToolCallPiece, ToolCallReader } from "../../blocks/tool-calls.js";
import type { GenerateResult, SpelledLogprob, SpelledToken } from "../../engine/results.js";
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

/** A whole answer. @param n answers of each prompt. @param toolNames what it may call. */
export async function chatAnswer(
  head: AnswerHead,
  choices: readonly GatheredChoice[],
  n: number,
  toolNames?: ReadonlySet<string>,
): Promise<z.output<typeof chatAnswerSchema>> {
  const results = choices.map(({ result }) => result);
  return {
    ...head,
    object: "chat.completion",
    choices: await mapChoices(choices, ({ text, tokens, result }, index) => {
      const { content, tool_calls } = toolNames ? answered(text, toolNames) : { content: text };
      return {
        index,
        message: { role: "assistant" as const, content, ...(tool_calls && { tool_calls }), refusal: null },
        logprobs: tokens.length > 0 ? logprobsOf(tokens) : null,
        finish_reason: finishOf(result, tool_calls !== undefined),
      };
    }),
    usage: usageOf(
      results.map(({ usage }) => usage),
      n,
    ),
    ...reportOf(results[0]!),
  };
}

/** A whole answer's text and calls. */
function answered(
  text: string,
  toolNames: ReadonlySet<string>,
): { content: string | null; tool_calls?: AnsweredCall[] } {
  const reader = new ToolCallReader(toolNames);
  let content = "";
  const calls: AnsweredCall[] = [];
  for (const piece of [...reader.push(text), ...reader.end()]) {
    if (piece.kind === "text") content += piece.text;
    else if (piece.kind === "call") calls.push(callOf(piece.name));
    else calls[piece.index]!.function.arguments += piece.text;
  }
  return calls.length === 0 ? { content } : { content: content || null, tool_calls: calls };
}

/** Nine letters and digits, as Mistral's templates want ids. */
function callOf(name: string): AnsweredCall {
  return { id: randomBytes(5).toString("hex").slice(0, 9), type: "function", function: { name, arguments: "" } };
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
    readonly tool_calls?: readonly CallDelta[];
  };
  readonly logprobs: z.output<typeof logprobsSchema> | null;
  readonly finish_reason: z.output<typeof finishReasonSchema> | null;
}

/** Makes of events what they add to a streamed answer: the `choices` of some chunks. @param toolNames what answers may call. */
export function chatChunks(toolNames?: ReadonlySet<string>): (arrival: ChoiceEvent) => ChatChunkChoice[] {
  const readers = new Map<number, ToolCallReader>();
  return (arrival) => {
    if (toolNames && !readers.has(arrival.index)) readers.set(arrival.index, new ToolCallReader(toolNames));
    return chunksOf(arrival, readers.get(arrival.index));
  };
}

function chunksOf({ index, event }: ChoiceEvent, reader: ToolCallReader | undefined): ChatChunkChoice[] {
  const chunk = (delta: ChatChunkChoice["delta"], rest: Partial<ChatChunkChoice> = {}): ChatChunkChoice => ({
    index,
    delta,
    logprobs: null,
    finish_reason: null,
    ...rest,
  });
  const deltasOf = (text: string): ChatChunkChoice["delta"][] =>
    reader ? reader.push(text).map(deltaOf) : text === "" ? [] : [{ content: text }];
  switch (event.kind) {
    case "echo":
      return [];
    case "prompt":
      return [chunk({ role: "assistant", content: "" })];
    case "token": {
      // Text that may be the start of a stop text, of a call, or half a character, comes with a later token.
      const deltas = deltasOf(event.text);
      const { spelled } = event;
      if (deltas.length === 0 && spelled !== undefined) deltas.push({ content: "" });
      return deltas.map((delta, i) => chunk(delta, i === 0 && spelled ? { logprobs: logprobsOf([spelled]) } : {}));
    }
    case "done": {
      const deltas = [...deltasOf(event.text), ...(reader?.end() ?? []).map(deltaOf)];
      const hasCalls = reader !== undefined && reader.numCalls > 0;
      const end = chunk({}, { finish_reason: finishOf(event.result, hasCalls) });
      return [...deltas.map((delta) => chunk(delta)), end];
    }
    default:
      return event satisfies never;
  }
}

function deltaOf(piece: ToolCallPiece): ChatChunkChoice["delta"] {
  switch (piece.kind) {
    case "text":
      return { content: piece.text };
    case "call":
      return { tool_calls: [{ index: piece.index, ...callOf(piece.name) }] };
    case "arguments":
      return { tool_calls: [{ index: piece.index, function: { arguments: piece.text } }] };
    default:
      return piece satisfies never;
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

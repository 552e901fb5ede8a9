import type { FastifyReply } from "fastify";
import { z } from "zod";
import { type GenerateEvent, type GenerateResult, nothingReused, type Usage } from "../../engine/results.js";
import { type ApiError, toApiError } from "../api-error.js";
import { ResponseStream } from "../response-stream.js";
import type { AnswerHead } from "./answer-head.js";
import type { ChoiceEvent } from "./run-choices.js";
import { reportOf, usageOf } from "./usage.js";

/** How long a client waits for anything before a comment line tells it that the server lives, in milliseconds. */
const heartbeatMs = 15_000;

/** An answer, whole or as server-sent events. */
export function answerResponse(schema: z.ZodType, description: string) {
  // An event as readers of event streams give it.
  const data = z.string().describe("A chunk or event as JSON; of chunks `[DONE]` is the last.");
  const events = z.looseObject({ data }).describe("With `stream`: server-sent events, each with these fields.");
  return {
    description,
    content: { "application/json": { schema }, "text/event-stream": { schema: events } },
  };
}

export interface AnswerStreamOptions {
  readonly frames: AsyncIterable<string>;
  /** What a client reads of a failure once the head has gone out. */
  readonly errorFrame: (error: ApiError) => string;
  readonly signal: AbortSignal;
}

/**
 * Sends an answer as server-sent events. The head goes out with the first frame, or with the first comment line if that comes before:
 * until then an error is thrown, and the answer is a plain HTTP error. After that it is a frame, the last one.
 */
export async function streamAnswer(reply: FastifyReply, options: AnswerStreamOptions): Promise<void> {
  const { frames, errorFrame, signal } = options;
  using stream = new ResponseStream(reply, { contentType: "text/event-stream" });
  stream.heartbeat(heartbeatMs, ": waiting\n\n");
  try {
    for await (const frame of frames) await stream.write(frame);
    await stream.end();
  } catch (error) {
    if (!stream.isOpen) throw error;
    if (signal.aborted) return;
    const answer = toApiError(error);
    if (answer.statusCode >= 500) reply.log.error({ err: error }, "answer failed in mid-stream");
    await stream.write(errorFrame(answer));
    await stream.end();
  }
}

export interface ChunkOptions {
  readonly events: AsyncIterable<ChoiceEvent>;
  readonly head: AnswerHead & { readonly object: string };
  /** What an event adds: each choice goes out in a chunk of its own. */
  readonly choicesOf: (arrival: ChoiceEvent) => readonly object[];
  readonly numChoices: number;
  /** Answers of each prompt. */
  readonly n: number;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
}

/** Chunks, with `includeUsage` one with the usage and no choices, then `[DONE]`. What was done is in the last chunk. */
export async function* chunkFrames(options: ChunkOptions): AsyncGenerator<string, void> {
  const { events, head, choicesOf, numChoices, n, includeUsage, continuousUsage } = options;
  const results: GenerateResult[] = [];
  /** Of each choice, so far. */
  const usages: Usage[] = [];
  let numDone = 0;
  for await (const arrival of events) {
    const choices = choicesOf(arrival);
    const { index, event } = arrival;
    const usage = usageAfter(event, usages[index]);
    usages[index] = usage;
    if (event.kind === "done") {
      results[index] = event.result;
      numDone += 1;
    }
    const isLast = numDone === numChoices;
    const chunks = choices.map((choice, i) => ({
      ...head,
      choices: [choice],
      ...(continuousUsage ? { usage: usageOf([usage], 1) } : includeUsage && { usage: null }),
      ...(isLast && !includeUsage && i === choices.length - 1 && reportOf(results[0]!)),
    }));
    yield chunks.map((chunk) => eventFrame(chunk)).join("");
  }
  if (includeUsage) yield eventFrame({ ...head, choices: [], usage: usageOf(usages, n), ...reportOf(results[0]!) });
  yield "data: [DONE]\n\n";
}

/** A choice's usage once an event has come. */
function usageAfter(
  event: GenerateEvent,
  before: Usage = { promptTokens: 0, cachedTokens: 0, reused: nothingReused, completionTokens: 0 },
): Usage {
  switch (event.kind) {
    case "echo":
      return before;
    case "prompt": {
      const { promptTokens, cachedTokens, reused } = event;
      return { ...before, promptTokens, cachedTokens, reused };
    }
    case "token":
      return { ...before, completionTokens: before.completionTokens + 1 };
    case "done":
      return event.result.usage;
    default:
      return event satisfies never;
  }
}

/** A server-sent event. @param name of protocols whose events have one. */
export function eventFrame(data: object, name?: string): string {
  return `${name === undefined ? "" : `event: ${name}\n`}data: ${JSON.stringify(data)}\n\n`;
}

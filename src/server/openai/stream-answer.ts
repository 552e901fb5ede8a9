import type { FastifyReply } from "fastify";
import { type GenerateEvent, type GenerateResult, nothingReused, type Usage } from "../../engine/results.js";
import { errorBody, toApiError } from "../api-error.js";
import { ResponseStream } from "../response-stream.js";
import type { AnswerHead } from "./answer-head.js";
import type { ChoiceEvent } from "./run-choices.js";
import { reportOf, usageOf } from "./usage.js";

/** How long a client waits for anything before a comment line tells it that the server lives, in milliseconds. */
const heartbeatMs = 15_000;

export interface AnswerStreamOptions {
  readonly events: AsyncIterable<ChoiceEvent>;
  readonly head: AnswerHead & { readonly object: string };
  /** What an event adds: each choice goes out in a chunk of its own. */
  readonly choicesOf: (arrival: ChoiceEvent) => readonly object[];
  readonly numChoices: number;
  /** Answers of each prompt. */
  readonly n: number;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
  readonly signal: AbortSignal;
}

/**
 * Sends an answer as server-sent events: chunks, with `includeUsage` one with the usage and no choices, then `[DONE]`.
 * What was done is in the last chunk. The head goes out with the first chunk, or with the first comment line if that
 * comes before: until then an error is thrown, and the answer is a plain HTTP error. After that it is an event with an
 * `error`, and no `[DONE]` follows.
 */
export async function streamAnswer(reply: FastifyReply, options: AnswerStreamOptions): Promise<void> {
  const { events, head, choicesOf, numChoices, n, includeUsage, continuousUsage, signal } = options;
  using stream = new ResponseStream(reply, { contentType: "text/event-stream" });
  stream.heartbeat(heartbeatMs, ": waiting\n\n");
  const results: GenerateResult[] = [];
  /** Of each choice, so far. */
  const usages: Usage[] = [];
  let numDone = 0;
  try {
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
      await stream.write(chunks.map(eventOf).join(""));
    }
    if (includeUsage) {
      await stream.write(eventOf({ ...head, choices: [], usage: usageOf(usages, n), ...reportOf(results[0]!) }));
    }
    await stream.write("data: [DONE]\n\n");
    await stream.end();
  } catch (error) {
    if (!stream.isOpen) throw error;
    if (signal.aborted) return;
    const answer = toApiError(error);
    if (answer.statusCode >= 500) reply.log.error({ err: error }, "answer failed in mid-stream");
    await stream.write(eventOf(errorBody(answer)));
    await stream.end();
  }
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

function eventOf(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}

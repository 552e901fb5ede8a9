import { setMaxListeners } from "node:events";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { PassageInput, PassageLabel } from "../../blocks/passage.js";
import type { Engine } from "../../engine/engine.js";
import type { GenerateOptions, RequestOptions } from "../../engine/engine-options.js";
import type { PromptInput } from "../../engine/prompt.js";
import type { GenerateEvent, ServedBlock } from "../../engine/results.js";
import { ApiError } from "../api-error.js";
import { clientGone } from "../response-stream.js";
import { loadedLabel } from "./usage.js";

/** A prompt as the engine takes it: `options.n` answers. */
export interface PromptRequest {
  readonly prompt: PromptInput;
  readonly options: GenerateOptions & RequestOptions;
}

/** An event of one of several answers. */
export interface ChoiceEvent {
  readonly index: number;
  readonly event: GenerateEvent;
}

/**
 * Computes the answers of several prompts together, n of each, and gives their events as they come; what a prompt's answers
 * share is given for each of them. Of each prompt one event at most waits for the reader, so one that reads slowly slows all
 * of them down. If one fails, the others are cancelled and its error is thrown; leaving the loop early cancels all.
 *
 * @throws EngineError; ApiError once the signal is aborted: the client has gone, and nobody reads what comes after.
 */
export async function* runChoices(
  engine: Engine,
  requests: readonly PromptRequest[],
  n: number,
  signal: AbortSignal,
): AsyncGenerator<ChoiceEvent, void> {
  const ending = new AbortController();
  const any = AbortSignal.any([signal, ending.signal]);
  // Every prompt listens to it.
  setMaxListeners(0, any);
  const throwIfGone = (): void => {
    if (signal.aborted) throw new ApiError(408, "Cancelled: the client has gone");
  };
  try {
    const sources = requests.map(({ prompt, options }) => engine.generate(prompt, { ...options, n, signal: any }));
    for await (const [event, place] of merge(sources)) {
      throwIfGone();
      if ("index" in event) yield { index: place * n + event.index, event };
      else for (let choice = 0; choice < n; choice++) yield { index: place * n + choice, event };
    }
  } catch (error) {
    throwIfGone();
    throw error;
  } finally {
    ending.abort(new Error("Cancelled: another answer of the request failed, or its reader left"));
  }
}

/** A request's answers as they come, with what the server adds to them. */
export function startAnswers(
  engine: Engine,
  { requests, n, ...told }: Parameters<typeof withReport>[1] & { requests: readonly PromptRequest[]; n: number },
  request: FastifyRequest,
  reply: FastifyReply,
): { readonly events: AsyncGenerator<ChoiceEvent, void>; readonly signal: AbortSignal } {
  const signal = clientGone(request, reply);
  return { signal, events: withAffinity(withReport(runChoices(engine, requests, n, signal), told), request, reply) };
}

/** The events, and in what each answer ends with what the engine does not know of: more warnings, and what documents carry. */
async function* withReport(
  events: AsyncIterable<ChoiceEvent>,
  { warnings, documents = [] }: { warnings: readonly string[]; documents?: readonly PassageInput[] | undefined },
): AsyncGenerator<ChoiceEvent, void> {
  for await (const { index, event } of events) {
    if (event.kind !== "done") yield { index, event };
    else {
      const { blocks, misses, ...rest } = event.result;
      const loaded = <T extends { passage?: PassageLabel | undefined }>({ passage, ...one }: T) =>
        passage === undefined ? one : { ...one, passage: loadedLabel(passage, documents) };
      const result = {
        ...rest,
        blocks: blocks.map(loaded),
        misses: misses?.map(loaded),
        warnings: [...warnings, ...rest.warnings],
      };
      yield { index, event: { ...event, result } };
    }
  }
}

const affinityHeader = "x-block-affinity";
/** Shorter blocks stand in most prompts: labels, separators. */
const minAffinityTokens = 16;

/**
 * The events; the answer's head gets what requests with the same passages have in common, by which a gateway may send them to the same
 * server: what the request itself names, so that a conversation stays where it is, or the least id of its passages, which two
 * requests share as often as they share passages.
 */
async function* withAffinity(
  events: AsyncIterable<ChoiceEvent>,
  request: FastifyRequest,
  reply: FastifyReply,
): AsyncGenerator<ChoiceEvent, void> {
  const asked = request.headers[affinityHeader];
  for await (const arrival of events) {
    const { index, event } = arrival;
    if (event.kind === "prompt" && index === 0) {
      const affinity = typeof asked === "string" && /^[\w.-]{1,128}$/.test(asked) ? asked : affinityOf(event.blocks);
      if (affinity !== undefined) reply.header(affinityHeader, affinity);
    }
    yield arrival;
  }
}

/** Where no passage is named, any block may be one but the first, which is mostly the system text. */
function affinityOf(blocks: readonly ServedBlock[]): string | undefined {
  const named = blocks.filter(({ passage }) => passage !== undefined);
  const passages = named.length > 0 ? named : blocks.slice(1);
  const [least] = passages
    .filter(({ tokens }) => tokens >= minAffinityTokens)
    .map(({ id }) => id)
    .sort();
  return least?.slice(0, 16);
}

type Arrival<T> = { readonly index: number } & ({ readonly result: IteratorResult<T> } | { readonly error: unknown });

/**
 * What several sources give, as it comes, each with its source's number. Of each source one value at most waits for the reader. If one
 * fails, its error is thrown; that, and leaving the loop early, ends the others.
 */
export async function* merge<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<[value: T, index: number], void> {
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const arrivals: Arrival<T>[] = [];
  let wake: () => void = () => undefined;
  const advance = (index: number): void => {
    const arrive = (arrival: Arrival<T>): void => {
      arrivals.push(arrival);
      wake();
    };
    (iterators[index] as AsyncIterator<T>).next().then(
      (result) => arrive({ index, result }),
      (error: unknown) => arrive({ index, error }),
    );
  };
  let numRunning = iterators.length;
  try {
    for (const index of iterators.keys()) advance(index);
    while (numRunning > 0) {
      const arrival = arrivals.shift();
      if (arrival === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      if ("error" in arrival) throw arrival.error;
      const { index, result } = arrival;
      if (result.done === true) numRunning -= 1;
      else {
        yield [result.value, index];
        advance(index);
      }
    }
  } finally {
    // What they say to that is nobody's any more.
    for (const iterator of iterators) iterator.return?.().catch(() => undefined);
  }
}

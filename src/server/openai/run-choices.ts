import { setMaxListeners } from "node:events";
import type { PassageInput } from "../../blocks/passage.js";
import { ApiError } from "../api-error.js";
import type { EngineHost, HostEvent, HostGenerateRequest } from "../engine-host.js";
import { loadedLabel } from "./usage.js";

/** An event of one of several answers. */
export interface ChoiceEvent {
  readonly index: number;
  readonly event: HostEvent;
}

type Arrival =
  | { readonly index: number; readonly result: IteratorResult<HostEvent> }
  | { readonly index: number; readonly error: unknown };

/**
 * Computes several answers together and gives their events as they come. Of each answer one event at most waits for the
 * reader, so one that reads slowly slows all of them down. If one fails, the others are cancelled and its error is
 * thrown; leaving the loop early cancels all.
 *
 * @throws HostError; ApiError once the signal is aborted: the client has gone, and nobody reads what comes after.
 */
export async function* runChoices(
  host: EngineHost,
  requests: readonly HostGenerateRequest[],
  signal: AbortSignal,
): AsyncGenerator<ChoiceEvent, void> {
  const ending = new AbortController();
  const any = AbortSignal.any([signal, ending.signal]);
  // Every answer listens to it.
  setMaxListeners(0, any);
  const sources = requests.map((request) => host.generate(request, any)[Symbol.asyncIterator]());
  const arrivals: Arrival[] = [];
  let wake: (() => void) | undefined;
  const advance = (index: number): void => {
    const arrive = (arrival: Arrival): void => {
      arrivals.push(arrival);
      wake?.();
    };
    const source = sources[index] as AsyncIterator<HostEvent>;
    source.next().then(
      (result) => arrive({ index, result }),
      (error: unknown) => arrive({ index, error }),
    );
  };
  let numRunning = sources.length;
  try {
    for (const index of sources.keys()) advance(index);
    while (numRunning > 0) {
      const arrival = arrivals.shift();
      if (arrival === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      if (signal.aborted) throw new ApiError(408, "Cancelled: the client has gone");
      if ("error" in arrival) throw arrival.error;
      const { index, result } = arrival;
      if (result.done === true) {
        numRunning -= 1;
        continue;
      }
      yield { index, event: result.value };
      advance(index);
    }
  } finally {
    ending.abort(new Error("Cancelled: another answer of the request failed, or its reader left"));
    // What the others say to that is nobody's any more; each ends by the signal.
    for (const source of sources) source.return?.().catch(() => undefined);
  }
}

/** The events, and in what each answer ends with what the engine does not know of: more warnings, and what documents carry. */
export async function* withReport(
  events: AsyncIterable<ChoiceEvent>,
  { warnings, documents = [] }: { warnings: readonly string[]; documents?: readonly PassageInput[] | undefined },
): AsyncGenerator<ChoiceEvent, void> {
  for await (const { index, event } of events) {
    if (event.kind !== "done") yield { index, event };
    else {
      const blocks = event.result.blocks.map(({ passage, ...block }) =>
        passage === undefined ? block : { ...block, passage: loadedLabel(passage, documents) },
      );
      const result = { ...event.result, blocks, warnings: [...warnings, ...event.result.warnings] };
      yield { index, event: { ...event, result } };
    }
  }
}

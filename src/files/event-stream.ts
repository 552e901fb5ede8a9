import { createParser } from "eventsource-parser";

/** What is held of one event at most, in UTF-16 units. */
const maxEventLength = 2 ** 24;

/**
 * The data of each server-sent event, as it comes. The stream is cancelled where the loop is left early; an event that the
 * stream ends within is dropped, as the standard says.
 *
 * @throws what reading throws; Error for an event of more than 16 Mi characters.
 * @see HTML Living Standard §9.2.6.
 */
export async function* readEventStream(body: NonNullable<Response["body"]>): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const events: string[] = [];
  const parser = createParser({
    maxBufferSize: maxEventLength,
    onEvent: ({ data }) => events.push(data),
    onError: (error) => {
      // Fields that the standard does not know are passed over.
      if (error.type === "max-buffer-size-exceeded") throw error;
    },
  });
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      parser.feed(decoder.decode(next.value, { stream: true }));
      yield* events.splice(0);
    }
  } finally {
    // After the end, and after a failure, there is nothing to cancel.
    await reader.cancel().catch(() => undefined);
  }
}

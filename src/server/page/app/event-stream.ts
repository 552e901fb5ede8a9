/** A longer line than this is no event of ours, in UTF-16 units. */
const maxLineLength = 16 * 1024 * 1024;

/**
 * Reads server-sent events: yields each event's data, its lines joined with "\n".
 *
 * The chunks may be cut anywhere, inside characters and line ends too. Comments, names and ids are passed over; an event
 * that the stream ends within is dropped, as the standard says. The stream is cancelled where the loop is left early.
 *
 * @throws what reading throws; Error for a line of more than 16 Mi characters.
 * @see HTML Living Standard §9.2.6.
 * @example the bytes of ": hello\ndata: a\ndata: b\n\n" give "a\nb"
 */
export async function* readEventStream(body: ReadableStream<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  // A byte order mark at the start is dropped by the decoder.
  const decoder = new TextDecoder();
  const data: string[] = [];
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lineEnd = /\r\n|\n|\r/g;
      let start = 0;
      for (let end = lineEnd.exec(rest); end !== null; end = lineEnd.exec(rest)) {
        // The other half of "\r\n" may be still to come.
        if (end[0] === "\r" && lineEnd.lastIndex === rest.length && !done) break;
        const line = rest.slice(start, end.index);
        start = lineEnd.lastIndex;
        if (line === "") {
          if (data.length > 0) yield data.splice(0).join("\n");
        } else if (line === "data" || line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
      rest = rest.slice(start);
      if (rest.length > maxLineLength) throw new Error("Cannot read the answer: a line of it is over 16 Mi characters");
      if (done) return;
    }
  } finally {
    // After the end, and after a failure, there is nothing to cancel.
    await reader.cancel().catch(() => undefined);
  }
}

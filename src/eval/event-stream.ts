/** The longest line that is taken, in UTF-16 units. */
const maxLineLength = 2 ** 24;

/**
 * The data of each server-sent event of a stream, as it comes. Comments, names and ids are passed over, and so is an event
 * that the stream's end cut off.
 *
 * @throws Error for a line that is too long; what reading the stream throws.
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
export async function* eventData(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  let data: string[] = [];
  for await (const bytes of stream) {
    const piece = decoder.decode(bytes, { stream: true });
    const mayEnd = /[\r\n]/.test(piece) || rest.endsWith("\r");
    rest += piece;
    // A carriage return at the end may be the first half of a line's end.
    const lines = mayEnd ? rest.split(/\r\n|\n|\r(?!$)/) : [rest];
    rest = lines.pop() as string;
    if (rest.length > maxLineLength) {
      throw new Error(`Cannot read the stream of events: a line has more than ${maxLineLength} characters`);
    }
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) yield data.join("\n");
        data = [];
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
      }
    }
  }
}

/**
 * Does work on inputs, up to `depth` at a time, and gives the results in the order of the inputs.
 *
 * @throws what the inputs or the work throw; work that is under way is then left to end by itself.
 */
export async function* readAhead<I, O>(
  inputs: AsyncIterable<I>,
  work: (input: I) => Promise<O>,
  depth: number,
): AsyncGenerator<O, void> {
  const pending: Promise<O>[] = [];
  for await (const input of inputs) {
    const output = work(input);
    // It is looked at in its turn; a failure before that is no unhandled one.
    output.catch(() => undefined);
    pending.push(output);
    if (pending.length >= depth) yield await (pending.shift() as Promise<O>);
  }
  for (const output of pending) yield await output;
}

/** Items in lists of `size`; the last list may be shorter. */
export async function* inPieces<T>(items: AsyncIterable<T>, size: number): AsyncGenerator<readonly T[], void> {
  let piece: T[] = [];
  for await (const item of items) {
    piece.push(item);
    if (piece.length < size) continue;
    yield piece;
    piece = [];
  }
  if (piece.length > 0) yield piece;
}

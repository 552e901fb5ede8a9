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

/** Work that can be done a little at a time: it yields every few milliseconds. Who does not go on has stopped it. */
export type Steps<T> = Generator<void, T, void>;

/** Does all the work at once. */
export function runToEnd<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

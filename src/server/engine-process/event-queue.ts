type Ending = { readonly kind: "end" } | { readonly kind: "error"; readonly error: unknown };

/** Events from one who produces them to the one who reads them, in order. What came before the end is read before the end. */
export class EventQueue<T> {
  #events: T[] = [];
  #ending: Ending | undefined;
  #wake: () => void = () => undefined;

  /** After the end nothing is taken. */
  push(events: readonly T[]): void {
    if (this.#ending !== undefined) return;
    this.#events.push(...events);
    this.#wake();
  }

  end(): void {
    this.#ending ??= { kind: "end" };
    this.#wake();
  }

  /** The reader gets the error after the events that came before it. The first ending counts. */
  fail(error: unknown): void {
    this.#ending ??= { kind: "error", error };
    this.#wake();
  }

  /**
   * The events. For one reader.
   *
   * @param onRead told of each event that the reader is done with.
   * @throws what `fail` was given.
   */
  async *read(onRead: () => void = () => undefined): AsyncGenerator<T, void> {
    for (;;) {
      const events = this.#events;
      this.#events = [];
      for (const event of events) {
        yield event;
        onRead();
      }
      if (this.#events.length > 0) continue;
      if (this.#ending?.kind === "end") return;
      if (this.#ending?.kind === "error") throw this.#ending.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

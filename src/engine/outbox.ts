type Ending = { readonly kind: "end" } | { readonly kind: "error"; readonly error: unknown };

export interface OutboxOptions {
  /** How many unread events make it full. Default: it is never full. */
  readonly capacity?: number;
  /** Called when it is no longer full. */
  readonly onRoom?: () => void;
  /** How long it may be full while its reader reads nothing, in ms. */
  readonly patienceMs?: number;
  /** Called when that time is over. */
  readonly onStalled?: () => void;
}

/**
 * A queue of events between their producer and one reader. The producer checks `isFull` before it makes more; events that
 * are pushed all the same are kept. The reader gets all events that came before the end, then the end.
 */
export class Outbox<T> {
  readonly #options: OutboxOptions;
  #events: T[] = [];
  #numUnread = 0;
  #isFull = false;
  #timer: NodeJS.Timeout | undefined;
  #ending: Ending | undefined;
  #wake: () => void = () => undefined;

  constructor(options: OutboxOptions = {}) {
    this.#options = options;
  }

  /** True from the event that fills it until half of its capacity is free. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** Events after the end are dropped. */
  push(event: T): void {
    if (this.#ending !== undefined) return;
    this.#events.push(event);
    this.#numUnread += 1;
    if (this.#numUnread >= (this.#options.capacity ?? Number.POSITIVE_INFINITY)) {
      this.#isFull = true;
      if (this.#timer === undefined) this.#expectReader();
    }
    this.#wake();
  }

  end(): void {
    this.#end({ kind: "end" });
  }

  /** Ends with an error, which the reader gets after the events before it. The first ending counts. */
  fail(error: unknown): void {
    this.#end({ kind: "error", error });
  }

  /**
   * The events. For one reader.
   *
   * @param onRead called for each event once the reader asks for the next.
   * @throws what `fail` was given.
   */
  async *read(onRead: () => void = () => undefined): AsyncGenerator<T, void> {
    for (;;) {
      const events = this.#events;
      this.#events = [];
      for (const event of events) {
        yield event;
        this.#took();
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

  #took(): void {
    this.#numUnread -= 1;
    if (!this.#isFull || this.#ending !== undefined) return;
    if (this.#numUnread > (this.#options.capacity ?? 0) / 2) {
      this.#expectReader();
      return;
    }
    this.#isFull = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#options.onRoom?.();
  }

  #expectReader(): void {
    const { patienceMs, onStalled } = this.#options;
    clearTimeout(this.#timer);
    if (patienceMs === undefined || onStalled === undefined) return;
    this.#timer = setTimeout(onStalled, patienceMs);
    this.#timer.unref();
  }

  #end(ending: Ending): void {
    clearTimeout(this.#timer);
    this.#ending ??= ending;
    this.#wake();
  }
}

type Ending = { readonly kind: "end" } | { readonly kind: "error"; readonly error: unknown };

export interface OutboxOptions {
  /** So many unread events, and it is full. Default: it never is. */
  readonly capacity?: number;
  /** Told when there is room again. */
  readonly onRoom?: () => void;
  /** How long it may be full while its reader takes nothing, in ms. */
  readonly patienceMs?: number;
  /** Told when that time is over. */
  readonly onStalled?: () => void;
}

/**
 * Events from one who makes them to the one who reads them, in order. Who makes them looks at `isFull` before it makes
 * more; what comes all the same is kept. What came before the end is read before the end.
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

  /** From the last event that there was room for until half of them are read. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** After the end nothing is taken. */
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

  /** The reader gets the error after the events that came before it. The first ending counts. */
  fail(error: unknown): void {
    this.#end({ kind: "error", error });
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

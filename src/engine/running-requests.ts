/** One request from its start to its disposal. */
export interface RunningRequest extends Disposable {
  outcome: "finished" | "cancelled" | "failed";
  /** What it takes from the engine, given back where the engine closes while the request's caller does not come back. */
  taken: Disposable | undefined;
  /** While it waits to be admitted. */
  isQueued: boolean;
  readonly isPaused: boolean;
  /** Before the caller has the turn. */
  pause(): void;
  /** After it. @throws the signal's reason. */
  resume(signal: AbortSignal): void;
}

export interface RequestCounts {
  /** Waiting to be admitted. */
  readonly queued: number;
  readonly running: number;
  readonly finished: number;
  readonly cancelled: number;
  readonly failed: number;
}

/** The requests of an engine: counted, and waited for when it closes. */
export class RunningRequests {
  readonly #running = new Set<RunningRequest>();
  readonly #ended = { finished: 0, cancelled: 0, failed: 0 };
  /** Called whenever a request ends or waits for its caller. */
  #onRest: () => void = () => undefined;

  get counts(): RequestCounts {
    let queued = 0;
    for (const { isQueued } of this.#running) if (isQueued) queued += 1;
    return { queued, running: this.#running.size - queued, ...this.#ended };
  }

  /** Counts a request until it is disposed. */
  begin(): RunningRequest {
    const rest = () => this.#onRest();
    let isPaused = false;
    const request: RunningRequest = {
      outcome: "finished",
      taken: undefined,
      isQueued: false,
      get isPaused() {
        return isPaused;
      },
      pause() {
        isPaused = true;
        rest();
      },
      resume(signal) {
        isPaused = false;
        signal.throwIfAborted();
      },
      [Symbol.dispose]: () => {
        this.#running.delete(request);
        this.#ended[request.outcome] += 1;
        rest();
      },
    };
    this.#running.add(request);
    return request;
  }

  /** Waits until every request has ended or waits for its caller, and takes back what the latter hold. */
  async end(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#onRest = () => {
        if ([...this.#running].every(({ isPaused }) => isPaused)) resolve();
      };
      this.#onRest();
    });
    // Callers that have the turn may never come back, or wait for this.
    for (const { taken } of this.#running) taken?.[Symbol.dispose]();
  }
}

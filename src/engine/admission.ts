import { EngineError } from "./engine-error.js";

/** A request's part in the admission, from its coming to its end: disposing gives back whatever it has. */
export interface Ticket extends Disposable {
  /** Waits for a place among those that run. @throws the signal's reason. */
  enter(signal: AbortSignal): Promise<void>;
}

/** Places for requests that run at the same time, and a line of those that wait for one, in the order they came to it. */
export class Admission {
  readonly #maxRunning: number;
  readonly #maxQueued: number;
  readonly #waiting = new Set<() => void>();
  #numJoined = 0;
  #numRunning = 0;

  constructor(options: { readonly maxRunning: number; readonly maxQueued: number }) {
    this.#maxRunning = options.maxRunning;
    this.#maxQueued = options.maxQueued;
  }

  /** Those that have come and do not run: in the line, or while their prompt is made ready for it. */
  get numQueued(): number {
    return this.#numJoined - this.#numRunning;
  }

  /**
   * Takes a request in, before any work is spent on it.
   * @throws EngineError "queue_full" where as many run and wait as may.
   */
  join(): Ticket {
    if (this.#numJoined >= this.#maxRunning + this.#maxQueued) {
      throw new EngineError(
        "queue_full",
        `Cannot take the request: ${this.#numRunning} run and ${this.numQueued} wait, at most ${this.#maxQueued} may wait`,
      );
    }
    this.#numJoined += 1;
    let state: "joined" | "running" | "over" = "joined";
    return {
      enter: async (signal) => {
        await this.#enter(signal);
        state = "running";
      },
      [Symbol.dispose]: () => {
        if (state === "over") return;
        this.#numJoined -= 1;
        if (state === "running") this.#giveBack();
        state = "over";
      },
    };
  }

  async #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#numRunning < this.#maxRunning) {
      this.#numRunning += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const grant = () => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      const leave = () => {
        this.#waiting.delete(grant);
        reject(signal.reason);
      };
      signal.addEventListener("abort", leave, { once: true });
      this.#waiting.add(grant);
    });
  }

  /** The place goes to the first who waits. */
  #giveBack(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#numRunning -= 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}

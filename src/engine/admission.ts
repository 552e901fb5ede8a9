import { EngineError } from "./engine-error.js";

/** Places for requests that run at the same time, and a line of those that wait for one, in the order they came. */
export class Admission {
  readonly #maxRunning: number;
  readonly #maxQueued: number;
  readonly #waiting = new Set<() => void>();
  #numRunning = 0;

  constructor(options: { readonly maxRunning: number; readonly maxQueued: number }) {
    this.#maxRunning = options.maxRunning;
    this.#maxQueued = options.maxQueued;
  }

  get numQueued(): number {
    return this.#waiting.size;
  }

  /** @throws EngineError "queue_full" if a request that came now would be turned away: before work is spent on it. */
  requireRoom(): void {
    if (this.#numRunning < this.#maxRunning || this.#waiting.size < this.#maxQueued) return;
    throw new EngineError(
      "queue_full",
      `Cannot take the request: ${this.#numRunning} run and ${this.#waiting.size} wait, at most ${this.#maxQueued} may wait`,
    );
  }

  /**
   * Takes a place as soon as one is free; disposing gives it back.
   * @throws EngineError "queue_full"; the signal's reason.
   */
  async enter(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    this.requireRoom();
    if (this.#numRunning < this.#maxRunning) {
      this.#numRunning += 1;
    } else {
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
    let isBack = false;
    return {
      [Symbol.dispose]: () => {
        if (isBack) return;
        isBack = true;
        this.#giveBack();
      },
    };
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

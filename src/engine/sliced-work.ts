import type { Steps } from "../tokenizer/steps.js";

interface Job {
  readonly steps: Steps<unknown>;
  spentMs: number;
  /** Ends its promise. */
  resolve(value: unknown): void;
  reject(reason: unknown): void;
}

export interface SlicedWorkOptions {
  /** The clock, in ms. */
  readonly now?: () => number;
  /** Calls back at the next turn of the event loop, after whatever else waits for this one. */
  readonly nextTurn?: (callback: () => void) => void;
}

/** How long one turn of the event loop may be kept, in ms; a step that takes longer is not cut short. */
const sliceMs = 5;
/** Work that took longer is done one piece after the other, so that only one of them holds much memory. */
const longMs = 20;

/** Turns between two slices: a pipe gives one piece of a message in each, and messages must not wait for slices. */
const idleTurns = 4;

function afterIdleTurns(callback: () => void, numTurns = idleTurns): void {
  setImmediate(() => (numTurns === 0 ? callback() : afterIdleTurns(callback, numTurns - 1)));
}

/**
 * Work of the event loop's own thread, done a slice at a time: in a turn of the event loop one slice of one job, so that
 * messages, timers and graphs go on however much of it there is. Short jobs take turns; of long ones the first that came
 * is done first, every other turn while there are short ones.
 */
export class SlicedWork {
  readonly #now: () => number;
  readonly #nextTurn: (callback: () => void) => void;
  readonly #short = new Set<Job>();
  readonly #long = new Set<Job>();
  #isTurnTaken = false;
  #isLongNext = false;

  constructor({ now = () => performance.now(), nextTurn = afterIdleTurns }: SlicedWorkOptions = {}) {
    this.#now = now;
    this.#nextTurn = nextTurn;
  }

  /**
   * Does a job. The first slice is done at once where this turn had none.
   *
   * @throws what the job throws; the signal's reason, at which the job is stopped.
   */
  run<T>(steps: Steps<T>, signal: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const end = (): void => {
        this.#short.delete(job);
        this.#long.delete(job);
        signal.removeEventListener("abort", abort);
      };
      const job: Job = {
        steps,
        spentMs: 0,
        resolve: (value) => {
          end();
          resolve(value as T);
        },
        reject: (reason) => {
          end();
          reject(reason);
        },
      };
      const abort = (): void => {
        job.reject(signal.reason);
        steps.return(undefined as T);
      };
      signal.addEventListener("abort", abort, { once: true });
      this.#short.add(job);
      if (!this.#isTurnTaken) this.#takeTurn();
    });
  }

  #takeTurn(): void {
    const job = this.#next();
    this.#isTurnTaken = job !== undefined;
    if (job === undefined) return;
    this.#nextTurn(() => this.#takeTurn());
    this.#slice(job);
  }

  #next(): Job | undefined {
    const lanes = this.#isLongNext ? [this.#long, this.#short] : [this.#short, this.#long];
    this.#isLongNext = !this.#isLongNext;
    const [job] = lanes.find((lane) => lane.size > 0) ?? [];
    return job;
  }

  #slice(job: Job): void {
    const from = this.#now();
    try {
      for (;;) {
        const { done, value } = job.steps.next();
        if (done === true) {
          job.resolve(value);
          return;
        }
        const ms = this.#now() - from;
        if (ms < sliceMs) continue;
        job.spentMs += ms;
        break;
      }
    } catch (error) {
      job.reject(error);
      return;
    }
    // To the end of its line; a long one keeps its place.
    if (!this.#short.delete(job)) return;
    (job.spentMs > longMs ? this.#long : this.#short).add(job);
  }
}

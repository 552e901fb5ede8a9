import { setImmediate as nextTurn } from "node:timers/promises";

/** Queued, in a graph, cancelled while its graph goes on, or over. */
type TaskState = "queued" | "running" | "left" | "ended";

/** A task, whatever its result. */
export type AnyTask = Omit<Task<unknown>, "promise" | "resolve">;

/** Work that a request waits for and may cancel. */
export class Task<T> {
  readonly promise: Promise<T>;
  #state: TaskState = "queued";
  #isCancelled = false;
  #resolve!: (value: T) => void;
  #reject!: (reason: unknown) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #abort: () => void;

  /** @param onCancel called when the signal aborts a task that is not over. @throws the signal's reason. */
  constructor(signal: AbortSignal | undefined, onCancel: (task: AnyTask) => void) {
    signal?.throwIfAborted();
    this.promise = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#signal = signal;
    this.#abort = () => {
      this.#isCancelled = true;
      onCancel(this);
    };
    signal?.addEventListener("abort", this.#abort, { once: true });
  }

  get state(): TaskState {
    return this.#state;
  }

  /** Whether nobody waits for it any more. */
  get isOver(): boolean {
    return this.#state === "left" || this.#state === "ended";
  }

  get isCancelled(): boolean {
    return this.#isCancelled;
  }

  /** Its graph is about to be computed. */
  start(): void {
    this.#state = "running";
  }

  /** Its graph was computed; it waits for the next one. */
  rest(): void {
    if (this.#isCancelled) this.fail(undefined);
    else if (this.#state === "running") this.#state = "queued";
  }

  /** Ends the wait of a cancelled task whose graph goes on for others. */
  leave(): void {
    this.#end("left", () => this.#reject(this.#signal?.reason));
  }

  /** @returns whether the request took the value: not where it was cancelled. */
  resolve(value: T): boolean {
    if (this.isOver) return false;
    if (this.#isCancelled) {
      this.fail(undefined);
      return false;
    }
    this.#end("ended", () => this.#resolve(value));
    return true;
  }

  /** Ends the wait with the signal's reason where the task was cancelled, else with the error. */
  fail(error: unknown): void {
    if (this.isOver) return;
    this.#end("ended", () => this.#reject(this.#isCancelled ? this.#signal?.reason : error));
  }

  #end(state: TaskState, settle: () => void): void {
    this.#state = state;
    this.#signal?.removeEventListener("abort", this.#abort);
    settle();
  }
}

/**
 * A promise's value, or, where the signal aborts first, a rejection with its reason at once. The work behind the promise
 * goes on.
 */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let abort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Whoever goes through much yields to the event loop after so long. */
const maxTurnMs = 10;

/** The items; whenever they have taken long enough, others have a turn of the event loop. */
export async function* inTurns<T>(items: Iterable<T>): AsyncGenerator<T, void> {
  let turnFrom = performance.now();
  for (const item of items) {
    yield item;
    if (performance.now() - turnFrom < maxTurnMs) continue;
    await nextTurn();
    turnFrom = performance.now();
  }
}

import { Worker } from "node:worker_threads";
import type { Work, WorkAnswer, WorkMessage } from "./serve-work.js";
import type { ThreadWork } from "./work-thread.js";

export interface OrderedWorkersOptions<I, O> {
  /** Given to each worker; undefined where there is none. */
  readonly data: ThreadWork | undefined;
  /** 0: the work is done here, by `inline`. */
  readonly numWorkers: number;
  /** Makes the work for this thread. */
  readonly inline: () => Promise<Work<I, O>>;
}

/**
 * Does work on all inputs, on several threads, and gives the results in the order of the inputs. Some inputs are read
 * ahead, never more than two a worker.
 *
 * @throws what the inputs throw; Error if work fails or a worker dies; the signal's reason. No worker stays then.
 */
export async function* mapInOrder<I, O>(
  inputs: AsyncIterable<I>,
  options: OrderedWorkersOptions<I, O>,
  signal: AbortSignal,
): AsyncGenerator<O, void> {
  if (options.numWorkers === 0) {
    const work = await options.inline();
    for await (const input of inputs) {
      signal.throwIfAborted();
      yield await work(input);
    }
    return;
  }
  const pool = new Pool<I, O>(options.data, options.numWorkers);
  const stop = () => pool.fail(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  const pending: Promise<O>[] = [];
  try {
    signal.throwIfAborted();
    for await (const input of inputs) {
      const output = pool.run(input);
      // It is looked at in its turn; a failure before that is no unhandled one.
      output.catch(() => undefined);
      pending.push(output);
      if (pending.length >= 2 * options.numWorkers) yield (await pending.shift()) as O;
    }
    for (let output = pending.shift(); output; output = pending.shift()) yield await output;
  } finally {
    signal.removeEventListener("abort", stop);
    await pool.close();
  }
}

class Pool<I, O> {
  readonly #workers: Worker[];
  readonly #waiting = new Map<number, { resolve(output: O): void; reject(error: unknown): void }>();
  #next = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(data: ThreadWork | undefined, numWorkers: number) {
    this.#workers = Array.from({ length: numWorkers }, () => {
      const worker = new Worker(new URL("./work-thread.js", import.meta.url), { workerData: data });
      worker.on("message", (answer: WorkAnswer<O>) => {
        const waiter = this.#waiting.get(answer.number);
        this.#waiting.delete(answer.number);
        if (answer.kind === "done") waiter?.resolve(answer.output);
        else waiter?.reject(new Error(answer.error));
      });
      worker.on("error", (error) => this.fail(error));
      worker.on("exit", (code) => this.fail(new Error(`Cannot go on: a worker ended with code ${code}`)));
      return worker;
    });
  }

  run(input: I): Promise<O> {
    if (this.#failure) return Promise.reject(this.#failure.error);
    const number = this.#next++;
    return new Promise<O>((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      const message: WorkMessage<I> = { number, input };
      (this.#workers[number % this.#workers.length] as Worker).postMessage(message);
    });
  }

  fail(error: unknown): void {
    this.#failure ??= { error };
    for (const { reject } of this.#waiting.values()) reject(this.#failure.error);
    this.#waiting.clear();
  }

  async close(): Promise<void> {
    for (const worker of this.#workers) worker.removeAllListeners("exit");
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

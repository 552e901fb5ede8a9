import type { MessagePort } from "node:worker_threads";

/** What a worker does with one piece of work. */
export type Work<I, O> = (input: I) => O | Promise<O>;

/** The one message that a worker's module answers: see `serveWork()`. */
export interface WorkMessage<I> {
  readonly number: number;
  readonly input: I;
}

export type WorkAnswer<O> =
  | { readonly number: number; readonly kind: "done"; readonly output: O }
  | { readonly number: number; readonly kind: "failed"; readonly error: string };

/** Answers a worker's messages: the worker's side of `mapInOrder`. The work is made once. */
export function serveWork<I, O>(port: MessagePort, work: Promise<Work<I, O>>): void {
  // Whoever sends the first message hears why the work cannot be made.
  work.catch(() => undefined);
  port.on("message", async ({ number, input }: WorkMessage<I>) => {
    let answer: WorkAnswer<O>;
    try {
      answer = { number, kind: "done", output: await (await work)(input) };
    } catch (error) {
      answer = { number, kind: "failed", error: error instanceof Error ? error.message : String(error) };
    }
    port.postMessage(answer);
  });
}

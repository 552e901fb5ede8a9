import type { MessagePort } from "node:worker_threads";
import type { Work, WorkAnswer, WorkMessage } from "./ordered-workers.js";

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

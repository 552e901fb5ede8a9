import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { EngineError } from "../../engine/engine-error.js";
import { fieldError } from "../api-error.js";
import type { EmbeddingAnswer, EmbeddingRequest, EmbeddingThreadData } from "./embedding-thread.js";
import type { Embedded, RefusedText } from "./encoder.js";

/** Texts that a request hands over at a time: others come in between. */
const maxTexts = 32;

/** What the route needs of an embedding model. */
export interface TextEmbedder {
  readonly name: string;
  /**
   * @throws ApiError for a text that is too long; EngineError where the model's thread has ended; the signal's reason.
   */
  embed(texts: readonly string[], signal: AbortSignal): Promise<Embedded>;
}

interface Waiting {
  resolve(result: Embedded | RefusedText): void;
  reject(error: Error): void;
}

/** An encoder in a thread of its own, which requests use in turn. */
export class Embedder implements TextEmbedder, AsyncDisposable {
  readonly #waiting = new Map<number, Waiting>();
  #numRequests = 0;
  #error: Error | undefined;

  private constructor(
    private readonly worker: Worker,
    readonly name: string,
  ) {
    worker.on("message", (answer: EmbeddingAnswer) => {
      if (answer.kind !== "embedded") return;
      this.#waiting.get(answer.number)?.resolve(answer.result);
      this.#waiting.delete(answer.number);
    });
    worker.on("error", (error) => this.#fail(error.message));
    worker.on("exit", () => this.#fail("its thread ended"));
  }

  /** @throws Error, one line, where the package or the folder cannot be used. */
  static async open(folder: string): Promise<Embedder> {
    // The other half is left to answers.
    const numThreads = Math.max(1, Math.floor(availableParallelism() / 2));
    const data: EmbeddingThreadData = { folder, numThreads };
    const worker = new Worker(new URL("./embedding-thread.js", import.meta.url), { workerData: data });
    worker.unref();
    const name = await new Promise<string>((resolve, reject) => {
      worker.once("message", (answer: EmbeddingAnswer) => {
        if (answer.kind === "loaded") resolve(answer.name);
        else if (answer.kind === "failed") reject(new Error(answer.error));
      });
      worker.once("error", (error) => reject(new Error(`Cannot load the embedding model: ${error.message}`)));
      worker.once("exit", () => reject(new Error("Cannot load the embedding model: its thread ended")));
    });
    return new Embedder(worker, name);
  }

  async embed(texts: readonly string[], signal: AbortSignal): Promise<Embedded> {
    const vectors: Float32Array[] = [];
    let numTokens = 0;
    for (let from = 0; from < texts.length; from += maxTexts) {
      signal.throwIfAborted();
      const result = await this.#ask(texts.slice(from, from + maxTexts));
      if ("error" in result)
        throw fieldError(texts.length === 1 ? "input" : `input[${from + result.index}]`, result.error);
      vectors.push(...result.vectors);
      numTokens += result.numTokens;
    }
    return { vectors, numTokens };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.worker.terminate();
  }

  #ask(texts: readonly string[]): Promise<Embedded | RefusedText> {
    return new Promise((resolve, reject) => {
      if (this.#error !== undefined) return reject(this.#error);
      const number = this.#numRequests++;
      this.#waiting.set(number, { resolve, reject });
      this.worker.postMessage({ number, texts } satisfies EmbeddingRequest);
    });
  }

  #fail(why: string): void {
    this.#error ??= new EngineError("unavailable", `Cannot embed: ${why}`);
    for (const { reject } of this.#waiting.values()) reject(this.#error);
    this.#waiting.clear();
  }
}

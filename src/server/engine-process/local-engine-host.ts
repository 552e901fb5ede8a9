import { basename, resolve } from "node:path";
import { Engine, type EngineOptions, embeddedModelPath } from "../../engine/engine.js";
import { checkInput, EngineError } from "../../engine/engine-error.js";
import {
  type EngineHost,
  type HostBlock,
  type HostEncodeEvent,
  type HostEncodeRequest,
  HostError,
  type HostEvent,
  type HostGenerateRequest,
  type HostModel,
  type HostStats,
  type HostStatus,
  type HostToken,
  type HostTokenizeRequest,
} from "../engine-host.js";
import { EventQueue } from "./event-queue.js";
import { StatusSource } from "./status-source.js";
import { TokenSpeller } from "./token-speller.js";

/**
 * An engine in this process: what the engine's own process runs, and tests. It owns the engine.
 *
 * @example
 * await using host = await LocalEngineHost.load({ threads: 1 });
 * const tokens = await host.tokenize({ text: "Where is the key?", special: false });
 */
export class LocalEngineHost implements EngineHost {
  readonly model: HostModel;
  readonly #engine: Engine;
  readonly #speller: TokenSpeller;
  readonly #status = new StatusSource({ state: "ready", restarts: 0 });
  #closed: Promise<void> | undefined;

  private constructor(engine: Engine, path: string) {
    const { chatTemplate, source, tokenizer } = engine.model;
    this.#engine = engine;
    this.#speller = new TokenSpeller(tokenizer);
    this.model = {
      name: modelName(path),
      contextLength: engine.contextLength,
      vocabSize: source.config.vocabSize,
      kvType: engine.kvType,
      defaultMode: engine.defaultMode,
      trainedModes: source.config.blockAttention?.modes ?? [],
      hasChatTemplate: chatTemplate !== undefined,
      loadedAt: Math.floor(Date.now() / 1000),
    };
  }

  /** @throws as Engine.load(). */
  static async load(options: EngineOptions = {}): Promise<LocalEngineHost> {
    const engine = await Engine.load(options);
    return new LocalEngineHost(engine, options.model ?? embeddedModelPath());
  }

  get status(): HostStatus {
    return this.#status.current;
  }

  onStatus(listener: (status: HostStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  async *generate(request: HostGenerateRequest, signal?: AbortSignal): AsyncGenerator<HostEvent, void> {
    const { prompt, sampling, mode, salt, logprobs, echo } = request;
    const promptLogprobs = echo && logprobs ? (sampling.topLogprobs ?? 0) : undefined;
    const events = this.#engine.generate(prompt, { ...sampling, logprobs, promptLogprobs, mode, salt, signal });
    try {
      for await (const event of events) {
        if (event.kind === "prompt") {
          const { kind, mode, promptTokens, cachedTokens, blocks, promptTokenIds, promptLogprobs } = event;
          const tokens = promptLogprobs ?? promptTokenIds.map((id) => ({ id, logprob: undefined, top: [] }));
          const echoed = echo ? tokens.map((token) => this.#speller.logprobs(token)) : undefined;
          yield { kind, mode, promptTokens, cachedTokens, blocks, ...(echoed !== undefined && { echo: echoed }) };
        } else if (event.kind === "token") {
          const { kind, tokenId, text, logprob, top } = event;
          const told = logprobs ? this.#speller.logprobs({ id: tokenId, logprob, top }) : undefined;
          yield { kind, tokenId, text, ...(told !== undefined && { logprobs: told }) };
        } else {
          const { finishReason, mode, usage, timings, blocks, seed, warnings, endToken } = event.result;
          // The engine may still write to its own timings.
          const result = { finishReason, mode, usage, timings: { ...timings }, blocks, seed, warnings };
          const end = logprobs && endToken !== undefined ? { endToken: this.#speller.logprobs(endToken) } : {};
          yield { kind: "done", text: event.text, result: { ...result, ...end } };
        }
      }
    } catch (error) {
      throw this.#hostError(error);
    }
  }

  async *encode(request: HostEncodeRequest, signal?: AbortSignal): AsyncGenerator<HostEncodeEvent, void> {
    const leaving = new AbortController();
    const queue = new EventQueue<HostEncodeEvent>();
    const encoding = this.#engine
      .encode(request.passages, {
        salt: request.salt,
        signal: signal ? AbortSignal.any([signal, leaving.signal]) : leaving.signal,
        onBlock: (block) => queue.push([block]),
      })
      .then(
        () => queue.end(),
        (error: unknown) => queue.fail(signal?.aborted ? signal.reason : this.#hostError(error)),
      );
    try {
      yield* queue.read();
    } finally {
      leaving.abort(new Error("Cannot go on: the reader left"));
      await encoding;
    }
  }

  tokenize({ text, special }: HostTokenizeRequest): Promise<readonly HostToken[]> {
    const { tokenizer } = this.#engine.model;
    return this.#ask(async () => {
      const ids = checkInput(() => tokenizer.encode(text, special ? "all" : "none"));
      return ids.map((id) => this.#speller.token(id));
    });
  }

  block(id: string, salt: string): Promise<HostBlock | undefined> {
    return this.#ask(() => this.#engine.block(id, { salt }));
  }

  deleteBlock(id: string, salt: string): Promise<boolean> {
    return this.#ask(() => this.#engine.deleteBlock(id, { salt }));
  }

  stats(): Promise<HostStats> {
    return this.#ask(async () => {
      const { store, contexts, weightBytes, computeBytes, requests } = this.#engine.stats();
      const { capBytes, leasedBytes, idleBytes, freeBytes, unkeptBytes, numBlocks, hits, misses, waits } = store;
      const evictions = store.evictionsByReason;
      return {
        store: { capBytes, leasedBytes, idleBytes, freeBytes, unkeptBytes, numBlocks, hits, misses, waits, evictions },
        contexts,
        weightBytes,
        computeBytes,
        requests,
        processBytes: process.memoryUsage.rss(),
      };
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#status.change({ state: "closed" });
    await this.#engine[Symbol.asyncDispose]();
  }

  async #ask<T>(answer: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) throw new HostError("unavailable", "Cannot use the engine: it was closed");
    try {
      return await answer();
    } catch (error) {
      throw this.#hostError(error);
    }
  }

  #hostError(error: unknown): HostError {
    const message = error instanceof Error ? error.message : String(error);
    const code = error instanceof EngineError ? error.code : this.#closed !== undefined ? "unavailable" : "failed";
    return new HostError(code, message, { cause: error });
  }
}

/** A model's file or folder name, without path and ending. */
function modelName(path: string): string {
  return basename(resolve(path)).replace(/\.gguf$/i, "");
}

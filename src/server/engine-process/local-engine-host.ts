import { basename, resolve } from "node:path";
import { Engine } from "../../engine/engine.js";
import { EngineError } from "../../engine/engine-error.js";
import type { EngineOptions } from "../../engine/engine-options.js";
import { embeddedModelPath } from "../../engine/model.js";
import { type PromptInput, TokenizedPrompt } from "../../engine/prompt.js";
import type { AttentionMode } from "../../model/block-attention-config.js";
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
  type HostTokenizeEvent,
  type HostTokenizeRequest,
} from "../engine-host.js";
import { EventQueue } from "./event-queue.js";
import { SharedWork } from "./shared-work.js";
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
  readonly #prompts = new WeakMap<PromptInput, Partial<Record<AttentionMode, SharedWork<TokenizedPrompt>>>>();
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
    const { sampling, mode, salt, logprobs, echo } = request;
    const numTop = sampling.topLogprobs ?? 0;
    const promptLogprobs = echo && logprobs ? numTop : undefined;
    const startedAt = performance.now();
    try {
      const prompt = await this.#tokenized(request, signal);
      const tokenizeMs = performance.now() - startedAt;
      if (logprobs && prompt instanceof TokenizedPrompt) this.#checkLogprobs(request, prompt.numTokens);
      const options = { ...sampling, logprobs, promptLogprobs, mode, salt, signal };
      for await (const event of this.#engine.generate(prompt, options)) {
        if (event.kind === "prompt") {
          const { kind, mode, promptTokens, cachedTokens, blocks, promptTokenIds, promptLogprobs } = event;
          const tokens = promptLogprobs ?? promptTokenIds.map((id) => ({ id, logprob: undefined, top: [] }));
          if (echo) {
            for (const some of inParts(tokens, Math.ceil(logprobsOfEvent / (1 + numTop)))) {
              yield { kind: "echo", tokens: some.map((token) => this.#speller.logprobs(token)) };
            }
          }
          yield { kind, mode, promptTokens, cachedTokens, blocks };
        } else if (event.kind === "token") {
          const { kind, tokenId, text, logprob, top } = event;
          const told = logprobs ? this.#speller.logprobs({ id: tokenId, logprob, top }) : undefined;
          yield { kind, tokenId, text, ...(told !== undefined && { logprobs: told }) };
        } else {
          const { finishReason, mode, usage, timings, blocks, seed, warnings, endToken } = event.result;
          // The engine may still write to its own timings.
          const ttftMs = timings.ttftMs === undefined ? undefined : timings.ttftMs + tokenizeMs;
          const told = { ...timings, tokenizeMs: timings.tokenizeMs + tokenizeMs, ttftMs };
          const result = { finishReason, mode, usage, timings: told, blocks, seed, warnings };
          const end = logprobs && endToken !== undefined ? { endToken: this.#speller.logprobs(endToken) } : {};
          yield { kind: "done", text: event.text, result: { ...result, ...end } };
        }
      }
    } catch (error) {
      throw this.#hostError(error);
    }
  }

  async *encode(
    { passages, ...options }: HostEncodeRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<HostEncodeEvent, void> {
    const leaving = new AbortController();
    const queue = new EventQueue<HostEncodeEvent>();
    const encoding = this.#engine
      .encode(passages, {
        ...options,
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

  async *tokenize(
    { text, special, maxTokens }: HostTokenizeRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<HostTokenizeEvent, void> {
    const ids = await this.#ask(() => this.#engine.tokenize(text, { special, maxTokens, signal })).catch((error) => {
      throw signal?.aborted ? signal.reason : error;
    });
    const numTokens = ids.length;
    if (numTokens === 0) yield { numTokens, tokens: [] };
    for (const some of inParts(ids, tokensOfEvent)) {
      yield { numTokens, tokens: some.map((id) => this.#speller.token(id)) };
    }
  }

  /** A prompt's tokens, made once for all requests that share it. After an abort the prompt as it is: its answer says so. */
  async #tokenized(request: HostGenerateRequest, signal?: AbortSignal): Promise<PromptInput | TokenizedPrompt> {
    const mode = request.mode ?? this.#engine.defaultMode;
    const ofPrompt = this.#prompts.get(request.prompt) ?? {};
    this.#prompts.set(request.prompt, ofPrompt);
    if (ofPrompt[mode] === undefined || ofPrompt[mode].isCancelled) {
      ofPrompt[mode] = new SharedWork((signal) => this.#engine.tokenizePrompt(request.prompt, { mode, signal }));
    }
    try {
      return await ofPrompt[mode].wait(signal);
    } catch (error) {
      if (signal?.aborted) return request.prompt;
      throw error;
    }
  }

  /** @throws HostError where a request could be told more log-probabilities than it may. */
  #checkLogprobs({ sampling, echo, maxLogprobs }: HostGenerateRequest, promptTokens: number): void {
    const { topLogprobs = 0, maxTokens } = sampling;
    const numTokens = Math.min(maxTokens ?? Infinity, this.#engine.contextLength - promptTokens);
    const numLogprobs = ((echo ? promptTokens : 0) + numTokens) * (1 + topLogprobs);
    if (maxLogprobs === undefined || numLogprobs <= maxLogprobs) return;
    throw new HostError(
      "invalid",
      `Cannot tell log-probabilities: there could be ${numLogprobs}, wanted up to ${maxLogprobs}; ask for fewer answers, shorter ones, or fewer likeliest tokens`,
    );
  }

  block(id: string, salt: string): Promise<HostBlock | undefined> {
    return this.#ask(() => this.#engine.block(id, { salt }));
  }

  deleteBlock(id: string, salt: string): Promise<boolean> {
    return this.#ask(() => this.#engine.deleteBlock(id, { salt }));
  }

  stats(): Promise<HostStats> {
    return this.#ask(async () => {
      const { store, contexts, weightBytes, computeBytes, requests, batching } = this.#engine.stats();
      const { capBytes, leasedBytes, idleBytes, freeBytes, unkeptBytes, numBlocks, hits, misses, waits } = store;
      const evictions = store.evictionsByReason;
      return {
        store: { capBytes, leasedBytes, idleBytes, freeBytes, unkeptBytes, numBlocks, hits, misses, waits, evictions },
        contexts,
        weightBytes,
        computeBytes,
        requests,
        graphs: { rows: batching.rowGraphs, decode: batching.decodeGraphs },
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
    if (error instanceof HostError) return error;
    const message = error instanceof Error ? error.message : String(error);
    const code = error instanceof EngineError ? error.code : this.#closed !== undefined ? "unavailable" : "failed";
    return new HostError(code, message, { cause: error });
  }
}

/** Of what is told in one event: a few milliseconds' worth of messages. */
const tokensOfEvent = 256;
const logprobsOfEvent = 2048;

function* inParts<T>(items: readonly T[], size: number): Generator<readonly T[], void> {
  for (let first = 0; first < items.length; first += size) yield items.slice(first, first + size);
}

/** A model's file or folder name, without path and ending. */
function modelName(path: string): string {
  return basename(resolve(path)).replace(/\.gguf$/i, "");
}

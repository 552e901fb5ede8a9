import { basename, resolve } from "node:path";
import { Engine, type EngineOptions, embeddedModelPath } from "../../engine/engine.js";
import { tokenizePrompt } from "../../engine/prompt.js";
import type { TokenLogprob } from "../../engine/sampler.js";
import type { Tokenizer } from "../../tokenizer/tokenizer.js";
import {
  type EngineHost,
  type HostBlock,
  type HostEncodeEvent,
  type HostEncodeRequest,
  HostError,
  type HostEvent,
  type HostGenerateRequest,
  type HostLogprobs,
  type HostModel,
  type HostStats,
  type HostStatus,
  type HostToken,
  type HostTokenizeRequest,
  type HostTokenLogprob,
} from "../engine-host.js";
import { EventQueue } from "./event-queue.js";
import { StatusSource } from "./status-source.js";

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
  readonly #status = new StatusSource({ state: "ready", restarts: 0 });
  #closed: Promise<void> | undefined;

  private constructor(engine: Engine, path: string) {
    const { chatTemplate, source } = engine.model;
    this.#engine = engine;
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
    const { tokenizer } = this.#engine.model;
    const { prompt, sampling, mode, logprobs, echo } = request;
    const events = this.#engine.generate(prompt, { ...sampling, mode, signal });
    try {
      for await (const event of events) {
        if (event.kind === "prompt") {
          const echoed = echo ? this.#echo(request) : undefined;
          yield echoed === undefined ? event : { ...event, echo: echoed };
        } else if (event.kind === "token") {
          const { kind, tokenId, text } = event;
          if (logprobs) {
            yield { kind, tokenId, text, logprobs: hostLogprobs(tokenizer, { id: tokenId, ...event }) };
          } else {
            yield { kind, tokenId, text };
          }
        } else {
          const { finishReason, mode, usage, timings, blocks, seed, warnings } = event.result;
          const result = { finishReason, mode, usage, timings: { ...timings }, blocks, seed, warnings };
          yield { kind: "done", text: event.text, result };
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
        signal: signal ? AbortSignal.any([signal, leaving.signal]) : leaving.signal,
        onBlock: (index, block) => queue.push([{ index, block }]),
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

  async tokenize({ text, special }: HostTokenizeRequest): Promise<readonly HostToken[]> {
    const { tokenizer } = this.#engine.model;
    try {
      this.#checkOpen();
      return tokenizer.encode(text, special ? "all" : "none").map((id) => hostToken(tokenizer, id));
    } catch (error) {
      throw this.#hostError(error);
    }
  }

  async block(id: string, salt: string): Promise<HostBlock | undefined> {
    throw new HostError("failed", `Cannot look up block "${id}" of "${salt}": not there yet`);
  }

  async deleteBlock(id: string, salt: string): Promise<boolean> {
    throw new HostError("failed", `Cannot delete block "${id}" of "${salt}": not there yet`);
  }

  async stats(): Promise<HostStats> {
    this.#checkOpen();
    const { store, contexts, weightBytes, computeBytes, requests } = this.#engine.stats();
    const { numEncoding: _, takeovers: __, evictions, ...kept } = store;
    return {
      store: { ...kept, evictions: { room: evictions } },
      contexts,
      weightBytes,
      computeBytes,
      requests: { queued: 0, ...requests },
      processBytes: process.memoryUsage.rss(),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#status.change({ state: "closed" });
    await this.#engine[Symbol.asyncDispose]();
  }

  #checkOpen(): void {
    if (this.#closed !== undefined) throw new HostError("unavailable", "Cannot use the engine: it was closed");
  }

  #echo({ prompt, mode = this.#engine.defaultMode }: HostGenerateRequest): HostLogprobs[] {
    const { tokenizer } = this.#engine.model;
    const ids = tokenizePrompt(prompt, mode, this.#engine.promptContext).cutTokenIds.flat();
    return ids.map((id) => ({ ...hostToken(tokenizer, id), logprob: undefined, top: [] }));
  }

  #hostError(error: unknown): HostError {
    if (error instanceof HostError) return error;
    const message = error instanceof Error ? error.message : String(error);
    const isInput = error instanceof TypeError || error instanceof RangeError;
    const code = this.#closed !== undefined ? "unavailable" : isInput ? "invalid" : "failed";
    return new HostError(code, message, { cause: error });
  }
}

function hostLogprobs(
  tokenizer: Tokenizer,
  {
    id,
    logprob,
    top,
  }: { readonly id: number; readonly logprob: number | undefined; readonly top: readonly TokenLogprob[] },
): HostLogprobs {
  const likeliest = top.map((one): HostTokenLogprob => ({ ...hostToken(tokenizer, one.id), logprob: one.logprob }));
  return { ...hostToken(tokenizer, id), logprob, top: likeliest };
}

function hostToken(tokenizer: Tokenizer, id: number): HostToken {
  // Rows that pad the embedding have no text.
  const bytes = id < tokenizer.vocabSize ? tokenizer.tokenBytes(id) : new Uint8Array();
  return { id, text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes), bytes: [...bytes] };
}

/** A model's file or folder name, without path and ending. */
function modelName(path: string): string {
  return basename(resolve(path)).replace(/\.gguf$/i, "");
}

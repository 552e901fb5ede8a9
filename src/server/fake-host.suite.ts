import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type PassageInput, passageBlock, readPassage } from "../blocks/passage.js";
import type { PromptInput } from "../engine/prompt.js";
import type { ServedBlock, Timings } from "../engine/results.js";
import type { BlockId } from "../kv/block-id.js";
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
  type HostTokenizeEvent,
  type HostTokenizeRequest,
} from "./engine-host.js";

export interface FakeHostOptions {
  /** Time for each token, and before the first, in milliseconds. Default 0: as fast as the reader takes them. */
  readonly tokenMs?: number;
  /** Answers begin once this is fulfilled. */
  readonly opened?: Promise<void>;
  /** Default "ready". */
  readonly state?: HostStatus["state"];
  /** The answer's words; repeated up to maxTokens where `endless`. Default: "The answer is 42.". */
  readonly answer?: string;
  readonly endless?: boolean;
  /** Fails each answer after so many tokens. */
  readonly failAfter?: { readonly tokens: number; readonly error: HostError };
  readonly model?: Partial<HostModel>;
}

const fakeModel: HostModel = {
  name: "fake-model",
  contextLength: 2048,
  vocabSize: 2 ** 16,
  kvType: "f16",
  defaultMode: "block",
  trainedModes: ["block", "full"],
  hasChatTemplate: true,
  loadedAt: 1_700_000_000,
};

/**
 * An engine without a model, for tests of the server: a token is a word with the space before it, every answer is the
 * same, blocks are kept for ever. It counts what it is asked and what has not ended yet.
 */
export class FakeHost implements EngineHost {
  /** Requests as they came. */
  readonly asked: HostGenerateRequest[] = [];
  readonly #options: FakeHostOptions;
  readonly #words: readonly HostToken[];
  readonly #listeners = new Set<(status: HostStatus) => void>();
  /** By salt and id. */
  readonly #blocks = new Map<string, HostBlock>();
  readonly #counts = { running: 0, finished: 0, cancelled: 0, failed: 0, hits: 0, misses: 0 };
  #status: HostStatus;

  constructor(options: FakeHostOptions = {}) {
    this.#options = options;
    this.#words = tokensOf(options.answer ?? "The answer is 42.");
    this.#status = { state: options.state ?? "ready", restarts: 0 };
  }

  get status(): HostStatus {
    return this.#status;
  }

  get model(): HostModel | undefined {
    return this.#status.state === "loading" || this.#status.state === "failed"
      ? undefined
      : { ...fakeModel, ...this.#options.model };
  }

  /** Requests that have begun and not ended. */
  get running(): number {
    return this.#counts.running;
  }

  get cancelled(): number {
    return this.#counts.cancelled;
  }

  setStatus(status: HostStatus): void {
    this.#status = status;
    for (const listener of this.#listeners) listener(status);
  }

  onStatus(listener: (status: HostStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async *generate(request: HostGenerateRequest, signal?: AbortSignal): AsyncGenerator<HostEvent, void> {
    this.#checkReady();
    this.asked.push(request);
    const { sampling, logprobs } = request;
    const { tokenMs = 0, failAfter, endless = false } = this.#options;
    this.#counts.running += 1;
    let isEnded = false;
    try {
      const mode = request.mode ?? fakeModel.defaultMode;
      const texts = promptTexts(request.prompt, mode === "block");
      const tokens = texts.flatMap(tokensOf);
      const { contextLength } = this.model as HostModel;
      if (tokens.length === 0) throw new HostError("invalid", "Cannot use the prompt: it is empty");
      if (tokens.length > contextLength) {
        throw new HostError(
          "too_long",
          `Cannot use the prompt: it has ${tokens.length} tokens, the context takes ${contextLength}`,
        );
      }
      const blocks = texts.slice(0, -1).map((text) => this.#serve(text, request.salt));
      const cachedTokens = blocks.reduce((sum, block) => sum + (block.hit ? block.tokens : 0), 0);
      const numTop = sampling.topLogprobs ?? 0;
      if (request.echo) {
        const told = tokens.map((token, i) => withLogprobs(token, i === 0 || !logprobs ? undefined : -0.5, numTop));
        yield { kind: "echo", tokens: told.slice(0, 2) };
        yield { kind: "echo", tokens: told.slice(2) };
      }
      yield {
        kind: "prompt",
        mode,
        promptTokens: tokens.length,
        cachedTokens,
        blocks,
      };

      await this.#options.opened;
      const startedAt = performance.now();
      const maxTokens = Math.min(sampling.maxTokens ?? 200, contextLength - tokens.length);
      const words = this.#words;
      let text = "";
      let numTokens = 0;
      let ttftMs: number | undefined;
      let finishReason: "stop" | "length" | "cancelled" = "length";
      while (numTokens < maxTokens) {
        if (!(await passed(tokenMs, signal))) {
          finishReason = "cancelled";
          break;
        }
        if (failAfter !== undefined && numTokens >= failAfter.tokens) throw failAfter.error;
        const word = words[endless ? numTokens % words.length : numTokens];
        const stop = word && sampling.stop?.find((one) => (text + word.text).includes(one));
        if (word === undefined || stop !== undefined) {
          finishReason = "stop";
          break;
        }
        numTokens += 1;
        text += word.text;
        ttftMs ??= performance.now() - startedAt;
        yield {
          kind: "token",
          tokenId: word.id,
          text: word.text,
          ...(logprobs && { logprobs: withLogprobs(word, -0.25, numTop) }),
        };
      }
      if (signal?.aborted) finishReason = "cancelled";
      this.#counts[finishReason === "cancelled" ? "cancelled" : "finished"] += 1;
      isEnded = true;
      yield {
        kind: "done",
        text: "",
        result: {
          finishReason,
          mode,
          usage: { promptTokens: tokens.length, cachedTokens, completionTokens: numTokens },
          timings: timings(ttftMs, performance.now() - startedAt),
          blocks,
          seed: sampling.seed ?? 7,
          warnings: [],
        },
      };
    } catch (error) {
      isEnded = true;
      this.#counts.failed += 1;
      throw error;
    } finally {
      // The reader left the loop early.
      if (!isEnded) this.#counts.cancelled += 1;
      this.#counts.running -= 1;
    }
  }

  async *encode(request: HostEncodeRequest, signal?: AbortSignal): AsyncGenerator<HostEncodeEvent, void> {
    this.#checkReady();
    for (const [index, passage] of request.passages.entries()) {
      if (!(await passed(this.#options.tokenMs ?? 0, signal))) throw signal?.reason;
      const { label, ...read } = readPassage(passage, index);
      const text = passageBlock(read, fakeForm);
      const message = `Cannot encode passage ${index + 1}: it is empty`;
      if (text.trim() === "") yield { passage: label, error: { code: "invalid", message } };
      else yield { ...this.#serve(text, request.salt), passage: label };
    }
  }

  async *tokenize({ text, maxTokens = Infinity }: HostTokenizeRequest): AsyncGenerator<HostTokenizeEvent, void> {
    this.#checkReady();
    const tokens = tokensOf(text);
    if (tokens.length > maxTokens) throw new HostError("too_long", `Cannot use the text: over ${maxTokens} tokens`);
    yield { numTokens: tokens.length, tokens: tokens.slice(0, 2) };
    if (tokens.length > 2) yield { numTokens: tokens.length, tokens: tokens.slice(2) };
  }

  async block(id: string, salt: string): Promise<HostBlock | undefined> {
    this.#checkReady();
    return this.#blocks.get(`${salt}:${id}`);
  }

  async deleteBlock(id: string, salt: string): Promise<boolean> {
    this.#checkReady();
    return this.#blocks.delete(`${salt}:${id}`);
  }

  async stats(): Promise<HostStats> {
    this.#checkReady();
    const { hits, misses, running, finished, cancelled, failed } = this.#counts;
    const idleBytes = [...this.#blocks.values()].reduce((sum, block) => sum + block.bytes, 0);
    return {
      store: {
        capBytes: 2 ** 30,
        leasedBytes: 0,
        idleBytes,
        freeBytes: 2 ** 30 - idleBytes,
        unkeptBytes: 0,
        numBlocks: this.#blocks.size,
        hits,
        misses,
        waits: 0,
        evictions: { room: 0 },
      },
      contexts: { capBytes: 2 ** 30, usedBytes: 0 },
      weightBytes: 1000,
      computeBytes: 1000,
      requests: { queued: 0, running, finished, cancelled, failed },
      graphs: { rows: misses, decode: finished },
      processBytes: 2 ** 20,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.setStatus({ ...this.#status, state: "closed" });
  }

  #checkReady(): void {
    const { state } = this.#status;
    if (state !== "ready") throw new HostError("unavailable", `Cannot serve: the engine is ${state}`);
  }

  #serve(text: string, salt: string): ServedBlock {
    const id = createHash("sha256").update(`${salt}\0${text}`).digest("hex") as BlockId;
    const key = `${salt}:${id}`;
    const tokens = tokensOf(text).length;
    const hit = this.#blocks.has(key);
    this.#counts[hit ? "hits" : "misses"] += 1;
    this.#blocks.set(key, { id, tokens, bytes: tokens * 64, inUse: false });
    return { id, tokens, hit };
  }
}

/** Words with the space before them; what follows the last word is its own token. */
function tokensOf(text: string): HostToken[] {
  return (text.match(/\s*\S+|\s+$/g) ?? []).map((piece) => ({
    id: createHash("sha256").update(piece).digest().readUInt16BE(),
    text: piece,
    bytes: [...Buffer.from(piece)],
  }));
}

/** @returns the blocks' texts, the final one last. */
function promptTexts(input: PromptInput, isBlockMode: boolean): string[] {
  const numLocal = "numLocalAttentionBlocks" in input ? input.numLocalAttentionBlocks : undefined;
  const texts = cut(input);
  const wanted = isBlockMode ? Math.min(numLocal ?? texts.length, texts.length - 1) : 0;
  return [...texts.slice(0, wanted), texts.slice(wanted).join("")];
}

function cut(input: PromptInput): string[] {
  if ("blocks" in input) return [...input.blocks];
  if ("blockTokenIds" in input) return input.blockTokenIds.map((ids) => ids.map((id) => ` <${id}>`).join(""));
  if ("prompt" in input) return [input.prompt];
  if ("question" in input) return [...input.documents.map(passageTextOf), input.question];
  const turns = input.messages.flatMap(({ content }) => (typeof content === "string" ? [content] : [...content]));
  return [...(input.documents ?? []).map(passageTextOf), ...turns];
}

const fakeForm = "- Title: {title}\n{text}\n";

function passageTextOf(passage: PassageInput): string {
  return passageBlock(readPassage(passage, 0), fakeForm);
}

function withLogprobs(token: HostToken, logprob: number | undefined, numTop: number): HostLogprobs {
  const others = [" a", " b", " c", " d", " e"].flatMap(tokensOf);
  const top = logprob === undefined ? [] : [token, ...others].slice(0, numTop);
  return { ...token, logprob, top: top.map((one, i) => ({ ...one, logprob: (logprob ?? 0) - i })) };
}

/** @returns whether the time passed without an abort. */
async function passed(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    // Without a time too: readers get their turn, as they do with a real engine.
    if (ms > 0) await sleep(ms, undefined, { signal });
    else await new Promise((resolve) => setImmediate(resolve));
  } catch {
    return false;
  }
  return signal?.aborted !== true;
}

function timings(ttftMs: number | undefined, decodeMs: number): Timings {
  return { tokenizeMs: 0, queueMs: 0, waitMs: 0, encodeMs: 0, assembleMs: 0, prefillMs: 0, ttftMs, decodeMs };
}

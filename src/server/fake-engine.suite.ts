import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type PassageInput, passageBlock, readPassage } from "../blocks/passage.js";
import { CallDocuments } from "../engine/call-documents.js";
import type { Engine } from "../engine/engine.js";
import { checkInput, EngineError } from "../engine/engine-error.js";
import {
  type DocumentsOptions,
  type EncodeOptions,
  type GenerateOptions,
  type RequestOptions,
  readGenerateOptions,
  type ScoreOptions,
  type TokenizeOptions,
} from "../engine/engine-options.js";
import type { ModelInfo } from "../engine/model.js";
import type { PromptInput } from "../engine/prompt.js";
import { namesRepair, repairText, resolveRepair } from "../engine/repair.js";
import {
  type EncodedPassage,
  type EncodeResult,
  type EngineStats,
  type GenerateEvent,
  type GenerateResult,
  nothingReused,
  type ReuseMiss,
  type ScoreResult,
  type ServedBlock,
  type SpelledToken,
  type Timings,
  type Token,
} from "../engine/results.js";
import { requireLogprobs, seedOfAnswer } from "../engine/sampling-options.js";
import { type EngineStatus, StatusSource } from "../engine/status-source.js";
import { type BlockId, passageName } from "../kv/block-id.js";
import type { BlockInfo } from "../kv/block-store.js";
import { type DocumentInfo, Documents, MemoryTexts } from "../kv/documents.js";
import { merge, type PromptRequest } from "./openai/run-choices.js";

export interface FakeEngineOptions {
  /** Time for each token, and before the first, in milliseconds. Default 0: as fast as the reader takes them. */
  readonly tokenMs?: number;
  /** Answers begin once this is fulfilled. */
  readonly opened?: Promise<void>;
  /** Default "ready". */
  readonly state?: EngineStatus["state"];
  /** The answer's words; repeated up to maxTokens where `endless`. Of several the requests' in their order, the last one's from then on. Default: "The answer is 42.". */
  readonly answer?: string | readonly string[];
  readonly endless?: boolean;
  /** Fails each answer after so many tokens. */
  readonly failAfter?: { readonly tokens: number; readonly error: EngineError };
  /** The prompt ends where reasoning begins. */
  readonly opensReasoning?: boolean;
  readonly info?: Partial<ModelInfo>;
}

const fakeInfo: ModelInfo = {
  name: "fake-model",
  contextLength: 2048,
  vocabSize: 2 ** 16,
  kvType: "f16",
  defaultMode: "block",
  trainedModes: ["block", "full"],
  reuseNote: undefined,
  hasChatTemplate: true,
  loadedAt: 1_700_000_000,
};

/**
 * An engine without a model, for tests of the server: a token is a word with the space before it, every answer is the
 * same, blocks are kept for ever. It counts what it is asked and what has not ended yet.
 */
export class FakeEngine implements Engine {
  /** Prompts as they came. */
  readonly asked: PromptRequest[] = [];
  readonly #options: FakeEngineOptions;
  readonly #answers: readonly (readonly Token[])[];
  readonly #status: StatusSource;
  /** By salt and id. */
  readonly #blocks = new Map<string, BlockInfo>();
  readonly #documents = new Documents(new MemoryTexts(), async (names, salt) => {
    for (const { id } of [...this.#blocks.values()])
      if (names.has(passageName(id))) await this.deleteBlock(id, { salt });
  });
  /** Prompts' global tokens and their answers, by salt and the texts before them. */
  readonly #prefixes = new Map<string, string[][]>();
  readonly #counts = { running: 0, finished: 0, cancelled: 0, failed: 0, hits: 0, misses: 0, deleted: 0 };
  readonly #closing = new AbortController();

  constructor(options: FakeEngineOptions = {}) {
    this.#options = options;
    this.#answers = [options.answer ?? "The answer is 42."].flat().map(tokensOf);
    this.#status = new StatusSource({ state: options.state ?? "ready", restarts: 0 });
  }

  get status(): EngineStatus {
    return this.#status.current;
  }

  /** Of the request that came last. */
  get #words(): readonly Token[] {
    return this.#answers[Math.min(this.asked.length, this.#answers.length) - 1] as readonly Token[];
  }

  get info(): ModelInfo | undefined {
    return this.status.state === "loading" || this.status.state === "failed"
      ? undefined
      : { ...fakeInfo, ...this.#options.info };
  }

  /** Answers that have begun and not ended. */
  get running(): number {
    return this.#counts.running;
  }

  get cancelled(): number {
    return this.#counts.cancelled;
  }

  setStatus(status: EngineStatus): void {
    this.#status.change(status);
  }

  onStatus(listener: (status: EngineStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  async *generate(
    prompt: PromptInput,
    { signal, ...options }: GenerateOptions & RequestOptions = {},
  ): AsyncGenerator<GenerateEvent, void> {
    this.#checkReady();
    this.asked.push({ prompt, options });
    const { n = 1, echo = false, logprobs = true, topLogprobs = 0, maxTokens = 200, salt = "" } = options;
    const { defaultMode, contextLength, reuseNote } = this.info as ModelInfo;
    checkInput(() => readGenerateOptions("generate", options));
    const isNamed = namesRepair(options.repair);
    const mode = options.mode ?? (isNamed ? "block" : defaultMode);
    const asked = mode === "full" || options.repair === undefined ? {} : resolveRepair(options.repair, undefined);
    if (mode === "full" && isNamed) {
      const text = JSON.stringify(options.repair);
      throw new EngineError("invalid", `Cannot use the repair ${text}: the mode is full, which loses nothing`);
    }
    const texts = promptTexts(prompt, mode === "block");
    const tokens = texts.flatMap(tokensOf);
    if (tokens.length === 0) throw new EngineError("invalid", "Cannot use the prompt: it is empty");
    if (tokens.length > contextLength) {
      const sizes = `it has ${tokens.length} tokens, the context takes ${contextLength}`;
      throw new EngineError("too_long", `Cannot use the prompt: ${sizes}`);
    }
    if (logprobs) {
      const numTokens = Math.min(maxTokens, contextLength - tokens.length) + (echo ? tokens.length : 0);
      requireLogprobs(numTokens * (1 + topLogprobs), options.maxLogprobs);
    }
    const blocks = texts.slice(0, -1).map((text) => this.#serve(text, salt));
    const inBlocks = blocks.reduce((sum, block) => sum + (block.hit ? block.tokens : 0), 0);
    const inPrefix = this.#servePrefix(texts, options);
    const isConversation = "messages" in prompt && prompt.messages.some(({ role }) => role === "assistant");
    const reused = { ...nothingReused, blocks: inBlocks, [isConversation ? "conversation" : "prefix"]: inPrefix };
    const cachedTokens = inBlocks + inPrefix;
    const { opensReasoning } = this.#options;
    const counts = { promptTokens: tokens.length, cachedTokens, reused };
    const prepared = { kind: "prompt" as const, mode, ...counts, blocks, ...(opensReasoning && { opensReasoning }) };
    const hasPassages = mode === "full" && options.mode === undefined && cut(prompt).length > 2;
    const told = {
      repair: Object.keys(asked).length === 0 ? undefined : { text: repairText(asked), recomputedTokens: 0 },
      misses: options.explain ? texts.flatMap((text, i) => missOf(text, blocks[i], i)) : undefined,
      warnings: hasPassages && reuseNote !== undefined ? [reuseNote] : [],
    };
    const answers = Array.from({ length: n }, (_, index) => this.#answer(prepared, told, options, index, signal));
    this.#counts.running += n;
    let ended = 0;
    try {
      if (echo && !signal?.aborted) {
        const told = tokens.map((token, i) => spelled(token, i === 0 || !logprobs ? undefined : -0.5, topLogprobs));
        yield { kind: "echo", tokens: told.slice(0, 2) };
        yield { kind: "echo", tokens: told.slice(2) };
      }
      if (!signal?.aborted) yield prepared;
      await this.#options.opened;
      for await (const [event] of merge(answers)) {
        if (event.kind === "done") {
          this.#counts.running -= 1;
          ended += 1;
          this.#counts[event.result.finishReason === "cancelled" ? "cancelled" : "finished"] += 1;
        }
        yield event;
      }
    } catch (error) {
      this.#counts.failed += n - ended;
      this.#counts.running -= n - ended;
      ended = n;
      throw error;
    } finally {
      // The reader left the loop early.
      this.#counts.cancelled += n - ended;
      this.#counts.running -= n - ended;
    }
  }

  async *#answer(
    { mode, promptTokens, cachedTokens, reused, blocks }: GenerateEvent & { kind: "prompt" },
    told: Pick<GenerateResult, "repair" | "misses" | "warnings">,
    options: GenerateOptions,
    index: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<GenerateEvent & { index: number }, void> {
    const { logprobs = true, topLogprobs = 0, maxTokens = 200, spell = false, stop: stops = [] } = options;
    const { tokenMs = 0, failAfter, endless = false } = this.#options;
    const { contextLength } = this.info as ModelInfo;
    const startedAt = performance.now();
    const words = this.#words;
    const tokenIds: number[] = [];
    let text = "";
    let ttftMs: number | undefined;
    let finishReason: "stop" | "length" | "cancelled" = "length";
    while (tokenIds.length < Math.min(maxTokens, contextLength - promptTokens)) {
      if (!(await passed(tokenMs, signal))) break;
      this.#closing.signal.throwIfAborted();
      if (failAfter !== undefined && tokenIds.length >= failAfter.tokens) throw failAfter.error;
      const word = words[endless ? tokenIds.length % words.length : tokenIds.length];
      if (word === undefined || stops.some((one) => (text + word.text).includes(one))) {
        finishReason = "stop";
        break;
      }
      tokenIds.push(word.id);
      text += word.text;
      ttftMs ??= performance.now() - startedAt;
      const token = spelled(word, logprobs ? -0.25 : undefined, topLogprobs);
      const { logprob, top } = token;
      yield { kind: "token", index, tokenId: word.id, text: word.text, logprob, top, ...(spell && { spelled: token }) };
    }
    if (signal?.aborted) finishReason = "cancelled";
    const drafts = options.prediction === undefined ? undefined : { accepted: 1, rejected: 2 };
    const result = {
      text,
      tokenIds,
      endToken: undefined,
      finishReason,
      mode,
      usage: { promptTokens, cachedTokens, reused, completionTokens: tokenIds.length, drafts },
      timings: timings(ttftMs, performance.now() - startedAt),
      blocks,
      seed: seedOfAnswer(options.seed ?? 7, index) as number,
      ...told,
    };
    yield { kind: "done", index, text: "", result };
  }

  async scoreEach(
    input: PromptInput,
    continuations: readonly (string | readonly number[])[],
    { mode = fakeInfo.defaultMode, top: numTop = 5, signal }: ScoreOptions = {},
  ): Promise<ScoreResult[]> {
    this.#checkReady();
    signal?.throwIfAborted();
    const texts = promptTexts(input, mode === "block");
    const blockTokenIds = texts.map((text) => tokensOf(text).map(({ id }) => id));
    const promptTokens = blockTokenIds.flat().length;
    return continuations.map((continuation) => {
      const ids = typeof continuation === "string" ? tokensOf(continuation).map(({ id }) => id) : continuation;
      if (ids.length === 0) throw new EngineError("invalid", "Cannot score: the continuation is empty");
      return {
        blockTokenIds,
        continuationTokenIds: ids,
        logprobs: ids.map(() => -0.5),
        top: ids.map((id) => [{ id, logprob: -0.5 }].slice(0, numTop)),
        mode,
        usage: { promptTokens, cachedTokens: 0, reused: nothingReused, completionTokens: ids.length },
      };
    });
  }

  async encode(passages: readonly PassageInput[], options: EncodeOptions = {}): Promise<EncodeResult> {
    this.#checkReady();
    const { signal, salt = "", onBlock } = options;
    const blocks: EncodedPassage[] = [];
    const labels = passages.map((passage, index) => ({ passage: readPassage(passage, index).label }));
    const documents = checkInput(() => new CallDocuments(passages, labels));
    for (const [index, passage] of passages.entries()) {
      if (!(await passed(this.#options.tokenMs ?? 0, signal))) throw signal?.reason;
      const { label, ...read } = readPassage(passage, index);
      const text = passageBlock(read, fakeForm);
      const message = `Cannot encode passage ${index + 1}: it is empty`;
      if (text.trim() === "") blocks.push({ passage: label, error: { code: "invalid", message } });
      else blocks.push({ ...this.#serve(text, salt), passage: label });
      const block = blocks.at(-1) as EncodedPassage;
      if (block.error === undefined) documents.add(block, { ...block, name: passageName(block.id) });
      await this.#documents.put(salt, documents.take(index + 1));
      await onBlock?.(block);
    }
    return { blocks, failed: blocks.filter(({ error }) => error !== undefined).length };
  }

  async tokenize(text: string, { maxTokens = Infinity, signal, onTokens }: TokenizeOptions = {}): Promise<number[]> {
    this.#checkReady();
    signal?.throwIfAborted();
    const tokens = tokensOf(text);
    if (tokens.length > maxTokens) throw new EngineError("too_long", `Cannot use the text: over ${maxTokens} tokens`);
    await onTokens?.(tokens.slice(0, 2), tokens.length);
    if (tokens.length > 2) await onTokens?.(tokens.slice(2), tokens.length);
    return tokens.map(({ id }) => id);
  }

  async block(id: string, { salt = "" }: Pick<RequestOptions, "salt"> = {}): Promise<BlockInfo | undefined> {
    this.#checkReady();
    return this.#blocks.get(`${salt}:${id}`);
  }

  async deleteBlock(id: string, { salt = "" }: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    this.#checkReady();
    const isThere = this.#blocks.delete(`${salt}:${id}`);
    if (isThere) this.#counts.deleted += 1;
    return isThere;
  }

  async documents({ salt = "", limit = 100, after }: DocumentsOptions = {}): Promise<readonly DocumentInfo[]> {
    this.#checkReady();
    const entries = await this.#documents.list(salt, limit, after);
    return entries.map(({ digest: _, ...entry }) => {
      return { ...entry, blocks: entry.blocks.map(({ id, tokens }) => ({ id, tokens })) };
    });
  }

  async deleteDocument(id: string, { salt = "" }: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    this.#checkReady();
    return await this.#documents.delete(salt, id);
  }

  async stats(): Promise<EngineStats> {
    this.#checkReady();
    const { hits, misses, deleted, running, finished, cancelled, failed } = this.#counts;
    const idleBytes = [...this.#blocks.values()].reduce((sum, block) => sum + block.bytes, 0);
    return {
      store: {
        capBytes: 2 ** 30,
        leasedBytes: 0,
        idleBytes,
        freeBytes: 2 ** 30 - idleBytes,
        unkeptBytes: 0,
        numBlocks: this.#blocks.size,
        numEncoding: 0,
        tiers: [],
        hits,
        misses,
        waits: 0,
        takeovers: 0,
        evictions: 0,
        evictionsByReason: { room: 0, deleted, replaced: 0 },
      },
      contexts: { capBytes: 2 ** 30, usedBytes: 0 },
      weightBytes: 1000,
      mappedBytes: 100,
      kvMemory: { usedBytes: idleBytes, reservedBytes: idleBytes, numSlabs: 1 },
      computeBytes: 1000,
      threads: { most: 2, now: 1 },
      processBytes: 2 ** 20,
      requests: { queued: 0, running, finished, cancelled, failed },
      batching: {
        decodeGraphs: finished,
        decodedTokens: finished,
        builtDecodeGraphs: finished,
        draftTokens: 0,
        acceptedDraftTokens: 0,
        rowGraphs: misses,
        rows: misses,
        maxRowsBesideDecoding: 0,
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new EngineError("unavailable", "Cannot go on: the engine was closed"));
    this.#status.change({ state: "closed" });
  }

  #checkReady(): void {
    const { state } = this.status;
    if (state !== "ready") throw new EngineError("unavailable", `Cannot serve: the engine is ${state}`);
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

  /** How many tokens the final text begins with as an earlier one after the same blocks did; all but its last, at most. */
  #servePrefix(texts: readonly string[], { salt = "", keepPrefixes = true }: RequestOptions): number {
    const key = JSON.stringify([salt, texts.slice(0, -1)]);
    const final = tokensOf(texts.at(-1) as string).map(({ text }) => text);
    const kept = this.#prefixes.get(key) ?? [];
    const alike = kept.map((one) => final.findIndex((text, i) => text !== one[i]));
    if (keepPrefixes) this.#prefixes.set(key, [...kept, [...final, ...this.#words.map(({ text }) => text)]]);
    return Math.max(0, ...alike.map((at) => (at === -1 ? final.length - 1 : at)));
  }
}

/** A block that the store lacked: the passage of that index, as far as this engine knows. */
function missOf(text: string, block: ServedBlock | undefined, index: number): ReuseMiss[] {
  if (block === undefined || block.hit) return [];
  const reason = "No block begins like this one";
  return [{ kind: "block", passage: { index }, token: 0, before: "", asked: text, stored: "", reason }];
}

/** Words with the space before them; what follows the last word is its own token. */
function tokensOf(text: string): Token[] {
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

function spelled(token: Token, logprob: number | undefined, numTop: number): SpelledToken {
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

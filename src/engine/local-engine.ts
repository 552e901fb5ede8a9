import { setMaxListeners } from "node:events";
import type { PassageInput } from "../blocks/passage.js";
import { ragTexts } from "../blocks/rag-prompt.js";
import type { KVType } from "../files/element-types.js";
import { InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import { isBlockId } from "../kv/block-id.js";
import type { BlockInfo, BlockStore } from "../kv/block-store.js";
import { MemoryStore } from "../kv/memory-store.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import { Admission, type Ticket } from "./admission.js";
import { ByteBudget } from "./byte-budget.js";
import { ContextMaker, type LocalBlock, type MutableTimings, type Prepared } from "./context-maker.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import { asEngineError, checkInput, EngineError } from "./engine-error.js";
import {
  type EncodeOptions,
  type EngineOptions,
  type GenerateOptions,
  type RequestOptions,
  readEngineOptions,
  readScoreOptions,
  type ScoreOptions,
  type TokenizeOptions,
} from "./engine-options.js";
import { createExp, PromptScorer, tokenLogprobs } from "./logprobs.js";
import { memoryShare } from "./memory-share.js";
import { embeddedModelPath, type LoadedModel, loadModel, type ModelInfo, modelName } from "./model.js";
import { Outbox } from "./outbox.js";
import type { PromptContext, PromptInput, TokenizedPrompt } from "./prompt.js";
import { type AskedAnswers, RequestChecks, type Terms } from "./request-checks.js";
import { RequestTokens } from "./request-tokens.js";
import type {
  EncodedPassage,
  EncodeResult,
  EngineStats,
  FailedPassage,
  GenerateEvent,
  GenerateResult,
  PromptLogprob,
  ScoreResult,
  ServedBlock,
  TokenLogprob,
} from "./results.js";
import type { Sampler } from "./sampler.js";
import { requireLogprobs } from "./sampling-options.js";
import { Scheduler } from "./scheduler.js";
import { Sequence } from "./sequence.js";
import { type EngineStatus, StatusSource } from "./status-source.js";
import { TokenSpeller } from "./token-speller.js";
import { unlessAborted } from "./unless-aborted.js";

/** How far an answer runs ahead of its reader. */
const maxUnreadEvents = 32;
const defaultReaderTimeoutMs = 60_000;
/** Passages leased at a time while encoding for an index. */
const encodeBatch = 64;
/** Of what one event or call carries: a few milliseconds' worth of messages. */
const tokensOfPart = 256;
const logprobsOfPart = 2048;

/** One of a request's answers. */
interface AnswerPlace {
  readonly index: number;
  readonly ticket: Ticket;
  /** When the request came. */
  readonly startedAt: number;
  /** The prompt's tokens, made once for all answers. */
  readonly tokenized: () => Promise<TokenizedPrompt>;
  readonly tell: (event: GenerateEvent) => void;
  readonly isPaused: () => boolean;
}

/**
 * Block attention over a model: passages are encoded once and alone, kept, moved to where a prompt needs them, and only
 * the final block is computed. Requests may run at the same time; they take turns graph by graph.
 *
 * @example
 * await using engine = await Engine.load({ model: "models/tiny-rag" });
 * for await (const event of engine.generate({ blocks: ["a passage\n", "Question: …"] })) {
 *   if (event.kind === "token") process.stdout.write(event.text);
 * }
 */
export class LocalEngine implements AsyncDisposable {
  readonly model: LoadedModel;
  readonly kvType: KVType;
  /** The longest prompt plus answer, in tokens. */
  readonly contextLength: number;
  /** The mode of requests that name none. */
  readonly defaultMode: AttentionMode;
  /** What cutting and tokenizing a prompt goes by. */
  readonly promptContext: PromptContext;
  readonly info: ModelInfo;
  readonly #status = new StatusSource({ state: "ready", restarts: 0 });
  readonly #speller: TokenSpeller;
  readonly #store: BlockStore<DeviceBlockMemory>;
  readonly #budget: ByteBudget;
  readonly #admission: Admission;
  readonly #scheduler: Scheduler;
  readonly #contexts: ContextMaker;
  readonly #tokens: RequestTokens;
  readonly #checks: RequestChecks;
  readonly #closing = new AbortController();
  /** Readers that nobody holds any more: what they read is given up. */
  readonly #dropped = new FinalizationRegistry<AbortController>((leaving) =>
    leaving.abort(new Error("Cannot go on: nobody holds the answer")),
  );
  readonly #readerTimeoutMs: number;

  private constructor(model: LoadedModel, path: string, options: ReturnType<typeof readEngineOptions>) {
    // Every request listens to it.
    setMaxListeners(0, this.#closing.signal);
    const { contextLength, slidingWindow, vocabSize } = model.source.config;
    this.model = model;
    this.kvType = options.kvType;
    this.contextLength = Math.min(contextLength, slidingWindow ?? contextLength);
    const { maxPromptTokens = this.contextLength } = options;
    const ofModel = this.contextLength < contextLength ? "the model's sliding window" : "the model's context";
    const own = model.source.config.blockAttention;
    const { tokenizer, chatTemplate } = model;
    const words = ragTexts(options.ragTexts, own?.ragPrompt);
    this.promptContext = {
      tokenizer,
      vocabSize,
      chatTemplate,
      ragTexts: words,
      prefix: own?.prefix ?? "",
    };
    const promptLimit = {
      maxTokens: Math.min(maxPromptTokens, this.contextLength),
      of: maxPromptTokens < this.contextLength ? "the limit on prompts" : ofModel,
    };
    this.#tokens = new RequestTokens(this.promptContext, promptLimit, this.contextLength);
    const shareBytes = memoryShare(model.weights.byteLength);
    this.#store = new MemoryStore<DeviceBlockMemory>({ capBytes: options.storeBytes ?? shareBytes });
    this.#budget = new ByteBudget(options.contextBytes ?? shareBytes);
    this.#admission = new Admission({ maxRunning: options.maxRunning, maxQueued: options.maxQueued });
    this.#scheduler = new Scheduler(model.backend, model.decoder, this.kvType, {
      admission: this.#admission,
      contextCapBytes: this.#budget.capBytes,
    });
    this.#contexts = new ContextMaker(model, this.kvType, this.#store, this.#budget, this.#scheduler);
    this.#readerTimeoutMs = options.readerTimeoutMs ?? defaultReaderTimeoutMs;
    const trainedModes = own?.modes ?? [];
    this.defaultMode = options.mode ?? (trainedModes.includes("block") ? "block" : "full");
    this.#checks = new RequestChecks(model, {
      defaultMode: this.defaultMode,
      ragTexts: words,
      closing: this.#closing.signal,
      onWarning: options.onWarning,
    });
    this.#speller = new TokenSpeller(model.tokenizer);
    this.info = {
      name: modelName(path),
      contextLength: this.contextLength,
      vocabSize,
      kvType: this.kvType,
      defaultMode: this.defaultMode,
      trainedModes,
      hasChatTemplate: chatTemplate !== undefined,
      loadedAt: Math.floor(Date.now() / 1000),
    };
  }

  /**
   * Loads a model and makes an empty block store.
   *
   * @throws TypeError for an option that does not exist or of another kind, RangeError for one out of range; Error for files that are missing, damaged or not supported, or too little
   * memory; the signal's reason.
   */
  static async load(options: EngineOptions = {}): Promise<LocalEngine> {
    const checked = readEngineOptions("load the engine", options);
    ragTexts(checked.ragTexts);
    const path = checked.model ?? embeddedModelPath();
    return new LocalEngine(await loadModel({ ...checked, model: path }), path, checked);
  }

  get status(): EngineStatus {
    return this.#status.current;
  }

  onStatus(listener: (status: EngineStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  /**
   * Answers a prompt, token by token. The engine computes ahead of its reader, as far as `maxUnread` events; one who reads
   * nothing for `readerTimeoutMs` while so many wait gets an error. Leaving the loop, or an abort of the signal, frees all
   * that the request took at once, whatever its reader does, and so does an iterator that nobody holds any more; after an
   * abort the last event of each answer says `cancelled`.
   *
   * @throws EngineError.
   */
  generate(
    input: PromptInput | TokenizedPrompt,
    options: GenerateOptions & RequestOptions = {},
  ): AsyncGenerator<GenerateEvent, void> {
    const leaving = new AbortController();
    const events = this.#read(input, options, leaving);
    this.#dropped.register(events, leaving);
    return events;
  }

  async *#read(
    input: PromptInput | TokenizedPrompt,
    options: GenerateOptions & RequestOptions,
    leaving: AbortController,
  ): AsyncGenerator<GenerateEvent, void> {
    const asked = checkInput(() => this.#checks.generate(options, leaving.signal));
    const outbox = new Outbox<GenerateEvent>({
      capacity: maxUnreadEvents,
      patienceMs: this.#readerTimeoutMs,
      onRoom: () => this.#scheduler.wake(),
      onStalled: () => leaving.abort(slowReader(this.#readerTimeoutMs)),
    });
    const answered = this.#answers(input, asked, outbox, leaving);
    try {
      yield* outbox.read();
    } finally {
      leaving.abort(new Error("Cannot go on: nobody reads the answer"));
      await answered;
    }
  }

  /** A prompt's answers from their coming to their end, whoever reads them and how fast. Never throws: their reader gets what one throws. */
  async #answers(
    input: PromptInput | TokenizedPrompt,
    asked: AskedAnswers,
    outbox: Outbox<GenerateEvent>,
    leaving: AbortController,
  ): Promise<void> {
    const startedAt = performance.now();
    const { mode, owner, signal } = asked.terms;
    let prompt: Promise<TokenizedPrompt> | undefined;
    const tokenized = () => {
      prompt ??= this.#tokens.prompt(input, mode, signal);
      return prompt;
    };
    /** What comes before the first answer's `prompt` event, which stands for all. */
    let early: GenerateEvent[] | undefined = [];
    const tellOf = (index: number) => (event: GenerateEvent) => {
      if (index > 0 && (event.kind === "echo" || event.kind === "prompt")) return;
      if (index > 0 && early !== undefined) {
        early.push(event);
        return;
      }
      outbox.push(event);
      if (event.kind === "echo" || early === undefined) return;
      for (const other of early) outbox.push(other);
      early = undefined;
    };
    try {
      const tickets = this.#admission.join(owner, asked.samplers.length);
      const answers = tickets.map(async (ticket, index) => {
        const place = { index, ticket, startedAt, tokenized, tell: tellOf(index), isPaused: () => outbox.isFull };
        await this.#answer(asked, place).catch((error: unknown) => {
          outbox.fail(error);
          leaving.abort(error);
        });
      });
      await Promise.all(answers);
      outbox.end();
    } catch (error) {
      outbox.fail(error);
    }
  }

  async #answer(
    { terms, sampling, samplers, echo, spell, maxLogprobs, callerSignal }: AskedAnswers,
    { index, ticket, startedAt, tokenized, tell, isPaused }: AnswerPlace,
  ): Promise<void> {
    const { mode, signal } = terms;
    const { tokenizer, endTokenIds } = this.model;
    const { logprobs, topLogprobs } = sampling;
    const timings = newTimings();
    const sequence = new Sequence({
      ...{ sampler: samplers[index] as Sampler, stop: sampling.stop, endTokenIds, tokenizer, startedAt, isPaused },
      tell: (sampled, text) => {
        const spelled = spell ? this.#speller.spell(sampled) : undefined;
        // Spelled once, sent once: the same objects.
        const { id: tokenId, logprob, top } = spelled ?? sampled;
        tell({ kind: "token", index, tokenId, text, logprob, top, ...(spelled && { spelled }) });
      },
    });
    let prompt: TokenizedPrompt | undefined;
    let prepared: Prepared | undefined;
    const end = () => {
      const text = sequence.end();
      const { tokenIds, endToken: token, finishReason = "cancelled", ttftMs, decodeMs, seed } = sequence;
      const { cachedTokens = 0, blocks = [] } = prepared ?? {};
      const usage = { promptTokens: prompt?.numTokens ?? 0, cachedTokens, completionTokens: tokenIds.length };
      const warnings = prompt?.warnings ?? [];
      const spent = { ...timings, ttftMs, decodeMs };
      const told = { mode, usage, timings: spent, blocks, seed, warnings };
      const endToken = token && spell ? { ...token, spelled: this.#speller.spell(token) } : token;
      const result = { text: sequence.text, tokenIds, endToken, finishReason, ...told };
      tell({ kind: "done", index, text, result });
    };
    try {
      const work = async () => {
        prompt = await tokenized();
        timings.tokenizeMs = performance.now() - startedAt;
        const { blocks, isContinued } = prompt;
        const promptIds = blocks.flatMap((block) => [...block]);
        const maxTokens = Math.min(sampling.maxTokens, this.contextLength - promptIds.length);
        const needs = this.#contexts.needs(blocks, {
          // The last token's key and value are never read.
          capacity: promptIds.length + Math.max(0, maxTokens - 1),
          decodes: maxTokens > 1,
          scoresPrompt: echo && logprobs,
        });
        if (logprobs) {
          const numTokens = maxTokens + (echo ? promptIds.length : 0);
          requireLogprobs(numTokens * (1 + topLogprobs), maxLogprobs);
        }
        await this.#enter(ticket, promptIds.length + maxTokens, timings, signal);
        using context = await this.#contexts.prepare(prompt, needs, terms, timings);
        prepared = context;
        const { cachedTokens, finalTokens } = context;
        const told = (echoed: readonly PromptLogprob[]) => {
          for (const some of inParts(echo ? echoed : [], Math.ceil(logprobsOfPart / (1 + topLogprobs)))) {
            tell({ kind: "echo", tokens: some.map((token) => this.#speller.spell(token)) });
          }
          tell({ kind: "prompt", mode, promptTokens: promptIds.length, cachedTokens, blocks: context.blocks });
        };
        const scorer = echo && logprobs ? new PromptScorer(promptIds, topLogprobs) : undefined;
        if (scorer === undefined) told(promptIds.map((id) => ({ id, logprob: undefined, top: [] })));
        const prefillFrom = performance.now();
        const rows = scorer
          ? this.#contexts.promptRows(blocks, context, terms)
          : this.#contexts.lastRows(context, finalTokens.length - 1, terms);
        let logits: Float32Array | undefined;
        for await (logits of rows) scorer?.take(logits);
        timings.prefillMs = performance.now() - prefillFrom;
        if (scorer) told(scorer.scores);
        const start = { promptIds, isContinued, maxTokens, context: context.context, logits: logits as Float32Array };
        if (sequence.begin(start)) await this.#scheduler.decode(sequence, terms);
        ticket.numTokens = promptIds.length - cachedTokens + sequence.tokenIds.length;
      };
      await this.#asRequest(terms, work, ticket);
      end();
    } catch (error) {
      // The engine that closes, or a reader who is too slow, is no wish of the caller's.
      if (callerSignal?.aborted !== true) throw error;
      sequence.cancel();
      end();
    }
  }

  /** Answers a prompt, all at once. @throws as `generate`. */
  async complete(input: PromptInput, options: GenerateOptions & RequestOptions = {}): Promise<GenerateResult> {
    for await (const event of this.generate(input, options)) if (event.kind === "done") return event.result;
    throw new Error("Cannot complete the prompt: the answer did not end");
  }

  /**
   * How likely a continuation is after a prompt.
   *
   * @param continuation text, tokenized alone, or token ids.
   * @throws EngineError for input that cannot be used, or a full queue; Error if the device fails; the signal's reason.
   */
  async score(
    input: PromptInput | TokenizedPrompt,
    continuation: string | readonly number[],
    options: ScoreOptions = {},
  ): Promise<ScoreResult> {
    const { terms, numTop, stepwise } = checkInput(() => this.#checks.score(continuation, options));
    const { mode, signal } = terms;
    return await this.#asRequest(terms, async (ticket) => {
      const prompt = await this.#tokens.prompt(input, mode, signal);
      const promptTokens = prompt.numTokens;
      const next = await this.#tokens.continuation(continuation, promptTokens, signal);
      const needs = this.#contexts.needs(prompt.blocks, { capacity: promptTokens + next.length, decodes: stepwise });
      const timings = newTimings();
      await this.#enter(ticket, promptTokens + next.length, timings, signal);
      using prepared = await this.#contexts.prepare(prompt, needs, terms, timings);
      const { context, finalTokens, cachedTokens } = prepared;
      const exp = createExp();
      const logprobs: number[] = [];
      const top: TokenLogprob[][] = [];
      /** @returns whether there is more to score. */
      const take = (logits: Float32Array): boolean => {
        const step = tokenLogprobs(logits, next[logprobs.length] as number, numTop, exp);
        logprobs.push(step.logprob);
        top.push(step.top);
        return logprobs.length < next.length;
      };
      const atOnce = stepwise ? [] : next.slice(0, -1);
      const rows = this.#contexts.lastRows(prepared, finalTokens.length - 1, terms, atOnce);
      for await (const logits of rows) take(logits);
      if (logprobs.length < next.length) {
        const nextToken = () => {
          const done = logprobs.length;
          return { tokenId: next[done - 1] as number, position: promptTokens + done - 1 };
        };
        const sequence = {
          context,
          isPaused: false,
          take,
          get next() {
            return nextToken();
          },
        };
        await this.#scheduler.decode(sequence, terms);
      }
      ticket.numTokens = promptTokens - cachedTokens + next.length;
      return {
        blockTokenIds: prompt.cutTokenIds,
        continuationTokenIds: next,
        logprobs,
        top,
        mode,
        usage: { promptTokens, cachedTokens, completionTokens: next.length },
      };
    });
  }

  /** How likely each of several continuations is after a prompt, which is tokenized once. @throws as `score`. */
  async scoreEach(
    input: PromptInput | TokenizedPrompt,
    continuations: readonly (string | readonly number[])[],
    options: ScoreOptions = {},
  ): Promise<ScoreResult[]> {
    const { mode, signal } = checkInput(() => {
      if (Array.isArray(continuations)) return readScoreOptions("score", options);
      throw new InputTypeError(`Cannot score: the continuations are ${show(continuations)}, wanted a list`);
    });
    const prompt = await this.tokenizePrompt(input, { mode, signal });
    const results: ScoreResult[] = [];
    for (const continuation of continuations) results.push(await this.score(prompt, continuation, options));
    return results;
  }

  /**
   * Encodes passages ahead, at index time: afterwards prompts find them in the store while it has room.
   *
   * A passage that cannot be encoded (it is empty, too long, or has half a character) has its error in its place, and the
   * others are encoded.
   *
   * @param passages block texts as a prompt will have them, or documents, which become passages of the RAG prompt.
   * @throws EngineError for what is no list of passages, or a full queue; Error if the device fails; the signal's reason.
   */
  async encode(passages: readonly PassageInput[], options: EncodeOptions = {}): Promise<EncodeResult> {
    const leaving = new AbortController();
    const { terms, onBlock, ...rule } = checkInput(() => this.#checks.encode(options, leaving.signal));
    return await this.#asRequest(terms, async (ticket) => {
      const { signal } = terms;
      const tokenized = await this.#tokens.passages(passages, rule, signal);
      const isLocal = (one: LocalBlock | FailedPassage): one is LocalBlock => !("error" in one);
      const numTokens = tokenized.filter(isLocal).reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      await this.#enter(ticket, numTokens, newTimings(), signal);
      const encoded: EncodedPassage[] = [];
      const told = async (block: EncodedPassage): Promise<void> => {
        encoded.push(block);
        try {
          if (onBlock !== undefined) await unlessAborted(Promise.resolve(onBlock(block)), signal);
        } catch (error) {
          // The call ends with what its caller threw.
          leaving.abort(error);
        }
        signal.throwIfAborted();
      };
      for (let first = 0; first < tokenized.length; first += encodeBatch) {
        const batch = tokenized.slice(first, first + encodeBatch);
        const served = (await this.#served(batch.filter(isLocal), terms)).values();
        for (const one of batch) await told("error" in one ? one : (served.next().value as EncodedPassage));
      }
      return { blocks: encoded, failed: encoded.filter(({ error }) => error !== undefined).length };
    });
  }

  /** Blocks that are in the store afterwards while it has room. */
  async #served(blocks: readonly LocalBlock[], terms: Terms): Promise<readonly ServedBlock[]> {
    using leased = await this.#contexts.lease(blocks, terms);
    return leased.served;
  }

  /**
   * A prompt's tokens, which `generate` takes in the prompt's place: once for several answers.
   *
   * @throws EngineError for a prompt that cannot be used or is too long, or a full queue; the signal's reason.
   */
  async tokenizePrompt(
    input: PromptInput | TokenizedPrompt,
    options: Pick<RequestOptions, "mode" | "signal"> = {},
  ): Promise<TokenizedPrompt> {
    const { mode, signal } = checkInput(() => this.#checks.tokenizePrompt(options));
    using ticket = this.#admission.join("")[0] as Ticket;
    // What it is for is a request.
    ticket.outcome = undefined;
    try {
      return await this.#tokens.prompt(input, mode, signal);
    } catch (error) {
      throw signal.aborted ? signal.reason : asEngineError(error);
    }
  }

  /**
   * The ids of a text as a block of its own has them: nothing is added.
   *
   * @throws EngineError for half a character, more tokens than wanted, or a full queue; the signal's reason.
   */
  async tokenize(text: string, options: TokenizeOptions = {}): Promise<number[]> {
    const { special, maxTokens, onTokens, terms } = checkInput(() => this.#checks.tokenize(text, options));
    const block = { text, trusted: special ? "all" : "none" } as const;
    const ids = await this.#asRequest(terms, () => this.#tokens.text(block, maxTokens, terms.signal));
    if (onTokens === undefined) return ids;
    if (ids.length === 0) await onTokens([], 0);
    for (const some of inParts(ids, tokensOfPart)) {
      terms.signal.throwIfAborted();
      await onTokens(
        some.map((id) => this.#speller.token(id)),
        ids.length,
      );
    }
    return ids;
  }

  /** A kept block of this salt; undefined where there is none, another salt's among them. @throws EngineError for a salt that is no text. */
  async block(id: string, options: Pick<RequestOptions, "salt"> = {}): Promise<BlockInfo | undefined> {
    const salt = checkInput(() => this.#checks.block("find a block", id, options));
    return isBlockId(id) ? this.#store.find(id, salt) : undefined;
  }

  /** Forgets a block of this salt. @returns whether there was one. @throws as `block`. */
  async deleteBlock(id: string, options: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    const salt = checkInput(() => this.#checks.block("delete a block", id, options));
    return isBlockId(id) && (await this.#store.delete(id, salt));
  }

  stats(): EngineStats {
    return {
      store: this.#store.stats(),
      contexts: { capBytes: this.#budget.capBytes, usedBytes: this.#budget.usedBytes },
      weightBytes: this.model.weights.byteLength,
      kvMemory: this.#scheduler.memory.stats,
      computeBytes: this.model.backend.computeBytes,
      processBytes: process.memoryUsage.rss(),
      requests: this.#admission.counts,
      batching: this.#scheduler.stats,
    };
  }

  /** Ends running requests with an error, then frees everything. Again does nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new EngineError("unavailable", "Cannot go on: the engine was closed"));
    this.#status.change({ state: "closed" });
    await this.#admission.ended();
    await this.#scheduler.idle();
    this.#scheduler[Symbol.dispose]();
    await this.#store[Symbol.asyncDispose]();
    this.model[Symbol.dispose]();
  }

  /** A request's work, counted by how it ended. @throws EngineError for a full queue; the signal's reason. */
  async #asRequest<T>(
    { owner, signal }: Terms,
    work: (ticket: Ticket) => Promise<T>,
    place = this.#admission.join(owner)[0] as Ticket,
  ): Promise<T> {
    using ticket = place;
    try {
      signal.throwIfAborted();
      return await work(ticket);
    } catch (error) {
      ticket.outcome = signal.aborted ? "cancelled" : "failed";
      throw signal.aborted ? signal.reason : asEngineError(error);
    }
  }

  /** Waits for the request's turn. @throws the signal's reason. */
  async #enter(ticket: Ticket, expectedTokens: number, timings: MutableTimings, signal: AbortSignal): Promise<void> {
    const from = performance.now();
    try {
      await ticket.enter(expectedTokens, signal);
    } finally {
      timings.queueMs = performance.now() - from;
    }
  }
}

/** The answer's own words of why it ended. */
function slowReader(timeoutMs: number): EngineError {
  return new EngineError(
    "slow_reader",
    `Cannot go on with the answer: for ${timeoutMs} ms nobody read it while ${maxUnreadEvents} events waited`,
  );
}

function* inParts<T>(items: readonly T[], size: number): Generator<readonly T[], void> {
  for (let first = 0; first < items.length; first += size) yield items.slice(first, first + size);
}

function newTimings(): MutableTimings {
  return {
    tokenizeMs: 0,
    queueMs: 0,
    waitMs: 0,
    encodeMs: 0,
    assembleMs: 0,
    prefillMs: 0,
    ttftMs: undefined,
    decodeMs: 0,
  };
}

import { randomInt } from "node:crypto";
import { setMaxListeners } from "node:events";
import type { TextBlock } from "../blocks/block.js";
import { type Passage, type PassageInput, type PassageLabel, passageBlock, readPassages } from "../blocks/passage.js";
import { type RagPromptTexts, ragTexts } from "../blocks/rag-prompt.js";
import { splitPassage } from "../blocks/split-passage.js";
import type { KVType } from "../files/element-types.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import { blockId, isBlockId } from "../kv/block-id.js";
import { BLOCK_KV_FORMAT_VERSION } from "../kv/block-kv.js";
import type { BlockInfo, BlockRequest, BlockStore } from "../kv/block-store.js";
import { type LeasedBlocks, leaseBlocks } from "../kv/lease-blocks.js";
import { MemoryStore } from "../kv/memory-store.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { Steps } from "../tokenizer/steps.js";
import { Admission, type Ticket } from "./admission.js";
import { AssembledContext, assemble, contextBytes } from "./assemble.js";
import { ByteBudget } from "./byte-budget.js";
import type { DecodeSlot } from "./decode-slots.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import { blockShape } from "./encode-block.js";
import { asRefusal, awaitInput, checkInput, EngineError } from "./engine-error.js";
import {
  type EncodeOptions,
  type EngineOptions,
  type GenerateOptions,
  type RequestOptions,
  readBlockOptions,
  readEncodeOptions,
  readEngineOptions,
  readGenerateOptions,
  readPassageTexts,
  readScoreOptions,
  readTokenizeOptions,
  readTokenizePromptOptions,
  type ScoreOptions,
  type TokenizeOptions,
} from "./engine-options.js";
import { memoryShare } from "./memory-share.js";
import { embeddedModelPath, type LoadedModel, loadModel } from "./model.js";
import {
  encodeCounted,
  maxPartTokens,
  type PromptContext,
  type PromptInput,
  type SplitLong,
  TokenCount,
  TokenizedPrompt,
  type TokenLimit,
  tokenizePromptInSteps,
} from "./prompt.js";
import { PromptScorer } from "./prompt-scorer.js";
import type {
  EncodedPassage,
  EncodeResult,
  EndToken,
  EngineStats,
  FailedPassage,
  FinishReason,
  GenerateEvent,
  GenerateResult,
  PromptLogprob,
  ScoreResult,
  ServedBlock,
  Timings,
} from "./results.js";
import { type RunningRequest, RunningRequests } from "./running-requests.js";
import { createSampler, type TokenLogprob } from "./sampler.js";
import { samplingOf } from "./sampling-options.js";
import { Scheduler } from "./scheduler.js";
import { SlicedWork } from "./sliced-work.js";
import { StopMatcher } from "./stop-strings.js";
import { tokenLogprobs } from "./token-logprobs.js";
import { unlessAborted } from "./unless-aborted.js";

const untrainedWarning =
  "this model was not trained for block attention: block mode runs, but the paper lost a third of its answers that way (71.3 to 49.9 on average); --mode full is safe";
const defaultMaxRunning = 32;
const defaultMaxQueued = 256;
/** Passages leased at a time while encoding for an index. */
const encodeBatch = 64;

/** What computing a prompt leaves: the context to go on from, and what it took. */
interface Prepared {
  readonly context: AssembledContext;
  readonly finalTokens: Int32Array;
  /** Of the final block's first token. */
  readonly finalPosition: number;
  readonly blocks: readonly ServedBlock[];
  readonly cachedTokens: number;
}

/** What holds for a request as a whole, checked. */
interface Terms {
  readonly mode: AttentionMode;
  readonly positionReencoding: boolean;
  readonly salt: string;
  readonly signal: AbortSignal;
}

/** What a request needs of its context. */
interface ContextNeeds {
  /** In rows. */
  readonly capacity: number;
  readonly decodes: boolean;
  /** Whether local blocks are computed anew, for their rows' logits. */
  readonly scoresPrompt?: boolean;
  /** Of the context, and of what scoring the prompt takes beside it. */
  readonly bytes: number;
}

/** A local block's tokens, and the passage that they are, where they are one. */
interface LocalBlock {
  readonly tokenIds: Int32Array;
  readonly passage: PassageLabel | undefined;
}

/** A local block to find or to encode. */
type TokenBlock = BlockRequest & LocalBlock;

type MutableTimings = { -readonly [K in keyof Timings]: Timings[K] };

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
  readonly #store: BlockStore<DeviceBlockMemory>;
  readonly #budget: ByteBudget;
  readonly #admission: Admission;
  readonly #scheduler: Scheduler;
  readonly #slices = new SlicedWork();
  readonly #promptLimit: TokenLimit;
  readonly #mode: AttentionMode | undefined;
  readonly #ragTexts: RagPromptTexts;
  readonly #onWarning: (warning: string) => void;
  readonly #closing = new AbortController();
  readonly #requests = new RunningRequests();
  #hasWarned = false;

  private constructor(model: LoadedModel, options: EngineOptions) {
    // Every request listens to it.
    setMaxListeners(0, this.#closing.signal);
    const { contextLength, slidingWindow } = model.source.config;
    this.model = model;
    this.kvType = options.kvType ?? "f16";
    this.contextLength = Math.min(contextLength, slidingWindow ?? contextLength);
    const { maxPromptTokens = this.contextLength } = options;
    const ofModel = this.contextLength < contextLength ? "the model's sliding window" : "the model's context";
    this.#promptLimit = {
      maxTokens: Math.min(maxPromptTokens, this.contextLength),
      of: maxPromptTokens < this.contextLength ? "the limit on prompts" : ofModel,
    };
    const shareBytes = memoryShare(model.weights.byteLength);
    this.#store = new MemoryStore<DeviceBlockMemory>({ capBytes: options.storeBytes ?? shareBytes });
    this.#budget = new ByteBudget(options.contextBytes ?? shareBytes);
    this.#admission = new Admission({
      maxRunning: options.maxRunning ?? defaultMaxRunning,
      maxQueued: options.maxQueued ?? defaultMaxQueued,
    });
    this.#scheduler = new Scheduler(model.backend, model.decoder, this.kvType, this.#budget.capBytes);
    this.#mode = options.mode;
    this.#ragTexts = ragTexts(options.ragTexts, model.source.config.blockAttention?.ragPrompt);
    this.#onWarning = options.onWarning ?? (() => undefined);
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
    const model = await loadModel({ ...checked, model: checked.model ?? embeddedModelPath() });
    return new LocalEngine(model, checked);
  }

  /** The mode of requests that name none. */
  get defaultMode(): AttentionMode {
    return this.#mode ?? (this.#trainedModes.includes("block") ? "block" : "full");
  }

  /** What cutting and tokenizing a prompt goes by. */
  get promptContext(): PromptContext {
    const { tokenizer, chatTemplate, source } = this.model;
    const own = source.config.blockAttention;
    const { vocabSize } = source.config;
    return { tokenizer, vocabSize, chatTemplate, ragTexts: this.#ragTexts, prefix: own?.prefix ?? "" };
  }

  /**
   * Answers a prompt, token by token. Leaving the loop early, or an abort of the signal, frees all that the request took;
   * after an abort the last event says `cancelled`.
   *
   * @throws EngineError for a prompt or options that cannot be used, or a full queue; Error if the device fails.
   */
  async *generate(
    input: PromptInput | TokenizedPrompt,
    options: GenerateOptions & RequestOptions = {},
  ): AsyncGenerator<GenerateEvent, void> {
    const startedAt = performance.now();
    const checked = checkInput(() => this.#checkGenerate(options));
    const { terms, sampling, sampler, promptLogprobs: numTop, callerSignal } = checked;
    const { mode, signal } = terms;
    const timings = newTimings();
    const tokenizer = this.model.tokenizer;
    let stream = tokenizer.stream();
    const matcher = new StopMatcher(sampling.stop);
    const generatedIds: number[] = [];
    let text = "";
    let prompt: TokenizedPrompt | undefined;
    let prepared: Prepared | undefined;
    let finishReason: FinishReason = "length";
    let endToken: EndToken | undefined;
    const done = (lastText: string): GenerateEvent & { kind: "done" } => {
      text += lastText;
      const promptTokens = prompt?.numTokens ?? 0;
      const usage = { promptTokens, cachedTokens: prepared?.cachedTokens ?? 0, completionTokens: generatedIds.length };
      const result: GenerateResult = {
        text,
        tokenIds: generatedIds,
        endToken,
        finishReason,
        mode,
        usage,
        timings,
        blocks: prepared?.blocks ?? [],
        seed: sampler.seed,
        warnings: prompt?.warnings ?? [],
      };
      return { kind: "done", text: lastText, result };
    };

    using request = this.#requests.begin();
    try {
      signal.throwIfAborted();
      using ticket = this.#admission.join();
      prompt = await this.#tokenized(input, mode, signal);
      if (prompt.isContinued) stream = tokenizer.stream({ goesOn: true });
      timings.tokenizeMs = performance.now() - startedAt;
      const promptIds = prompt.blocks.flatMap((block) => [...block]);
      const maxTokens = Math.min(sampling.maxTokens, this.contextLength - promptIds.length);
      const needs = this.#contextNeeds(prompt.blocks, {
        // The last token's key and value are never read.
        capacity: promptIds.length + Math.max(0, maxTokens - 1),
        decodes: maxTokens > 1,
        scoresPrompt: numTop !== undefined,
      });
      await this.#enter(ticket, request, timings, signal);
      using preparing = await this.#prepare(prompt, needs, terms, timings);
      request.taken = preparing;
      prepared = preparing.prepared;
      const { context, finalTokens, finalPosition, blocks, cachedTokens } = prepared;
      const scheduler = this.#scheduler;
      let prefillFrom = performance.now();
      let logits: Float32Array | undefined;
      let promptLogprobs: readonly PromptLogprob[] | undefined;
      if (numTop !== undefined) {
        const scorer = new PromptScorer(promptIds, numTop);
        for await (const row of this.#promptRows(prompt.blocks, prepared, signal)) scorer.take(row);
        promptLogprobs = scorer.scores;
        logits = scorer.lastLogits;
        timings.prefillMs = performance.now() - prefillFrom;
      }
      request.pause();
      const counts = { promptTokens: promptIds.length, cachedTokens };
      yield { kind: "prompt", mode, ...counts, blocks, promptTokenIds: promptIds, promptLogprobs };
      request.resume(signal);

      if (logits === undefined) {
        prefillFrom = performance.now();
        const last = finalTokens.length - 1;
        for await (const row of scheduler.prefill(context, finalTokens, finalPosition, last, signal)) logits = row;
        timings.prefillMs = performance.now() - prefillFrom;
      }
      let firstTokenAt: number | undefined;
      while (generatedIds.length < maxTokens) {
        const sampled = sampler.sample(logits as Float32Array, { promptIds, generatedIds });
        firstTokenAt ??= performance.now();
        timings.ttftMs ??= firstTokenAt - startedAt;
        timings.decodeMs = performance.now() - firstTokenAt;
        if (this.model.endTokenIds.has(sampled.id)) {
          finishReason = "stop";
          endToken = sampled;
          break;
        }
        generatedIds.push(sampled.id);
        const step = matcher.push(stream.push(sampled.id));
        text += step.text;
        request.pause();
        yield { kind: "token", tokenId: sampled.id, text: step.text, logprob: sampled.logprob, top: sampled.top };
        request.resume(signal);
        if (step.kind === "stop") {
          finishReason = "stop";
          request.pause();
          yield done("");
          return;
        }
        if (generatedIds.length < maxTokens) {
          const position = promptIds.length + generatedIds.length - 1;
          logits = await scheduler.decode(context, sampled.id, position, signal);
          timings.decodeMs = performance.now() - firstTokenAt;
        }
      }
      const step = matcher.push(stream.end());
      if (step.kind === "stop") finishReason = "stop";
      request.pause();
      yield done(step.kind === "stop" ? step.text : step.text + matcher.end());
    } catch (error) {
      if (!signal.aborted) {
        request.outcome = "failed";
        throw error;
      }
      request.outcome = "cancelled";
      // The engine that closes is no wish of the caller's.
      if (!callerSignal?.aborted) throw signal.reason;
      finishReason = "cancelled";
      request.pause();
      yield done("");
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
    input: PromptInput,
    continuation: string | readonly number[],
    options: ScoreOptions = {},
  ): Promise<ScoreResult> {
    const { terms, numTop, stepwise } = checkInput(() => this.#checkScore(continuation, options));
    const { mode, signal } = terms;
    return await this.#asRequest(signal, async (request, ticket) => {
      const prompt = await this.#tokenized(input, mode, signal);
      const promptTokens = prompt.numTokens;
      const next = await this.#continuationIds(continuation, promptTokens, signal);
      const needs = this.#contextNeeds(prompt.blocks, { capacity: promptTokens + next.length, decodes: stepwise });
      const timings = newTimings();
      await this.#enter(ticket, request, timings, signal);
      using preparing = await this.#prepare(prompt, needs, terms, timings);
      const { context, finalTokens, finalPosition, cachedTokens } = preparing.prepared;
      const logprobs: number[] = [];
      const top: TokenLogprob[][] = [];
      const take = (logits: Float32Array): void => {
        const step = tokenLogprobs(logits, next[logprobs.length] as number, numTop);
        logprobs.push(step.logprob);
        top.push(step.top);
      };
      const scheduler = this.#scheduler;
      const atOnce = stepwise ? finalTokens : Int32Array.from([...finalTokens, ...next.slice(0, -1)]);
      const rows = scheduler.prefill(context, atOnce, finalPosition, finalTokens.length - 1, signal);
      for await (const logits of rows) take(logits);
      while (logprobs.length < next.length) {
        const done = logprobs.length;
        take(await scheduler.decode(context, next[done - 1] as number, promptTokens + done - 1, signal));
      }
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
    const { salt, signal, onBlock, ...rule } = checkInput(() => {
      const {
        onBlock,
        texts = {},
        splitLong = false,
        maxBlocks,
        ...asked
      } = readEncodeOptions("encode passages", options);
      const { passage: form } = ragTexts(readPassageTexts("encode passages", texts), this.#ragTexts);
      return { ...this.#checkTerms(asked), onBlock, form, splitLong, maxBlocks };
    });
    return await this.#asRequest(signal, async (request, ticket) => {
      const tokenized = await this.#inSlices(this.#passagesInSteps(passages, rule), signal);
      await this.#enter(ticket, request, newTimings(), signal);
      const encoded: EncodedPassage[] = [];
      for (let first = 0; first < tokenized.length; first += encodeBatch) {
        const batch = tokenized.slice(first, first + encodeBatch);
        const requests = await this.#blockRequests(
          batch.filter((one): one is LocalBlock => !("error" in one)),
          salt,
          signal,
        );
        using leased = await this.#lease(requests, signal);
        const served = servedBlocks(requests, leased).values();
        for (const one of batch) {
          const told = "error" in one ? one : (served.next().value as EncodedPassage);
          encoded.push(told);
          onBlock?.(told);
        }
      }
      return { blocks: encoded, failed: encoded.filter(({ error }) => error !== undefined).length };
    });
  }

  /**
   * A prompt's tokens, which `generate` takes in the prompt's place: once for several answers.
   *
   * @throws EngineError for a prompt that cannot be used or is too long, or a full queue; the signal's reason.
   */
  async tokenizePrompt(
    input: PromptInput,
    options: Pick<RequestOptions, "mode" | "signal"> = {},
  ): Promise<TokenizedPrompt> {
    const { mode, signal } = checkInput(() =>
      this.#checkTerms(readTokenizePromptOptions("tokenize the prompt", options)),
    );
    using _ticket = this.#admission.join();
    return await this.#tokenized(input, mode, signal);
  }

  /**
   * The ids of a text as a block of its own has them: nothing is added.
   *
   * @throws EngineError for half a character, more tokens than wanted, or a full queue; the signal's reason.
   */
  async tokenize(text: string, options: TokenizeOptions = {}): Promise<number[]> {
    const { special, maxTokens, signal } = checkInput(() => {
      const {
        special = false,
        maxTokens = Number.POSITIVE_INFINITY,
        ...asked
      } = readTokenizeOptions("tokenize", options);
      if (typeof text !== "string") throw new InputTypeError(`Cannot tokenize: the text is ${show(text)}, wanted text`);
      return { special, maxTokens, ...this.#checkTerms(asked) };
    });
    const count = new TokenCount({ maxTokens, of: "the limit" }, "the text");
    const steps = encodeCounted(this.model.tokenizer, { text, trusted: special ? "all" : "none" }, count);
    return await this.#asRequest(signal, () => this.#inSlices(steps, signal));
  }

  /** A kept block of this salt; undefined where there is none, another salt's among them. @throws EngineError for a salt that is no text. */
  async block(id: string, options: Pick<RequestOptions, "salt"> = {}): Promise<BlockInfo | undefined> {
    const salt = checkInput(() => saltOf("find a block", id, options));
    return isBlockId(id) ? this.#store.find(id, salt) : undefined;
  }

  /** Forgets a block of this salt. @returns whether there was one. @throws as `block`. */
  async deleteBlock(id: string, options: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    const salt = checkInput(() => saltOf("delete a block", id, options));
    return isBlockId(id) && (await this.#store.delete(id, salt));
  }

  stats(): EngineStats {
    return {
      store: this.#store.stats(),
      contexts: { capBytes: this.#budget.capBytes, usedBytes: this.#budget.usedBytes },
      weightBytes: this.model.weights.byteLength,
      computeBytes: this.model.backend.computeBytes,
      requests: this.#requests.counts,
      batching: this.#scheduler.stats,
    };
  }

  /** Ends running requests with an error, then frees everything. Again does nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new Error("Cannot go on: the engine was closed"));
    await this.#requests.end();
    await this.#scheduler.idle();
    this.#scheduler[Symbol.dispose]();
    await this.#store[Symbol.asyncDispose]();
    this.model[Symbol.dispose]();
  }

  get #trainedModes(): readonly AttentionMode[] {
    return this.model.source.config.blockAttention?.modes ?? [];
  }

  #modeOf(wanted: AttentionMode | undefined): AttentionMode {
    const mode = wanted ?? this.defaultMode;
    if (mode === "block" && !this.#trainedModes.includes("block") && !this.#hasWarned) {
      this.#hasWarned = true;
      this.#onWarning(untrainedWarning);
    }
    return mode;
  }

  #checkTerms({ mode, positionReencoding = true, salt = "", signal }: RequestOptions): Terms {
    return {
      mode: this.#modeOf(mode),
      positionReencoding,
      salt,
      signal: signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal,
    };
  }

  #checkGenerate(options: GenerateOptions & RequestOptions) {
    const checked = readGenerateOptions("generate", options);
    const { mode, positionReencoding, salt, signal, promptLogprobs, ...samplingInput } = checked;
    const sampling = samplingOf(samplingInput);
    const sampler = createSampler(sampling, {
      vocabSize: this.model.source.config.vocabSize,
      numTokens: this.model.tokenizer.vocabSize,
      drawSeed: () => randomInt(2 ** 47),
    });
    const terms = this.#checkTerms({ mode, positionReencoding, salt, signal });
    return { terms, sampling, sampler, promptLogprobs, callerSignal: signal };
  }

  #checkScore(continuation: unknown, options: ScoreOptions) {
    const { top: numTop = 5, stepwise = false, ...asked } = readScoreOptions("score", options);
    const { vocabSize } = this.model.source.config;
    if (numTop > vocabSize) {
      throw new InputRangeError(`Cannot score: top is ${numTop}, wanted a whole number from 0 to ${vocabSize}`);
    }
    if (typeof continuation !== "string" && !Array.isArray(continuation)) {
      throw new InputTypeError(`Cannot score: the continuation is ${show(continuation)}, wanted text or token ids`);
    }
    return { terms: this.#checkTerms(asked), numTop, stepwise };
  }

  /** A prompt's tokens, within the limit on prompts. @throws EngineError; the signal's reason. */
  #tokenized(input: PromptInput | TokenizedPrompt, mode: AttentionMode, signal: AbortSignal): Promise<TokenizedPrompt> {
    if (!(input instanceof TokenizedPrompt)) {
      const steps = tokenizePromptInSteps(input, mode, this.promptContext, this.#promptLimit);
      return this.#inSlices(steps, signal);
    }
    if (input.mode === mode) return Promise.resolve(input);
    throw new EngineError("invalid", `Cannot use the prompt: its tokens are of ${input.mode} mode, wanted ${mode}`);
  }

  async #continuationIds(
    continuation: string | readonly number[],
    promptTokens: number,
    signal: AbortSignal,
  ): Promise<readonly number[]> {
    const { vocabSize } = this.model.source.config;
    const count = new TokenCount(
      { ...this.#promptLimit, maxTokens: this.contextLength },
      "the prompt and its continuation",
    );
    count.add(promptTokens);
    const { tokenizer } = this.model;
    const encode = (text: string) => encodeCounted(tokenizer, { text, trusted: "all" }, count);
    return awaitInput(
      (async () => {
        if (typeof continuation !== "string") count.add(continuation.length);
        const next =
          typeof continuation === "string" ? await this.#slices.run(encode(continuation), signal) : [...continuation];
        if (next.length === 0) throw new InputRangeError("Cannot score: the continuation is empty");
        const wrong = next.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
        if (wrong === -1) return next;
        throw new InputRangeError(
          `Cannot score: the continuation holds id ${show(next[wrong])}, wanted a whole number below ${vocabSize}`,
        );
      })(),
      signal,
    );
  }

  /** @throws TypeError for what is no list of passages: that is the call's fault, not a passage's. */
  *#passagesInSteps(
    passages: readonly PassageInput[],
    { form, splitLong, maxBlocks = Infinity }: { form: string; splitLong: SplitLong; maxBlocks?: number | undefined },
  ): Steps<(LocalBlock | FailedPassage)[]> {
    const { tokenizer } = this.model;
    const maxTokens = maxPartTokens(splitLong, this.#promptLimit);
    const tokenized: (LocalBlock | FailedPassage)[] = [];
    const given = readPassages(passages);
    for (const [i, passage] of given.entries()) {
      try {
        // One block is left to each passage that is to come.
        const maxParts = Math.max(1, maxBlocks - tokenized.length - (given.length - 1 - i));
        const rule = { form, maxTokens, maxParts, tokenizer };
        const parts = splitLong === false ? [passage] : yield* splitPassage(passage, rule);
        for (const part of parts) tokenized.push(yield* this.#passageInSteps(part, form));
      } catch (error) {
        const refusal = asRefusal(error);
        if (!(refusal instanceof EngineError)) throw refusal;
        tokenized.push({ passage: passage.label, error: { code: refusal.code, message: refusal.message } });
      }
    }
    return tokenized;
  }

  *#passageInSteps(passage: Passage, form: string): Steps<LocalBlock> {
    const { label, isBlock } = passage;
    const what = `passage ${label.index + 1}`;
    const text = passageBlock(passage, form);
    const block: TextBlock = { text, trusted: isBlock ? "all" : "none" };
    const ids = yield* encodeCounted(this.model.tokenizer, block, new TokenCount(this.#promptLimit, what));
    if (ids.length === 0 || (!isBlock && text.trim() === "")) {
      throw new EngineError("invalid", `Cannot encode ${what}: it is empty`);
    }
    // Of a part its text too, by which it can be a passage of its own.
    return {
      tokenIds: Int32Array.from(ids),
      passage: label.part === undefined ? label : { ...label, text: passage.text },
    };
  }

  /** Work of a request that waits for its end, counted by how it ended. @throws EngineError for a full queue; the signal's reason. */
  async #asRequest<T>(signal: AbortSignal, work: (request: RunningRequest, ticket: Ticket) => Promise<T>): Promise<T> {
    using request = this.#requests.begin();
    try {
      signal.throwIfAborted();
      using ticket = this.#admission.join();
      return await work(request, ticket);
    } catch (error) {
      request.outcome = signal.aborted ? "cancelled" : "failed";
      throw error;
    }
  }

  /** Work on a caller's input. @throws EngineError for input that cannot be used; the signal's reason. */
  #inSlices<T>(steps: Steps<T>, signal: AbortSignal): Promise<T> {
    return awaitInput(this.#slices.run(steps, signal), signal);
  }

  /** Waits for the request's turn. @throws the signal's reason. */
  async #enter(ticket: Ticket, request: RunningRequest, timings: MutableTimings, signal: AbortSignal): Promise<void> {
    const from = performance.now();
    request.isQueued = true;
    try {
      await ticket.enter(signal);
    } finally {
      request.isQueued = false;
      timings.queueMs = performance.now() - from;
    }
  }

  /** The logits of every row of a prompt, each seeing what the mode lets it see: a local block's its block alone. */
  async *#promptRows(
    blocks: readonly Int32Array[],
    { context, finalTokens, finalPosition }: Prepared,
    signal: AbortSignal,
  ): AsyncGenerator<Float32Array> {
    const { backend, decoder } = this.model;
    const local = blocks.slice(0, -1);
    if (local.length > 0) {
      // Its room was taken with the context's.
      using scratch = new AssembledContext(backend, decoder, this.kvType, longest(local), { room: context.pin() });
      for (const block of local) {
        scratch.length = 0;
        yield* this.#scheduler.prefill(scratch, block, 0, 0, signal);
      }
    }
    yield* this.#scheduler.prefill(context, finalTokens, finalPosition, 0, signal);
  }

  /** @throws EngineError "too_long" for what would never find room: before it waits for anything. */
  #contextNeeds(blocks: readonly Int32Array[], needs: Omit<ContextNeeds, "bytes">): ContextNeeds {
    const { capacity, decodes, scoresPrompt = false } = needs;
    const { decoder } = this.model;
    const longestLocal = longest(blocks.slice(0, -1));
    const scratchBytes = scoresPrompt && longestLocal > 0 ? contextBytes(decoder, this.kvType, longestLocal, false) : 0;
    const bytes = contextBytes(decoder, this.kvType, capacity, decodes) + scratchBytes;
    this.#budget.requireFit(bytes);
    return { ...needs, bytes };
  }

  /** Leases or encodes the local blocks and lays them out. */
  async #prepare(
    { blocks, passages, numTokens }: TokenizedPrompt,
    { capacity, decodes, bytes }: ContextNeeds,
    { positionReencoding, salt, signal }: Terms,
    timings: MutableTimings,
  ): Promise<Disposable & { readonly prepared: Prepared }> {
    const { backend, decoder } = this.model;
    const local = blocks.slice(0, -1);
    const finalTokens = blocks.at(-1) as Int32Array;
    const waitFrom = performance.now();
    const room = await this.#budget.take(bytes, signal);
    let context: AssembledContext | undefined;
    let slot: DecodeSlot | undefined;
    const giveBack = (): void => {
      // Room and slot are the context's own once there is one.
      for (const owned of context ? [context] : [slot, room]) owned?.[Symbol.dispose]();
    };
    try {
      const encodeFrom = performance.now();
      timings.waitMs = encodeFrom - waitFrom;
      const named = local.map((tokenIds, i) => ({ tokenIds, passage: passages[i] }));
      const requests = local.length > 0 ? await this.#blockRequests(named, salt, signal) : [];
      using leased = await this.#lease(requests, signal);
      const served = servedBlocks(requests, leased);
      const assembleFrom = performance.now();
      timings.encodeMs = assembleFrom - encodeFrom;

      slot = decodes ? this.#scheduler.slots.take(capacity) : undefined;
      context = new AssembledContext(backend, decoder, this.kvType, capacity, { room, slot });
      const numLocal = numTokens - finalTokens.length;
      const positions = positionReencoding ? Int32Array.from({ length: numLocal }, (_, i) => i) : ownPositions(local);
      const laid = leased.blocks.map(({ block }) => block);
      await assemble(this.#scheduler, decoder, context, laid, positions, signal);
      timings.assembleMs = performance.now() - assembleFrom;
      const cachedTokens = served.reduce((sum, { hit, tokens }) => sum + (hit ? tokens : 0), 0);
      const prepared = { context, finalTokens, finalPosition: numLocal, blocks: served, cachedTokens };
      return { prepared, [Symbol.dispose]: giveBack };
    } catch (error) {
      giveBack();
      throw error;
    }
  }

  async #blockRequests(blocks: readonly LocalBlock[], salt: string, signal: AbortSignal): Promise<TokenBlock[]> {
    const fingerprint = await unlessAborted(this.model.fingerprint, signal);
    const fields = { fingerprint, kvType: this.kvType, formatVersion: BLOCK_KV_FORMAT_VERSION, salt };
    return blocks.map(({ tokenIds, passage }) => ({
      id: blockId({ ...fields, tokenIds: Uint32Array.from(tokenIds) }),
      shape: blockShape(this.model.decoder, this.kvType, tokenIds.length),
      owner: salt,
      tokenIds,
      passage,
    }));
  }

  #lease(requests: readonly TokenBlock[], signal: AbortSignal): Promise<LeasedBlocks<DeviceBlockMemory>> {
    const encode = (misses: readonly TokenBlock[]) =>
      this.#scheduler.encode(
        misses.map(({ tokenIds }) => tokenIds),
        signal,
      );
    return leaseBlocks(this.#store, requests, encode, { signal });
  }
}

function saltOf(action: string, id: unknown, options: unknown): string {
  if (typeof id !== "string") throw new InputTypeError(`Cannot ${action}: the id is ${show(id)}, wanted text`);
  return readBlockOptions(action, options).salt ?? "";
}

function servedBlocks(requests: readonly TokenBlock[], { blocks }: LeasedBlocks<DeviceBlockMemory>): ServedBlock[] {
  return requests.map(({ id, passage, tokenIds }, i) => {
    const served = { id, tokens: tokenIds.length, hit: blocks[i]?.fromStore === true };
    return passage === undefined ? served : { ...served, passage };
  });
}

function longest(blocks: readonly Int32Array[]): number {
  return blocks.reduce((most, { length }) => Math.max(most, length), 0);
}

/** Each block's positions from 0 on. */
function ownPositions(blocks: readonly Int32Array[]): Int32Array {
  return Int32Array.from(blocks.flatMap((block) => Array.from(block, (_, i) => i)));
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

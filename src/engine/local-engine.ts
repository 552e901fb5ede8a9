import { reasoningOf } from "../blocks/chat-template.js";
import type { PassageInput } from "../blocks/passage.js";
import { ragTexts } from "../blocks/rag-prompt.js";
import { toolFormOf } from "../blocks/tools.js";
import type { KVType } from "../files/element-types.js";
import { InputRangeError } from "../files/input-error.js";
import { isBlockId } from "../kv/block-id.js";
import type { BlockInfo, BlockStore } from "../kv/block-store.js";
import { type DocumentInfo, Documents, MemoryTexts } from "../kv/documents.js";
import { MemoryStore } from "../kv/memory-store.js";
import { type OpenedStore, openStorePlaces, type StoreTier } from "../kv/store-place.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import { Admission, type Ticket } from "./admission.js";
import { Answers, inParts } from "./answers.js";
import { blockFileFormat } from "./block-file.js";
import { ByteBudget, memoryShare } from "./byte-budget.js";
import { Grammars } from "./constraint/grammars.js";
import { ContextMaker } from "./context-maker.js";
import type { DraftUse } from "./decode-steps.js";
import { type DeviceBlockMemory, hostTier } from "./device-memory.js";
import { asEngineError, checkInput, EngineError } from "./engine-error.js";
import {
  type DocumentsOptions,
  type EncodeOptions,
  type EngineOptions,
  type GenerateOptions,
  type RequestOptions,
  readEngineOptions,
  type ScoreOptions,
  type TokenizeOptions,
} from "./engine-options.js";
import { KVMemory } from "./kv-memory.js";
import { memoryOf } from "./memory-fit.js";
import { chosenModel, type LoadedModel, loadModel, type ModelInfo, modelName, reuseNote } from "./model.js";
import { PassageEncoder } from "./passage-encoder.js";
import type { PromptContext, PromptInput, TokenizedPrompt } from "./prompt.js";
import { LiveRequests, RequestChecks } from "./request-checks.js";
import { RequestTokens } from "./request-tokens.js";
import type { EncodeResult, EngineStats, GenerateEvent, GenerateResult, ScoreResult } from "./results.js";
import { Scheduler } from "./scheduler.js";
import { Scores } from "./scores.js";
import { type EngineStatus, StatusSource } from "./status-source.js";
import { TokenSpeller } from "./token-speller.js";

const defaultReaderTimeoutMs = 60_000;
/** Tokens that one call of `onTokens` hands over: a few milliseconds' worth of messages. */
const tokensOfPart = 256;

/**
 * Block attention over a model: passages are encoded once and alone, kept, moved to where a prompt needs them, and only
 * the final block is computed. Requests may run at the same time; they take turns graph by graph.
 *
 * @example
 * await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
 * for await (const event of engine.generate({ blocks: ["A passage.\n", "Question: …"] }, { maxTokens: 8 })) {
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
  /** What requests in block mode that name no repair do. */
  readonly defaultRepair: string;
  /** What cutting and tokenizing a prompt needs. */
  readonly promptContext: PromptContext;
  readonly info: ModelInfo;
  readonly #status = new StatusSource({ state: "ready", restarts: 0 });
  readonly #speller: TokenSpeller;
  readonly #store: BlockStore<DeviceBlockMemory>;
  /** Of blocks that rest beside the device. */
  readonly #hostMemory: KVMemory | undefined;
  readonly #lasting: readonly StoreTier<DeviceBlockMemory>[];
  readonly #budget: ByteBudget;
  readonly #admission: Admission;
  readonly #scheduler: Scheduler;
  readonly #documents: Documents;
  readonly #encoder: PassageEncoder;
  readonly #contexts: ContextMaker;
  readonly #tokens: RequestTokens;
  readonly #checks: RequestChecks;
  readonly #live = new LiveRequests();
  #isClosed = false;
  /** Cancels the answers of an iterator that was dropped without being read to its end. */
  readonly #dropped = new FinalizationRegistry<AbortController>((leaving) =>
    leaving.abort(new Error("Cannot go on: nobody holds the answer")),
  );
  readonly #grammars: Grammars;
  readonly #answers: Answers;
  readonly #scores: Scores;

  private constructor(
    model: LoadedModel,
    path: string,
    options: ReturnType<typeof readEngineOptions>,
    stores: readonly OpenedStore[],
  ) {
    const { contextLength, rope, vocabSize } = model.source.config;
    this.model = model;
    this.kvType = options.kvType;
    this.contextLength = contextLength;
    const { maxPromptTokens = this.contextLength } = options;
    const ofModel =
      rope.scaling.kind === "longrope"
        ? "the model's original context (past it, longrope turns all keys otherwise, and stored ones could not be used)"
        : "the model's context";
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
    const shareBytes = memoryShare(model.weights.byteLength, memoryOf(model.backend));
    this.#budget = new ByteBudget(options.contextBytes ?? shareBytes);
    const { maxRunning, maxQueued } = options;
    this.#admission = new Admission({ maxRunning, maxQueued, budget: this.#budget });
    this.#scheduler = new Scheduler(model.backend, model.decoder, this.kvType, {
      admission: this.#admission,
      contextCapBytes: this.#budget.capBytes,
      drafts: draftsOn(model.backend, options.drafts),
    });
    const { hostStoreBytes = 0 } = options;
    const { memory } = this.#scheduler;
    this.#hostMemory =
      hostStoreBytes > 0 ? new KVMemory(model.backend, memory.shape, this.kvType, { isOnHost: true }) : undefined;
    this.#lasting = stores.map((store) => store.tier(blockFileFormat(model, memory)));
    this.#store = new MemoryStore<DeviceBlockMemory>({
      capBytes: options.storeBytes ?? shareBytes,
      tiers: [
        ...(this.#hostMemory ? [hostTier(memory, this.#hostMemory, hostStoreBytes)] : []),
        ...this.#lasting.map(({ tier }) => tier),
      ],
      computeTime: (numTokens) => this.#scheduler.prefillRate.timeOf(numTokens),
    });
    // Of several places the last one is what machines share.
    const texts = this.#lasting.at(-1)?.texts ?? new MemoryTexts();
    this.#documents = new Documents(texts, (...gone) => this.#store.deletePassages(...gone));
    this.#contexts = new ContextMaker(model, this.kvType, this.#store, this.#budget, this.#scheduler);
    const trainedModes = own?.modes ?? [];
    this.defaultMode = options.mode ?? (trainedModes.includes("block") ? "block" : "full");
    this.defaultRepair = options.repair ?? own?.repair ?? "none";
    this.#checks = new RequestChecks(model, {
      defaultMode: this.defaultMode,
      keepPrefixes: options.keepPrefixes ?? true,
      repair: this.defaultRepair,
      ragTexts: words,
      live: this.#live,
    });
    const lasting = this.#lasting.length > 0 ? () => this.#known : undefined;
    this.#encoder = new PassageEncoder({
      ...{ checks: this.#checks, admission: this.#admission, tokens: this.#tokens, blocks: this.#contexts.blocks },
      ...{ store: this.#store, documents: this.#documents, lasting },
    });
    this.#speller = new TokenSpeller(model.tokenizer);
    const parts = [this.#admission, this.#tokens, this.#contexts, this.#scheduler] as const;
    const fail = ({ message }: Error) => {
      if (!this.#isClosed) this.#status.change({ state: "failed", lastError: message });
    };
    model.backend.onFilesChanged = fail;
    model.identity.catch(fail);
    this.#scores = new Scores(...parts);
    this.#grammars = new Grammars(tokenizer, model.endTokenIds, vocabSize, chatTemplate && toolFormOf(chatTemplate));
    const readerTimeoutMs = options.readerTimeoutMs ?? defaultReaderTimeoutMs;
    this.#answers = new Answers(model, ...parts, this.#speller, this.#grammars, readerTimeoutMs);
    this.info = {
      name: modelName(path),
      contextLength: this.contextLength,
      vocabSize,
      kvType: this.kvType,
      defaultMode: this.defaultMode,
      trainedModes,
      reuseNote: reuseNote(trainedModes),
      ...(model.source.adapters && {
        adapters: model.source.adapters.map((one) => ({ name: modelName(one.path), scale: one.scale })),
      }),
      hasChatTemplate: chatTemplate !== undefined,
      reasoning: chatTemplate && reasoningOf(chatTemplate),
      loadedAt: Math.floor(Date.now() / 1000),
    };
  }

  /**
   * Loads a model and makes an empty block store.
   *
   * @throws TypeError for an option that does not exist or of another kind, RangeError for one out of range; Error for files
   * that are missing, damaged or not supported, or too little memory; the signal's reason.
   */
  static async load(options: EngineOptions = {}): Promise<LocalEngine> {
    const checked = readEngineOptions("load the engine", options);
    ragTexts(checked.ragTexts);
    const path = chosenModel(checked);
    const stores = await openStorePlaces(checked.store ?? [], checked.onWarning);
    try {
      const model = await loadModel({ ...checked, model: path });
      try {
        return new LocalEngine(model, path, checked, stores);
      } catch (error) {
        model[Symbol.dispose]();
        throw error;
      }
    } catch (error) {
      for (const store of stores) await store[Symbol.asyncDispose]();
      throw error;
    }
  }

  get status(): EngineStatus {
    return this.#status.current;
  }

  onStatus(listener: (status: EngineStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  /**
   * Answers a prompt, token by token. The engine computes up to 32 events of each answer ahead of its reader, who gets an
   * error after reading nothing for `readerTimeoutMs` while so many wait. Leaving the loop, or an abort of the signal, frees all
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
    const asked = () => checkInput(() => this.#checks.generate(options, leaving));
    const events = this.#answers.read(input, asked, leaving);
    this.#dropped.register(events, leaving);
    return events;
  }

  /** Answers a prompt, all at once: one answer. @throws as `generate`. */
  async complete(
    input: PromptInput | TokenizedPrompt,
    options: Omit<GenerateOptions, "n"> & RequestOptions = {},
  ): Promise<GenerateResult> {
    checkInput(() => this.#checks.complete(options));
    for await (const event of this.generate(input, options)) if (event.kind === "done") return event.result;
    throw new Error("Cannot complete the prompt: the answer did not end");
  }

  /**
   * How likely a continuation is after a prompt.
   *
   * @param continuation text, tokenized alone, or token ids.
   * @throws EngineError; the signal's reason.
   */
  async score(
    input: PromptInput | TokenizedPrompt,
    continuation: string | readonly number[],
    options: ScoreOptions = {},
  ): Promise<ScoreResult> {
    const asked = checkInput(() => this.#checks.score([continuation], options));
    return (await this.#scores.each(input, [continuation], asked))[0] as ScoreResult;
  }

  /** How likely each of several continuations is after a prompt, which is computed once. @throws as `score`. */
  async scoreEach(
    input: PromptInput | TokenizedPrompt,
    continuations: readonly (string | readonly number[])[],
    options: ScoreOptions = {},
  ): Promise<ScoreResult[]> {
    const asked = checkInput(() => this.#checks.score(continuations, options));
    return await this.#scores.each(input, continuations, asked);
  }

  /**
   * Encodes passages ahead, at index time: afterwards prompts find them in the store while it has room.
   *
   * A passage that cannot be encoded (it is empty, too long, or has half a character) has its error in its place, and the
   * others are encoded.
   *
   * @param passages block texts as a prompt will have them, or documents, which become passages of the RAG prompt.
   * @throws EngineError; the signal's reason.
   */
  async encode(passages: readonly PassageInput[], options: EncodeOptions = {}): Promise<EncodeResult> {
    return await this.#encoder.encode(passages, options);
  }

  /**
   * Tokenizes a prompt once for several calls, which take the result in the prompt's place.
   *
   * @throws EngineError for a prompt that cannot be used or is too long, or a full queue; the signal's reason.
   */
  async tokenizePrompt(
    input: PromptInput | TokenizedPrompt,
    options: Pick<RequestOptions, "mode" | "signal"> = {},
  ): Promise<TokenizedPrompt> {
    const terms = checkInput(() => this.#checks.tokenizePrompt(options));
    try {
      using ticket = this.#admission.join("")[0] as Ticket;
      // Not counted: the prompt is for a request, which is.
      ticket.outcome = undefined;
      return await this.#tokens.plainPrompt(input, terms);
    } catch (error) {
      throw terms.signal.aborted ? terms.signal.reason : asEngineError(error);
    } finally {
      terms.end();
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
    const ids = await this.#admission.run(terms, () => this.#tokens.text(block, maxTokens, terms.signal));
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

  /** Some documents of this salt, in an order of their own, by id. @throws EngineError. */
  async documents(options: DocumentsOptions = {}): Promise<readonly DocumentInfo[]> {
    const { salt, limit, after } = checkInput(() => this.#checks.documents(options));
    const entries = await this.#documents.list(salt, limit, after);
    return entries.map(({ id, metadata, blocks }) => {
      return { id, ...(metadata && { metadata }), blocks: blocks.map(({ id, tokens }) => ({ id, tokens })) };
    });
  }

  /**
   * Forgets a document of this salt, its blocks, and all blocks and pages that saw them, but for passages that another document has
   * too. @returns whether there was one. @throws as `block`; Error where something of it could not be removed.
   */
  async deleteDocument(id: string, options: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    const salt = checkInput(() => this.#checks.block("delete a document", id, options));
    await this.#known;
    return await this.#documents.delete(salt, id);
  }

  /** Resolves once blocks are kept where they outlive the process. */
  get #known(): Promise<unknown> {
    return Promise.all(this.#lasting.map(({ known }) => known));
  }

  stats(): EngineStats {
    const { most, now } = this.model.backend.threadCount;
    return {
      store: this.#store.stats(),
      contexts: { capBytes: this.#budget.capBytes, usedBytes: this.#budget.usedBytes },
      weightBytes: this.model.weights.byteLength,
      mappedBytes: this.model.weights.mappedBytes,
      kvMemory: this.#scheduler.memory.stats,
      ...(this.#hostMemory && { hostMemory: this.#hostMemory.stats }),
      computeBytes: this.model.backend.computeBytes,
      threads: { most, now },
      processBytes: process.memoryUsage.rss(),
      requests: this.#admission.counts,
      batching: this.#scheduler.stats,
    };
  }

  /** Ends running requests with an error, then frees everything. Again does nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#live.close(new EngineError("unavailable", "Cannot go on: the engine was closed"));
    this.#status.change({ state: "closed" });
    await this.#admission.ended();
    await this.#scheduler.idle();
    this.#scheduler[Symbol.dispose]();
    await this.#grammars[Symbol.asyncDispose]();
    await this.#store[Symbol.asyncDispose]();
    for (const one of this.#lasting) await one[Symbol.asyncDispose]();
    this.model[Symbol.dispose]();
  }
}

/** @throws RangeError where drafts are asked for of a device that computes one token of a sequence at a time. */
function draftsOn({ policy, device }: LoadedModel["backend"], asked: DraftUse = "off"): DraftUse {
  // Over values that lie as rows a token is attended by a fused node of its own.
  if (policy.decodeLayout === "transposed") return asked;
  if (typeof asked === "number") {
    throw new InputRangeError(`Cannot compute drafts: the device is ${device.name}, wanted the CPU`);
  }
  return "off";
}

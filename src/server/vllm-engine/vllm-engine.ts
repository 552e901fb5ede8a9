import { reasoningOf } from "../../blocks/chat-template.js";
import type { PassageInput } from "../../blocks/passage.js";
import { ragTexts } from "../../blocks/rag-prompt.js";
import type { Engine } from "../../engine/engine.js";
import { asEngineError, checkInput, EngineError } from "../../engine/engine-error.js";
import type {
  EncodeOptions,
  EngineOptions,
  GenerateOptions,
  RequestOptions,
  TokenizeOptions,
} from "../../engine/engine-options.js";
import type { LocalBlock } from "../../engine/local-blocks.js";
import { loadTokenizer, type ModelInfo, modelName, reuseNote, templateOf } from "../../engine/model.js";
import type { PromptInput, TokenizedPrompt } from "../../engine/prompt.js";
import { type AskedAnswers, LiveRequests, RequestChecks, type Terms } from "../../engine/request-checks.js";
import { RequestTokens } from "../../engine/request-tokens.js";
import type { EncodedPassage, EncodeResult, EngineStats, GenerateEvent, ServedBlock } from "../../engine/results.js";
import { type EngineStatus, StatusSource } from "../../engine/status-source.js";
import { TokenSpeller } from "../../engine/token-speller.js";
import type { BlockInfo } from "../../kv/block-store.js";
import { openModel } from "../../model/open-model.js";
import { bodyOf, VllmAnswers } from "./vllm-answers.js";
import { VllmReplicas } from "./vllm-replicas.js";
import type { VllmServer } from "./vllm-server.js";

export interface VllmEngineOptions
  extends Pick<EngineOptions, "mode" | "kvType" | "ragTexts" | "maxPromptTokens" | "onWarning" | "signal"> {
  /** What vLLM serves: a Hugging Face folder or a .gguf file, for its tokenizer, chat template and settings. No weights are read. */
  readonly model: string;
  /** Of vLLM servers with the connector, over one store. */
  readonly urls: readonly string[];
  /** What they ask for (`--api-key`). */
  readonly key?: string | undefined;
  /** How often each server is asked whether it lives, in milliseconds. Default 5,000. */
  readonly checkMs?: number;
}

/**
 * Answers with vLLM: cuts and tokenizes prompts, has blocks encoded that are not known to be there, and passes the answer on.
 * @see VllmReplicas for which server a request goes to.
 */
export class VllmEngine implements Engine {
  readonly info: ModelInfo;
  readonly #status: StatusSource;
  readonly #live = new LiveRequests();
  readonly #counts = { queued: 0, running: 0, finished: 0, cancelled: 0, failed: 0 };
  readonly #blocks = { hits: 0, misses: 0 };
  readonly #checks: RequestChecks;

  private constructor(
    info: ModelInfo,
    private readonly replicas: VllmReplicas,
    checks: (live: LiveRequests) => RequestChecks,
    private readonly tokens: RequestTokens,
    private readonly speller: TokenSpeller,
    private readonly endTokenIds: ReadonlySet<number>,
  ) {
    this.info = info;
    this.#checks = checks(this.#live);
    this.#status = new StatusSource(replicas.status);
    replicas.onChange = () => this.#status.change(replicas.status);
  }

  /** @throws Error for a model that cannot be read; EngineError where no server can be reached. */
  static async load(options: VllmEngineOptions): Promise<VllmEngine> {
    const { model, urls, key, signal, maxPromptTokens = Infinity } = options;
    const source = await openModel(model, {});
    const tokenizer = await loadTokenizer(model);
    const chatTemplate = templateOf(tokenizer);
    const { config } = source;
    const replicas = await VllmReplicas.open(urls, key, options.checkMs ?? 5_000, config.contextLength, signal);
    const { contextLength } = replicas;
    const own = config.blockAttention;
    const words = ragTexts(options.ragTexts, own?.ragPrompt);
    const trainedModes = own?.modes ?? [];
    const note = reuseNote(trainedModes);
    if (note !== undefined) options.onWarning?.(note);
    const defaultMode = options.mode ?? (trainedModes.includes("block") ? "block" : "full");
    const info: ModelInfo = {
      ...{ name: modelName(model), contextLength, vocabSize: config.vocabSize, kvType: options.kvType ?? "bf16" },
      ...{ defaultMode, trainedModes, reuseNote: note, hasChatTemplate: chatTemplate !== undefined },
      reasoning: chatTemplate && reasoningOf(chatTemplate),
      loadedAt: Math.floor(Date.now() / 1000),
    };
    const context = {
      tokenizer,
      vocabSize: config.vocabSize,
      chatTemplate,
      ragTexts: words,
      prefix: own?.prefix ?? "",
    };
    const limit = { maxTokens: Math.min(maxPromptTokens, contextLength), of: "vLLM's context" };
    const checks = (live: LiveRequests) =>
      new RequestChecks(
        { source, tokenizer, chatTemplate },
        { defaultMode, keepPrefixes: true, repair: "none", ragTexts: words, live },
      );
    const tokens = new RequestTokens(context, limit, contextLength);
    const ends = new Set([...tokenizer.endTokenIds, ...source.endTokenIds]);
    return new VllmEngine(info, replicas, checks, tokens, new TokenSpeller(tokenizer), ends);
  }

  get status(): EngineStatus {
    const { current } = this.#status;
    return current.state === "closed" ? current : this.replicas.status;
  }

  onStatus(listener: (status: EngineStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  async *generate(
    input: PromptInput,
    options: GenerateOptions & RequestOptions = {},
  ): AsyncGenerator<GenerateEvent, void> {
    const leaving = new AbortController();
    const asked = checkInput(() => this.#checks.generate(options, leaving));
    const { terms } = asked;
    let outcome: "finished" | "cancelled" | "failed" = "cancelled";
    this.#counts.running += 1;
    try {
      requireSupported(asked);
      const startedAt = performance.now();
      const prompt = await this.tokens.prompt(input, terms);
      const answers = new VllmAnswers(asked, prompt, this.speller, this.endTokenIds, startedAt);
      try {
        yield* this.#answer(answers, prompt, asked);
      } catch (error) {
        // A caller's abort ends the answers; the engine's end fails them.
        if (!asked.callerSignal?.aborted) throw error;
        yield* answers.end("cancelled");
      }
      if (!terms.signal.aborted) outcome = "finished";
    } catch (error) {
      outcome = terms.signal.aborted ? "cancelled" : "failed";
      throw terms.signal.aborted ? terms.signal.reason : asEngineError(error);
    } finally {
      this.#counts.running -= 1;
      this.#counts[outcome] += 1;
      leaving.abort(new Error("Cannot go on: nobody reads the answer"));
      terms.end();
    }
  }

  async *#answer(
    answers: VllmAnswers,
    prompt: TokenizedPrompt,
    asked: AskedAnswers,
  ): AsyncGenerator<GenerateEvent, void> {
    const { signal, owner: salt } = asked.terms;
    const local = prompt.spans.slice(0, -1);
    if (local.some(({ kind }) => kind === "global")) {
      throw new EngineError(
        "invalid",
        "Cannot answer: the prompt has blocks after text that sees all, wanted them before it",
      );
    }
    const blocks = local.map(({ tokenIds }) => tokenIds);
    const tokenIds = prompt.spans.flatMap((span) => [...span.tokenIds]);
    const maxTokens = Math.min(asked.sampling.maxTokens, this.info.contextLength - tokenIds.length);
    if (maxTokens < 1) {
      yield answers.begin([]);
      yield* answers.end("length");
      return;
    }
    const body = { ...bodyOf(asked, this.endTokenIds), max_tokens: maxTokens };
    const tried = new Set<VllmServer>();
    let hasFailed = false;
    // A block may be lost, or its server: again, before anything was said.
    for (;;) {
      using place = await this.#place(local, salt, tried);
      const { server } = place;
      try {
        const served = await this.#encode(server, local, asked.terms);
        let hasBegun = false;
        for await (const chunk of server.answer(tokenIds, { blocks, salt }, body, signal)) {
          if (!hasBegun) yield answers.begin(served);
          hasBegun = true;
          yield* answers.take(chunk);
        }
        return;
      } catch (error) {
        // Whether it was the server or the answer alone decides over the next requests.
        if (error instanceof EngineError && error.code === "died") void this.replicas.check();
        if (signal.aborted || answers.hasBegun || !(error instanceof EngineError)) throw error;
        for (const block of blocks) server.forget(block, salt);
        if (error.code === "failed" && !hasFailed) hasFailed = true;
        else if (error.code === "unavailable" || error.code === "died") {
          tried.add(server);
          if (!this.replicas.hasOthers(tried)) throw error;
        } else throw error;
      }
    }
  }

  #place(blocks: readonly LocalBlock[], salt: string, tried: ReadonlySet<VllmServer> = new Set()) {
    this.#live.throwIfClosed();
    return this.replicas.take(blocks, salt, tried);
  }

  async #encode(server: VllmServer, blocks: readonly LocalBlock[], { owner, signal }: Terms): Promise<ServedBlock[]> {
    const stored = await Promise.all(blocks.map(({ tokenIds }) => server.encode(tokenIds, owner, signal)));
    for (const { hit } of stored) this.#blocks[hit ? "hits" : "misses"] += 1;
    return blocks.map(({ tokenIds, passage }, i) => ({
      ...(stored[i] as (typeof stored)[number]),
      tokens: tokenIds.length,
      ...(passage && { passage }),
    }));
  }

  /** Where an answer over it would be looked for. */
  async #encodeOne(block: LocalBlock, terms: Terms): Promise<EncodedPassage> {
    const tried = new Set<VllmServer>();
    for (;;) {
      using place = await this.#place([block], terms.owner, tried);
      try {
        return (await this.#encode(place.server, [block], terms))[0] as EncodedPassage;
      } catch (error) {
        tried.add(place.server);
        const isAway = error instanceof EngineError && error.code === "unavailable";
        if (!isAway || terms.signal.aborted || !this.replicas.hasOthers(tried)) throw error;
      }
    }
  }

  async scoreEach(): Promise<never> {
    throw new EngineError("invalid", "Cannot score: vLLM gives no log-probabilities of a prompt with blocks");
  }

  async encode(passages: readonly PassageInput[], options: EncodeOptions = {}): Promise<EncodeResult> {
    const { terms, onBlock, ...rule } = checkInput(() => this.#checks.encode(options, new AbortController()));
    try {
      requireNoRepair(terms);
      const blocks: EncodedPassage[] = [];
      for (const one of await this.tokens.passages(passages, rule, terms)) {
        const done = "error" in one ? one : await this.#encodeOne(one, terms);
        blocks.push(done);
        await onBlock?.(done);
      }
      return { blocks, failed: blocks.filter(({ error }) => error !== undefined).length };
    } finally {
      terms.end();
    }
  }

  async tokenize(text: string, options: TokenizeOptions = {}): Promise<readonly number[]> {
    const { special, maxTokens, onTokens, terms } = checkInput(() => this.#checks.tokenize(text, options));
    try {
      const ids = await this.tokens.text({ text, trusted: special ? "all" : "none" }, maxTokens, terms.signal);
      await onTokens?.(
        ids.map((id) => this.speller.token(id)),
        ids.length,
      );
      return ids;
    } finally {
      terms.end();
    }
  }

  async block(): Promise<BlockInfo | undefined> {
    throw new EngineError(
      "invalid",
      "Cannot find a block: vLLM's store is asked by its folder, block-attention store ls",
    );
  }

  async deleteBlock(): Promise<boolean> {
    throw new EngineError(
      "invalid",
      "Cannot delete a block: vLLM's store is kept by its folder, block-attention store rm",
    );
  }

  async documents(): Promise<never> {
    throw new EngineError(
      "invalid",
      "Cannot list documents: with vLLM there are none, block-attention encode keeps them",
    );
  }

  async deleteDocument(): Promise<never> {
    throw new EngineError(
      "invalid",
      "Cannot delete a document: with vLLM there are none, block-attention store rm does it",
    );
  }

  /** Of this process: what vLLM holds and computes is in its own metrics. */
  stats(): EngineStats {
    const bytes = { capBytes: 0, leasedBytes: 0, idleBytes: 0, freeBytes: 0, unkeptBytes: 0 };
    const none = { waits: 0, takeovers: 0, evictions: 0, evictionsByReason: { room: 0, deleted: 0, replaced: 0 } };
    return {
      store: { ...bytes, numBlocks: 0, numEncoding: 0, tiers: [], ...this.#blocks, ...none },
      contexts: { capBytes: 0, usedBytes: 0 },
      ...{ weightBytes: 0, mappedBytes: 0, computeBytes: 0, threads: { most: 0, now: 0 } },
      kvMemory: { usedBytes: 0, reservedBytes: 0, numSlabs: 0 },
      processBytes: process.memoryUsage.rss(),
      requests: { ...this.#counts },
      batching: {
        ...{ decodeGraphs: 0, decodedTokens: 0, builtDecodeGraphs: 0, draftTokens: 0, acceptedDraftTokens: 0 },
        ...{ rowGraphs: 0, rows: 0, maxRowsBesideDecoding: 0 },
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.status.state === "closed") return;
    this.#live.close(new EngineError("unavailable", "Cannot go on: the engine was closed"));
    this.replicas[Symbol.dispose]();
    this.#status.change({ state: "closed" });
  }
}

function requireNoRepair({ repair }: Terms): void {
  if (repair === undefined) return;
  throw new EngineError("invalid", `Cannot use the repair "${repair.text}": with vLLM there is none, wanted "none"`);
}

/** @throws EngineError for what only block-attention's own engine does. */
function requireSupported({ terms, echo, constraint, prediction }: AskedAnswers): void {
  requireNoRepair(terms);
  const unwanted = {
    ...{ echo, explain: terms.explain, constraint: constraint !== undefined, prediction: prediction !== undefined },
    "positionReencoding false": !terms.positionReencoding,
  };
  const [name] = Object.entries(unwanted).find(([, isAsked]) => isAsked) ?? [];
  if (name !== undefined) throw new EngineError("invalid", `Cannot answer: vLLM does not know ${name}, wanted without`);
}

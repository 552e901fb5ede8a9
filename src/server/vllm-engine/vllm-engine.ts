import { reasoningOf } from "../../blocks/chat-template.js";
import type { PassageInput } from "../../blocks/passage.js";
import { ragTexts } from "../../blocks/rag-prompt.js";
import { newTimings } from "../../engine/context-maker.js";
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
import {
  type EncodedPassage,
  type EncodeResult,
  type EngineStats,
  type GenerateEvent,
  type LikelyToken,
  nothingReused,
  type ServedBlock,
} from "../../engine/results.js";
import { type EngineStatus, StatusSource } from "../../engine/status-source.js";
import { TokenSpeller } from "../../engine/token-speller.js";
import type { BlockInfo } from "../../kv/block-store.js";
import { openModel } from "../../model/open-model.js";
import { type Chunk, VllmServer } from "./vllm-server.js";

export interface VllmEngineOptions
  extends Pick<EngineOptions, "mode" | "kvType" | "ragTexts" | "maxPromptTokens" | "onWarning" | "signal"> {
  /** What vLLM serves: a Hugging Face folder or a .gguf file, for its tokenizer, chat template and settings. No weights are read. */
  readonly model: string;
  /** Of vLLM servers with the connector, over one store. */
  readonly urls: readonly string[];
  /** What they ask for (`--api-key`). */
  readonly key?: string | undefined;
}

/**
 * Answers with vLLM: cuts and tokenizes prompts, has blocks encoded that are not known to be there, and passes the answer on.
 * Each request goes to the server that has the fewest.
 */
export class VllmEngine implements Engine {
  readonly info: ModelInfo;
  readonly #status = new StatusSource({ state: "ready", restarts: 0 });
  readonly #live = new LiveRequests();
  readonly #counts = { queued: 0, running: 0, finished: 0, cancelled: 0, failed: 0 };
  readonly #blocks = { hits: 0, misses: 0 };
  readonly #checks: RequestChecks;

  private constructor(
    info: ModelInfo,
    private readonly servers: readonly VllmServer[],
    checks: (live: LiveRequests) => RequestChecks,
    private readonly tokens: RequestTokens,
    private readonly speller: TokenSpeller,
    private readonly endTokenIds: ReadonlySet<number>,
  ) {
    this.info = info;
    this.#checks = checks(this.#live);
  }

  /** @throws Error for a model that cannot be read; EngineError where a server cannot be reached. */
  static async load(options: VllmEngineOptions): Promise<VllmEngine> {
    const { model, urls, key, signal, maxPromptTokens = Infinity } = options;
    const source = await openModel(model, {});
    const tokenizer = await loadTokenizer(model);
    const chatTemplate = templateOf(tokenizer);
    const servers = urls.map((url) => new VllmServer(url, key));
    const lengths = await Promise.all(servers.map((server) => server.open(signal)));
    const { config } = source;
    const contextLength = Math.min(config.contextLength, ...lengths);
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
    return new VllmEngine(info, servers, checks, tokens, new TokenSpeller(tokenizer), ends);
  }

  get status(): EngineStatus {
    return this.#status.current;
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
    // A block may be lost, or its server: once more, before anything was said.
    for (let attempt = 0; ; attempt++) {
      const server = this.#chosen();
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
        const isOver = signal.aborted || answers.hasBegun || attempt > 0;
        if (isOver || !(error instanceof EngineError) || !["failed", "unavailable"].includes(error.code)) throw error;
        for (const block of blocks) server.forget(block, salt);
      }
    }
  }

  #chosen(): VllmServer {
    this.#live.throwIfClosed();
    const [first, ...others] = this.servers as readonly [VllmServer, ...VllmServer[]];
    const load = ({ isDown, running }: VllmServer) => (isDown ? Infinity : running);
    return others.reduce((best, server) => (load(server) < load(best) ? server : best), first);
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

  async scoreEach(): Promise<never> {
    throw new EngineError("invalid", "Cannot score: vLLM gives no log-probabilities of a prompt with blocks");
  }

  async encode(passages: readonly PassageInput[], options: EncodeOptions = {}): Promise<EncodeResult> {
    const { terms, onBlock, ...rule } = checkInput(() => this.#checks.encode(options, new AbortController()));
    try {
      requireNoRepair(terms);
      const blocks: EncodedPassage[] = [];
      for (const one of await this.tokens.passages(passages, rule, terms)) {
        const done = "error" in one ? one : ((await this.#encode(this.#chosen(), [one], terms))[0] as EncodedPassage);
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
    this.#status.change({ state: "closed" });
  }
}

interface Answer {
  text: string;
  readonly tokenIds: number[];
  /** When its first token came. */
  firstAt: number | undefined;
  isDone: boolean;
}

/** The answers to one prompt, as they come. */
class VllmAnswers {
  hasBegun = false;
  readonly #timings = newTimings();
  readonly #answers: readonly Answer[];
  #blocks: readonly ServedBlock[] = [];

  constructor(
    private readonly asked: AskedAnswers,
    private readonly prompt: TokenizedPrompt,
    private readonly speller: TokenSpeller,
    private readonly endTokenIds: ReadonlySet<number>,
    private readonly startedAt: number,
  ) {
    this.#timings.tokenizeMs = performance.now() - startedAt;
    this.#answers = asked.samplers.map(() => ({ text: "", tokenIds: [], firstAt: undefined, isDone: false }));
  }

  begin(blocks: readonly ServedBlock[]): GenerateEvent {
    this.hasBegun = true;
    this.#blocks = blocks;
    const { usage } = this.#used();
    const { mode, opensReasoning } = this.prompt;
    return { kind: "prompt", mode, blocks, ...usage, ...(opensReasoning && { opensReasoning }) };
  }

  *take({ index, text, token_ids, logprobs, finish_reason }: Chunk): Generator<GenerateEvent, void> {
    const answer = this.#answers[index];
    if (answer === undefined || answer.isDone) return;
    answer.firstAt ??= performance.now();
    const { spell, sampling } = this.asked;
    const tokens = (token_ids ?? []).map((id, i): LikelyToken => {
      const top = Object.entries(logprobs?.top_logprobs?.[i] ?? {}).map(([name, logprob]) => ({
        id: Number(name.replace("token_id:", "")),
        logprob,
      }));
      const best = top.sort((a, b) => b.logprob - a.logprob || a.id - b.id).slice(0, sampling.topLogprobs);
      return { id, logprob: logprobs?.token_logprobs[i] ?? undefined, top: best };
    });
    const isEnd = finish_reason === "stop" && this.endTokenIds.has(tokens.at(-1)?.id ?? -1);
    const end = isEnd ? tokens.pop() : undefined;
    answer.text += text;
    for (const [i, token] of tokens.entries()) {
      answer.tokenIds.push(token.id);
      const own = { index, tokenId: token.id, text: i === tokens.length - 1 ? text : "" };
      const { logprob, top } = token;
      yield { kind: "token", ...own, logprob, top, ...(spell && { spelled: this.speller.spell(token) }) };
    }
    if (finish_reason === null || finish_reason === undefined) return;
    // Text that was held back comes with the end, without a token.
    yield this.#done(index, finish_reason === "length" ? "length" : "stop", tokens.length === 0 ? text : "", end);
  }

  /** Ends those that have not ended. */
  *end(reason: "cancelled" | "length"): Generator<GenerateEvent, void> {
    for (const [index, { isDone }] of this.#answers.entries()) if (!isDone) yield this.#done(index, reason, "");
  }

  #used() {
    const cachedTokens = this.#blocks.reduce((sum, { hit, tokens }) => sum + (hit ? tokens : 0), 0);
    return {
      usage: {
        promptTokens: this.prompt.numTokens,
        cachedTokens,
        reused: { ...nothingReused, blocks: cachedTokens },
      },
    };
  }

  #done(index: number, finishReason: "stop" | "length" | "cancelled", text: string, end?: LikelyToken): GenerateEvent {
    const answer = this.#answers[index] as Answer;
    answer.isDone = true;
    const { tokenIds, firstAt } = answer;
    const now = performance.now();
    const timings = {
      ...this.#timings,
      ttftMs: firstAt === undefined ? undefined : firstAt - this.startedAt,
      decodeMs: firstAt === undefined ? 0 : now - firstAt,
    };
    const endToken = end && { ...end, ...(this.asked.spell && { spelled: this.speller.spell(end) }) };
    const result = {
      ...{ text: answer.text, tokenIds, endToken, finishReason, mode: this.prompt.mode, timings, blocks: this.#blocks },
      usage: { ...this.#used().usage, completionTokens: tokenIds.length },
      ...{ seed: this.asked.samplers[index]?.seed ?? 0, warnings: this.prompt.warnings },
    };
    return { kind: "done", index, text, result };
  }
}

/** The sampling as vLLM has it. */
function bodyOf({ sampling, samplers }: AskedAnswers, endTokenIds: ReadonlySet<number>): Record<string, unknown> {
  const { temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, stop } = sampling;
  return {
    ...{ temperature, top_k: topK, top_p: topP, min_p: minP, stop, n: samplers.length, seed: samplers[0]?.seed },
    ...{
      repetition_penalty: repetitionPenalty,
      presence_penalty: presencePenalty,
      frequency_penalty: frequencyPenalty,
    },
    ...(sampling.logitBias.size > 0 && { logit_bias: Object.fromEntries(sampling.logitBias) }),
    ...(sampling.logprobs && { logprobs: sampling.topLogprobs, return_tokens_as_token_ids: true }),
    // The model's files say what ends an answer, for both engines the same.
    ...{ ignore_eos: true, stop_token_ids: [...endTokenIds] },
  };
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

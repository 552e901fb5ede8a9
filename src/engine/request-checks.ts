import { randomInt } from "node:crypto";
import { setMaxListeners } from "node:events";
import { type RagPromptTexts, ragTexts } from "../blocks/rag-prompt.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import { quote } from "../files/quote.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { Constraint } from "./constraint/constraint.js";
import type { RequestOf } from "./context-maker.js";
import {
  type EncodeOptions,
  type GenerateOptions,
  type RequestOptions,
  readBlockOptions,
  readDocumentsOptions,
  readEncodeOptions,
  readGenerateOptions,
  readPassageTexts,
  readScoreOptions,
  readTokenizeOptions,
  readTokenizePromptOptions,
  type ScoreOptions,
  type TokenizeOptions,
} from "./engine-options.js";
import { type LoadedModel, reuseNote } from "./model.js";
import { namesRepair, resolveRepair, type TokenizedRepair, tokenizeRepair } from "./repair.js";
import { createSampler, type Sampler } from "./sampler.js";
import { type SamplingOptions, samplingOf, seedOfAnswer } from "./sampling-options.js";

/** What holds for a request as a whole, checked. */
export interface Terms extends RequestOf {
  readonly mode: AttentionMode;
  /** Of a prompt in block mode; undefined where nothing is done. */
  readonly repair: TokenizedRepair | undefined;
  /** What to tell of reuse where nobody chose the mode and it is full for lack of training. */
  readonly reuseNote: string | undefined;
  /** Called when the request has ended; again does nothing. */
  readonly end: () => void;
}

/** A call of `generate()`, checked. */
export interface AskedAnswers {
  readonly terms: Terms;
  readonly sampling: SamplingOptions;
  /** One for each answer. */
  readonly samplers: readonly Sampler[];
  readonly constraint: Constraint | undefined;
  readonly prediction: string | undefined;
  readonly echo: boolean;
  readonly spell: boolean;
  readonly maxLogprobs: number | undefined;
  readonly callerSignal: AbortSignal | undefined;
}

/** A call of `scoreEach()`, checked. */
export interface AskedScores {
  readonly terms: Terms;
  readonly numTop: number;
  readonly stepwise: boolean;
}

/**
 * The requests under way, which are aborted when the engine closes. With `AbortSignal.any()` over a signal of the engine's own,
 * something of every request would stay as long as the engine lives (some 50 bytes in Node 20).
 */
export class LiveRequests {
  readonly #live = new Set<AbortController>();
  #closing: { readonly reason: unknown } | undefined;

  /** @returns the signal of a request until `end` is called. @param caller aborts it as well. */
  begin(request: AbortController, caller: AbortSignal | undefined): Pick<Terms, "signal" | "end"> {
    if (this.#closing) request.abort(this.#closing.reason);
    this.#live.add(request);
    return {
      signal: caller ? AbortSignal.any([request.signal, caller]) : request.signal,
      end: () => this.#live.delete(request),
    };
  }

  /** @throws the reason of a closed engine. */
  throwIfClosed(): void {
    if (this.#closing) throw this.#closing.reason;
  }

  close(reason: unknown): void {
    this.#closing ??= { reason };
    for (const request of this.#live) request.abort(reason);
  }
}

export interface CheckOptions {
  readonly defaultMode: AttentionMode;
  readonly keepPrefixes: boolean;
  /** Of requests that name none. */
  readonly repair: string;
  readonly ragTexts: RagPromptTexts;
  readonly live: LiveRequests;
}

/** Repairs whose tokens are kept. */
const maxKnownRepairs = 64;

/** Checks the arguments of an engine's calls and fills the defaults in. All throw what `optionsOf` does, or the reason of a closed engine. */
export class RequestChecks {
  readonly #repairs = new Map<string, TokenizedRepair>();

  constructor(
    private readonly model: Pick<LoadedModel, "source" | "tokenizer" | "chatTemplate">,
    private readonly options: CheckOptions,
  ) {}

  /** @param leaving aborted once nobody reads the answers. */
  generate(options: GenerateOptions & RequestOptions, leaving: AbortController): AskedAnswers {
    const {
      mode,
      positionReencoding,
      salt,
      payer,
      keepPrefixes,
      explain,
      repair,
      signal,
      constraint,
      prediction,
      n = 1,
      echo = false,
      spell = false,
      maxLogprobs,
      ...samplingInput
    } = readGenerateOptions("generate", options);
    const sampling = samplingOf(samplingInput);
    const limits = {
      vocabSize: this.model.source.config.vocabSize,
      numTokens: this.model.tokenizer.vocabSize,
      isConstrained: constraint !== undefined,
      drawSeed: () => randomInt(2 ** 47),
    };
    const samplers = Array.from({ length: n }, (_, index) =>
      createSampler({ ...sampling, seed: seedOfAnswer(sampling.seed, index) }, limits),
    );
    const terms = this.#terms(
      { mode, positionReencoding, salt, payer, keepPrefixes, explain, repair, signal },
      leaving,
    );
    const { recompute, keep, text = "" } = terms.repair ?? {};
    if (echo && sampling.logprobs && (recompute ?? keep) !== undefined) {
      terms.end();
      const why = keep === undefined ? "computes some of its tokens twice" : "takes some of its blocks out";
      throw new InputRangeError(`Cannot echo the prompt with log-probabilities: the repair ${quote(text)} ${why}`);
    }
    // Every answer listens to it.
    setMaxListeners(0, terms.signal);
    return { terms, sampling, samplers, constraint, prediction, echo, spell, maxLogprobs, callerSignal: signal };
  }

  /** Of several answers only one could be returned. Everything else is checked by `generate()`. */
  complete(options: GenerateOptions): void {
    const { n = 1 }: GenerateOptions = options ?? {};
    if (n !== 1)
      throw new InputRangeError(
        `Cannot complete the prompt: n is ${show(n)}, wanted 1: generate() gives several answers`,
      );
  }

  score(continuations: unknown, options: ScoreOptions): AskedScores {
    const { top: numTop = 5, stepwise = false, ...asked } = readScoreOptions("score", options);
    const { vocabSize } = this.model.source.config;
    if (numTop > vocabSize) {
      throw new InputRangeError(`Cannot score: top is ${numTop}, wanted a whole number from 0 to ${vocabSize}`);
    }
    if (!Array.isArray(continuations)) {
      throw new InputTypeError(`Cannot score: the continuations are ${show(continuations)}, wanted a list`);
    }
    for (const one of continuations as readonly unknown[]) {
      if (typeof one === "string" || Array.isArray(one)) continue;
      throw new InputTypeError(`Cannot score: the continuation is ${show(one)}, wanted text or token ids`);
    }
    return { terms: this.#terms(asked), numTop, stepwise };
  }

  /** @param leaving aborted once the caller's `onBlock` has thrown. */
  encode(options: EncodeOptions, leaving: AbortController) {
    const {
      onBlock,
      texts: given = {},
      system,
      splitLong = false,
      maxBlocks,
      ...asked
    } = readEncodeOptions("encode passages", options);
    const texts = readPassageTexts("encode passages", given);
    const { passage: form } = ragTexts(texts, this.options.ragTexts);
    const terms = this.#terms({ ...asked, mode: "block" }, leaving);
    const bound = system === undefined ? "texts.preamble" : "system";
    if (!terms.repair?.preamble && (system ?? texts.preamble) !== undefined) {
      terms.end();
      throw new InputRangeError(
        `Cannot encode passages: ${bound} is given, and changes no block but with the repair "preamble"`,
      );
    }
    return { terms, onBlock, form, texts, system, splitLong, maxBlocks };
  }

  tokenizePrompt(options: Pick<RequestOptions, "mode" | "signal">): Terms {
    return this.#terms(readTokenizePromptOptions("tokenize the prompt", options));
  }

  tokenize(text: unknown, options: TokenizeOptions) {
    const { special = false, maxTokens = Infinity, onTokens, ...asked } = readTokenizeOptions("tokenize", options);
    if (typeof text !== "string") throw new InputTypeError(`Cannot tokenize: the text is ${show(text)}, wanted text`);
    return { special, maxTokens, onTokens, terms: this.#terms(asked) };
  }

  /** @returns the salt. */
  block(action: string, id: unknown, options: unknown): string {
    this.options.live.throwIfClosed();
    if (typeof id !== "string") throw new InputTypeError(`Cannot ${action}: the id is ${show(id)}, wanted text`);
    return readBlockOptions(action, options).salt ?? "";
  }

  documents(options: unknown) {
    this.options.live.throwIfClosed();
    const { salt = "", limit = 100, after } = readDocumentsOptions("list documents", options);
    return { salt, limit, after };
  }

  #terms(asked: RequestOptions, request = new AbortController()): Terms {
    const { mode, positionReencoding = true, salt = "", payer = salt, keepPrefixes, explain = false } = asked;
    const { repair, signal } = asked;
    const { defaultMode, keepPrefixes: isKept, live } = this.options;
    const usedMode = mode ?? (namesRepair(repair) ? "block" : defaultMode);
    const note =
      mode === undefined && !namesRepair(repair)
        ? reuseNote(this.model.source.config.blockAttention?.modes)
        : undefined;
    const repaired = this.#repair(repair, usedMode);
    const of = { mode: usedMode, repair: repaired, reuseNote: note, positionReencoding, owner: salt, payer };
    return { ...of, keepPrefixes: keepPrefixes ?? isKept, explain, ...live.begin(request, signal) };
  }

  /** @throws RangeError for a repair that the request itself names, in full mode. */
  #repair(asked: string | undefined, mode: AttentionMode): TokenizedRepair | undefined {
    const text = asked ?? this.options.repair;
    if (text === "none") return undefined;
    if (mode === "full") {
      if (!namesRepair(asked)) return undefined;
      throw new InputRangeError(`Cannot use the repair ${quote(asked)}: the mode is full, which loses nothing`);
    }
    const known = this.#repairs.get(text);
    if (known !== undefined) return known;
    const { source, tokenizer, chatTemplate } = this.model;
    const repair = tokenizeRepair(resolveRepair(text, source.config.blockAttention), tokenizer, chatTemplate);
    if (this.#repairs.size >= maxKnownRepairs) this.#repairs.clear();
    this.#repairs.set(text, repair);
    return repair;
  }
}

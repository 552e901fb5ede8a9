import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { AssembledContext } from "./assemble.js";
import type { Stepped } from "./decodings.js";
import type { Draft, Drafter } from "./drafts.js";
import { type DraftCounts, type EndToken, type FinishReason, type LikelyToken, noDrafts } from "./results.js";
import type { Sampler } from "./sampler.js";
import { StopMatcher, type StopStep } from "./stop-strings.js";

/** Tells which tokens may come next. */
export interface TokenMasks {
  /** Of the place after the last accepted token, once `ready` has resolved. */
  readonly mask: Int32Array | undefined;
  readonly ready: Promise<void> | undefined;
  accept(tokenId: number): void;
}

/** What is known of an answer before its prompt is tokenized. */
export interface AnswerOptions {
  readonly sampler: Sampler;
  readonly stop: readonly string[];
  readonly endTokenIds: ReadonlySet<number>;
  readonly tokenizer: Tokenizer;
  /** When it was asked for, by `performance.now()`. */
  readonly startedAt: number;
  /** Called with each token as it is chosen, and the text that it completes. */
  readonly onToken: (sampled: LikelyToken, text: string) => void;
  /** Whether the reader has enough unread: no token is computed then. */
  readonly isPaused: () => boolean;
}

/** What an answer goes on from. */
export interface AnswerStart {
  readonly promptIds: readonly number[];
  /** Whether the answer continues the prompt's own text; else it is a text of its own. */
  readonly isContinued: boolean;
  readonly maxTokens: number;
  readonly context: AssembledContext;
  /** The prompt's last row's: the first token is chosen by them. */
  readonly logits: Float32Array;
  /** Where not every token may come next. Those of the first place are ready. */
  readonly masks?: TokenMasks | undefined;
}

/**
 * One answer under way: its tokens and text so far, how the next token is chosen, and what ends it. It begins with
 * `begin()`; then the scheduler computes the token that `next` names and hands it the logits, until `take()` says that it
 * has enough.
 */
export class Sequence implements Stepped {
  readonly tokenIds: number[] = [];
  /** In ms, from the request to the first token; undefined before it. */
  ttftMs: number | undefined;
  /** In ms, from the first token to the last. */
  decodeMs = 0;
  endToken: EndToken | undefined;
  drafts: DraftCounts = noDrafts;
  readonly #stops: StopMatcher;
  #start: AnswerStart | undefined;
  #stream: ReturnType<Tokenizer["stream"]> | undefined;
  #drafter: Drafter | undefined;
  #firstTokenAt: number | undefined;
  #text = "";
  #finishReason: FinishReason | undefined;

  constructor(private readonly options: AnswerOptions) {
    this.#stops = new StopMatcher(options.stop);
  }

  get seed(): number {
    return this.options.sampler.seed;
  }

  get text(): string {
    return this.#text;
  }

  /** Undefined until the answer ends. */
  get finishReason(): FinishReason | undefined {
    return this.#finishReason;
  }

  get context(): AssembledContext {
    return this.#begun.context;
  }

  get isPaused(): boolean {
    return this.options.isPaused();
  }

  get next(): { readonly tokenId: number; readonly position: number } {
    const { promptIds } = this.#begun;
    return {
      tokenId: this.tokenIds.at(-1) as number,
      position: promptIds.length + this.tokenIds.length - 1,
    };
  }

  /** Chooses the first token. @returns whether the answer goes on. @throws as the sampler. */
  begin(start: AnswerStart): boolean {
    this.#start = start;
    this.#stream = this.options.tokenizer.stream({ goesOn: start.isContinued });
    if (start.maxTokens > 0) return this.take(start.logits);
    this.#finishReason = "length";
    return false;
  }

  /** Resolves once the next token can be chosen. @throws Error where it cannot be told which may come. */
  get ready(): Promise<void> | undefined {
    return this.#begun.masks?.ready;
  }

  get sampleGreatest() {
    return this.options.sampler.sampleGreatest;
  }

  /** Its next tokens are guessed from now on. @param drafter knows of none of its tokens yet. */
  guess(drafter: Drafter): void {
    for (const id of this.tokenIds) drafter.add(id);
    this.#drafter = drafter;
  }

  /** Guesses what follows the last token, no more than the answer has room for: the last token's key and value are never read. */
  readonly draft = (maxTokens: number): Draft | undefined =>
    this.#drafter?.draft(Math.min(maxTokens, this.#begun.maxTokens - this.tokenIds.length - 1));

  onDraft(numAccepted: number, numRejected: number): void {
    const { accepted, rejected } = this.drafts;
    this.drafts = { accepted: accepted + numAccepted, rejected: rejected + numRejected };
  }

  /** Chooses the next token by its logits, or takes what `sampleGreatest` chose. @returns whether the answer goes on. @throws as the sampler. */
  take(next: Float32Array | LikelyToken): boolean {
    const { promptIds, maxTokens, masks } = this.#begun;
    const { sampler, startedAt, endTokenIds, onToken } = this.options;
    const sampled = "id" in next ? next : sampler.sample(next, { promptIds, generatedIds: this.tokenIds }, masks?.mask);
    const now = performance.now();
    this.#firstTokenAt ??= now;
    this.ttftMs ??= now - startedAt;
    this.decodeMs = now - this.#firstTokenAt;
    if (endTokenIds.has(sampled.id)) {
      this.endToken = sampled;
      this.#finishReason = "stop";
      return false;
    }
    this.tokenIds.push(sampled.id);
    const step = this.#add((this.#stream as ReturnType<Tokenizer["stream"]>).push(sampled.id));
    onToken(sampled, step.text);
    if (this.#finishReason === undefined && this.tokenIds.length >= maxTokens) this.#finishReason = "length";
    if (this.#finishReason === undefined) {
      masks?.accept(sampled.id);
      this.#drafter?.add(sampled.id);
    }
    return this.#finishReason === undefined;
  }

  /** Ends the answer as it is. */
  cancel(): void {
    this.#finishReason = "cancelled";
  }

  /** @returns the text that was held back, once the answer has ended. */
  end(): string {
    if (this.#finishReason === "cancelled" || this.#stops.hasEnded || this.#stream === undefined) return "";
    const step = this.#add(this.#stream.end());
    if (step.kind === "stop") return step.text;
    const held = this.#stops.end();
    this.#text += held;
    return step.text + held;
  }

  #add(text: string): StopStep {
    const step = this.#stops.push(text);
    this.#text += step.text;
    if (step.kind === "stop") this.#finishReason = "stop";
    return step;
  }

  get #begun(): AnswerStart {
    if (this.#start === undefined) throw new Error("Cannot step an answer: it has not begun");
    return this.#start;
  }
}

import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { AssembledContext } from "./assemble.js";
import type { EndToken, FinishReason } from "./results.js";
import type { SampledToken, Sampler } from "./sampler.js";
import type { Stepped } from "./scheduler.js";
import { StopMatcher, type StopStep } from "./stop-strings.js";

/** What is known of an answer before its prompt is. */
export interface AnswerOptions {
  readonly sampler: Sampler;
  readonly stop: readonly string[];
  readonly endTokenIds: ReadonlySet<number>;
  readonly tokenizer: Tokenizer;
  /** When it was asked for, by `performance.now()`. */
  readonly startedAt: number;
  /** Takes the answer's tokens as they are chosen, each with the text that is complete with it. */
  readonly tell: (sampled: SampledToken, text: string) => void;
  /** Whether what it tells must wait. */
  readonly isPaused: () => boolean;
}

/** What an answer goes on from. */
export interface AnswerStart {
  readonly promptIds: readonly number[];
  /** The answer goes on with the prompt's own text; else it is a text of its own. */
  readonly isContinued: boolean;
  readonly maxTokens: number;
  readonly context: AssembledContext;
  /** Of the prompt's last token: what the first token is chosen by. */
  readonly logits: Float32Array;
}

/**
 * One answer under way: its tokens and text so far, how the next token is chosen, and what ends it. It begins with
 * `begin()`; then the scheduler decodes the token that it names and hands it the logits, until `take()` says that it has
 * enough.
 */
export class Sequence implements Stepped {
  readonly tokenIds: number[] = [];
  /** In ms, from the request to the first token; undefined before it. */
  ttftMs: number | undefined;
  /** In ms, from the first token to the last. */
  decodeMs = 0;
  endToken: EndToken | undefined;
  readonly #options: AnswerOptions;
  readonly #stops: StopMatcher;
  #start: AnswerStart | undefined;
  #stream: ReturnType<Tokenizer["stream"]> | undefined;
  #firstTokenAt: number | undefined;
  #text = "";
  #finishReason: FinishReason | undefined;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#stops = new StopMatcher(options.stop);
  }

  get seed(): number {
    return this.#options.sampler.seed;
  }

  get text(): string {
    return this.#text;
  }

  /** Undefined while it is under way. */
  get finishReason(): FinishReason | undefined {
    return this.#finishReason;
  }

  get context(): AssembledContext {
    return this.#begun.context;
  }

  get isPaused(): boolean {
    return this.#options.isPaused();
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
    this.#stream = this.#options.tokenizer.stream({ goesOn: start.isContinued });
    if (start.maxTokens > 0) return this.take(start.logits);
    this.#finishReason = "length";
    return false;
  }

  /** Chooses the next token and tells it. @returns whether the answer goes on. @throws as the sampler. */
  take(logits: Float32Array): boolean {
    const { promptIds, maxTokens } = this.#begun;
    const { sampler, startedAt, endTokenIds, tell } = this.#options;
    const sampled = sampler.sample(logits, { promptIds, generatedIds: this.tokenIds });
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
    tell(sampled, step.text);
    if (this.#finishReason === undefined && this.tokenIds.length >= maxTokens) this.#finishReason = "length";
    return this.#finishReason === undefined;
  }

  /** Ends the answer where it stands. */
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

import type { PromptLogprob } from "./results.js";
import { tokenLogprobs } from "./token-logprobs.js";

/** Turns the logits of a prompt's rows, in order, into the log-probabilities of its tokens: each row predicts the next. */
export class PromptScorer {
  readonly #ids: readonly number[];
  readonly #numTop: number;
  readonly #scores: PromptLogprob[];
  #lastLogits: Float32Array | undefined;

  /** @param ids of the whole prompt, one or more. @param numTop how many of the likeliest tokens are told for each. */
  constructor(ids: readonly number[], numTop: number) {
    this.#ids = ids;
    this.#numTop = numTop;
    this.#scores = [{ id: ids[0] as number, logprob: undefined, top: [] }];
  }

  /** @throws RangeError for logits that are no finite numbers, or for more rows than the prompt has. */
  take(logits: Float32Array): void {
    if (this.#lastLogits !== undefined)
      throw new RangeError(`Cannot score: ${this.#ids.length} rows were taken already`);
    const next = this.#ids[this.#scores.length];
    if (next === undefined) this.#lastLogits = logits;
    else this.#scores.push({ id: next, ...tokenLogprobs(logits, next, this.#numTop) });
  }

  get scores(): readonly PromptLogprob[] {
    return this.#scores;
  }

  /** Of the last row: what follows the prompt. @throws Error before it was taken. */
  get lastLogits(): Float32Array {
    if (this.#lastLogits !== undefined) return this.#lastLogits;
    throw new Error(`Cannot score: ${this.#scores.length - 1} rows of ${this.#ids.length} were taken`);
  }
}

import type { TextBlock } from "../blocks/block.js";
import type { Steps } from "../tokenizer/steps.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { EngineError } from "./engine-error.js";

/** How many tokens something may have. */
export interface TokenLimit {
  readonly maxTokens: number;
  /** Whose limit it is, for messages: "the model's context". */
  readonly of: string;
}

/** Tokens of one thing, counted as they come. */
export class TokenCount {
  #numTokens = 0;

  /** @param what is counted, for messages. */
  constructor(
    readonly limit: TokenLimit,
    readonly what = "the prompt",
  ) {}

  /** @throws EngineError "too_long" if so many more were over the limit. */
  check(numMore: number): void {
    const { maxTokens, of } = this.limit;
    if (this.#numTokens + numMore <= maxTokens) return;
    throw new EngineError(
      "too_long",
      `Cannot use ${this.what}: it has more than the ${maxTokens} tokens that ${of} allows`,
    );
  }

  /** @throws as `check`. */
  add(numTokens: number): void {
    this.check(numTokens);
    this.#numTokens += numTokens;
  }
}

/** The ids of a text, in steps, one before it: of short texts there may be many. The work ends where the count goes over its limit. @throws as Tokenizer.encode(); EngineError "too_long". */
export function* encodeCounted(tokenizer: Tokenizer, { text, trusted }: TextBlock, count: TokenCount): Steps<number[]> {
  yield;
  const ids: number[] = [];
  for (const _ of tokenizer.encodeInSteps(text, trusted, ids)) {
    count.check(ids.length);
    yield;
  }
  count.add(ids.length);
  return ids;
}

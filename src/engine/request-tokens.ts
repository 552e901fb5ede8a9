import type { TextBlock } from "../blocks/block.js";
import type { PassageInput } from "../blocks/passage.js";
import { InputRangeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { Steps } from "../tokenizer/steps.js";
import type { LocalBlock } from "./context-maker.js";
import { awaitInput, EngineError } from "./engine-error.js";
import { type PassageRule, passagesInSteps } from "./passage-tokens.js";
import {
  encodeCounted,
  type PromptContext,
  type PromptInput,
  TokenCount,
  TokenizedPrompt,
  type TokenLimit,
  tokenizePromptInSteps,
} from "./prompt.js";
import type { FailedPassage } from "./results.js";
import { SlicedWork } from "./sliced-work.js";

/**
 * Makes tokens of what callers give, a slice at a time, within the engine's limits. What cannot be used is an EngineError; all
 * throw the signal's reason.
 */
export class RequestTokens {
  readonly #slices = new SlicedWork();

  /** @param contextLength the longest prompt plus answer, in tokens. */
  constructor(
    private readonly context: PromptContext,
    private readonly promptLimit: TokenLimit,
    readonly contextLength: number,
  ) {}

  /** A prompt's, within the limit on prompts. */
  async prompt(
    input: PromptInput | TokenizedPrompt,
    mode: AttentionMode,
    signal: AbortSignal,
  ): Promise<TokenizedPrompt> {
    if (!(input instanceof TokenizedPrompt)) {
      return await this.#inSlices(tokenizePromptInSteps(input, mode, this.context, this.promptLimit), signal);
    }
    if (input.mode === mode) return input;
    throw new EngineError("invalid", `Cannot use the prompt: its tokens are of ${input.mode} mode, wanted ${mode}`);
  }

  /** A continuation's, which fits the context after the prompt. */
  async continuation(
    continuation: string | readonly number[],
    promptTokens: number,
    signal: AbortSignal,
  ): Promise<readonly number[]> {
    const limit = { ...this.promptLimit, maxTokens: this.contextLength };
    const count = new TokenCount(limit, "the prompt and its continuation");
    const { tokenizer, vocabSize = tokenizer.vocabSize } = this.context;
    const read = async (): Promise<readonly number[]> => {
      if (typeof continuation !== "string") count.add(continuation.length);
      const next =
        typeof continuation === "string"
          ? await this.#slices.run(encodeCounted(tokenizer, { text: continuation, trusted: "all" }, count), signal)
          : [...continuation];
      if (next.length === 0) throw new InputRangeError("Cannot score: the continuation is empty");
      const wrong = next.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
      if (wrong === -1) return next;
      throw new InputRangeError(
        `Cannot score: the continuation holds id ${show(next[wrong])}, wanted a whole number below ${vocabSize}`,
      );
    };
    count.add(promptTokens);
    return await awaitInput(read(), signal);
  }

  /** Passages as the blocks that they become; one that cannot be used has its error in its place. */
  passages(
    passages: readonly PassageInput[],
    rule: PassageRule,
    signal: AbortSignal,
  ): Promise<(LocalBlock | FailedPassage)[]> {
    return this.#inSlices(passagesInSteps(passages, rule, this.context.tokenizer, this.promptLimit), signal);
  }

  /** A text's as a block of its own has them. */
  text(block: TextBlock, maxTokens: number, signal: AbortSignal): Promise<number[]> {
    const count = new TokenCount({ maxTokens, of: "the limit" }, "the text");
    return this.#inSlices(encodeCounted(this.context.tokenizer, block, count), signal);
  }

  #inSlices<T>(steps: Steps<T>, signal: AbortSignal): Promise<T> {
    return awaitInput(this.#slices.run(steps, signal), signal);
  }
}

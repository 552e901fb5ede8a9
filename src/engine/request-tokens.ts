import type { TextBlock } from "../blocks/block.js";
import { type Passage, type PassageInput, passageBlock, readPassages } from "../blocks/passage.js";
import type { GivenRagTexts } from "../blocks/rag-prompt.js";
import { splitPassage } from "../blocks/split-passage.js";
import { InputRangeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import type { Steps } from "../tokenizer/steps.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { asRefusal, awaitInput, EngineError } from "./engine-error.js";
import type { LocalBlock } from "./local-blocks.js";
import {
  maxPartTokens,
  type PromptContext,
  type PromptInput,
  type SplitLong,
  TokenizedPrompt,
  tokenizePromptInSteps,
} from "./prompt.js";
import { repairedBlock, repairedPrompt } from "./repair.js";
import type { Terms } from "./request-checks.js";
import type { FailedPassage } from "./results.js";
import { SlicedWork } from "./sliced-work.js";
import { encodeCounted, TokenCount, type TokenLimit } from "./token-count.js";

/**
 * Tokenizes what callers give, a slice at a time, within the engine's limits. All throw an EngineError for input that cannot
 * be used, and the signal's reason.
 */
export class RequestTokens {
  readonly #slices = new SlicedWork();

  /** @param contextLength the longest prompt plus answer, in tokens. */
  constructor(
    private readonly context: PromptContext,
    private readonly promptLimit: TokenLimit,
    readonly contextLength: number,
  ) {}

  /** A prompt's tokens, within the limit on prompts, with what a repair puts before its blocks. */
  async prompt(
    input: PromptInput | TokenizedPrompt,
    { repair, ...of }: Pick<Terms, "mode" | "reuseNote" | "signal" | "repair">,
  ): Promise<TokenizedPrompt> {
    const prompt = await this.plainPrompt(input, of);
    if (repair === undefined) return prompt;
    const repaired = repairedPrompt(prompt, repair);
    new TokenCount(this.promptLimit).add(repaired.numTokens);
    return repaired;
  }

  /** A prompt's tokens, within the limit on prompts. */
  async plainPrompt(
    input: PromptInput | TokenizedPrompt,
    { mode, reuseNote, signal }: Pick<Terms, "mode" | "reuseNote" | "signal">,
  ): Promise<TokenizedPrompt> {
    if (!(input instanceof TokenizedPrompt)) {
      const context = { ...this.context, reuseNote };
      return await this.#inSlices(tokenizePromptInSteps(input, mode, context, this.promptLimit), signal);
    }
    if (input.mode === mode) return input;
    throw new EngineError("invalid", `Cannot use the prompt: its tokens are of ${input.mode} mode, wanted ${mode}`);
  }

  /** A continuation's tokens, which fit the context after the prompt's. */
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
  async passages(
    passages: readonly PassageInput[],
    rule: PassageRule,
    { signal, repair }: Pick<Terms, "signal" | "repair">,
  ): Promise<(LocalBlock | FailedPassage)[]> {
    const blocks = await this.#inSlices(
      passagesInSteps(passages, rule, this.context.tokenizer, this.promptLimit),
      signal,
    );
    if (repair === undefined) return blocks;
    const before = repair.preamble ? await this.#beginning(rule, signal) : undefined;
    return blocks.map((block) => ("error" in block ? block : repairedBlock(block, repair, before)));
  }

  /** Block 0 of prompts with documents: what stands before the first of them. */
  async #beginning({ texts, system }: PassageRule, signal: AbortSignal): Promise<Int32Array | undefined> {
    const documents = [{ text: "-" }];
    const rag = { texts };
    const messages = [
      { role: "system", content: system ?? "" },
      { role: "user", content: "-" },
    ];
    const input = system === undefined ? { question: "-", documents, rag } : { messages, documents, rag };
    const { spans } = await this.plainPrompt(input, { mode: "block", reuseNote: undefined, signal });
    return spans.length > 2 && spans[0]?.kind === "local" ? spans[0].tokenIds : undefined;
  }

  /** A text's tokens, as a block of its own has them. @param what it is, for the error where it has more. */
  text(block: TextBlock, maxTokens: number, signal: AbortSignal, what = "the text"): Promise<number[]> {
    const count = new TokenCount({ maxTokens, of: "the limit" }, what);
    return this.#inSlices(encodeCounted(this.context.tokenizer, block, count), signal);
  }

  #inSlices<T>(steps: Steps<T>, signal: AbortSignal): Promise<T> {
    return awaitInput(this.#slices.run(steps, signal), signal);
  }
}

/** How passages become blocks. */
export interface PassageRule {
  /** The model's form of a passage. */
  readonly form: string;
  /** What else prompts to come have in other words, and their system message: what the repair `preamble` lets blocks see. */
  readonly texts?: GivenRagTexts | undefined;
  readonly system?: string | undefined;
  readonly splitLong: SplitLong;
  readonly maxBlocks?: number | undefined;
}

/**
 * The tokens of passages that are encoded ahead; the error of one that cannot be stands in its place.
 *
 * @throws TypeError for what is no list of passages: that is the call's fault, not a passage's.
 */
function* passagesInSteps(
  passages: readonly PassageInput[],
  { form, splitLong, maxBlocks = Infinity }: PassageRule,
  tokenizer: Tokenizer,
  limit: TokenLimit,
): Steps<(LocalBlock | FailedPassage)[]> {
  const maxTokens = maxPartTokens(splitLong, limit);
  const tokenized: (LocalBlock | FailedPassage)[] = [];
  const given = readPassages(passages);
  for (const [i, passage] of given.entries()) {
    try {
      // One block is left to each passage that is to come.
      const maxParts = Math.max(1, maxBlocks - tokenized.length - (given.length - 1 - i));
      const rule = { form, maxTokens, maxParts, tokenizer };
      const parts = splitLong === false ? [passage] : yield* splitPassage(passage, rule);
      for (const part of parts) tokenized.push(yield* passageInSteps(part, form, tokenizer, limit));
    } catch (error) {
      const refusal = asRefusal(error);
      if (!(refusal instanceof EngineError)) throw refusal;
      tokenized.push({ passage: passage.label, error: { code: refusal.code, message: refusal.message } });
    }
  }
  return tokenized;
}

function* passageInSteps(passage: Passage, form: string, tokenizer: Tokenizer, limit: TokenLimit): Steps<LocalBlock> {
  const { label, isBlock } = passage;
  const what = `passage ${label.index + 1}`;
  const text = passageBlock(passage, form);
  const block: TextBlock = { text, trusted: isBlock ? "all" : "none" };
  const ids = yield* encodeCounted(tokenizer, block, new TokenCount(limit, what));
  if (ids.length === 0 || (!isBlock && text.trim() === "")) {
    throw new EngineError("invalid", `Cannot encode ${what}: it is empty`);
  }
  // Of a part its text too, by which it can be a passage of its own.
  return {
    tokenIds: Int32Array.from(ids),
    passage: label.part === undefined ? label : { ...label, text: passage.text },
  };
}

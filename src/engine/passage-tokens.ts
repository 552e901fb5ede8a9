import type { TextBlock } from "../blocks/block.js";
import { type Passage, type PassageInput, passageBlock, readPassages } from "../blocks/passage.js";
import { splitPassage } from "../blocks/split-passage.js";
import type { Steps } from "../tokenizer/steps.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { LocalBlock } from "./context-maker.js";
import { asRefusal, EngineError } from "./engine-error.js";
import { encodeCounted, maxPartTokens, type SplitLong, TokenCount, type TokenLimit } from "./prompt.js";
import type { FailedPassage } from "./results.js";

/** How passages become blocks. */
export interface PassageRule {
  /** The model's form of a passage. */
  readonly form: string;
  readonly splitLong: SplitLong;
  readonly maxBlocks?: number | undefined;
}

/**
 * The tokens of passages that are encoded ahead; the error of one that cannot be stands in its place.
 *
 * @throws TypeError for what is no list of passages: that is the call's fault, not a passage's.
 */
export function* passagesInSteps(
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

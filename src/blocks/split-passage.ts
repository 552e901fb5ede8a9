import { InputRangeError } from "../files/input-error.js";
import type { Steps } from "../tokenizer/steps.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { type Passage, passageBlock } from "./passage.js";

/** What passages are split by. */
export interface SplitRule {
  /** The model's form of a passage. */
  readonly form: string;
  /** The most tokens of a part. */
  readonly maxTokens: number;
  /** More parts are an error. Default: as many as there are. */
  readonly maxParts?: number | undefined;
  readonly tokenizer: Tokenizer;
}

/** A cut anywhere cuts a title and a few words at least. */
export const MIN_PART_TOKENS = 16;

/** Ends of lines and sentences, their closing quotes and white space with them. */
const sentenceEnd = /\n\s*|[.!?…]["'”’)\]»]*\s+|[。！？]["”’」』）]*\s*/gu;
const wordEnd = /\s+/gu;
/** Four bytes, and a token has at least one. */
const maxTokensOfCharacter = 4;

/**
 * A passage in as few parts as have at most `maxTokens` tokens each; itself where it has no more. Each part is a passage of
 * the same title. Cuts are at ends of lines and sentences; in a sentence that is too long itself at words, in such a word
 * anywhere. They depend on the passage and the rule alone: the same parts come out at index time and in prompts.
 *
 * @throws RangeError if the title leaves no room for the text, there are too many parts, or the passage holds half a character.
 */
export function* splitPassage(passage: Passage, { form, maxTokens, maxParts, tokenizer }: SplitRule): Steps<Passage[]> {
  const { text, label, isBlock } = passage;
  /** Of a part's block; at most one step's more than fit are counted. */
  const tokensOf = (part: string): Steps<number> => count(passageBlock({ ...passage, text: part }, form));
  function* count(block: string): Steps<number> {
    // Short texts have no steps of their own, and a long passage has many.
    yield;
    const ids: number[] = [];
    for (const _ of tokenizer.encodeInSteps(block, "none", ids)) {
      if (ids.length > maxTokens) break;
      yield;
    }
    return ids.length;
  }
  if ((yield* tokensOf(text)) <= maxTokens) return [passage];
  const room = maxTokens - (yield* tokensOf(""));
  if (room <= maxTokensOfCharacter) {
    throw new InputRangeError(
      `Cannot split passage ${label.index + 1}: its title leaves ${Math.max(0, room)} of ${maxTokens} tokens to the text`,
    );
  }

  // Where the text may be cut, and about how many tokens there are up to there.
  const ends: number[] = [];
  const sums: number[] = [];
  const add = (unit: string, numTokens: number): void => {
    ends.push((ends.at(-1) ?? 0) + unit.length);
    sums.push((sums.at(-1) ?? 0) + numTokens);
  };
  for (const sentence of cutAfter(text, sentenceEnd)) {
    const numTokens = yield* count(sentence);
    if (numTokens <= room) {
      add(sentence, numTokens);
      continue;
    }
    for (const word of cutAfter(sentence, wordEnd)) {
      const numTokens = yield* count(word);
      if (numTokens <= room) add(word, numTokens);
      else for (const piece of cutEvery(word, Math.floor(room / maxTokensOfCharacter))) add(piece, yield* count(piece));
    }
  }

  const parts: Passage[] = [];
  let start = 0;
  for (let first = 0; first < ends.length; ) {
    let guess = first;
    while (guess + 1 < ends.length && sums[guess + 1]! - (sums[first - 1] ?? 0) <= room) guess += 1;
    // The part goes to `low` at least and ends before `high`: from the guess on in growing steps, then by halves.
    let [low, high, step] = [first, ends.length, 1];
    for (let at = guess; high - low > 1; step *= 2) {
      at = Math.min(high - 1, Math.max(low + 1, at));
      if ((yield* tokensOf(text.slice(start, ends[at]))) <= maxTokens) low = at;
      else high = at;
      at = low === first ? at - step : high === ends.length ? at + step : Math.floor((low + high) / 2);
    }
    const part = text.slice(start, ends[low]);
    if (parts.length === maxParts) {
      throw new InputRangeError(
        `Cannot split passage ${label.index + 1}: it has more than the ${maxParts} parts that it may have`,
      );
    }
    if (isBlock || part.trim() !== "") parts.push({ ...passage, text: part, label: { ...label, part: parts.length } });
    start = ends[low]!;
    first = low + 1;
  }
  return parts;
}

/** A text cut after each match; put together the pieces are the text. */
function* cutAfter(text: string, border: RegExp): Generator<string, void> {
  let start = 0;
  for (const match of text.matchAll(border)) {
    const end = match.index + match[0].length;
    yield text.slice(start, end);
    start = end;
  }
  if (start < text.length) yield text.slice(start);
}

/** A text cut every so many characters. */
function* cutEvery(text: string, numCharacters: number): Generator<string, void> {
  let piece = "";
  let length = 0;
  for (const character of text) {
    piece += character;
    length += 1;
    if (length < numCharacters) continue;
    yield piece;
    [piece, length] = ["", 0];
  }
  if (piece !== "") yield piece;
}

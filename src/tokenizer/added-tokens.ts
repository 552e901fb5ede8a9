import { InputRangeError } from "../files/input-error.js";
import type { TextRange, TrustedText } from "./tokenizer.js";

/** A token that is found in the text by its spelling, before the model sees what lies between. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** A control token: found in trusted text only, and not shown in answers. */
  readonly control: boolean;
  /** Takes the white space before it along. */
  readonly lstrip: boolean;
  /** Takes the white space after it along. */
  readonly rstrip: boolean;
  /** Only where no word character touches it. */
  readonly singleWord: boolean;
  /** Looked for in the normalized text, by its normalized spelling. Control tokens are always looked for as they are written. */
  readonly normalized: boolean;
}

/** A part of a text: plain, or one added token. */
export type TextPart =
  | { readonly kind: "text"; readonly start: number; readonly end: number }
  | { readonly kind: "token"; readonly id: number };

interface Match {
  readonly start: number;
  readonly end: number;
  readonly token: AddedToken;
}

/** Finds added tokens in texts: the leftmost first, the longest of those that start at one place. */
export class AddedTokenFinder {
  readonly #always: SpellingFinder;
  readonly #control: SpellingFinder;

  /** @param spelling how a token is written in the texts that will be searched. */
  constructor(tokens: readonly AddedToken[], spelling: (token: AddedToken) => string = (token) => token.content) {
    this.#always = new SpellingFinder(
      tokens.filter((token) => !token.control),
      spelling,
    );
    this.#control = new SpellingFinder(
      tokens.filter((token) => token.control),
      spelling,
    );
  }

  /**
   * Cuts a text at its added tokens, as they are found. Control tokens count only wholly inside a trusted run, all others everywhere.
   *
   * @throws RangeError if the trusted runs do not ascend or leave the text.
   */
  *split(text: string, trusted: TrustedText): Generator<TextPart, void> {
    const ranges = trusted === "all" ? [{ start: 0, end: text.length }] : trusted === "none" ? [] : trusted;
    checkRanges(ranges, text.length);
    let position = 0;
    let always = this.#always.next(text, 0, text.length);
    let control = this.#nextInside(text, 0, ranges);
    for (;;) {
      if (always !== undefined && always.start < position) always = this.#always.next(text, position, text.length);
      if (control !== undefined && control.start < position) control = this.#nextInside(text, position, ranges);
      const match = earlier(always, control);
      if (match === undefined) break;
      let { start, end } = match;
      if (match.token.lstrip) while (start > position && isSpace(text, start - 1)) start--;
      if (match.token.rstrip) while (end < text.length && isSpace(text, end)) end++;
      if (start > position) yield { kind: "text", start: position, end: start };
      yield { kind: "token", id: match.token.id };
      position = end;
    }
    if (position < text.length) yield { kind: "text", start: position, end: text.length };
  }

  #nextInside(text: string, from: number, ranges: readonly TextRange[]): Match | undefined {
    if (this.#control.isEmpty) return undefined;
    for (const range of ranges) {
      if (range.end <= from) continue;
      const match = this.#control.next(text, Math.max(from, range.start), range.end);
      if (match !== undefined) return match;
    }
    return undefined;
  }
}

/**
 * Finds the next of a set of spellings, the longest at a place, by narrowing a sorted list a character at a time: a hundred
 * thousand of them cost a text no more than ten do.
 */
class SpellingFinder {
  readonly #tokens = new Map<string, AddedToken>();
  readonly #sorted: readonly string[];
  /** By UTF-16 unit: whether a spelling starts with it. */
  readonly #starts = new Uint8Array(2 ** 16);

  constructor(tokens: readonly AddedToken[], spelling: (token: AddedToken) => string) {
    for (const token of tokens) {
      const written = spelling(token);
      if (written !== "") this.#tokens.set(written, token);
    }
    this.#sorted = [...this.#tokens.keys()].sort();
    for (const written of this.#sorted) this.#starts[written.charCodeAt(0)] = 1;
  }

  get isEmpty(): boolean {
    return this.#sorted.length === 0;
  }

  /** The first match that lies between `from` and `end`. */
  next(text: string, from: number, end: number): Match | undefined {
    if (this.isEmpty) return undefined;
    for (let start = from; start < end; start++) {
      if (this.#starts[text.charCodeAt(start)] === 0) continue;
      const written = this.#longestAt(text, start, end);
      if (written === undefined) continue;
      const match = { start, end: start + written.length, token: this.#tokens.get(written)! };
      if (!match.token.singleWord || standsAlone(text, match)) return match;
      // As in Python's tokenizers: what lies inside a match is not looked at, though the match does not count.
      start = match.end - 1;
    }
    return undefined;
  }

  #longestAt(text: string, start: number, end: number): string | undefined {
    let longest: string | undefined;
    let low = 0;
    let high = this.#sorted.length;
    for (let length = 0; start + length < end && low < high; length++) {
      const unit = text.charCodeAt(start + length);
      low = this.#firstFrom(low, high, length, unit);
      high = this.#firstFrom(low, high, length, unit + 1);
      // Of those that start alike, the shortest is sorted first.
      if (low < high && this.#sorted[low]!.length === length + 1) longest = this.#sorted[low];
    }
    return longest;
  }

  /** The first in [low, high), which are alike before `at`, whose unit there is `unit` or more. */
  #firstFrom(low: number, high: number, at: number, unit: number): number {
    let [from, to] = [low, high];
    while (from < to) {
      const middle = (from + to) >>> 1;
      const written = this.#sorted[middle]!;
      if (at < written.length && written.charCodeAt(at) >= unit) to = middle;
      else from = middle + 1;
    }
    return from;
  }
}

function earlier(a: Match | undefined, b: Match | undefined): Match | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  if (a.start !== b.start) return a.start < b.start ? a : b;
  return a.end >= b.end ? a : b;
}

function standsAlone(text: string, match: Match): boolean {
  // Two UTF-16 units hold any one character.
  const before = text.slice(Math.max(0, match.start - 2), match.start);
  const after = text.slice(match.end, match.end + 2);
  return !/[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]$/u.test(before) && !/^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u.test(after);
}

function isSpace(text: string, index: number): boolean {
  return /\p{White_Space}/u.test(text[index]!);
}

function checkRanges(ranges: readonly TextRange[], length: number): void {
  let position = 0;
  for (const range of ranges) {
    const { start, end } = range ?? {};
    if (!Number.isInteger(start) || !Number.isInteger(end) || start < position || end < start || end > length) {
      throw new InputRangeError(
        `Cannot tokenize the text: trusted run ${start} to ${end} does not ascend inside ${length} UTF-16 units`,
      );
    }
    position = end;
  }
}

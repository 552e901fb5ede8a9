import * as library from "@huggingface/tokenizers";
import { quote } from "../files/quote.js";
import { escapeRegExp } from "./added-tokens.js";
import type { JsonFields } from "./json-fields.js";

/** The library's type files name no file endings, so that Node's resolution finds none of their exports but the top ones. */
const { SplitPreTokenizer } = library as unknown as {
  readonly SplitPreTokenizer: new (config: object) => { readonly pattern: RegExp | null };
};

/** How text is cut where a pattern occurs: tokenizer.json's `behavior`. */
export type SplitBehavior = "isolated" | "removed" | "contiguous" | "mergedwithprevious" | "mergedwithnext";

/**
 * The expression of a tokenizer.json pattern, `{"String": …}` or `{"Regex": …}`, with flags g and u. The second kind is
 * written for Oniguruma; the tokenizer library translates it.
 *
 * @throws Error for an expression that JavaScript cannot say.
 */
export function readPattern(fields: JsonFields): RegExp {
  const text = fields.optionalString("String");
  if (text !== undefined) return new RegExp(escapeRegExp(text), "gu");
  return compileOniguruma(fields.string("Regex"), (reason) => fields.fail(reason));
}

/** Translates an Oniguruma expression. */
export function compileOniguruma(source: string, fail: (reason: string) => never): RegExp {
  try {
    const { pattern } = new SplitPreTokenizer({
      type: "Split",
      pattern: { Regex: source },
      behavior: "Isolated",
      invert: false,
    });
    if (pattern !== null) return pattern;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return fail(`the expression ${quote(source)} is not understood`);
}

/**
 * Cuts a text at a pattern's matches, as they are found; empty pieces are left out. Put together, the pieces are the
 * text, unless matches are removed.
 */
export function splitAt(
  text: string,
  pattern: RegExp,
  behavior: SplitBehavior,
  invert: boolean,
): Generator<string, void> {
  return behavior === "isolated" ? isolate(text, pattern) : splitAndJoin(text, pattern, behavior, invert);
}

/** The most frequent way to cut, without the others' bookkeeping. */
function* isolate(text: string, pattern: RegExp): Generator<string, void> {
  let position = 0;
  for (const { 0: found, index } of text.matchAll(pattern)) {
    if (found === "") continue;
    if (index > position) yield text.slice(position, index);
    yield found;
    position = index + found.length;
  }
  if (position < text.length) yield text.slice(position);
}

function* splitAndJoin(
  text: string,
  pattern: RegExp,
  behavior: Exclude<SplitBehavior, "isolated">,
  invert: boolean,
): Generator<string, void> {
  const goesWith = joining[behavior];
  let joined = "";
  let isMatch = false;
  for (const [start, end, isNextMatch] of matchesAndGaps(text, pattern, invert)) {
    if (behavior === "removed" && isNextMatch) continue;
    const piece = text.slice(start, end);
    if (joined !== "" && goesWith(isMatch, isNextMatch)) {
      joined += piece;
    } else {
      if (joined !== "") yield joined;
      joined = piece;
    }
    isMatch = isNextMatch;
  }
  if (joined !== "") yield joined;
}

/** Whether a piece goes with the one before it. */
const joining: Readonly<
  Record<Exclude<SplitBehavior, "isolated">, (isMatch: boolean, isNextMatch: boolean) => boolean>
> = {
  removed: () => false,
  contiguous: (isMatch, isNextMatch) => isMatch === isNextMatch,
  mergedwithprevious: (isMatch, isNextMatch) => isNextMatch && !isMatch,
  mergedwithnext: (isMatch, isNextMatch) => isMatch && !isNextMatch,
};

function* matchesAndGaps(
  text: string,
  pattern: RegExp,
  invert: boolean,
): Generator<readonly [start: number, end: number, isMatch: boolean], void> {
  let position = 0;
  for (const { 0: found, index } of text.matchAll(pattern)) {
    if (found === "") continue;
    if (index > position) yield [position, index, invert];
    position = index + found.length;
    yield [index, position, !invert];
  }
  if (position < text.length) yield [position, text.length, invert];
}

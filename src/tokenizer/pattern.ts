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

/** Cuts a text at a pattern's matches; empty pieces are left out. Put together, the pieces are the text, unless matches are removed. */
export function splitAt(text: string, pattern: RegExp, behavior: SplitBehavior, invert: boolean): string[] {
  const pieces: { readonly text: string; readonly isMatch: boolean }[] = [];
  let position = 0;
  for (const found of text.matchAll(pattern)) {
    if (found[0] === "") continue;
    if (found.index > position) pieces.push({ text: text.slice(position, found.index), isMatch: invert });
    pieces.push({ text: found[0], isMatch: !invert });
    position = found.index + found[0].length;
  }
  if (position < text.length) pieces.push({ text: text.slice(position), isMatch: invert });
  switch (behavior) {
    case "isolated":
      return pieces.map((piece) => piece.text);
    case "removed":
      return pieces.filter((piece) => !piece.isMatch).map((piece) => piece.text);
    case "contiguous":
      return join(pieces, (before, piece) => before.isMatch === piece.isMatch);
    case "mergedwithprevious":
      return join(pieces, (before, piece) => piece.isMatch && !before.isMatch);
    case "mergedwithnext":
      return join(pieces, (before, piece) => before.isMatch && !piece.isMatch);
    default:
      return behavior satisfies never;
  }
}

function join<P extends { readonly text: string }>(
  pieces: readonly P[],
  together: (before: P, piece: P) => boolean,
): string[] {
  const joined: string[] = [];
  pieces.forEach((piece, i) => {
    const before = pieces[i - 1];
    if (before !== undefined && together(before, piece)) joined[joined.length - 1] += piece.text;
    else joined.push(piece.text);
  });
  return joined;
}

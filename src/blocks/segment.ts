import { z } from "zod";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { aFunction, type FieldsOf, optionsOf, show } from "../files/options.js";
import type { Steps } from "../tokenizer/steps.js";
import { type FoundPiece, findPassages } from "./find-passages.js";
import { mergePieces } from "./merge-pieces.js";

/** Tried in this order: the first that occurs in a text cuts it. */
export const DEFAULT_DELIMITERS: readonly string[] = ["\n\n", "---", "===", "\n\t", "\n"];

/** Blocks of a prompt that is cut by rule, the final one counted. */
export const DEFAULT_BLOCK_LIMIT = 15;

/**
 * To merge a million pieces one by one takes seconds, and a handful is left of them: a text with more delimiters than
 * this is cut only at those that stand apart.
 */
const maxPieces = 8192;

export interface SegmentOptions {
  /** In the order in which they are tried. Default: `DEFAULT_DELIMITERS`. */
  readonly delimiters?: readonly string[] | undefined;
  /** The most blocks that cutting by rule may make, the final block counted; Infinity for no limit. Default 15. */
  readonly limit?: number | undefined;
  /** Takes the place of cutting at delimiters. What it returns, put together, must be the text; the limit still holds. */
  readonly cut?: ((text: string) => readonly string[]) | undefined;
}

export const segmentFields = {
  delimiters: {
    schema: z.array(z.string().regex(/^\P{Surrogate}+$/u)).optional(),
    wanted: "a list of texts of whole characters, none empty",
  },
  limit: {
    schema: z.union([z.int().min(1), z.literal(Infinity)]).optional(),
    wanted: "a whole number of blocks, 1 or more",
  },
  cut: aFunction<SegmentOptions["cut"]>(),
} satisfies FieldsOf<SegmentOptions>;

const readSegmentOptions = optionsOf(segmentFields);

/**
 * Cuts a text by rule: at the first delimiter that occurs in it, everywhere; a delimiter stays with the text before it
 * (at the start of the text, where none is before it, with the text after). While there are more pieces than the
 * limit, the neighbouring pair with the fewest characters (code points) is merged, the leftmost on a tie. The last
 * piece is the final block: it is counted and never merged. Where a limit is set and there would be more than 8,192 pieces, each but
 * the last is at least an 8,192nd of the text.
 *
 * @returns the pieces; put together they are the text. None for an empty text.
 * @throws TypeError if the text is no string or the options are of the wrong kind, RangeError for options out of range, or a
 *   `cut` whose pieces are not the text.
 * @see docs/reference.md "By rule".
 * @example
 * segmentText("a\n\nb\nc"); // ["a\n\n", "b\nc"]
 */
export function segmentText(text: string, options: SegmentOptions = {}): string[] {
  const rule = segmentRule(readSegmentOptions("cut text", options));
  const pieces = cutText(text, rule);
  // No room before the final block: it is the whole text.
  if (rule.limit === 1) return pieces.length === 0 ? [] : [text];
  const final = pieces.pop();
  if (final === undefined) return [];
  const lengths = pieces.map((piece) => ({
    numCharacters: countCharacters(piece),
    message: 0,
    followsPrevious: true,
  }));
  const merged = mergePieces(lengths, rule.limit - 1).map(([first, end]) => pieces.slice(first, end).join(""));
  return [...merged, final];
}

/** A piece of a text that holds a question, and whether it is a global span, which sees all before it. */
export interface AskedPiece extends FoundPiece {
  readonly isGlobal: boolean;
}

/**
 * Cuts a text at the passages in it: they and their labels are local, what follows the last one is the question, global.
 * Where nothing follows, the question is the last passage; where there is no passage, all of the text.
 *
 * @param isFirst no question came before: the text around the passages is local too. Else it is global.
 * @returns one or more; put together they are the text.
 * @see docs/reuse.md "Who sees whom".
 */
export function* cutAtPassages(text: string, isFirst: boolean): Steps<AskedPiece[]> {
  const pieces = yield* findPassages(text);
  const last = pieces.findLastIndex(({ kind }) => kind === "passage");
  const textFrom = (start: number) =>
    pieces
      .slice(start)
      .map((piece) => piece.text)
      .join("");
  const start = textFrom(last + 1).trim() === "" ? Math.max(last, 0) : last + 1;
  const local = pieces.slice(0, start).map((piece) => ({ ...piece, isGlobal: piece.kind === "text" && !isFirst }));
  return [...local, { text: textFrom(start), kind: "text", isGlobal: true }];
}

/** The rule with its defaults filled in. */
export interface SegmentRule {
  readonly delimiters: readonly string[];
  readonly limit: number;
  readonly cut: ((text: string) => readonly string[]) | undefined;
}

/** The rule of options that were checked. */
export function segmentRule(options: SegmentOptions): SegmentRule {
  const { delimiters = DEFAULT_DELIMITERS, limit = DEFAULT_BLOCK_LIMIT, cut } = options;
  return { delimiters, limit, cut };
}

/** Cuts a text by rule, without the limit: [] for an empty text. */
export function cutText(text: string, rule: SegmentRule): string[] {
  if (typeof text !== "string") throw new InputTypeError(`Cannot cut text: it is ${show(text)}, wanted text`);
  if (text === "") return [];
  if (rule.cut === undefined) return cutAtDelimiters(text, rule);
  const pieces: unknown = rule.cut(text);
  if (!Array.isArray(pieces) || pieces.some((piece) => typeof piece !== "string")) {
    throw new InputTypeError('Cannot cut text: what "cut" returned is no array of texts');
  }
  if (pieces.join("") !== text) {
    throw new InputRangeError('Cannot cut text: what "cut" returned, put together, is not the text');
  }
  return pieces.filter((piece) => piece !== "");
}

function cutAtDelimiters(text: string, { delimiters, limit }: SegmentRule): string[] {
  const delimiter = delimiters.find((candidate) => text.includes(candidate));
  if (delimiter === undefined) return [text];
  const most = limit === Infinity ? limit : Math.max(maxPieces, limit);
  let starts = startsOfPieces(text, delimiter, most, 0);
  if (starts.length > most) {
    const final = startOfLastPiece(text, delimiter);
    starts = startsOfPieces(text, delimiter, most, text.length / most).filter((start) => start < final);
    starts.push(final);
  }
  return starts.map((start, i) => text.slice(start, starts[i + 1]));
}

/** @param apart so many UTF-16 units at least are in each piece but the last. @returns at most one over `most`. */
function startsOfPieces(text: string, delimiter: string, most: number, apart: number): number[] {
  const starts = [0];
  // Delimiters that nothing stands before go with the text after them.
  let end = skipDelimiters(text, delimiter, 0);
  while (starts.length <= most) {
    const found = text.indexOf(delimiter, end + apart);
    if (found < 0) break;
    end = skipDelimiters(text, delimiter, found);
    if (end < text.length) starts.push(end);
  }
  return starts;
}

function startOfLastPiece(text: string, delimiter: string): number {
  let end = text.length;
  while (text.endsWith(delimiter, end)) end -= delimiter.length;
  return text.lastIndexOf(delimiter, end - delimiter.length) + delimiter.length;
}

/** Where a run of delimiters ends, so that none becomes a block of its own. */
function skipDelimiters(text: string, delimiter: string, start: number): number {
  let end = start;
  while (text.startsWith(delimiter, end)) end += delimiter.length;
  return end;
}

/** Code points: a surrogate pair counts once. */
export function countCharacters(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length - 1; i++) {
    const isPair = (text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00;
    if (isPair) {
      count--;
      i++;
    }
  }
  return count;
}

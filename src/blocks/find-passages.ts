import { InputTypeError } from "../files/input-error.js";
import { optionsOf, show, wholeNumber } from "../files/options.js";
import { firstList, type ListItem, type ListRange, type PassageList } from "./passage-lists.js";
import { lineAt, linesOf, type TextLines } from "./text-lines.js";

/** A piece of a text. The pieces, put together, are the text. */
export interface FoundPiece {
  readonly text: string;
  /** A passage is the same wherever it stands, a label depends on the place, and the rest is text. */
  readonly kind: "text" | "label" | "passage";
}

export interface FindPassagesOptions {
  /** The most characters (UTF-16 units) of one piece of a passage, 200 or more. Default 5,000. */
  readonly maxCharacters?: number | undefined;
}

/** 1,024 tokens of English, the longest chunk that retrieval frameworks make by default, have about 4,600 characters. */
const defaultMaxCharacters = 5000;
/** As in cutting by rule. */
const maxPieces = 8192;
/** Lists in one text; what stands after that many is text. */
const maxLists = 16;

const readOptions = optionsOf({ maxCharacters: wholeNumber(200) });

/**
 * Finds the passages in a prompt that was written as one string, so that each can be a block of its own.
 *
 * The text's own structure decides. Of these forms, the list that begins first in the text is taken, then the next one after it:
 * - tags at a line's start: elements named as retrieved texts are (`<document>`, `<source id="3">`) or with a number as an
 *   attribute, side by side. What is in an element such as `<context>`, `<documents>` or `<search_results>` is a list always.
 * - numbered labels at a line's start, with brackets or a noun: `[3]`, `[CONTEXT 0]:`, `Document 3:`, `Document [1](Title: …`,
 *   `### Source 2`, `ID: 0`. Another word ("Step 1:") or a bare `3.` only where the list is announced and counts up from 0 or 1.
 * - fields: `- Title: …`, `Source: …`; an item runs to the next line with the key of the first. `Name:`, `Content:` and other
 *   keys that more than passages have only where announced.
 * - elements of JSON arrays, and JSON objects on a line each.
 * - separators: lines of six or more of one of `-=*_~#`; of three or more where the list is announced. Two with one text
 *   between them are the borders of a list.
 * - Markdown headings of one level, where announced.
 * - paragraphs, where announced: they end at empty lines, and at line ends after a punctuation mark or 100 characters. One
 *   of fewer than 60 characters without a punctuation mark at its end is a title and joins the next.
 *
 * What stands right before a list announces it: an element or separators around it, `Context:`, `### Documents`, or a
 * sentence such as "Use the following pieces of retrieved context". Items have at least 60 characters on average, 20 where a
 * tag or a numbered noun says what they are. One item alone is a list where it is announced, or its noun is a document's. All else
 * is text: prose, code, poems, instructions, an answer with headings and lists.
 *
 * A passage begins and ends with a character that is not white space. All between two passages is one label: white space,
 * separators, a closing label, the next number. Only the model's own form, `- Title: …`, keeps the end of its last line, so that
 * its block is that of the same passage given as a document. Of a tag or a JSON object with a number the label takes what reaches
 * up to it: `<source id="3" ` and `name="a.pdf">…</source>`.
 *
 * The last passage ends with what holds the list (closing tag, separator), before the question (`Question:`, `<query>`, "The
 * above …") and the instructions or sentences that end in "?" right before it. Where nothing of that is found and no other item of
 * three or more has an empty line in it, it ends at its first empty line if fewer than 300 characters follow. What follows is text.
 *
 * A passage longer than the most is cut after paragraphs, sentences or words, into parts of at least a third of the most; never
 * in a code point, a code fence or a table, so that one of these may be longer. There are at most 8,192 pieces: the last one is
 * then the rest as text. Takes time in proportion to the text.
 *
 * @returns [] for an empty text; one "text" piece where nothing is found.
 * @throws TypeError if the text is no string or an option is of the wrong kind, RangeError for one out of range.
 * @example findPassages("Context:\n[1] Ann …\n[2] Bo …\n\nWho?") is the text "Context:\n", the label "[1] ", the passage
 *   "Ann …", the label "\n[2] ", the passage "Bo …" and the text "\n\nWho?"
 */
export function findPassages(text: string, options: FindPassagesOptions = {}): FoundPiece[] {
  if (typeof text !== "string")
    throw new InputTypeError(`Cannot find passages: the text is ${show(text)}, wanted text`);
  const { maxCharacters = defaultMaxCharacters } = readOptions("find passages", options);
  const lines = linesOf(text);
  const pieces: FoundPiece[] = [];
  let end = 0;
  const push = (kind: FoundPiece["kind"], to: number): void => {
    if (to > end) pieces.push({ text: text.slice(end, to), kind });
    end = to;
  };
  for (const { items } of listsIn(lines, { from: 0, to: text.length, isAnnounced: false }, 0)) {
    for (const [i, item] of items.entries()) {
      if (pieces.length > maxPieces) break;
      if (i === 0) push("text", item.at);
      push("label", item.body);
      for (const cut of partsOf(lines, item, maxCharacters)) push("passage", cut);
      if (i === items.length - 1 && item.closed !== undefined) push("label", item.closed);
    }
  }
  push("text", text.length);
  if (pieces.length <= maxPieces) return pieces;
  const kept = pieces.slice(0, maxPieces - 1);
  const length = kept.reduce((sum, piece) => sum + piece.text.length, 0);
  return [...kept, { text: text.slice(length), kind: "text" }];
}

/** The lists of a range, in the ranges that hold them. */
function* listsIn(lines: TextLines, range: ListRange, depth: number): Generator<PassageList, void> {
  let { from } = range;
  for (let numLists = 0; numLists < maxLists && from < range.to; numLists++) {
    const list = firstList(lines, { ...range, from });
    if (list === undefined) return;
    if (!("inside" in list)) yield list;
    else if (depth < 3) yield* listsIn(lines, list.inside, depth + 1);
    from = list.end;
  }
}

/** Where each part of a passage ends. */
function* partsOf(lines: TextLines, { body, end }: ListItem, maxCharacters: number): Generator<number, void> {
  const { text, whole, wholeOf } = lines;
  let start = body;
  while (end - start > maxCharacters) {
    // What is left is no small rest.
    const high = start + Math.min(maxCharacters, Math.ceil(((end - start) * 2) / 3));
    let cut = high;
    let rank = -1;
    for (let at = high; at > start + (high - start) / 2 && rank < 3; at--) {
      const found = rankOf(text, at);
      if (found > rank) [cut, rank] = [at, found];
    }
    const [first, last] = whole[wholeOf[lineAt(lines, cut)]! - 1] ?? [cut, cut];
    if (first < cut) cut = first > start ? first : last;
    if (cut >= end) break;
    yield cut;
    start = cut;
  }
  yield end;
}

/** How good a border is: 3 after a paragraph, 2 a line or a sentence, 1 a word, 0 between characters, -1 inside one. */
function rankOf(text: string, at: number): number {
  const [before = "", after = ""] = [text[at - 1], text[at]];
  if ((after.charCodeAt(0) & 0xfc00) === 0xdc00) return -1;
  if (/\s/.test(after)) return 0;
  if (before === "\n") return text[at - 2] === "\n" ? 3 : 2;
  if (/[。！？]/.test(before)) return 2;
  if (/\s/.test(before)) return /[.!?]/.test(text[at - 2] ?? "") ? 2 : 1;
  return 0;
}

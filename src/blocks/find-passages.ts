import type { Steps } from "../tokenizer/steps.js";
import {
  beforeInstructions,
  isAnnouncedAt,
  type Mark,
  type MarkedText,
  marksOf,
  separator,
  stepCharacters,
  trimmedEnd,
} from "./prompt-marks.js";

/** A piece of a text. The pieces, put together, are the text. */
export interface FoundPiece {
  readonly text: string;
  /** A passage is the same wherever it stands, a label depends on the place, and the rest is text. */
  readonly kind: "text" | "label" | "passage";
}

/** 1,024 tokens of English, the longest chunk that retrieval frameworks make by default, have about 4,600 characters. */
const defaultMaxCharacters = 5000;
/** As in cutting by rule. */
const maxPieces = 8192;
/** Lists in one text, and those that are tried before one is found; what stands after so many is text. */
const [maxLists, maxTries] = [16, 64];
/** Items have so many characters on average, or fewer where a tag, a long separator or a numbered noun says what they are. */
const [leastItem, leastNamedItem] = [60, 20];
/** A line this long is a paragraph: text that is broken by hand has shorter lines. */
const leastUnbrokenLine = 100;
/** The most characters of what follows the last of a list's passages and does not say that it does. */
const mostUnmarkedQuestion = 300;

/**
 * Finds the passages in a prompt that was written as one string, so that each can be a block of its own.
 *
 * The text's own structure decides. Of these forms, the list that begins first is taken, then the next one after it:
 * - elements at a line's start that are named as retrieved texts are (`<document>`) or have a number as an attribute, side by
 *   side. What is in an element such as `<context>`, `<documents>` or `<search_results>` is a list always.
 * - numbered labels at a line's start, with brackets or a noun: `[3]`, `[CONTEXT 0]:`, `Document 3:`, `Document [1](Title: …`,
 *   `### Source 2`, `ID: 0`. A bare `3.` only where announced. A number that comes again begins another list.
 * - fields: `- Title: …`, `Source: …`; an item runs to the next line that begins so. `Name:`, `Content:` and other keys that more
 *   than passages have only where announced.
 * - elements of JSON arrays, and JSON objects on a line each.
 * - separators: lines of six or more of one of `-=*_~#`; of three or more where announced. Two are the borders of a list.
 * - Markdown headings of one level, where announced.
 * - paragraphs, where announced: they end at empty lines, and at line ends after a punctuation mark or 100 characters. One
 *   of fewer than 60 characters without a punctuation mark at its end is a title and joins the next.
 *
 * What stands right before a list announces it: an element or separators around it, `Context:`, `### Documents`, or a
 * sentence such as "Use the following pieces of retrieved context". Items have at least 60 characters on average, 20 where a
 * tag, a long separator or a numbered noun says what they are. One item alone is a list where it is announced, or its noun is a
 * document's. All else is text: prose, code, poems, instructions, an answer with headings and lists.
 *
 * A passage begins and ends with a character that is not white space; the model's own form, `- Title: …`, keeps the end of its last
 * line, so that its block is that of the same passage given as a document. All between two passages is one label. Of a tag or a
 * JSON object with a number the label takes what reaches up to it: `<source id="3" ` and `name="a.pdf">…</source>`.
 *
 * The last passage ends with what holds the list (closing tag, separator), before the question (`Question:`, `<query>`, "The
 * above …") and the instructions or sentences that end in "?" right before it. Where nothing of that is found and no other item of
 * three or more has an empty line in it, it ends at its first empty line if fewer than 300 characters follow. What follows is text.
 *
 * A passage longer than `maxCharacters` (UTF-16 units, 200 or more) is cut after paragraphs, sentences or words, into parts of at
 * least a third of that; never in a code point, a code fence or a table, so that one of these may be longer. What follows 8,191
 * pieces or 16,384 marks is text. A step looks at some 65,536 characters, and all of them take time in proportion to the text.
 *
 * @returns [] for an empty text; one "text" piece where nothing is found.
 * @example findPassages("Context:\n[1] Ann …\n[2] Bo …\n\nWho?") is the text "Context:\n", the label "[1] ", the passage
 *   "Ann …", the label "\n[2] ", the passage "Bo …" and the text "\n\nWho?"
 */
export function* findPassages(text: string, maxCharacters = defaultMaxCharacters): Steps<FoundPiece[]> {
  const { marks, end: to } = yield* marksOf(text);
  const wholes = marks.filter(({ form }) => form === "whole");
  const pieces: FoundPiece[] = [];
  let end = 0;
  const push = (kind: FoundPiece["kind"], to: number): void => {
    if (to <= end || (pieces.length >= maxPieces - 1 && to < text.length)) return;
    pieces.push({ text: text.slice(end, to), kind });
    end = to;
  };
  for (const items of yield* listsIn({ text, marks }, { from: 0, to, isAnnounced: false }, 0)) {
    push("text", items[0]!.at);
    for (const item of items) {
      push("label", item.body);
      for (const cut of partsOf(text, wholes, item, maxCharacters)) {
        push("passage", cut);
        yield;
      }
    }
    push("label", items.at(-1)!.closed ?? end);
  }
  push("text", text.length);
  return pieces;
}

/** Where lists are looked for: `isAnnounced` where all of it is a list, as what stands in `<context>` is. */
interface Region {
  readonly from: number;
  readonly to: number;
  readonly isAnnounced: boolean;
}

/** One passage of a list. */
interface Item {
  readonly at: number;
  /** Where the label ends and the passage begins. */
  readonly body: number;
  readonly end: number;
  /** Where its closing label ends. */
  readonly closed?: number | undefined;
}

/** The lists of a region, in the regions that hold them. None is empty. */
function* listsIn({ text, marks: all }: MarkedText, region: Region, depth: number): Steps<(readonly Item[])[]> {
  const lists: (readonly Item[])[] = [];
  let { from } = region;
  for (let numLists = 0; numLists < maxLists && from < region.to; numLists++) {
    yield;
    const marked = { text, marks: all.filter(({ at }) => at >= from && at < region.to) };
    const rest = { ...region, from };
    let found: readonly Item[] | Region | undefined;
    for (const group of groupsOf(marked.marks, rest).slice(0, maxTries)) {
      found = yield* listOf(marked, group, rest);
      if (found !== undefined) break;
    }
    found ??= yield* paragraphsIn(marked, rest);
    if (found === undefined) break;
    if ("from" in found) {
      if (depth < 3) lists.push(...(yield* listsIn(marked, found, depth + 1)));
      from = found.to;
    } else {
      lists.push(found);
      from = found.at(-1)!.closed ?? found.at(-1)!.end;
    }
  }
  return lists;
}

/** Marks that may be of one list: those of the list that begins first stand first. */
function groupsOf(marks: readonly Mark[], region: Region): (readonly Mark[])[] {
  const groups: Mark[][] = [];
  const groupOf = new Map<string, Mark[]>();
  let announced = region.isAnnounced ? region.from : undefined;
  for (const mark of marks) {
    const { form, begins, number, at, before, body, end = 0 } = mark;
    if (!region.isAnnounced && isAnnouncement(mark)) announced = body;
    let group = groupOf.get(form);
    const [first, last] = [group?.[0], group?.at(-1)];
    if (begins === undefined || end > region.to || at < (last?.end ?? 0)) continue;
    // Elements are side by side, and a number that comes again begins another list.
    const goesOn = begins !== "region" && (number === undefined || number !== first?.number);
    if (group === undefined || !goesOn || before !== (last?.end ?? before)) {
      group = [];
      groups.push(group);
      groupOf.set(form, group);
      // What stands between an announcement and the first separator is an item.
      if (separator.test(form) && announced !== undefined && announced < before)
        group.push({ ...mark, at: announced, before: announced, body: announced });
    }
    group.push(mark);
  }
  // Of a label right after a separator the label.
  const startOf = ([first]: readonly Mark[]) => (separator.test(first!.form) ? first!.body + 0.5 : first!.at);
  return groups.sort((a, b) => startOf(a) - startOf(b));
}

/** The items that marks begin, if they are a list, or the region that they hold. */
function* listOf(
  { text, marks: all }: MarkedText,
  group: readonly Mark[],
  region: Region,
): Steps<readonly Item[] | Region | undefined> {
  const [first, second] = group as [Mark, Mark | undefined];
  const { begins, form, number, at, body, end } = first;
  if (begins === "region") return { from: body, to: end!, isAnnounced: true };
  const isSeparated = separator.test(form);
  const isAnnounced = region.isAnnounced || (isSeparated && at === body) || isAnnouncedAt(text, region.from, first);
  const isEnough = begins === "one" || (begins === "several" && second !== undefined);
  if (!isEnough && !(isAnnounced && (second !== undefined || begins === "several" || number === 1))) return undefined;
  if (isSeparated && group.length === 2 && at < body && body < second!.before)
    return { from: body, to: second!.before, isAnnounced: true };
  const items: Item[] = [];
  let areParagraphs = group.length > 2;
  let next = 0;
  for (const [i, { at, body, end: known }] of group.entries()) {
    yield;
    const following = group[i + 1];
    // Another list of the form may begin.
    const to = (following ?? all.find((mark) => mark.form === form && mark.at > at))?.before ?? region.to;
    while (next < all.length && all[next]!.at < body) next++;
    let found = next;
    while (found < all.length && all[found]!.at < to && all[found]!.form !== "closer") found++;
    const closing = known === undefined && (all[found]?.at ?? to) < to ? all[found] : undefined;
    let end = known ?? closing?.before ?? to;
    if (end === to && following === undefined && !region.isAnnounced) {
      end = endOfPassages({ text, marks: all.slice(next) }, body, to, isSeparated);
      const paragraph = endOfParagraph(text, body, end);
      if (end === to && areParagraphs && end - paragraph < mostUnmarkedQuestion) end = paragraph;
    }
    if (end <= body) continue;
    areParagraphs &&= following === undefined || endOfParagraph(text, body, end) === end;
    // The model's own form of a passage has its last line's end.
    if (form === "- title:" && text[end] === "\n") end++;
    items.push({ at: isSeparated ? body : at, body, end, closed: closing?.end });
  }
  const isNamed = begins !== "announced" && (number !== undefined || isSeparated || form[0] === "<");
  const isList = items.length > (isSeparated ? 1 : 0) && averageOf(items) >= (isNamed ? leastNamedItem : leastItem);
  return isList ? items : undefined;
}

/**
 * Where the question, or what else follows the last passage, begins: at a border (a long separator, a closing tag that nothing in
 * the passage opens, the next announcement), at the last line that asks (`Question:`) or ends the list ("The above is …"), and
 * with the instructions right above it.
 *
 * @param body where the last passage begins. Its first line is its own, unless `mayBeNone`.
 */
function endOfPassages({ text, marks }: MarkedText, body: number, to: number, mayBeNone: boolean): number {
  let end = to;
  let asks: Mark | undefined;
  let numTags = 0;
  for (const mark of marks) {
    const { form, at, before } = mark;
    if (at >= to) break;
    if (at < body || (at === body && !mayBeNone)) continue;
    if (form === "question") asks = mark;
    const isTag = form === "</" && ++numTags < 16;
    const isUnopened =
      isTag && !text.slice(Math.max(body, at - 20_000), at).includes(`<${text.slice(mark.body, mark.end! - 1)}`);
    if (!isUnopened && (mayBeNone || (form !== "section" && !(form.length > 5 && separator.test(form))))) continue;
    end = before;
    break;
  }
  end = beforeInstructions(text, body, end);
  return asks === undefined ? end : beforeInstructions(text, body, Math.min(end, Math.max(body, asks.before)));
}

/** Paragraphs that are announced, titles joined to what they head. */
function* paragraphsIn({ text, marks }: MarkedText, region: Region): Steps<readonly Item[] | undefined> {
  let { from, to } = region;
  if (!region.isAnnounced) {
    const announcing = marks.filter(isAnnouncement);
    // Of several in a row the last.
    const announced = announcing.find(({ body }, i) => announcing[i + 1]?.at !== body);
    if (announced === undefined) return undefined;
    from = announced.body;
    const headings = marks.filter(({ form }) => /^#+ $/.test(form));
    const heading = headings.findLast(({ at }) => at <= announced.at);
    // Up to the end of the section that announces them.
    const level = heading === undefined ? 0 : heading.at === announced.at ? heading.form.length : 7;
    to = headings.find(({ at, form }) => at >= from && form.length <= level)?.before ?? to;
    to = endOfPassages({ text, marks }, from, to, true);
  }
  const items: Item[] = [];
  const wholes = marks.filter(({ form }) => form === "whole");
  let at = from;
  for (let start = from; start < to; ) {
    yield;
    while (wholes[0] !== undefined && wholes[0].body <= start) wholes.shift();
    const window = text.slice(start, Math.min(start + stepCharacters, to));
    const line = /\n\s*/.exec(window);
    let next = start + (line === null ? window.length : line.index + line[0].length);
    if (wholes[0] !== undefined && wholes[0].at <= start) next = Math.min(wholes[0].body, to);
    const end = trimmedEnd(text, start, next);
    const isSentence = /[.!?…。！？"”')\]`]/.test(text[end - 1] ?? "");
    const isBorder = isSentence || end - start >= leastUnbrokenLine || /\n[^\S\n]*\n/.test(text.slice(end, next));
    if (next >= to || (isBorder && (isSentence || end - at >= leastItem))) {
      items.push({ at, body: at, end });
      at = next;
    }
    start = next;
  }
  if (averageOf(items) >= leastItem) return items;
  return to - from >= leastItem ? [{ at: from, body: from, end: to }] : undefined;
}

function isAnnouncement({ form }: Mark): boolean {
  return form === "announcement" || form === "section";
}

function endOfParagraph(text: string, body: number, end: number): number {
  const at = text.slice(body, Math.min(end, body + stepCharacters)).search(/\n[^\S\n]*\n/);
  return at < 0 ? end : body + at;
}

function averageOf(items: readonly Item[]): number {
  return items.reduce((sum, { body, end }) => sum + end - body, 0) / Math.max(1, items.length);
}

/** The ends of paragraphs, of lines and sentences, of words: the first kind that is found cuts. */
const borders = [/\n\n(?=\S)/g, /(?:\n|[.!?]\s|[。！？])(?=\S)/g, /\s(?=\S)/g];

/** Where each part of a passage ends. */
function* partsOf(text: string, wholes: Mark[], { body, end }: Item, maxCharacters: number): Generator<number, void> {
  let start = body;
  while (end - start > maxCharacters) {
    // What is left is no small rest.
    const high = start + Math.min(maxCharacters, Math.ceil(((end - start) * 2) / 3));
    const low = start + Math.ceil((high - start) / 2);
    const window = text.slice(low, high + 1);
    const ends = borders.map((border) => [...window.matchAll(border)].at(-1)).find((found) => found !== undefined);
    let cut = ends === undefined ? high : low + ends.index + ends[0].length;
    if ((text.charCodeAt(cut) & 0xfc00) === 0xdc00) cut--;
    while (wholes[0] !== undefined && wholes[0].body <= cut) wholes.shift();
    const [whole] = wholes;
    if (whole !== undefined && whole.at < cut) cut = whole.at > start ? whole.at : whole.body;
    if (cut >= end) break;
    yield cut;
    start = cut;
  }
  yield end;
}

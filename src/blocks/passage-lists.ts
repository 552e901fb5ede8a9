import {
  announcementIn,
  endOfPassages,
  isAnnouncedAt,
  isBlank,
  isContainer,
  isFieldKey,
  isNoun,
  leastSeparator,
  separator,
} from "./prompt-words.js";
import { eachLine, lineAt, skipSpace, type TextLines, trimEnd } from "./text-lines.js";

/** Where a list is looked for. */
export interface ListRange {
  readonly from: number;
  readonly to: number;
  /** Whether all of it is a list, as what stands in `<context>` is. */
  readonly isAnnounced: boolean;
}

/** One passage of a list. Its label begins where the item before ends. */
export interface ListItem {
  /** Where it begins, label and all. */
  readonly at: number;
  /** Where the passage begins and ends. */
  readonly body: number;
  readonly end: number;
  /** Where its closing label ends. */
  readonly closed?: number;
}

export interface PassageList {
  readonly items: readonly ListItem[];
  /** Where the search goes on. */
  readonly end: number;
}

/** A range of its own in which the list is. */
export interface ListRegion {
  readonly inside: ListRange;
  readonly end: number;
}

/** Items have so many characters on average, */
const leastItem = 60;
/** or so many where their form says what they are, a tag or a numbered noun. */
const leastNamedItem = 20;
/** A line this long is a paragraph: text that is broken by hand has shorter lines. */
const leastUnbrokenLine = 100;

/** The most characters of what follows the last of a list's passages and does not say that it does. */
const mostUnmarkedQuestion = 300;

const closer = /^[[(<=*-]{1,8} ?(?:end|\/)(?: of)?[ _]?[\p{L} _]{0,30}[#:]? ?\d{1,6} ?[\])>=*:-]{0,8}$/iu;
const numbered =
  /(?:[-*•] |#{1,6} |[-=~]{2,8} ?|\*\*)?([[(【<]?)(?:((?:\p{L}{1,30} ){0,2}?[\p{L}_]{1,30})( ?[#№:]| No\.)? ?)?([[(]?)\d{1,6}(?: ?(?:\/|of) ?\d{1,6})?([\])】>]{0,2})(\*{0,2}[.:)：]?\*{0,2}(?: ?[-=~–—]{2,8}(?=\s|$)| [-–—](?= ))?)/uy;
const field = /(?:[-*•] |\*\*)?(\p{L}[\p{L}\w-]{0,30})\*{0,2}[:：]\*{0,2}(?=\s|$)/uy;
const heading = /(#{1,6}) /y;
const openTag = /<([A-Za-z][\w.-]{0,40})((?:\s[^<>]{0,1000})?)>/y;
const numericId =
  /\{\s{0,20}"(?:id|index|idx|rank|position|number|ref|source|citation)"\s{0,20}:\s{0,20}"?\d{1,9}"?\s{0,20},\s{0,20}/iy;

/** The list that begins first in a range, or the range that it is in. */
export function firstList(lines: TextLines, range: ListRange): PassageList | ListRegion | undefined {
  const startOf = (list: PassageList | ListRegion) => ("inside" in list ? list.inside.from : list.items[0]!.at);
  const [first] = [separatorList, tagList, jsonList, markList]
    .map((find) => find(lines, range))
    .filter((list) => list !== undefined)
    .sort((a, b) => startOf(a) - startOf(b));
  return first ?? paragraphList(lines, range);
}

/** Elements side by side, or what an element around a list holds. */
function tagList(lines: TextLines, range: ListRange): PassageList | ListRegion | undefined {
  const { text } = lines;
  /** Of each name the next closing tag that was found: none is looked for twice. */
  const closings = new Map<string, number>();
  let items: ListItem[] = [];
  let nameOfItems = "";
  const isList = (): boolean => {
    const least = items.length > 1 || range.isAnnounced || isNoun(nameOfItems, true) ? leastNamedItem : leastItem;
    return averageOf(items) >= least && (least === leastNamedItem || items[0]!.body > items[0]!.at);
  };
  for (let at = nextTag(lines, range.from, range.to); at < range.to; ) {
    openTag.lastIndex = at;
    const [open, name = "", attributes = ""] = openTag.exec(text) ?? [""];
    const inner = at + open.length;
    let closing = closings.get(name) ?? -1;
    if (closing < inner) {
      // A search may go through the whole text: no more names than this.
      closing = open === "" || closings.size > 64 ? -1 : text.indexOf(`</${name}>`, inner);
      if (closing < 0) closing = text.length;
      if (closings.size <= 64) closings.set(name, closing);
    }
    const end = closing + name.length + 3;
    const isElement = open !== "" && end <= range.to && skipSpace(text, inner) < closing;
    if (items.length > 0 && (!isElement || name !== nameOfItems || skipSpace(text, items.at(-1)!.end) !== at)) {
      if (isList()) break;
      items = [];
    }
    const number = [...attributes.matchAll(/\s[\w-]{1,40}=(["']?)\d{1,9}\1(?!\w)/g)].at(-1);
    if (isElement && number === undefined && isContainer(name)) {
      return { inside: { from: inner, to: closing, isAnnounced: true }, end: closing };
    }
    const isItem = isElement && (number !== undefined || isNoun(name));
    if (isItem) {
      let body = at;
      if (number !== undefined) {
        body = skipSpace(text, at + 1 + name.length + number.index + number[0].length);
        if (body === inner - 1) body = skipSpace(text, inner);
      }
      nameOfItems = name;
      items.push({ at, body: endOfLabel(text, body, closing), end });
    }
    at = nextTag(lines, isItem ? end : isElement ? inner : at + 1, range.to);
  }
  return items.length > 0 && isList() ? { items, end: items.at(-1)!.end } : undefined;
}

/** The next "<" that only white space or a tag stands before in its line. */
function nextTag(lines: TextLines, from: number, to: number): number {
  const { text } = lines;
  for (let at = text.indexOf("<", from); at >= 0 && at < to; at = text.indexOf("<", at + 1)) {
    let before = at - 1;
    while (before >= from && (text[before] === " " || text[before] === "\t")) before--;
    const isFirst = before < from || text[before] === "\n" || text[before] === ">";
    if (isFirst && lines.wholeOf[lineAt(lines, at)] === 0) return at;
  }
  return to;
}

/** The first JSON array of long elements. */
function jsonList(lines: TextLines, { from, to }: ListRange): PassageList | undefined {
  const { text } = lines;
  const start = /\[\s{0,64}["{]/g;
  start.lastIndex = from;
  for (let found = start.exec(text); found !== null && found.index < to; found = start.exec(text)) {
    const items: ListItem[] = [];
    const open: string[] = [];
    let body = found.index + 1;
    let at = found.index;
    const endElement = (): void => {
      const first = skipSpace(text, body);
      items.push({ at: first, body: endOfNumericId(text, first), end: trimEnd(text, first, at) });
      body = at + 1;
    };
    for (; at < to; at++) {
      const character = text[at]!;
      if (character === '"') {
        for (at++; at < to && text[at] !== '"'; at++) if (text[at] === "\\") at++;
      } else if (character === "[" || character === "{") open.push(character);
      else if (character === "," && open.length === 1) endElement();
      else if (character === "]" || character === "}") {
        if (open.pop() !== (character === "]" ? "[" : "{")) break;
        if (open.length > 0) continue;
        endElement();
        break;
      } else if (!/[\s\d+\-.eEtrufalsn:,]/.test(character)) break;
    }
    // What is no list is not looked through again: that would take quadratic time.
    start.lastIndex = Math.max(at, found.index + 1);
    const isClosed = open.length === 0 && at < to && lines.wholeOf[lineAt(lines, found.index)] === 0;
    if (isClosed && items.length > 1 && averageOf(items) >= leastItem && isJSON(text.slice(found.index, at + 1))) {
      return { items, end: at };
    }
  }
  return undefined;
}

function isJSON(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** `{"id": 3, ` depends on the place. */
function endOfNumericId(text: string, at: number): number {
  numericId.lastIndex = at;
  return at + (numericId.exec(text)?.[0].length ?? 0);
}

/** What begins an item at a line's start. */
interface Mark {
  readonly at: number;
  readonly body: number;
  /** Marks of one form begin the items of one list. */
  readonly form: string;
  /** Whether the form says that the items are passages; others must be announced. */
  readonly isNamed: boolean;
  /** Whether one alone is a list. */
  readonly isDocument?: boolean;
  /** The number in a label. */
  readonly number?: number;
}

/** The list of marked lines that begins first. */
function markList(lines: TextLines, range: ListRange): PassageList | undefined {
  const lists = new Map<string, { marks: Mark[]; to: number }>();
  const found: { marks: Mark[]; to: number }[] = [];
  for (const { start, content, isWhole } of eachLine(lines, range.from, range.to)) {
    const mark = isWhole || content === "" ? undefined : markAt(lines.text, skipSpace(lines.text, start));
    if (mark === undefined || mark.body >= range.to) continue;
    let list = lists.get(mark.form);
    if (list === undefined || !continues(list.marks, mark)) {
      if (list !== undefined) list.to = mark.at;
      list = { marks: [], to: range.to };
      lists.set(mark.form, list);
      found.push(list);
    }
    list.marks.push(mark);
  }
  // Each of them may be looked through to the text's end.
  let numTries = 64;
  for (const { marks, to } of found) {
    const [{ at, isNamed, isDocument = false, number }] = marks as [Mark];
    const isOne = marks.length === 1;
    const isKnown = isNamed && (number !== undefined || isDocument) && (!isOne || range.isAnnounced);
    const least = isKnown ? leastNamedItem : leastItem;
    if (!isOne && (marks.at(-1)!.at - at) / (marks.length - 1) < leastNamedItem) continue;
    const mayBe = !isOne || isNamed || number === 1;
    const isEnough = isOne ? isDocument : isNamed;
    if (!isEnough && !(mayBe && (range.isAnnounced || isAnnouncedAt(lines, range.from, at)))) continue;
    const list = listOf(lines, marks, { ...range, to });
    if (list !== undefined && averageOf(list.items) >= least) return list;
    if (--numTries === 0) break;
  }
  return undefined;
}

/** A number that comes again begins another list; without a noun numbers count up from 0 or 1. */
function continues(marks: readonly Mark[], { number, isNamed }: Mark): boolean {
  if (number === undefined) return true;
  const first = marks[0]!.number!;
  return isNamed ? number !== first : first <= 1 && number === first + marks.length;
}

function markAt(text: string, at: number): Mark | undefined {
  numbered.lastIndex = at;
  const found = numbered.exec(text);
  if (found !== null) {
    const [label, open = "", word, sign = "", open2 = "", close = "", trail = ""] = found;
    const next = text[at + label.length] ?? "\n";
    const isBracketed = open + open2 !== "" && close !== "" && !/[([]/.test(next);
    const isField = sign.endsWith(":") && open === "" && !/^(?:id|index|idx|rank|no|number)$/i.test(word!);
    const isOrdinal = word === undefined && open === "" && /^[.)]/.test(close + trail) && /\s/.test(next);
    const isNamed = word === undefined ? !isOrdinal : isNoun(word);
    const isWord =
      word !== undefined && !isField && !/^end /i.test(word) && (close + trail !== "" || /[\n\r(]/.test(next));
    // "## Windows 11" is a heading.
    const isLabel = isNamed || isOrdinal || (!label.startsWith("#") && /[ #№]\d/.test(label));
    if (isLabel && (isOrdinal || isWord || (word === undefined && isBracketed))) {
      return {
        at,
        body: skipSpace(text, at + label.length),
        form: label.replace(/\d+/g, "#").toLowerCase(),
        isNamed,
        isDocument: word !== undefined && isNoun(word, true),
        number: Number(/\d+/.exec(label)![0]),
      };
    }
  }
  field.lastIndex = at;
  const key = field.exec(text)?.[1]?.toLowerCase();
  if (key !== undefined && isFieldKey(key, true)) {
    return { at, body: at, form: `${key}:`, isNamed: isFieldKey(key), isDocument: key === "title" && text[at] === "-" };
  }
  heading.lastIndex = at;
  const level = heading.exec(text)?.[1];
  if (level !== undefined) return { at, body: at, form: level, isNamed: false };
  if (!/^\{\s{0,20}"/.test(text.slice(at, at + 24))) return undefined;
  const end = text.indexOf("\n", at);
  const isObject = /\}\s*$/.test(
    text.slice(Math.max(at, (end < 0 ? text.length : end) - 8), end < 0 ? undefined : end),
  );
  return isObject ? { at, body: endOfNumericId(text, at), form: "{", isNamed: true } : undefined;
}

/** The items that marks begin. */
function listOf(lines: TextLines, marks: readonly Mark[], range: ListRange): PassageList | undefined {
  const { text } = lines;
  const items: ListItem[] = [];
  let isOneParagraphEach = marks.length > 2;
  for (const [i, { at, body, form, isDocument }] of marks.entries()) {
    const isLast = i === marks.length - 1;
    let to = marks[i + 1]?.at ?? range.to;
    let closed: number | undefined;
    if (!isLast || items.length === 0 || items.at(-1)!.closed !== undefined) {
      for (const { start, end, content } of eachLine(lines, body, to)) {
        if (start === body || !closer.test(content)) continue;
        [to, closed] = [start, trimEnd(text, start, end)];
        break;
      }
    }
    if (isLast && closed === undefined && form === "{") to = Math.min(to, (text.indexOf("\n", body) + 1 || to + 1) - 1);
    else if (isLast && closed === undefined && !range.isAnnounced) {
      const end = endOfPassages(lines, body, to, false);
      const first = endOfParagraph(text, body, end);
      to = end === to && isOneParagraphEach && end - first < mostUnmarkedQuestion ? first : end;
    }
    let end = endOfBody(lines, body, to);
    if (end <= body) continue;
    if (!isLast && isOneParagraphEach) isOneParagraphEach = endOfParagraph(text, body, end) === end;
    // The model's own form of a passage has its last line's end.
    if (form === "title:" && isDocument && text[end] === "\n") end++;
    items.push({ at, body: endOfLabel(text, body, end), end, ...(closed !== undefined && { closed }) });
  }
  const last = items.at(-1);
  return last && { items, end: last.closed ?? last.end };
}

/** What lines of dashes or the like separate, or a list between two of them. */
function separatorList(lines: TextLines, range: ListRange): PassageList | ListRegion | undefined {
  const { text } = lines;
  const groups = new Map<string, { start: number; end: number }[]>();
  for (const { start, end, content, isWhole } of eachLine(lines, range.from, range.to)) {
    if (isWhole || content.length < 3 || !separator.test(content)) continue;
    const group = groups.get(content);
    if (group === undefined) groups.set(content, [{ start, end }]);
    else group.push({ start, end });
  }
  for (const [form, [first, ...others]] of [...groups].slice(0, 8)) {
    const isLong = form.length >= leastSeparator;
    const announced = range.isAnnounced ? range.from : announcementIn(lines, range.from, first!.start, isLong)?.end;
    if (!isLong && announced === undefined) continue;
    const items: ListItem[] = [];
    const add = (from: number, to: number): void => {
      const at = skipSpace(text, from);
      const end = endOfBody(lines, at, to);
      if (end > at) items.push({ at, body: endOfLabel(text, at, end), end });
    };
    if (announced !== undefined) add(announced, first!.start);
    const hasFirst = items.length > 0;
    let last = first!;
    for (const line of others) {
      add(last.end, line.start);
      last = line;
    }
    const rest = skipSpace(text, last.end);
    const isLabelled = rest < range.to && endOfLabel(text, rest, range.to) > rest;
    if (others.length === 1 && items.length === 1 && !hasFirst && !isLabelled) {
      return { inside: { from: first!.end, to: last.start, isAnnounced: true }, end: last.start };
    }
    if (rest < range.to) add(rest, range.isAnnounced ? range.to : endOfPassages(lines, rest, range.to, true));
    if (items.length > 1 && averageOf(items) >= leastNamedItem) return { items, end: items.at(-1)!.end };
  }
  return undefined;
}

/** Paragraphs that are announced, titles joined to what they head. */
function paragraphList(lines: TextLines, range: ListRange): PassageList | undefined {
  const { text } = lines;
  const announced = range.isAnnounced ? { end: range.from, level: 0 } : announcementIn(lines, range.from, range.to);
  if (announced === undefined) return undefined;
  const from = skipSpace(text, announced.end);
  let { to } = range;
  if (announced.level > 0) {
    // Up to the end of the section that announces them.
    const next = new RegExp(`^#{1,${announced.level}} `);
    for (const { start, content, isWhole } of eachLine(lines, from, to)) {
      if (isWhole || !next.test(content)) continue;
      to = start;
      break;
    }
  }
  if (!range.isAnnounced && from < to) to = endOfPassages(lines, from, to, true);
  to = trimEnd(text, from, to);
  if (from >= to) return undefined;
  const items: ListItem[] = [];
  let at = from;
  for (const { start, end: endOfLine, isWhole } of eachLine(lines, from, to)) {
    const end = trimEnd(text, at, endOfLine);
    const next = endOfLine + 1;
    if (end <= at) continue;
    if (next < to) {
      if (isWhole && lines.wholeOf[lineAt(lines, next)]! > 0) continue;
      const isSentence = /[.!?…。！？"”')\]`]/.test(text[end - 1]!);
      if (!isBlank(text, next, to) && !isSentence && end - Math.max(at, start) < leastUnbrokenLine) continue;
      const isTitle = end - at < leastItem && !isSentence;
      if (isTitle) continue;
    }
    items.push({ at, body: endOfLabel(text, at, end), end });
    at = skipSpace(text, end);
  }
  if (averageOf(items) >= leastItem) return { items, end: to };
  return to - from >= leastItem ? { items: [{ at: from, body: from, end: to }], end: to } : undefined;
}

/** A label at a passage's start depends on the place, whatever else marks the passage. */
function endOfLabel(text: string, body: number, end: number): number {
  const mark = markAt(text, body);
  return mark?.number !== undefined && mark.isNamed && mark.body < end ? mark.body : body;
}

/** Without white space and separators at the end. */
function endOfBody(lines: TextLines, body: number, to: number): number {
  const { text, starts } = lines;
  let end = trimEnd(text, body, to);
  while (end > body) {
    const start = skipSpace(text, Math.max(starts[lineAt(lines, end - 1)]!, body));
    if (end - start > 202 || !separator.test(text.slice(start, end))) break;
    end = trimEnd(text, body, start);
  }
  return end;
}

function endOfParagraph(text: string, body: number, to: number): number {
  const at = text.slice(body, to).search(/\n[^\S\n]*\n/);
  return at < 0 ? to : body + at;
}

function averageOf(items: readonly ListItem[]): number {
  return items.length === 0 ? 0 : items.reduce((sum, { body, end }) => sum + end - body, 0) / items.length;
}

import type { Steps } from "../tokenizer/steps.js";

/** What a line, an element or an array of a prompt says about the passages in it. */
export interface Mark {
  /** Marks of one form begin the items of one list. Others are "question", "announcement", "section", "closer", "</", "whole". */
  readonly form: string;
  readonly at: number;
  /** Where the text before it ends, without white space and separators. */
  readonly before: number;
  /** Where what it marks begins, or what follows it. */
  body: number;
  /** Where that ends, where it is known. */
  end?: number | undefined;
  /** What is a list: one mark of the form, several, or several that are announced; what is in a "region". Undefined: it begins none. */
  begins?: "one" | "several" | "announced" | "region" | undefined;
  /** In its label. */
  readonly number?: number | undefined;
}

export interface MarkedText {
  readonly text: string;
  /** In the order in which they stand. */
  readonly marks: readonly Mark[];
}

/** So many characters at most are looked at in one step, */
export const stepCharacters = 65_536;
/** and a line counts as so many more. */
const lineCharacters = 128;
/** What stands after so many marks is text. */
const maxMarks = 16_384;

// Words of prompts in English, and the commonest ones in some other languages.
const one = "article|chunk|context|doc|document|excerpt|passage|snippet|source|webpage";
/** What a retrieved text is called: before its number, or as its tag. With one of `one` one alone is a passage. */
const noun = `(?:\\p{L}{1,30}[ _-]){0,2}(?:(?<one>${one})|citation|email|entry|evidence|example|extract|fact|file|id|index|info|item|knowledge|memory|message|page|paragraph|post|quote|record|reference|ref|result|review|text|ticket|website|beispiel|dokument|quelle|textstelle|fuente|documento|contexto|fonte|документ|источник|контекст|фрагмент|文档|文件|资料|来源|片段|上下文|段落|文書|資料|出典|문서|출처)`;
/** The first key of a passage's fields, and of much else. */
const keys =
  "article|document|document_name|doc|excerpt|file_name|file_path|filename|page_label|passage|reference|snippet|source|title|uri|url|titel|quelle|titre|título|fonte|标题|来源|タイトル|제목";
const plainKeys =
  "author|chunk|content|date|document_id|doc_id|file|id|link|name|page|page_content|path|section|subject|text|内容";
/** What several retrieved texts are called, and several texts that numbers, headings or lines of dashes set apart. */
const many =
  "contexts?|documents|docs|passages|sources|excerpts|extracts|snippets|chunks|articles|search results|information|knowledge(?: ?bases?)?|materials|kontext|dokumente|quellen|contexte|contexto|documentos|fuentes|contesto|documenti|контекст|документы|источники|上下文|文档|资料|知识库?|コンテキスト|文書|資料|문서";
const manyMarked = `${many}|abstracts|comments|emails|entries|examples|facts|files|items|memories|messages|notes|pages|papers|paragraphs|posts|quotes|records|references|reports|results|reviews|texts|tickets|transcripts`;

const lead = "(?:[-*•] |#{1,6} |[-=~]{2,8} ?|\\*\\*)?";
const number = "(?<number>\\d{1,6})(?: ?(?:/|of) ?\\d{1,6})?";
const trail = "\\*{0,2}[.:)：]?\\*{0,2}(?: ?[-=~–—]{1,8}(?=\\s|$))?";
const afterNumber = "(?=$|[\\])】>*.:：(]| ?[-=~–—]{1,8}(?:\\s|$))[\\])】>]{0,2}";
const numericId =
  '(?<label>\\{\\s{0,20}"(?:id|index|idx|rank|position|number|ref|source|citation)"\\s{0,20}:\\s{0,20}"?\\d{1,9}"?\\s{0,20},\\s{0,20})';
/** What a line is that begins an item: the first that fits. What "label" holds depends on the place. */
const rules = (
  [
    ["several", "(?<label>([-=*_~#])\\2{5,200})$"],
    ["announced", "(?<label>([-=*_~#])\\2{2,4})$"],
    [undefined, "[[(<=*-]{1,8} ?(?:end|/)(?: of)?[ _]?[\\p{L} _]{0,30}[#:]? ?\\d{1,6} ?[\\])>=*:-]{0,8}$"],
    [
      "several",
      `(?<label>${lead}[[(【<]?${noun}(?: ?[#№]| No\\.|(?<=id|index|rank|number):)? ?[[(]?${number}${afterNumber}${trail})`,
    ],
    ["several", `(?<label>${lead}[[(【<]${number}[\\])】>]{1,2}(?![[(])${trail})`],
    ["announced", "(?<label>(?<number>\\d{1,6})[.)])(?=\\s|$)"],
    ["one", "- title:(?=\\s|$)"],
    ["several", `(?:[-*•] |\\*\\*)?(?:${keys})\\*{0,2}[:：]\\*{0,2}(?=\\s|$)`],
    ["announced", `(?:[-*•] |\\*\\*)?(?:${plainKeys})\\*{0,2}[:：]\\*{0,2}(?=\\s|$)`],
    ["announced", "#{1,6} "],
    ["several", `(?:${numericId}|\\{\\s{0,20}").*\\}$`],
  ] as const
).map(([begins, pattern]) => [begins, new RegExp(`^${pattern}`, "iu")] as const);
const startsWithId = new RegExp(`^${numericId}`, "iu");
const isNoun = new RegExp(`^${noun}$`, "iu");
const container = new RegExp(`^(?:\\p{L}+ ){0,3}?(?:${manyMarked}|evidence)$`, "iu");
const openTag = /^<([a-z][\w.-]{0,40})((?:\s[^<>]{0,1000})?)>/i;
const border = /\n|<\/([a-z][\w.-]{0,40})>|\[\s{0,64}["{]/i;

/** Where the question or what else follows the passages begins. */
const question =
  /^[#*> ]{0,12}(?:(?:(?:the |my |current |original )?(?:user(?:'s)? )?(?:question|query|request|input|task|problem)|q|user|human|instructions?|frage|pregunta|domanda|вопрос|问题|用户|質問|질문)\s?\*{0,2}[:：]|(?:the )?above\b|以上|<(?:user[_-]?)?(?:question|query|input)\b)|^#{1,6} (?:user )?(?:question|query|task)s?$/iu;
const instruction =
  /^[#*> -]{0,12}(?:(?:please )?(?:answer|respond)|(?:please )?(?:use|write|return|provide|give|list|explain|summari[sz]e|cite|remember) (?:only |a |an |all|each|every|in |it\b|me\b|the\b|these|this|your)|please (?:do not|only|use)|given (?:the|this|these)|based (?:only )?on|using (?:only )?(?:the|this|these)|according to the|(?:do not|don't) (?:answer|cite|include|make up|mention|repeat|use)|if you (?:do not|don't|cannot|can't) (?:know|find)|if the (?:answer|context)|you are (?:a|an|the)|your (?:answer|task|response)|请|回答|根据)|^[#*> ]{0,12}(?:\p{L}+ )?(?:answer|response|assistant|output|a|antwort|réponse|respuesta|回答|答案)\s?\*{0,2}[:：]$/iu;

export const separator = /^([-=*_~#])\1{2,}$/;

const announcesParagraphs = announcements(many);
const announcesMarked = announcements(manyMarked);

/** `Context:`, `### Context` with at most three words before the noun; "Use the following pieces of retrieved context". */
function announcements(nouns: string): readonly [short: RegExp, sentence: RegExp] {
  const word = "[\\p{L}']{1,20}";
  const phrase = `(?:${word} ){0,3}?(?:${nouns})(?: ${word}){0,3}\\*{0,2}`;
  const gap = "[^\\p{L}]{1,3}";
  const [start, end] = ["(?<!\\p{L})", "(?!\\p{L})"];
  return [
    new RegExp(`^(?:\\*{0,2}${phrase}[:：]\\*{0,2}|#{1,6} \\*{0,2}${phrase}(?:[:：]\\*{0,2}|$))`, "iu"),
    new RegExp(
      `${start}(?:following|below|provided|retrieved|here (?:is|are)|folgenden?|suivante?s?|siguientes?|seguenti)(?:${gap}${word}){0,5}?${gap}(?:${nouns})${end}|${start}(?:${nouns})(?:${gap}${word}){0,3}?${gap}(?:below|following)${end}|(?:以下|下面|根据|следующ).{0,20}(?:${nouns})`,
      "iu",
    ),
  ];
}

/** How much of a line announces what follows: a sentence does where it ends in a colon or an empty line follows. */
function lengthOfAnnouncement(line: string, [short, sentence]: typeof announcesMarked, isBlankNext: boolean): number {
  const found = short.exec(line);
  if (found !== null) return found[0].length;
  const isSentence = (isBlankNext || /[:：]$/.test(line)) && !/^(?:[-*•#]|\d+[.)])/.test(line) && sentence.test(line);
  return isSentence ? line.length : 0;
}

/** The line that ends at `end`, and where it begins: its last 2,000 characters at most. */
function lineBefore(text: string, from: number, end: number): readonly [line: string, start: number] {
  const near = text.slice(Math.max(from, end - 2000), Math.max(from, end));
  const line = near.slice(near.lastIndexOf("\n") + 1);
  return [line.trim(), end - line.length];
}

/** Whether the line before a mark announces what is marked. */
export function isAnnouncedAt(text: string, from: number, { before }: Mark): boolean {
  return lengthOfAnnouncement(lineBefore(text, from, before)[0], announcesMarked, true) > 0;
}

/** Where a text ends before the instructions, and the questions in paragraphs of their own, at its end. */
export function beforeInstructions(text: string, from: number, to: number): number {
  let end = to;
  for (let numLines = 0; numLines < 64; numLines++) {
    const [line, start] = lineBefore(text, from, end);
    const isParagraph = start === from || /\n\s*\n\s*$/.test(text.slice(Math.max(from, start - 64), start));
    const isQuestion = isParagraph && line.length < 600 && /[?？]$/.test(line);
    if (line === "" || !(isQuestion || instruction.test(line))) break;
    end = trimmedEnd(text, from, start);
  }
  return end;
}

/** Where [from, to) ends without white space. */
export function trimmedEnd(text: string, from: number, to: number): number {
  return from + text.slice(from, Math.max(from, to)).trimEnd().length;
}

/** The marks of a text, in one pass over its lines, tags and arrays. Code fences and tables are marks, and hold none. */
export function* marksOf(text: string): Steps<MarkedText & { readonly end: number }> {
  const marks: Mark[] = [];
  /** Elements that are not closed yet, by name: what they begin, and where their opening tag ends. */
  const unclosed = new Map<string, { mark: Mark; begins: Mark["begins"]; inner: number }[]>();
  /** Marks whose body is the next text. */
  let waiting: Mark[] = [];
  /** A code fence that may have begun, or a table. */
  let kept: { form: string; at: number; numMarks: number } | undefined;
  let [at, before, work, noArrayBefore] = [0, 0, 0, 0];
  let [isLineStart, isTagStart] = [true, true];
  function* pause(numCharacters: number): Steps<void> {
    work += numCharacters;
    if (work < stepCharacters) return;
    yield;
    work = 0;
  }
  const push = (form: string, given: Partial<Mark> = {}): Mark => {
    const mark = { form, at, before, body: text.length, ...given };
    marks.push(mark);
    if (given.body === undefined) waiting.push(mark);
    return mark;
  };
  /** @param from the place after which the body is, white space skipped. */
  const after = (from: number, to: number) => ({ body: from + Math.max(0, text.slice(from, to).search(/\S/)) });
  const keep = (end: number): void => {
    marks.length = kept!.numMarks;
    push("whole", { at: kept!.at, body: end });
    kept = undefined;
  };
  function* elementsOf(start: number): Steps<{ items: Partial<Mark>[]; end: number }> {
    const items: Partial<Mark>[] = [];
    const open: string[] = [];
    let isText = false;
    let [from, to] = [start + 1, start];
    while (to < text.length && open.length < 64) {
      const window = text.slice(to, to + stepCharacters);
      const found = (isText ? /["\\]/ : /[^\s\d+\-.eEtrufalsn:]/).exec(window);
      const [character = ""] = found ?? [];
      const length = found === null ? window.length : found.index + (character === "\\" ? 2 : 1);
      to += length;
      yield* pause(length + lineCharacters);
      if (character === '"') isText = !isText;
      if (isText || character === '"' || character === "") continue;
      if (character === "[" || character === "{") open.push(character);
      else if (character !== "," && open.pop() !== { "]": "[", "}": "{" }[character]) break;
      if (open.length === (character === "," ? 1 : 0)) {
        const { body } = after(from, to - 1);
        const label = startsWithId.exec(text.slice(body, body + 200))?.[0] ?? "";
        const last = items.at(-1)?.end ?? before;
        items.push({ at: body, before: last, body: body + label.length, end: trimmedEnd(text, body, to - 1) });
        from = to;
      }
      if (open.length === 0) return { items, end: to };
    }
    return { items: [], end: to };
  }

  while (at < text.length && marks.length < maxMarks) {
    const window = text.slice(at, at + stepCharacters);
    const start = window.search(/\S/);
    if (start !== 0) {
      const space = start < 0 ? window : window.slice(0, start);
      if (space.includes("\n")) isLineStart = isTagStart = true;
      at += space.length;
      yield* pause(space.length);
      continue;
    }
    for (const mark of waiting) mark.body = at;
    waiting = [];

    const [tag = "", name = "", attributes = ""] = (isTagStart && openTag.exec(window)) || [];
    const numbered = [...attributes.matchAll(/\s[\w-]{1,40}=(["']?)\d{1,9}\1(?!\w)/g)].at(-1);
    const named = isNoun.exec(name);
    const isRegion = numbered === undefined && container.test(name.replace(/[_-]+/g, " "));
    if (numbered !== undefined || named !== null || isRegion) {
      const inner = at + tag.length;
      const label = numbered === undefined ? 0 : 1 + name.length + numbered.index + numbered[0].length;
      // Of `<source id="3" name="a">` the label ends before the name; what holds only the number is a label, as the tag of a region.
      const isLabel = isRegion || tag.slice(label).trim() === ">";
      const mark = push(`<${name}>`, isLabel ? {} : after(at + label, inner));
      const { one } = named?.groups ?? {};
      const begins = isRegion ? "region" : one === undefined ? "several" : "one";
      if (!unclosed.has(name)) unclosed.set(name, []);
      unclosed.get(name)!.push({ mark, begins, inner });
      before = at = inner;
      isLineStart = true;
      yield* pause(tag.length + lineCharacters);
      continue;
    }

    let isSeparator = false;
    const isAtStart = isLineStart;
    if (isLineStart) {
      const line = /^[^\n]*/.exec(window)![0].trimEnd();
      const end = at + line.length;
      // Of one character, as many lines of texts of megabytes are.
      const isShort = line.length < 2;
      const form = /^(?:`{3,}|~{3,}|\|)/.exec(line)?.[0];
      if (kept?.form === "|" && form !== "|") keep(at);
      if (kept === undefined && form !== undefined) kept = { form, at, numMarks: marks.length };
      else if (kept !== undefined && form !== "|" && form?.startsWith(kept.form) === true) keep(end);

      for (const [begins, pattern] of isShort ? [] : rules) {
        const found = pattern.exec(line);
        if (found === null) continue;
        const { label = "", number, one } = found.groups ?? {};
        isSeparator = separator.test(line);
        push(begins === undefined ? "closer" : line[0] === "{" ? "{" : found[0].toLowerCase().replace(/\d+/g, "#"), {
          begins: one === undefined ? begins : "one",
          number: number === undefined ? undefined : Number(number),
          ...(label.length < line.length && after(at + label.length, end)),
          ...((begins === undefined || line[0] === "{") && { end }),
        });
        break;
      }
      if (!isShort && question.test(line)) push("question");
      const isBlankNext = !isShort && /^\s*(?:\n[^\S\n]*\n|$)/.test(window.slice(line.length, line.length + 64));
      const length = isShort ? 0 : lengthOfAnnouncement(line.slice(0, 2000), announcesParagraphs, isBlankNext);
      const isSection = length === line.length && announcesParagraphs[0].test(line);
      if (length > 0) push(isSection ? "section" : "announcement", length < line.length ? after(at + length, end) : {});
    }

    const found = border.exec(window);
    // Another tag may begin where the window ends.
    const length = found?.index ?? (window.length < stepCharacters ? window.length : window.length - 100);
    if (length > 0 && !isSeparator) before = trimmedEnd(text, at, at + length);
    at += length;
    yield* pause(length + lineCharacters);
    isLineStart = isTagStart = false;
    if (found?.[1] !== undefined) {
      const opened = unclosed.get(found[1]) ?? [];
      const end = at + found[0].length;
      if (opened.length > 0 || (isAtStart && length === 0)) push("</", { body: at + 2, end });
      for (const { mark, begins, inner } of opened) {
        if (before > inner) Object.assign(mark, { begins, end: begins === "region" ? before : end });
      }
      unclosed.delete(found[1]);
      before = at = end;
      isTagStart = true;
    } else if (found !== null && found[0] !== "\n") {
      const { items, end } = at < noArrayBefore ? { items: [], end: noArrayBefore } : yield* elementsOf(at);
      noArrayBefore = end;
      if (items.length > 1) for (const item of items) push(`[${at}`, { begins: "several", ...item });
      before = at = items.length > 1 ? end : at + 1;
    }
  }
  if (kept?.form === "|") keep(at);
  return { text, marks, end: at < text.length ? at : before };
}

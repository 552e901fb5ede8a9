import { eachLine, skipSpace, type TextLines, trimEnd } from "./text-lines.js";

// Words of prompts in English, and the commonest ones in some other languages.

/** What a retrieved text is called, and so what may stand before its number or be its tag. */
const nouns = new Set(
  `article chunk citation context doc document email entry evidence example excerpt extract fact file id index info item
   knowledge memory message page paragraph passage post quote record reference ref result review snippet source
   text ticket webpage website beispiel dokument quelle textstelle fuente documento contexto fonte
   документ источник контекст фрагмент 文档 文件 资料 来源 片段 上下文 段落 文書 資料 出典 문서 출처`.split(/\s+/),
);
/** With one of these names one alone is a passage. */
const documentNouns = new Set("article chunk context doc document excerpt passage snippet source webpage".split(" "));
/** The first key of a passage's fields, */
const keys = new Set(
  `article document document_name doc excerpt file_name file_path filename page_label passage reference snippet source title
   uri url titel quelle titre título fonte 标题 来源 タイトル 제목`.split(/\s+/),
);
/** and of much else. */
const plainKeys = new Set(
  `author chunk content date document_id doc_id file id link name page page_content path section subject text 内容`.split(
    /\s+/,
  ),
);

/** What several retrieved texts are called. */
const many = `contexts?|documents|docs|passages|sources|excerpts|extracts|snippets|chunks|articles|search results|information|knowledge(?: ?bases?)?|materials|kontext|dokumente|quellen|contexte|contexto|documentos|fuentes|contesto|documenti|контекст|документы|источники|上下文|文档|资料|知识库?|コンテキスト|文書|資料|문서`;
/** What several texts are called that numbers, headings or lines of dashes set apart. */
const manyMarked = `${many}|abstracts|comments|emails|entries|examples|facts|files|items|memories|messages|notes|pages|papers|paragraphs|posts|quotes|records|references|reports|results|reviews|texts|tickets|transcripts`;
const container = new RegExp(`^(?:\\p{L}+ ){0,3}?(?:${manyMarked}|evidence)$`, "iu");

interface Announcements {
  /** `Context:`, `**Retrieved documents:** …`, `### Context`: at most three words before the noun. */
  readonly short: RegExp;
  /** "Use the following pieces of retrieved context", "the documents below". */
  readonly sentence: RegExp;
}

function announcements(noun: string): Announcements {
  const word = String.raw`[\p{L}']{1,20}`;
  const phrase = String.raw`(?:${word} ){0,3}?(?:${noun})(?: ${word}){0,3}\*{0,2}`;
  const gap = String.raw`[^\p{L}]{1,3}`;
  const [start, end] = [String.raw`(?<![\p{L}])`, String.raw`(?![\p{L}])`];
  return {
    short: new RegExp(String.raw`^(?:\*{0,2}${phrase}[:：]\*{0,2}|#{1,6} \*{0,2}${phrase}(?:[:：]\*{0,2}|$))`, "iu"),
    sentence: new RegExp(
      `${start}(?:following|below|provided|retrieved|here (?:is|are)|folgenden?|suivante?s?|siguientes?|seguenti)(?:${gap}${word}){0,5}?${gap}(?:${noun})${end}|${start}(?:${noun})(?:${gap}${word}){0,3}?${gap}(?:below|following)${end}|(?:以下|下面|根据|следующ).{0,20}(?:${noun})`,
      "iu",
    ),
  };
}

const announcesParagraphs = announcements(many);
const announcesMarked = announcements(manyMarked);

/** Where the question or what else follows the passages begins. */
const question =
  /^[\s#*>]{0,12}(?:(?:(?:the |my |current |original )?(?:user(?:'s)? )?(?:question|query|request|input|task|problem)|q|user|human|instructions?|frage|pregunta|domanda|вопрос|问题|用户|質問|질문)\s?\*{0,2}[:：]|(?:the )?above\b|以上|<(?:user[_-]?)?(?:question|query|input)\b|#{1,6} (?:user )?(?:question|query|task)s?$)/iu;
const emptyAnswer =
  /^[#*> ]{0,12}(?:\p{L}+ )?(?:answer|response|assistant|output|a|antwort|réponse|respuesta|回答|答案)\s?\*{0,2}[:：]$/iu;
const instruction =
  /^[#*> -]{0,12}(?:(?:please )?(?:answer|respond)|(?:please )?(?:use|write|return|provide|give|list|explain|summari[sz]e|cite|remember) (?:only |a |an |all|each|every|in |it\b|me\b|the\b|these|this|your)|please (?:do not|only|use)|given (?:the|this|these)|based (?:only )?on|using (?:only )?(?:the|this|these)|according to the|(?:do not|don't) (?:answer|cite|include|make up|mention|repeat|use)|if you (?:do not|don't|cannot|can't) (?:know|find)|if the (?:answer|context)|you are (?:a|an|the)|your (?:answer|task|response)|请|回答|根据)/iu;

export const separator = /^([-=*_~#])\1{2,200}$/u;
/** A line of six or more is a border; a shorter one may be Markdown. */
export const leastSeparator = 6;

/** Whether a name is one of a retrieved text: `Search result`, `source_id`, `DOCUMENT`; `isDocument`: of nothing else. */
export function isNoun(name: string, isDocument = false): boolean {
  return (isDocument ? documentNouns : nouns).has(name.toLowerCase().split(/[ _-]/).at(-1)!);
}

/** Whether a key is of a passage's fields, in any case or, `mayBe`, where they are announced. */
export function isFieldKey(key: string, mayBe = false): boolean {
  return keys.has(key) || (mayBe && plainKeys.has(key));
}

/** Whether an element of this name holds a list of retrieved texts. */
export function isContainer(name: string): boolean {
  return container.test(name.replace(/[_-]+/g, " "));
}

/** Where an announcement ends, and the level of the headings that end what it announces: its own, any below a heading, else 0. */
interface Announcement {
  readonly end: number;
  readonly level: number;
}

/** The first line that announces paragraphs, or of several in a row the last; `isLast`: the last line that does. */
export function announcementIn(lines: TextLines, from: number, to: number, isLast = false): Announcement | undefined {
  const { text } = lines;
  let found: Announcement | undefined;
  let level = 0;
  for (const { start, end, content, isWhole } of eachLine(lines, from, to)) {
    if (content === "") continue;
    if (!isWhole) level = /^#{1,6}(?= )/.exec(content)?.[0].length ?? level;
    const length = isWhole ? undefined : lengthOfAnnouncement(content, announcesParagraphs, isBlank(text, end + 1, to));
    if (length !== undefined) {
      found = { end: skipSpace(text, start) + length, level: level > 0 && content[0] !== "#" ? 6 : level };
      // "Context: first paragraph".
      if (length < content.length && !isLast) break;
    } else if (found !== undefined && !isLast) break;
  }
  return found;
}

/** A sentence announces paragraphs where it ends in a colon or an empty line follows. */
function lengthOfAnnouncement(
  line: string,
  { short, sentence }: Announcements,
  isBlankNext: boolean,
): number | undefined {
  const found = short.exec(line);
  if (found !== null) return found[0].length;
  const isSentence = (isBlankNext || /[:：]$/.test(line)) && sentence.test(line) && !/^(?:[-*•#]|\d+[.)])/.test(line);
  return isSentence ? line.length : undefined;
}

/** Whether the line before a place, or before a separator there, announces a list that is marked. */
export function isAnnouncedAt({ text }: TextLines, from: number, at: number): boolean {
  let line = "";
  for (let end = at, i = 0; i < 2 && (i === 0 || separator.test(line)); i++) {
    end = trimEnd(text, from, end);
    const start = Math.max(from, text.lastIndexOf("\n", end - 1) + 1);
    line = text.slice(Math.max(start, end - 2000), end).trim();
    end = start;
  }
  return lengthOfAnnouncement(line, announcesMarked, true) !== undefined;
}

/** Whether nothing but white space is in the line that begins at `at`. */
export function isBlank(text: string, at: number, to: number): boolean {
  return at >= to || /^[^\S\n]*(?:\n|$)/.test(text.slice(at, Math.min(to, at + 64)));
}

/**
 * Where the question, or what else follows the last passage, begins: at a border (a long separator, a closing tag that nothing in
 * the passage opens, the next announcement), at the last line that asks (`Question:`) or ends the list ("The above is …"), and
 * with the instructions right above it.
 *
 * @param body where the last passage begins. Its first line is its own, unless `mayBeNone`.
 * @returns `to` where nothing follows.
 */
export function endOfPassages(lines: TextLines, body: number, to: number, mayBeNone: boolean): number {
  const { text } = lines;
  const after: { start: number; content: string; isAfterBlank: boolean }[] = [];
  let end = to;
  let numTags = 0;
  let isAfterBlank = true;
  for (const { start, content, isWhole } of eachLine(lines, body, to)) {
    if (start > body || (mayBeNone && isBlank(text, text.lastIndexOf("\n", start - 1) + 1, start))) {
      const tag = isWhole ? undefined : /^<\/([\w-]{1,40})>/.exec(content)?.[1];
      const isUnopened =
        tag !== undefined && ++numTags < 16 && !text.slice(Math.max(body, start - 20_000), start).includes(`<${tag}`);
      const isSeparator = !mayBeNone && !isWhole && content.length >= leastSeparator && separator.test(content);
      const isNext = !mayBeNone && !isWhole && announcesParagraphs.short.exec(content)?.[0].length === content.length;
      if (isUnopened || isSeparator || isNext) {
        end = start;
        break;
      }
      after.push({ start, content, isAfterBlank });
    }
    isAfterBlank = content === "";
  }
  const last = trimEnd(text, body, end);
  const asks = after.findLastIndex(
    ({ start, content }, i) =>
      question.test(content) || (emptyAnswer.test(content) && (after[i + 1]?.start ?? end) >= last && start < last),
  );
  if (asks >= 0) end = after[asks]!.start;
  for (const { start, content, isAfterBlank } of (asks < 0 ? after : after.slice(0, asks)).reverse()) {
    if (content === "") continue;
    const isInstruction = instruction.test(content) || emptyAnswer.test(content);
    if (!isInstruction && !(isAfterBlank && content.length < 600 && /[?？]$/.test(content))) break;
    end = start;
  }
  return end;
}

import { isJsonObject, type JsonValue, parseJson } from "../../files/bounded-json.js";
import {
  type Fields,
  isAbsent,
  objectFields,
  readBoolean,
  readText,
  required,
  wrongValue,
} from "../../files/fields.js";
import { quote } from "../../files/quote.js";

/** Raw question sets, by the names of the commands that read them. */
export const RAW_FORMATS = ["2wiki", "hqa", "musique", "nq", "tqa"] as const;
export type RawFormat = (typeof RAW_FORMATS)[number];

/** A passage as a raw file has it. */
export interface RawPassage {
  readonly title: string;
  readonly text: string;
  /** A retriever's; undefined where the file has none. */
  readonly score: number | undefined;
  /** Whether the file says that the answer rests on it; undefined where it says nothing. */
  readonly supports: boolean | undefined;
}

/** A question of a raw file, whatever its format. */
export interface RawQuestion {
  readonly id: string | undefined;
  /** For instance "comparison". */
  readonly kind: string | undefined;
  readonly question: string;
  /** Any of them is right. */
  readonly answers: readonly string[];
  readonly passages: readonly RawPassage[];
}

/**
 * Reads a row of a raw file.
 *
 * @param where the row's place, for errors.
 * @throws Error that names the place, the field and what was wanted.
 * @see docs/reference.md "Data formats".
 */
export function rawQuestion(format: RawFormat, row: JsonValue, where: string): RawQuestion {
  if (!isJsonObject(row)) throw new Error(`Cannot read ${where}: it is no object, one with "question" is wanted`);
  const fields = objectFields(where, row);
  switch (format) {
    case "2wiki":
      return multiHopQuestion(fields, spacedSentences);
    case "hqa":
      return multiHopQuestion(fields, (sentences) => sentences.join(""));
    case "musique":
      return musiqueQuestion(fields);
    case "nq":
    case "tqa":
      return fidQuestion(fields);
    default:
      return format satisfies never;
  }
}

/**
 * A question of FiD's format, which Natural Questions and TriviaQA come in: `question`, `answers` (or `answer`), `ctxs`, a list of
 * {"title", "text", "score"?, "has_answer"?}. A score may be a number as text, as DPR's retriever writes it.
 *
 * @throws Error that names the place, the field and what was wanted.
 */
function fidQuestion(fields: Fields): RawQuestion {
  const ctxs = readList(fields, "ctxs", "a list of passages");
  return {
    id: readId(fields, ["id"]),
    kind: undefined,
    question: readQuestion(fields),
    answers: readAnswers(fields, ["answers", "answer"]),
    passages: ctxs.map((ctx: JsonValue, i) => passageOf(ctx, `passage ${i + 1} of ${fields.where}`)),
  };
}

/** @throws Error if it is missing, or no list. @param wanted what it is, for the message. */
export function readList(fields: Fields, key: string, wanted: string): readonly JsonValue[] {
  const value = required(fields, key, (fields.get(key) ?? undefined) as JsonValue | undefined);
  if (!Array.isArray(value)) throw wrongValue(fields, key, wanted);
  return value;
}

function passageOf(ctx: JsonValue, where: string): RawPassage {
  if (!isJsonObject(ctx))
    throw new Error(`Cannot read ${where}: it is no object, one with "title" and "text" is wanted`);
  const fields = objectFields(where, ctx);
  return {
    title: required(fields, "title", readText(fields, "title")),
    text: required(fields, "text", readText(fields, "text")),
    score: readScore(fields),
    supports: readBoolean(fields, "has_answer"),
  };
}

/**
 * A question of MuSiQue: `id`, `question`, `answer`, `answer_aliases`, `paragraphs`, a list of {"title", "paragraph_text",
 * "is_supporting"?}.
 *
 * @throws Error that names the place, the field and what was wanted.
 */
function musiqueQuestion(fields: Fields): RawQuestion {
  const paragraphs = readList(fields, "paragraphs", "a list of passages");
  return {
    id: readId(fields, ["id"]),
    kind: undefined,
    question: readQuestion(fields),
    answers: [...new Set([...readAnswers(fields, ["answer"]), ...readAnswers(fields, ["answer_aliases"])])],
    passages: paragraphs.map((one: JsonValue, i) => {
      const where = `paragraph ${i + 1} of ${fields.where}`;
      if (!isJsonObject(one)) throw new Error(`Cannot read ${where}: it is no object`);
      const own = objectFields(where, one);
      return {
        title: required(own, "title", readText(own, "title")),
        text: required(own, "paragraph_text", readText(own, "paragraph_text")),
        score: undefined,
        supports: readBoolean(own, "is_supporting"),
      };
    }),
  };
}

function readScore(fields: Fields): number | undefined {
  if (isAbsent(fields, "score")) return undefined;
  const value = fields.get("score");
  const score = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  if (typeof score !== "number" || !Number.isFinite(score)) throw wrongValue(fields, "score", "a number");
  return score;
}

/**
 * A question of 2WikiMultihopQA or HotpotQA: `_id` or `id`, `question`, `answer`, `type`, `context`, `supporting_facts`.
 *
 * `context` is a list of [title, [sentence, …]], or that as JSON text (2Wiki's Parquet), or
 * {"title": […], "sentences": [[…], …]} (HotpotQA as the Hugging Face hub has it); `supporting_facts` goes the same way.
 *
 * @param join makes a passage's text of its sentences.
 * @throws Error that names the place, the field and what was wanted.
 */
function multiHopQuestion(fields: Fields, join: (sentences: readonly string[]) => string): RawQuestion {
  const supporting = supportingTitles(fields);
  const passages = namedLists(fields, "context", "sentences").map(([title, sentences], i) => {
    const isList = Array.isArray(sentences) && sentences.every((sentence) => typeof sentence === "string");
    if (!isList) throw new Error(`Cannot read ${fields.where}: passage ${i + 1} of "context" has no list of sentences`);
    const text = join(sentences as readonly string[]);
    if (!(title + text).isWellFormed()) {
      throw new Error(`Cannot read ${fields.where}: passage ${i + 1} of "context" holds half a character`);
    }
    return { title, text, score: undefined, supports: supporting?.has(title) };
  });
  return {
    id: readId(fields, ["_id", "id"]),
    kind: readText(fields, "type"),
    question: readQuestion(fields),
    answers: readAnswers(fields, ["answer"]),
    passages,
  };
}

/**
 * 2Wiki's sentences as a text: they have no white space between them, so a space is put where there is none.
 *
 * HotpotQA's begin with their own, and some are cut inside a word or quotation, so these are joined as they are.
 *
 * @example spacedSentences(["One.", "Two.", " Three."]) is "One. Two. Three."
 */
export function spacedSentences(sentences: readonly string[]): string {
  let text = "";
  for (const sentence of sentences) {
    const touches = text !== "" && sentence !== "" && !/\s$/.test(text) && !/^\s/.test(sentence);
    text += touches ? ` ${sentence}` : sentence;
  }
  return text;
}

function supportingTitles(fields: Fields): ReadonlySet<string> | undefined {
  if (isAbsent(fields, "supporting_facts")) return undefined;
  return new Set(namedLists(fields, "supporting_facts", "sent_id").map(([title]) => title));
}

/** Pairs of a title and something, in any of their forms. */
function namedLists(fields: Fields, key: string, second: string): [title: string, JsonValue][] {
  const value = required(fields, key, readNested(fields, key));
  return pairsOf(fields, key, second, value).map(([title, other], i) => {
    if (typeof title === "string" && other !== undefined) return [title, other];
    throw new Error(`Cannot read ${fields.where}: item ${i + 1} of ${quote(key)} is no [title, ${second}]`);
  });
}

function pairsOf(fields: Fields, key: string, second: string, value: JsonValue): (JsonValue | undefined)[][] {
  if (Array.isArray(value)) return value.map((item: JsonValue) => (Array.isArray(item) ? item.slice(0, 2) : []));
  if (!isJsonObject(value)) throw wrongValue(fields, key, `a list of [title, ${second}]`);
  const [titles, others] = [value.title, value[second]];
  if (!Array.isArray(titles) || !Array.isArray(others) || titles.length !== others.length) {
    throw new Error(`Cannot read ${fields.where}: ${quote(key)} has no "title" and "${second}" of equal length`);
  }
  return titles.map((title: JsonValue, i) => [title, (others as readonly JsonValue[])[i]]);
}

/** A value that may stand there as JSON text. */
function readNested(fields: Fields, key: string): JsonValue | undefined {
  const value = (fields.get(key) ?? undefined) as JsonValue | undefined;
  return typeof value === "string" ? parseJson(value, `${quote(key)} of ${fields.where}`) : value;
}

/** The question's own text, without white space around it. @throws Error if it is missing or no text. */
function readQuestion(fields: Fields): string {
  return required(fields, "question", readText(fields, "question")).trim();
}

/** The first of the keys that is there: a text, or a number as text. @throws Error for anything else. */
function readId(fields: Fields, keys: readonly string[]): string | undefined {
  const key = keys.find((name) => !isAbsent(fields, name));
  if (key === undefined) return undefined;
  const value = fields.get(key);
  return typeof value === "number" ? String(value) : readText(fields, key);
}

/**
 * A text or a list of texts, under the first of the keys that is there; none of white space alone. None where no key is there: some
 * test sets have no answers.
 *
 * @throws Error for anything else.
 */
export function readAnswers(fields: Fields, keys: readonly string[]): string[] {
  const key = keys.find((name) => !isAbsent(fields, name));
  if (key === undefined) return [];
  const value = fields.get(key);
  const answers: unknown[] = Array.isArray(value) ? value : [value];
  const texts = answers.filter((answer) => typeof answer === "string" && answer.isWellFormed()) as string[];
  if (texts.length < answers.length) throw wrongValue(fields, key, "a text or a list of texts");
  return texts.filter((answer) => answer.trim() !== "");
}

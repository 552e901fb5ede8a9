import type { RagDocument } from "../blocks/block.js";
import { ragDocument } from "../data/rag/rag-row.js";
import { readRows } from "../data/rows.js";
import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { goldMatcher } from "./metrics.js";
import { normalizeAnswer } from "./normalize.js";

/** A question with its gold answers. */
export interface AskedQuestion {
  /** Pairs runs; undefined where the line has none. */
  readonly id: string | undefined;
  /** What it is counted with; undefined where the line names none. */
  readonly kind: string | undefined;
  readonly question: string;
  /** Any of them is right; one or more. */
  readonly answers: readonly string[];
}

/** A line of a question-answering set. @see docs/reference.md "Data formats". */
export interface RagLine extends AskedQuestion {
  /** Best first. */
  readonly documents: readonly (string | RagDocument)[];
}

/** A line of a finished file: a question and what was generated for it. */
export interface AnsweredLine extends AskedQuestion {
  readonly generated: string;
  /** Why there is no answer; it counts as a wrong one. */
  readonly error: string | undefined;
  /** "too_long": the prompt did not fit the model's context. */
  readonly errorCode?: string | undefined;
}

/** A line whose passages are laid anew: it tells which of them hold the answer. */
export interface GoldLine extends RagLine {
  /**
   * Places of the documents that the answer needs, in order. "missing": the line names one that is not among its documents;
   * "none": it names none, and no document holds a gold answer.
   */
  readonly gold: readonly number[] | "missing" | "none";
}

/** The lines of a file that can be used, and what is wrong with the others, each by its place. */
export interface ReadLines<T> {
  readonly lines: readonly T[];
  /** Lines that could not be used. */
  readonly numBad: number;
  /** Of the first of them, one line of text each. */
  readonly errors: readonly string[];
}

const maxErrors = 20;

/**
 * Reads a question-answering set: JSON lines, a .json array or Parquet; "-" is standard input.
 *
 * @param limit how many lines that can be used are read.
 * @throws Error if the file cannot be read, or no line of it can be used; the signal's reason.
 */
export function readRagLines(path: string, signal: AbortSignal, limit = Infinity): Promise<ReadLines<RagLine>> {
  return readLines(path, signal, limit, parseRagLine);
}

/** readRagLines(), with the places of gold passages; a line without documents may be one gold passage itself. @throws as readRagLines(). */
export function readGoldLines(path: string, signal: AbortSignal, limit = Infinity): Promise<ReadLines<GoldLine>> {
  return readLines(path, signal, limit, (value) => {
    const given = withDocuments(value);
    const line = parseRagLine(given);
    return { ...line, gold: goldOf(given as JsonObject, line) };
  });
}

/** A line of {"question","answers","title","text"}, as sets with one gold passage a question have it, with its passage as a document. */
function withDocuments(value: JsonValue): JsonValue {
  if (!isJsonObject(value) || Object.hasOwn(value, "documents") || !Object.hasOwn(value, "text")) return value;
  return { ...value, documents: [{ title: value.title ?? "", text: value.text, gold: true }] as JsonValue };
}

/** Reads a finished file. @throws as readRagLines(). */
export function readAnsweredLines(path: string, signal: AbortSignal): Promise<ReadLines<AnsweredLine>> {
  return readLines(path, signal, Infinity, parseAnsweredLine);
}

async function readLines<T>(
  path: string,
  signal: AbortSignal,
  limit: number,
  parse: (value: JsonValue) => T,
): Promise<ReadLines<T>> {
  const lines: T[] = [];
  const errors: string[] = [];
  let numBad = 0;
  const tell = (error: string): void => {
    numBad += 1;
    if (errors.length < maxErrors) errors.push(error);
  };
  for await (const row of readRows(path, signal)) {
    if (row.kind === "bad") {
      tell(row.error.includes(row.where) ? row.error : `Cannot use ${row.where}: ${row.error}`);
      continue;
    }
    try {
      lines.push(parse(row.value));
    } catch (error) {
      tell(`Cannot use ${row.where}: ${(error as Error).message}`);
    }
    if (lines.length >= limit) break;
  }
  if (lines.length === 0) throw new Error(errors[0] ?? `Cannot use ${quote(path)}: it holds no lines`);
  return { lines, numBad, errors };
}

/** @throws Error whose message says what is wrong with the line, without naming it. */
function parseRagLine(value: JsonValue): RagLine {
  const line = objectOf(value);
  const asked = askedQuestion(line);
  if (asked.question.trim() === "") throw new Error('"question" is missing or empty, wanted text');
  const documents = fieldOf(line, "documents");
  if (!Array.isArray(documents)) throw new Error(`"documents" is ${kindOf(documents)}, wanted an array`);
  return {
    ...asked,
    documents: documents.map((document: JsonValue, i) => ragDocument(document, i, Error)),
  };
}

/** @throws as parseRagLine(). */
export function parseAnsweredLine(value: JsonValue): AnsweredLine {
  const line = objectOf(value);
  const asked = askedQuestion(line);
  const generated = fieldOf(line, "generated");
  if (typeof generated !== "string") throw new Error(`"generated" is ${kindOf(generated)}, wanted text`);
  const error = optionalText(line, "error");
  const errorCode = optionalText(line, "error_code");
  return { ...asked, generated, error, ...(errorCode !== undefined && { errorCode }) };
}

/**
 * Where a line's gold passages stand: as its "supports" say (places or titles), or its "supporting_facts" (pairs of title and
 * sentence, or {"title": […]}); where it has neither, the passages that say "gold": true, else those that hold a gold answer on
 * word borders.
 *
 * @throws Error for supports that are none of these.
 */
function goldOf(value: JsonObject, { documents, answers }: RagLine): GoldLine["gold"] {
  const supports = fieldOf(value, "supports") ?? fieldOf(value, "supporting_facts") ?? undefined;
  if (supports === undefined) {
    const marked = (fieldOf(value, "documents") as readonly JsonValue[]).flatMap((document, i) =>
      isJsonObject(document) && fieldOf(document, "gold") === true ? [i] : [],
    );
    if (marked.length > 0) return marked;
    const isGold = goldMatcher(answers);
    const places = documents.flatMap((document, i) => (isGold(normalizeAnswer(documentText(document))) ? [i] : []));
    return places.length === 0 ? "none" : places;
  }
  const titles = isJsonObject(supports) ? fieldOf(supports, "title") : supports;
  if (!Array.isArray(titles)) throw new Error('its supports are no array and no {"title": […]}');
  const places = new Set<number>();
  for (const support of titles as readonly JsonValue[]) {
    const named = Array.isArray(support) ? (support as readonly JsonValue[])[0] : support;
    const place =
      typeof named === "string"
        ? documents.findIndex((document) => typeof document !== "string" && document.title.trim() === named.trim())
        : named;
    if (typeof place !== "number") throw new Error(`its supports hold ${kindOf(named)}, wanted places or titles`);
    if (!Number.isInteger(place) || place < 0 || place >= documents.length) return "missing";
    places.add(place);
  }
  return places.size === 0 ? "none" : [...places].sort((a, b) => a - b);
}

/** A document as it is searched for answers: title and text. */
export function documentText(document: string | RagDocument): string {
  return typeof document === "string" ? document : `${document.title}\n${document.text}`;
}

function askedQuestion(line: JsonObject): AskedQuestion {
  const answers = fieldOf(line, "answers");
  if (!Array.isArray(answers)) throw new Error(`"answers" is ${kindOf(answers)}, wanted an array of texts`);
  if (answers.length === 0) throw new Error('"answers" is empty, wanted one text or more');
  const wrong = answers.find((answer: JsonValue) => typeof answer !== "string") as JsonValue | undefined;
  if (wrong !== undefined) throw new Error(`"answers" holds ${kindOf(wrong)}, wanted texts`);
  const id = fieldOf(line, "id");
  return {
    id: typeof id === "number" ? String(id) : optionalText(line, "id"),
    kind: optionalText(line, "kind"),
    question: wholeText(optionalText(line, "question") ?? "", "question"),
    answers: answers as readonly string[],
  };
}

function objectOf(value: JsonValue): JsonObject {
  if (!isJsonObject(value)) throw new Error(`it is ${kindOf(value)}, wanted an object`);
  return value;
}

function fieldOf(line: JsonObject, key: string): JsonValue | undefined {
  return Object.hasOwn(line, key) ? line[key] : undefined;
}

function optionalText(line: JsonObject, key: string): string | undefined {
  const value = fieldOf(line, key) ?? undefined;
  if (value !== undefined && typeof value !== "string") throw new Error(`"${key}" is ${kindOf(value)}, wanted text`);
  return value;
}

/** Lone surrogates have no tokens. */
function wholeText(text: string, what: string): string {
  if (!text.isWellFormed()) throw new Error(`${what} holds half a character (a lone surrogate)`);
  return text;
}

function kindOf(value: JsonValue | undefined): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" ? "an object" : typeof value === "string" ? "text" : `${value}`;
}

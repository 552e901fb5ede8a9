import type { RagDocument } from "../../blocks/block.js";
import { isJsonObject, type JsonObject, type JsonValue } from "../../files/bounded-json.js";
import { type ObjectRow, type RowTally, readObjects } from "../row-tally.js";

/** What is needed of a RAG line; its other fields go through as they are. @see docs/reference.md "Data formats". */
export interface RagRow {
  readonly where: string;
  /** Its number over all files, from 0 on. */
  readonly index: number;
  /** Its own, else its number. */
  readonly id: string;
  readonly question: string;
  readonly documents: readonly (string | RagDocument)[];
  /** The answer to learn; undefined where there is none, or white space alone. */
  readonly generated: string | undefined;
  /** Rows of equal group have the same documents in the same order. */
  readonly group: string | undefined;
  readonly value: JsonObject;
}

/**
 * The RAG lines of files; rows that are none are counted.
 *
 * @throws Error if a file cannot be read; the signal's reason.
 */
export async function* readRagRows(
  files: readonly string[],
  tally: RowTally,
  signal: AbortSignal,
): AsyncGenerator<RagRow, void> {
  for await (const row of readObjects(files, tally, signal)) {
    let parsed: RagRow;
    try {
      parsed = parseRagRow(row);
    } catch (error) {
      tally.reject(row.where, error);
      continue;
    }
    yield parsed;
  }
}

/** @throws TypeError that says what was wanted. */
export function parseRagRow({ where, index, value }: ObjectRow): RagRow {
  const question = textOf(value, "question");
  if (question === undefined || question.trim() === "") throw wrong('"question" is missing or empty, wanted text');
  const documents = fieldOf(value, "documents");
  if (!Array.isArray(documents)) throw wrong(`"documents" is ${kindOf(documents)}, wanted an array`);
  const id = fieldOf(value, "id");
  const generated = textOf(value, "generated");
  return {
    where,
    index,
    id: typeof id === "number" ? String(id) : (textOf(value, "id") ?? String(index)),
    question,
    documents: documents.map((document: JsonValue, i) => ragDocument(document, i)),
    generated: generated === undefined || generated.trim() === "" ? undefined : generated,
    group: textOf(value, "group"),
    value,
  };
}

/**
 * A document of a RAG line: a text, or a text with a title; "" is none. Its other keys are its file's own.
 *
 * @param index its place, from 0 on; messages count from 1.
 * @throws an error, made by `fail`, for what is neither.
 */
export function ragDocument(
  document: JsonValue,
  index: number,
  fail: (what: string) => Error = wrong,
): string | RagDocument {
  const name = `document ${index + 1}`;
  const whole = (text: string, what: string): string => {
    if (text.isWellFormed()) return text;
    throw fail(`${what} holds half a character (a lone surrogate)`);
  };
  if (typeof document === "string") return whole(document, name);
  const { title, text } = isJsonObject(document) ? document : {};
  const isTitle = title === undefined || title === null || typeof title === "string";
  if (!isTitle || typeof text !== "string") {
    throw fail(`${name} is no text, and has no "text" of text with a "title" of text or none`);
  }
  return { title: whole(title ?? "", `${name}'s title`), text: whole(text, `${name}'s text`) };
}

/** A row with fields in other values; a field that is undefined is left out. New ones come last. */
export function withFields(row: JsonObject, fields: Readonly<Record<string, JsonValue | undefined>>): JsonObject {
  const changed = Object.keys(row).map((key) => [key, Object.hasOwn(fields, key) ? fields[key] : row[key]] as const);
  const added = Object.entries(fields).filter(([key]) => !Object.hasOwn(row, key));
  return Object.fromEntries(
    [...changed, ...added].filter((entry): entry is [string, JsonValue] => entry[1] !== undefined),
  );
}

function fieldOf(row: JsonObject, key: string): JsonValue | undefined {
  return Object.hasOwn(row, key) ? (row[key] ?? undefined) : undefined;
}

function textOf(row: JsonObject, key: string): string | undefined {
  const value = fieldOf(row, key);
  if (value === undefined) return undefined;
  if (typeof value !== "string") throw wrong(`"${key}" is ${kindOf(value)}, wanted text`);
  return wholeText(value, `"${key}"`);
}

/** Lone surrogates have no tokens, and no UTF-8. */
function wholeText(text: string, what: string): string {
  if (!text.isWellFormed()) throw wrong(`${what} holds half a character (a lone surrogate)`);
  return text;
}

function kindOf(value: JsonValue | undefined): string {
  if (value === undefined) return "missing";
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" ? "an object" : typeof value === "string" ? "text" : String(value);
}

function wrong(what: string): TypeError {
  return new TypeError(`Cannot use the row: ${what}`);
}

import { isJsonObject, type JsonObject } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import type { ManifestInput } from "./manifest.js";
import { readRows } from "./rows.js";

/** What a command over rows read and wrote: `rows` is `written`, `bad` and all that was dropped together. */
export interface RowReport {
  readonly rows: number;
  readonly written: number;
  /** Rows that were none: no JSON, or of no known form. */
  readonly bad: number;
  /** How many were left out, by reason. */
  readonly dropped: Readonly<Record<string, number>>;
  /** Of the first rows that could not be used, a line of text each. */
  readonly errors: readonly string[];
}

/** A row that is an object, and its place. */
export interface ObjectRow {
  /** Its file and place, for errors. */
  readonly where: string;
  /** Its number over all files, from 0 on; rows that could not be used are counted too. */
  readonly index: number;
  readonly value: JsonObject;
}

/** What is said of a row that is none. */
export const NOT_AN_OBJECT = "Cannot use the row: it is no object";
const maxErrors = 20;

/** Counts the rows of one pass. */
export class RowTally {
  rows = 0;
  written = 0;
  bad = 0;
  readonly dropped: Record<string, number> = {};
  readonly errors: string[] = [];

  drop(reason: string): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + 1;
  }

  /** A row that could not be used, and why. */
  reject(where: string, error: unknown): void {
    this.bad += 1;
    if (this.errors.length < maxErrors) this.errors.push(placedError(where, error));
  }

  /** @throws Error if nothing was written: `action` is for instance "Cannot sample". */
  throwIfEmpty(action: string): void {
    if (this.written > 0) return;
    const why = this.errors[0] ?? Object.keys(this.dropped)[0] ?? "there were no rows";
    throw new Error(`${action}: no row is left of ${this.rows}; ${why}`);
  }

  report(): RowReport {
    const { rows, written, bad, dropped, errors } = this;
    return { rows, written, bad, dropped: { ...dropped }, errors: [...errors] };
  }
}

/** What is wrong with a row, with its place. */
function placedError(where: string, error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.includes(where) ? message : `${message} (${where})`;
}

/**
 * The rows of files that are objects, one after another; the others are counted.
 *
 * @throws Error if a file cannot be read; the signal's reason.
 */
export async function* readObjects(
  files: readonly string[],
  tally: RowTally,
  signal: AbortSignal,
): AsyncGenerator<ObjectRow, void> {
  for (const file of files) {
    for await (const row of readRows(file, signal)) {
      const index = tally.rows++;
      if (row.kind === "bad") tally.reject(row.where, row.error);
      else if (isJsonObject(row.value)) yield { where: row.where, index, value: row.value };
      else tally.reject(row.where, NOT_AN_OBJECT);
    }
  }
}

/** @throws Error for an input that can be read but once. */
export function refusePipes(inputs: readonly ManifestInput[]): void {
  const pipe = inputs.find(({ sha256 }) => sha256 === null);
  if (pipe)
    throw new Error(`Cannot use ${quote(pipe.path)}: it is a pipe, wanted a file, for it is read more than once`);
}

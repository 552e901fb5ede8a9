import { isJsonObject } from "../files/bounded-json.js";
import { parsePart } from "../files/bounded-part.js";
import { NOT_AN_OBJECT, type ObjectRow } from "./row-tally.js";
import type { RowPart } from "./rows.js";
import type { Work } from "./serve-work.js";

/** What becomes of a row that is an object. */
export type RowResult<F> =
  | {
      readonly kind: "done";
      /** A line of JSON, without its end; "" where none is written. */
      readonly line: string;
      readonly facts: F;
    }
  | { readonly kind: "dropped"; readonly reason: string };

/** Does what is to be done with a row. @throws Error that says what was wanted: the row is counted as bad. */
export type RowWork<F> = (row: ObjectRow) => RowResult<F> | Promise<RowResult<F>>;

/** What ends the whole work, not a row: thrown by a row's work around what is then thrown in its place. */
export class FatalRowError extends Error {
  constructor(cause: unknown) {
    super("the work cannot go on", { cause });
  }
}

/** Rows as they are sent to a thread: their bytes one after another. */
export interface SentRows {
  readonly bytes: Uint8Array;
  readonly rows: readonly SentRow[];
}

type SentRow = { readonly where: string; readonly index: number; readonly number: number } & (
  | { readonly kind: "bytes"; readonly what: string /** Where the next row begins. */; readonly end: number }
  | { readonly kind: "bad"; readonly error: string }
);

/** What became of sent rows, in their order. */
export interface RowOutcomes<F> {
  /** Their lines one after another, each with its end. */
  readonly bytes: Uint8Array;
  readonly outcomes: readonly RowOutcome<F>[];
}

export type RowOutcome<F> =
  | { readonly kind: "done"; readonly facts: F /** Of its line. */; readonly numBytes: number }
  | { readonly kind: "dropped"; readonly reason: string }
  | { readonly kind: "bad"; readonly where: string; readonly error: string };

/** @param first the number of the first row over all files, from 0 on. */
export function sendRows(parts: readonly RowPart[], first: number): SentRows {
  let end = 0;
  const rows = parts.map(({ where, part }, i): SentRow => {
    const place = { where, index: first + i, number: part.number };
    if (part.kind === "bad") return { ...place, kind: "bad", error: part.error };
    end += part.bytes.length;
    return { ...place, kind: "bytes", what: part.what, end };
  });
  const bytes = new Uint8Array(end);
  let start = 0;
  for (const { part } of parts) {
    if (part.kind === "bad") continue;
    bytes.set(part.bytes, start);
    start += part.bytes.length;
  }
  return { bytes, rows };
}

/** Work on rows as work on what is sent. */
export function sentRowsWork<F>(work: RowWork<F>): Work<SentRows, RowOutcomes<F>> {
  return async ({ bytes, rows }) => {
    const lines: Uint8Array[] = [];
    const outcomes: RowOutcome<F>[] = [];
    let start = 0;
    for (const row of rows) {
      const { where, index, number } = row;
      try {
        if (row.kind === "bad") throw new Error(row.error);
        const { what, end } = row;
        const parsed = parsePart({ kind: "bytes", number, what, bytes: bytes.subarray(start, end) });
        start = end;
        if (parsed.kind === "bad") throw new Error(parsed.error);
        if (!isJsonObject(parsed.value)) throw new Error(NOT_AN_OBJECT);
        const result = await work({ where, index, value: parsed.value });
        if (result.kind === "dropped") {
          outcomes.push(result);
          continue;
        }
        const line = Buffer.from(result.line === "" ? "" : `${result.line}\n`);
        lines.push(line);
        outcomes.push({ kind: "done", facts: result.facts, numBytes: line.length });
      } catch (error) {
        if (error instanceof FatalRowError) throw error.cause;
        outcomes.push({ kind: "bad", where, error: error instanceof Error ? error.message : String(error) });
      }
    }
    return { bytes: Buffer.concat(lines), outcomes };
  };
}

import { quote } from "../../files/quote.js";
import { openDatabase } from "../duckdb.js";
import { mapRows } from "../map-rows.js";
import { type RowReport, RowTally } from "../row-tally.js";
import type { RowWork } from "../row-work.js";
import { PackedRows } from "./packed-row.js";
import { RAW_FORMATS } from "./raw-question.js";
import { validateWork } from "./validate-work.js";

export const VALID_FORMATS = ["rag", "train", "tulu", ...RAW_FORMATS, "packed"] as const;
export type ValidFormat = (typeof VALID_FORMATS)[number];

const rowsPerProgress = 1000;

/**
 * Checks a file row by row: JSON lines, a .json array or Parquet.
 *
 * @returns of all rows those that are valid (`written`), those that are not (`bad`, the first 20 with their places), and those
 *   that are valid but would be left out, by reason (`dropped`).
 * @param numWorkers threads that check rows, where there are many; 0: this one does it.
 * @throws Error if the file cannot be read at all or holds no rows; the signal's reason.
 */
export async function validateFile(
  path: string,
  format: ValidFormat,
  signal: AbortSignal,
  onProgress?: (rows: number) => void,
  numWorkers = 0,
): Promise<RowReport> {
  const tally = new RowTally();
  const mapping =
    format === "packed"
      ? { settings: undefined, numWorkers: 0, inline: () => packedWork(path) }
      : { settings: { kind: "validate", format } as const, numWorkers, inline: async () => validateWork({ format }) };
  for await (const _ of mapRows([path], mapping, tally, signal)) {
    tally.written += 1;
    if (tally.rows % rowsPerProgress === 0) onProgress?.(tally.rows);
  }
  if (tally.rows === 0) throw new Error(`Cannot validate ${quote(path)}: it holds no rows`);
  return tally.report();
}

/** Packed rows are checked one after another: a context's rows stand together. */
async function packedWork(path: string): Promise<RowWork<undefined>> {
  const rows = new PackedRows(await rowGroupSizes(path));
  return ({ value, where }) => {
    rows.check(value, where);
    return { kind: "done", line: "", facts: undefined };
  };
}

/** Rows of each row group of a Parquet file. @throws Error if it is none, or cannot be read. */
async function rowGroupSizes(path: string): Promise<number[]> {
  if (!/\.parquet$/i.test(path)) throw new Error(`Cannot read ${quote(path)}: packed data are a .parquet file`);
  const instance = await openDatabase({ threads: "1" });
  try {
    const connection = await instance.connect();
    try {
      const query =
        "SELECT any_value(row_group_num_rows) FROM parquet_metadata($path) GROUP BY row_group_id ORDER BY row_group_id";
      const reader = await connection.runAndReadAll(query, { path });
      return reader.getRows().map(([size]) => Number(size));
    } finally {
      connection.closeSync();
    }
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ").slice(0, 300);
    throw new Error(`Cannot read ${quote(path)}: ${reason}`, { cause: error });
  } finally {
    instance.closeSync();
  }
}

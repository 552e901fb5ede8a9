import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { DuckDBBlobValue, DuckDBConnection } from "@duckdb/node-api";
import type { JsonValue } from "../files/bounded-json.js";
import { type InputPart, parsePart } from "../files/bounded-part.js";
import { readArrayBytes } from "../files/json-array.js";
import { openInput, readLineBytes } from "../files/json-lines.js";
import { quote } from "../files/quote.js";
import { describeFileError, openRegularFile } from "../files/regular-file.js";
import { openDatabase } from "./duckdb.js";

/** A row of a data file: its JSON, or why it has none. */
export type Row =
  | { readonly kind: "row" /** Its file and place, for errors. */; readonly where: string; readonly value: JsonValue }
  | { readonly kind: "bad"; readonly where: string; readonly error: string };

/** A row that is not looked at yet: its bytes, or why it has none. */
export interface RowPart {
  /** Its file and place, for errors. */
  readonly where: string;
  readonly part: InputPart;
}

/** The largest row that is read, in bytes. */
const maxRowBytes = 2 ** 26;
/** Of a JSON array, read at a time. */
const pieceBytes = 2 ** 20;
/** What DuckDB may hold while it reads one file. */
const memoryLimit = "512MB";

/**
 * The files that a path stands for: itself, or, of a folder, its .jsonl, .json, .ndjson and .parquet files in the order of
 * their names, less the manifests and reports that commands write beside their outputs.
 *
 * @throws Error if there is no such file, or none in the folder.
 */
export async function dataFiles(path: string): Promise<string[]> {
  const found = await stat(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  if (!found.isDirectory()) return [path];
  const isData = (name: string) =>
    /\.(jsonl|ndjson|json|parquet)$/i.test(name) && !/\.(manifest|report)\.json$/i.test(name);
  const names = (await readdir(path)).filter(isData).sort();
  if (names.length === 0) {
    throw new Error(`Cannot read ${quote(path)}: the folder holds no .jsonl, .ndjson, .json or .parquet file`);
  }
  return names.map((name) => join(path, name));
}

/**
 * Reads a file's rows as they come: JSON lines; a JSON array where the name ends in .json and the file begins with "[";
 * Parquet where it ends in .parquet, its numbers that JSON has not (NaN and infinities) as null. No more than some rows are in memory at a time. A row that is no JSON is told and
 * passed over.
 *
 * @throws Error that names the file if it cannot be read, is truncated or is none of these; the signal's reason.
 */
export async function* readRows(path: string, signal: AbortSignal): AsyncGenerator<Row, void> {
  for await (const part of readRowParts(path, signal)) yield parseRow(part);
}

/** A row's JSON, or why it has none. */
function parseRow({ where, part }: RowPart): Row {
  const line = parsePart(part);
  return line.kind === "value" ? { kind: "row", where, value: line.value } : { kind: "bad", where, error: line.error };
}

/** readRows() without looking at what a row holds. */
export async function* readRowParts(path: string, signal: AbortSignal): AsyncGenerator<RowPart, void> {
  if (/\.parquet$/i.test(path)) {
    yield* readParquetRows(path, signal);
  } else if (/\.json$/i.test(path) && (await firstByte(path)) === "[") {
    const { handle } = await openRegularFile(path);
    const stream = handle.createReadStream({ highWaterMark: pieceBytes });
    yield* partsOf(readArrayBytes(stream, quote(path), signal, maxRowBytes), "element", path);
  } else {
    // A file is opened at once, so that a wrong path is told at once; standard input has no name here.
    const stream = await openInput(path, process.stdin, signal);
    yield* partsOf(readLineBytes(stream, signal, maxRowBytes), "line", path);
  }
}

async function* partsOf(parts: AsyncIterable<InputPart>, unit: string, path: string): AsyncGenerator<RowPart, void> {
  const place = quote(path);
  for await (const part of parts) yield { where: `${unit} ${part.number} of ${place}`, part };
}

async function* readParquetRows(path: string, signal: AbortSignal): AsyncGenerator<RowPart, void> {
  signal.throwIfAborted();
  using parquet = await openParquet(path);
  try {
    let number = 0;
    const result = await parquet.connection.stream("SELECT encode(to_json(t)::VARCHAR) FROM read_parquet($path) t", {
      path,
    });
    for (;;) {
      signal.throwIfAborted();
      const chunk = await result.fetchChunk();
      if (chunk === null || chunk.rowCount === 0) return;
      for (const value of chunk.getColumnValues(0)) {
        number += 1;
        const where = `row ${number} of ${quote(path)}`;
        const bytes = withoutNaN((value as DuckDBBlobValue).bytes);
        const { byteLength } = bytes;
        const part: InputPart =
          byteLength <= maxRowBytes
            ? { kind: "bytes", number, what: where, bytes }
            : {
                kind: "bad",
                number,
                error: `Cannot read ${where}: it has ${byteLength} bytes, at most ${maxRowBytes} are read`,
              };
        yield { where, part };
      }
    }
  } catch (error) {
    signal.throwIfAborted();
    throw describeParquetError(error, path);
  }
}

/**
 * The names of a Parquet file's columns.
 *
 * @throws Error of one line for what is no Parquet file.
 */
export async function parquetColumns(path: string): Promise<string[]> {
  using parquet = await openParquet(path);
  try {
    return (await parquet.connection.run("SELECT * FROM read_parquet($path) LIMIT 0", { path })).columnNames();
  } catch (error) {
    throw describeParquetError(error, path);
  }
}

async function openParquet(path: string): Promise<Disposable & { readonly connection: DuckDBConnection }> {
  const { handle } = await openRegularFile(path);
  await handle.close();
  const instance = await openDatabase({ threads: "1", memory_limit: memoryLimit });
  const connection = await instance.connect();
  return {
    connection,
    [Symbol.dispose]: () => {
      connection.closeSync();
      instance.closeSync();
    },
  };
}

function describeParquetError(error: unknown, path: string): Error {
  const says = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ").slice(0, 300);
  const reason = /magic bytes|too small to be a Parquet file/.test(says) ? "it is no Parquet file" : says;
  return new Error(`Cannot read ${quote(path)}: ${reason}`, { cause: error });
}

/** A row as DuckDB spells it with null for NaN and infinities, which Parquet has and JSON has not. */
function withoutNaN(bytes: Uint8Array): Uint8Array {
  const row = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!row.includes("NaN") && !row.includes("Infinity")) return bytes;
  const text = row
    .toString("utf8")
    .replace(/"[^"\\]*(?:\\.[^"\\]*)*"|-?(?:NaN|Infinity)/gs, (part) => (part.startsWith('"') ? part : "null"));
  return Buffer.from(text);
}

async function firstByte(path: string): Promise<string> {
  const { handle } = await openRegularFile(path);
  try {
    const bytes = Buffer.alloc(64);
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
    return bytes
      .toString("utf8", 0, bytesRead)
      .replace(/^\ufeff/, "")
      .trimStart()
      .charAt(0);
  } finally {
    await handle.close();
  }
}

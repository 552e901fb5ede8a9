import { DuckDBInstance } from "@duckdb/node-api";
import { isJsonObject, type JsonObject, type JsonValue } from "../../files/bounded-json.js";
import { isAbsent, objectFields, readText, wrongValue } from "../../files/fields.js";
import { quote } from "../../files/quote.js";
import { parseRagRow } from "../rag/rag-row.js";
import { type ObjectRow, type RowReport, RowTally, readObjects } from "../row-tally.js";
import { trainingSamples } from "../training-sample.js";
import { PackedRows } from "./packed-row.js";
import { readAnswers } from "./question-fields.js";
import { dropReason, ownScores, passagesWithText } from "./rag-line.js";
import { RAW_FORMATS, type RawFormat, rawQuestion } from "./raw-question.js";

export const VALID_FORMATS = ["rag", "train", "tulu", ...RAW_FORMATS, "packed"] as const;
export type ValidFormat = (typeof VALID_FORMATS)[number];

/** Roles of the Tulu 3 mixture. */
const roles = ["system", "user", "assistant"];
const rowsPerProgress = 1000;

/**
 * Checks a row. @returns why a command would leave it out, though it is of its format; undefined where none would.
 * @throws Error that says what was wanted.
 */
type RowCheck = (row: ObjectRow) => string | undefined;

/**
 * Checks a file row by row: JSON lines, a .json array or Parquet.
 *
 * @returns of all rows those that are valid (`written`), those that are not (`bad`, the first 20 with their places), and those
 *   that are valid but would be left out, by reason (`dropped`).
 * @throws Error if the file cannot be read at all or holds no rows; the signal's reason.
 */
export async function validateFile(
  path: string,
  format: ValidFormat,
  signal: AbortSignal,
  onProgress?: (rows: number) => void,
): Promise<RowReport> {
  const check = await checkOf(format, path);
  const tally = new RowTally();
  for await (const row of readObjects([path], tally, signal)) {
    if (tally.rows % rowsPerProgress === 0) onProgress?.(tally.rows);
    try {
      const reason = check(row);
      if (reason === undefined) tally.written += 1;
      else tally.drop(reason);
    } catch (error) {
      tally.reject(row.where, error);
    }
  }
  if (tally.rows === 0) throw new Error(`Cannot validate ${quote(path)}: it holds no rows`);
  return tally.report();
}

async function checkOf(format: ValidFormat, path: string): Promise<RowCheck> {
  switch (format) {
    case "rag":
      return checkRagLine;
    case "train":
      return ({ value, where }) => checkTrainingLine(value, where);
    case "tulu":
      return ({ value, where }) => checkConversation(value, where);
    case "packed": {
      const rows = new PackedRows(await rowGroupSizes(path));
      return ({ value, where }) => {
        rows.check(value, where);
        return undefined;
      };
    }
    default:
      return ({ value, where }) => checkRaw(format, value, where);
  }
}

function checkRaw(format: RawFormat, value: JsonObject, where: string): string | undefined {
  const raw = rawQuestion(format, value, where);
  const passages = passagesWithText(raw);
  ownScores(passages);
  return dropReason(raw, passages);
}

function checkTrainingLine(value: JsonObject, where: string): undefined {
  const outcomes = trainingSamples(value, where, { template: undefined, seed: "" });
  if (Object.hasOwn(value, "messages")) {
    if (outcomes.length === 0) throw new Error(`Cannot use ${where}: "messages" has none of an assistant`);
    return;
  }
  const [outcome] = outcomes;
  if (outcome?.kind === "dropped") throw new Error(`Cannot use ${where}: ${outcome.reason}`);
}

function checkConversation(value: JsonObject, where: string): undefined {
  const fields = objectFields(where, value);
  readText(fields, "id");
  readText(fields, "source");
  if (isAbsent(fields, "messages")) throw new Error(`Cannot read ${where}: "messages" is missing`);
  checkTrainingLine(value, where);
  for (const [i, { role }] of (value.messages as readonly { readonly role: string }[]).entries()) {
    if (roles.includes(role)) continue;
    throw new Error(`Cannot read ${where}: the role of message ${i} is ${quote(role, 60)}, wanted ${roles.join(", ")}`);
  }
}

function checkRagLine(row: ObjectRow): undefined {
  parseRagRow(row);
  const fields = objectFields(row.where, row.value);
  if (readAnswers(fields, ["answers"]).length === 0 || !Array.isArray(row.value.answers)) {
    throw wrongValue(fields, "answers", "a list of one text or more");
  }
  for (const [i, document] of (row.value.documents as readonly JsonValue[]).entries()) {
    const score = isJsonObject(document) && Object.hasOwn(document, "score") ? document.score : null;
    if (score === null || typeof score === "number") continue;
    throw new Error(
      `Cannot read ${row.where}: the score of document ${i} is ${JSON.stringify(score)}, wanted a number`,
    );
  }
}

/** Rows of each row group of a Parquet file. @throws Error if it is none, or cannot be read. */
async function rowGroupSizes(path: string): Promise<number[]> {
  if (!/\.parquet$/i.test(path)) throw new Error(`Cannot read ${quote(path)}: packed data are a .parquet file`);
  const instance = await DuckDBInstance.create(":memory:", { threads: "1" });
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

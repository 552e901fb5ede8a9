import { isJsonObject, type JsonObject, type JsonValue } from "../../files/bounded-json.js";
import { isAbsent, objectFields, readText, wrongValue } from "../../files/fields.js";
import { quote } from "../../files/quote.js";
import { parseRagRow } from "../rag/rag-row.js";
import type { ObjectRow } from "../row-tally.js";
import type { RowWork } from "../row-work.js";
import { trainingSamples } from "../training-sample.js";
import { dropReason, ownScores, passagesWithText } from "./rag-line.js";
import { type RawFormat, rawQuestion, readAnswers } from "./raw-question.js";

/** Which check is made; plain data, for it is sent to threads. */
export interface ValidateSettings {
  readonly format: "rag" | "train" | "tulu" | RawFormat;
}

/** Roles of the Tulu 3 mixture. */
const roles = ["system", "user", "assistant"];

/**
 * Checks a row. @returns why a command would leave it out, though it is of its format; undefined where none would.
 * @throws Error that says what was wanted.
 */
type RowCheck = (row: ObjectRow) => string | undefined;

/** Checks rows of a format, each by itself. */
export function validateWork({ format }: ValidateSettings): RowWork<undefined> {
  const check = checkOf(format);
  return (row) => {
    const reason = check(row);
    return reason === undefined ? { kind: "done", line: "", facts: undefined } : { kind: "dropped", reason };
  };
}

function checkOf(format: ValidateSettings["format"]): RowCheck {
  switch (format) {
    case "rag":
      return checkRagLine;
    case "train":
      return ({ value, where }) => checkTrainingLine(value, where);
    case "tulu":
      return ({ value, where }) => checkConversation(value, where);
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
    throw new Error(
      `Cannot read ${where}: the role of message ${i + 1} is ${quote(role, 60)}, wanted ${roles.join(", ")}`,
    );
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
      `Cannot read ${row.where}: the score of document ${i + 1} is ${JSON.stringify(score)}, wanted a number`,
    );
  }
}

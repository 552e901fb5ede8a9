import { isJsonObject, type JsonValue } from "../../files/bounded-json.js";
import {
  type Fields,
  isAbsent,
  objectFields,
  readBoolean,
  readText,
  required,
  wrongValue,
} from "../../files/fields.js";
import { readAnswers, readId, readQuestion } from "./question-fields.js";
import type { RawPassage, RawQuestion } from "./raw-question.js";

/**
 * A question of FiD's format, which Natural Questions and TriviaQA come in: `question`, `answers` (or `answer`), `ctxs`, a list of
 * {"title", "text", "score"?, "has_answer"?}. A score may be a number as text, as DPR's retriever writes it.
 *
 * @throws Error that names the place, the field and what was wanted.
 */
export function fidQuestion(fields: Fields): RawQuestion {
  const ctxs = required(fields, "ctxs", (fields.get("ctxs") ?? undefined) as JsonValue | undefined);
  if (!Array.isArray(ctxs)) throw wrongValue(fields, "ctxs", "a list of passages");
  return {
    id: readId(fields, ["id"]),
    kind: undefined,
    question: readQuestion(fields),
    answers: readAnswers(fields, ["answers", "answer"]),
    passages: ctxs.map((ctx: JsonValue, i) => passageOf(ctx, `passage ${i + 1} of ${fields.where}`)),
  };
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

function readScore(fields: Fields): number | undefined {
  if (isAbsent(fields, "score")) return undefined;
  const value = fields.get("score");
  const score = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  if (typeof score !== "number" || !Number.isFinite(score)) throw wrongValue(fields, "score", "a number");
  return score;
}

import { isJsonObject, type JsonValue, parseJson } from "../../files/bounded-json.js";
import { type Fields, isAbsent, readText, required, wrongValue } from "../../files/fields.js";
import { quote } from "../../files/quote.js";
import { readAnswers, readId, readQuestion } from "./question-fields.js";
import type { RawQuestion } from "./raw-question.js";

/**
 * A question of 2WikiMultihopQA or HotpotQA: `_id` or `id`, `question`, `answer`, `type`, `context`, `supporting_facts`.
 *
 * `context` is a list of [title, [sentence, …]], or that as JSON text (2Wiki's Parquet), or
 * {"title": […], "sentences": [[…], …]} (HotpotQA as the Hugging Face hub has it); `supporting_facts` goes the same way.
 *
 * @param join makes a passage's text of its sentences.
 * @throws Error that names the place, the field and what was wanted.
 */
export function multiHopQuestion(fields: Fields, join: (sentences: readonly string[]) => string): RawQuestion {
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

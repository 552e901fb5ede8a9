import { type Fields, isAbsent, readText, required, wrongValue } from "../../files/fields.js";

/** The question's own text, without white space around it. @throws Error if it is missing or no text. */
export function readQuestion(fields: Fields): string {
  return required(fields, "question", readText(fields, "question")).trim();
}

/** The first of the keys that is there: a text, or a number as text. @throws Error for anything else. */
export function readId(fields: Fields, keys: readonly string[]): string | undefined {
  const key = keys.find((name) => !isAbsent(fields, name));
  if (key === undefined) return undefined;
  const value = fields.get(key);
  return typeof value === "number" ? String(value) : readText(fields, key);
}

/**
 * A text or a list of texts, under the first of the keys that is there; none of white space alone. None where no key is there: some
 * test sets have no answers.
 *
 * @throws Error for anything else.
 */
export function readAnswers(fields: Fields, keys: readonly string[]): string[] {
  const key = keys.find((name) => !isAbsent(fields, name));
  if (key === undefined) return [];
  const value = fields.get(key);
  const answers: unknown[] = Array.isArray(value) ? value : [value];
  const texts = answers.filter((answer) => typeof answer === "string" && answer.isWellFormed()) as string[];
  if (texts.length < answers.length) throw wrongValue(fields, key, "a text or a list of texts");
  return texts.filter((answer) => answer.trim() !== "");
}

import { isJsonObject, type JsonValue } from "../../files/bounded-json.js";
import { type Fields, objectFields, readText, required } from "../../files/fields.js";
import { Random } from "../random.js";
import type { RowReport } from "../row-tally.js";
import { type MadeFile, writeMadeLines } from "./made-lines.js";
import type { RagLineFields } from "./rag-line.js";
import { readAnswers, readList } from "./raw-question.js";

/** A paragraph of an article, with what is asked about it. */
export interface Paragraph {
  readonly title: string;
  readonly text: string;
  readonly questions: readonly {
    readonly id: string;
    readonly question: string;
    readonly answers: readonly string[];
  }[];
}

export interface ContextOptions {
  /** How many paragraphs share a context, both included. */
  readonly passages: readonly [min: number, max: number];
  /** Share of the contexts whose paragraphs are of several articles; the others' are all of one: harder to tell apart. */
  readonly mixed: number;
  readonly seed: string;
}

/** Of a file of SQuAD, or of paragraphs, or a folder of them. */
type SquadFileOptions = ContextOptions & MadeFile;

/** A line of `squadLines`: those of a context share `group` and documents. */
type SquadLine = RagLineFields & { readonly group: string };

/**
 * Turns SQuAD into RAG lines: some paragraphs share a context, and all their questions are asked over it.
 *
 * @throws as writeMadeLines().
 */
export function writeSquadFile(options: SquadFileOptions): Promise<RowReport> {
  const { passages, mixed, seed, ...files } = options;
  return writeMadeLines({
    ...files,
    command: "data squad",
    told: { passages: [...passages], mixed, seed },
    read: paragraphsOf,
    make: (paragraphs) => squadLines(paragraphs, options),
  });
}

/**
 * The paragraphs of a row: SQuAD's own file ({"data": [{"title", "paragraphs": [{"context", "qas"}]}]}), or one paragraph,
 * {"title", "text", "questions": [{"id", "question", "answers"}]}. Questions without answers are left out.
 *
 * @throws Error that names the place, the field and what was wanted.
 */
export function paragraphsOf(row: JsonValue, where: string): Paragraph[] {
  const fields = rowFields(row, where);
  if (fields.get("data") === undefined) {
    const title = needText(fields, "title");
    return [{ title, text: needText(fields, "text"), questions: questionsOf(fields, "questions") }];
  }
  return listOf(fields, "data").flatMap((article) => {
    const title = needText(article, "title").replaceAll("_", " ");
    return listOf(article, "paragraphs").map(
      (paragraph): Paragraph => ({
        title,
        text: needText(paragraph, "context"),
        questions: questionsOf(paragraph, "qas"),
      }),
    );
  });
}

/**
 * RAG lines of paragraphs: each stands in one context, and is asked about there. What `seed` decides: the order of an article's
 * paragraphs and of the contexts, how many paragraphs a context has, and which articles are mixed.
 */
export function squadLines(paragraphs: readonly Paragraph[], { passages, mixed, seed }: ContextOptions): SquadLine[] {
  const random = new Random(JSON.stringify(["squad", seed]));
  const articles = new Map<string, Paragraph[]>();
  for (const paragraph of paragraphs) {
    const article = articles.get(paragraph.title);
    if (article === undefined) articles.set(paragraph.title, [paragraph]);
    else article.push(paragraph);
  }
  const others: Paragraph[] = [];
  const contexts: Paragraph[][] = [];
  const cut = (of: readonly Paragraph[], isMixed: boolean) => {
    for (let start = 0; start < of.length; ) {
      const context = of.slice(start, start + random.between(...passages));
      start += context.length;
      if (!isMixed && random.chance(mixed)) others.push(...context);
      else contexts.push(context);
    }
  };
  for (const article of articles.values()) cut(random.shuffle(article), false);
  cut(random.shuffle(others), true);
  return random.shuffle(contexts).flatMap((context, number) => {
    const documents = context.map(({ title, text }) => ({ title, text }));
    return context.flatMap(({ questions }, place) =>
      questions.map(
        ({ id, question, answers }): SquadLine => ({
          id,
          group: `squad-${number}`,
          question,
          answers,
          generated: "",
          supports: [place],
          documents,
        }),
      ),
    );
  });
}

function questionsOf(fields: Fields, key: string): Paragraph["questions"] {
  return listOf(fields, key).flatMap((asked) => {
    // SQuAD has answers with their places, {"text", "answer_start"}.
    const given = (asked.get("answers") ?? []) as JsonValue;
    const texts = Array.isArray(given)
      ? given.map((answer: JsonValue) => (isJsonObject(answer) ? (answer.text as JsonValue) : answer))
      : given;
    const answers = readAnswers({ where: asked.where, get: () => texts }, ["answers"]);
    const question = needText(asked, "question").trim();
    if (answers.length === 0 || question === "") return [];
    return [{ id: needText(asked, "id"), question, answers: [...new Set(answers)] }];
  });
}

function listOf(fields: Fields, key: string): Fields[] {
  return readList(fields, key, "a list of objects").map((item, i) =>
    rowFields(item, `item ${i + 1} of "${key}" of ${fields.where}`),
  );
}

function rowFields(row: JsonValue, where: string): Fields {
  if (!isJsonObject(row)) throw new Error(`Cannot read ${where}: it is no object`);
  return objectFields(where, row);
}

function needText(fields: Fields, key: string): string {
  return required(fields, key, readText(fields, key));
}

import { isRecord } from "./draft.js";

export interface ExampleSet {
  readonly name: string;
  readonly documents: readonly { readonly title: string; readonly text: string }[];
  readonly questions: readonly string[];
}

/**
 * Reads the model's own demo lines: passages with the questions that they answer.
 *
 * @returns a set for each line, and at last one of all lines together.
 * @throws Error for a line that holds no passages and questions.
 */
export function parseExamples(jsonLines: string): ExampleSet[] {
  const sets = jsonLines
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line, i): ExampleSet => {
      const value: unknown = JSON.parse(line);
      const { documents, questions } = isRecord(value) ? value : {};
      if (!Array.isArray(documents) || !Array.isArray(questions) || documents.length === 0) {
        throw new Error(`Cannot read the examples: line ${i + 1} holds no passages and questions`);
      }
      return {
        name: String(documents[0].title),
        documents: documents.map(({ title, text }) => ({ title: String(title), text: String(text) })),
        questions: questions.map(({ question }) => String(question)),
      };
    });
  const all = {
    name: "All of them, for the timing",
    documents: sets.flatMap(({ documents }) => documents),
    // One of each set in turn: the first few then ask about different passages.
    questions: Array.from({ length: Math.max(0, ...sets.map(({ questions }) => questions.length)) }).flatMap((_, i) =>
      sets.flatMap(({ questions }) => questions.slice(i, i + 1)),
    ),
  };
  return [...sets, all];
}

/** Passages with those of the examples that are not among them behind, up to `wanted`; more of them stay as they are. */
export function fillUp(
  documents: ExampleSet["documents"],
  sets: readonly ExampleSet[],
  wanted: number,
): ExampleSet["documents"] {
  const isNew = (example: { title: string; text: string }) =>
    documents.every(({ title, text }) => title !== example.title || text !== example.text);
  const others = (sets.at(-1)?.documents ?? []).filter(isNew);
  return [...documents, ...others.slice(0, Math.max(0, wanted - documents.length))];
}

/** The first few questions that the passages at hand can answer. */
export function suggestedQuestions(sets: readonly ExampleSet[], titles: ReadonlySet<string>, limit: number): string[] {
  const fitting = sets.filter(({ documents }) => documents.every(({ title }) => titles.has(title)));
  return [...new Set(fitting.flatMap(({ questions }) => questions))].slice(0, limit);
}

import type { ScoresReader } from "../rag/scores-file.js";
import { FatalRowError, type RowWork } from "../row-work.js";
import { dropReason, ownScores, type PassageChoice, passagesWithText, ragLine } from "./rag-line.js";
import { type RawFormat, rawQuestion } from "./raw-question.js";

/** What makes a RAG line of a raw question; plain data, for it is sent to threads. */
export interface RagFileSettings extends PassageChoice {
  readonly format: RawFormat;
  /** In the ids of questions that have none. */
  readonly split: string | undefined;
}

/** What is counted of a RAG line. */
export interface RagLineFacts {
  /** Of its question and passages. */
  readonly numCharacters: number;
  readonly numPassages: number;
  /** Passages without text, which were left out of it. */
  readonly numEmpty: number;
  readonly isScored: boolean;
}

/**
 * Makes RAG lines of raw questions.
 *
 * @param reader scores in place of the questions' own: the rows must come in their order, none twice.
 */
export function ragFileWork(settings: RagFileSettings, reader?: ScoresReader): RowWork<RagLineFacts> {
  const { format, split } = settings;
  return async ({ where, index, value }) => {
    const raw = rawQuestion(format, value, where);
    const passages = passagesWithText(raw);
    let scores: readonly number[] | undefined = ownScores(passages);
    const reason = dropReason(raw, passages);
    if (reason !== undefined) return { kind: "dropped", reason };
    const id = raw.id ?? [format, ...(split === undefined ? [] : [split]), index].join("-");
    if (reader !== undefined) {
      // What a line of all its passages would be.
      const { question } = raw;
      const row = { where, index, id, question, documents: passages, generated: undefined, group: undefined, value };
      scores = await reader.next(row).catch((error: unknown) => {
        throw new FatalRowError(error);
      });
    }
    const line = ragLine(id, raw, passages, scores, settings);
    const { question, documents } = line;
    const facts = {
      numCharacters: documents.reduce((sum, { title, text }) => sum + title.length + text.length, question.length),
      numPassages: documents.length,
      numEmpty: raw.passages.length - passages.length,
      isScored: scores !== undefined,
    };
    return { kind: "done", line: JSON.stringify(line), facts };
  };
}

import { bestPassages, type PassageOrder } from "../rag/best-passages.js";
import type { RawPassage, RawQuestion } from "./raw-question.js";

export interface PassageChoice {
  /** How many passages a line keeps; Infinity for all. */
  readonly numPassages: number;
  /** How passages that have scores are laid; others stay as they came. */
  readonly order: PassageOrder;
}

/**
 * Why a raw question makes no line; undefined where it makes one.
 *
 * @param passages what `passagesWithText` left of it.
 */
export function dropReason({ question, answers }: RawQuestion, passages: readonly RawPassage[]): string | undefined {
  if (question === "") return "the question is empty";
  if (answers.length === 0) return "it has no answer";
  return passages.length === 0 ? "it has no passage with text" : undefined;
}

/** A block of a title alone would tell nothing. */
export function passagesWithText({ passages }: RawQuestion): RawPassage[] {
  return passages.filter(({ text }) => text.trim() !== "");
}

/** The file's own scores; undefined where it has none. @throws Error if some passages have one and others have none. */
export function ownScores(passages: readonly RawPassage[]): number[] | undefined {
  const scores = passages.flatMap(({ score }) => (score === undefined ? [] : [score]));
  if (scores.length === 0) return undefined;
  if (scores.length === passages.length) return scores;
  throw new Error(`Cannot order passages: ${scores.length} of ${passages.length} have a score, wanted all or none`);
}

/** A document of a RAG line. */
export type ScoredDocument = { readonly title: string; readonly text: string; readonly score?: number };

/** A line as it is written, its fields in this order. @see docs/reference.md "Data formats". */
export type RagLineFields = {
  readonly id: string;
  readonly kind?: string;
  readonly question: string;
  readonly answers: readonly string[];
  /** Filled by whoever answers it. */
  readonly generated: "";
  /** Places of the documents that the answer rests on, ascending, where the raw file tells. */
  readonly supports?: readonly number[];
  readonly documents: readonly ScoredDocument[];
};

/**
 * A raw question as a RAG line: of its passages the ones with the highest scores, or, without scores, the first ones.
 *
 * @param scores one for each of the passages.
 */
export function ragLine(
  id: string,
  { kind, question, answers }: RawQuestion,
  passages: readonly RawPassage[],
  scores: readonly number[] | undefined,
  { numPassages, order }: PassageChoice,
): RagLineFields {
  const places =
    scores === undefined
      ? passages.map((_, place) => place).slice(0, numPassages)
      : bestPassages(scores, numPassages, order);
  const documents = places.map((place): ScoredDocument => {
    const { title, text } = passages[place] as RawPassage;
    return scores === undefined ? { title, text } : { title, text, score: scores[place] as number };
  });
  const tells = passages.some(({ supports }) => supports !== undefined);
  const supports = places.flatMap((place, i) => (passages[place]?.supports === true ? [i] : []));
  return {
    id,
    ...(kind !== undefined && { kind }),
    question,
    answers,
    generated: "",
    ...(tells && { supports }),
    documents,
  };
}

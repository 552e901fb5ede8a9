import type { RagDocument } from "../blocks/block.js";
import { synthesizeContext } from "../data/synth/context.js";
import { QUESTION_KINDS, type QuestionKind } from "../data/synth/question.js";
import type { RagLine } from "./rag-line.js";

export interface HeldOutOptions {
  /** Of each context, 2 to 20. */
  readonly passages: number;
  readonly numQuestions: number;
  /** Real passages, of which some contexts hold one or two. Default none: then the set depends on nothing else. */
  readonly noise?: readonly RagDocument[] | undefined;
}

const seed = "held-out";

/**
 * The held-out test: one question over each context of the generator's split "test", the four kinds in turn. A smaller
 * number of questions gives the first ones of a larger. Over 8 passages and more, at least 4 are distractors; over fewer, at
 * least 1.
 *
 * @throws RangeError for passages out of range.
 */
export function heldOutLines({ passages, numQuestions, noise = [] }: HeldOutOptions): RagLine[] {
  const minDistractors = passages >= 8 ? 4 : Math.min(1, passages - 2);
  const lines: RagLine[] = [];
  for (let index = 0; lines.length < numQuestions; index++) {
    const kind = QUESTION_KINDS[lines.length % QUESTION_KINDS.length] as QuestionKind;
    const context = synthesizeContext(index, {
      seed: `${seed}-${passages}`,
      split: "test",
      minPassages: passages,
      maxPassages: passages,
      numQuestions: 1,
      kinds: [kind],
      noise,
    });
    const [asked] = context.questions;
    if (asked === undefined || context.documents.length - asked.supports.length < minDistractors) continue;
    const { question, answers, firstHop } = asked;
    lines.push({ id: context.id, kind, question, answers, firstHop, documents: context.documents });
  }
  return lines;
}

import { passageText, type RagPromptOptions, ragPrompt } from "../../blocks/rag-prompt.js";
import { modelPrompt } from "../rag/model-prompt.js";
import type { Work } from "../serve-work.js";
import { type SynthContext, type SynthOptions, synthesizeContext } from "./context.js";
import type { SynthQuestion } from "./question.js";

/**
 * `rag`: a line a question, with its documents. `train`: the same already cut into blocks by the model's own RAG prompt.
 * `reading`: a line a context, its passages as blocks and all questions with their answers to learn: for models made from
 * nothing, more answers to a passage than prompts hold.
 */
export const SYNTH_FORMATS = ["rag", "train", "reading"] as const;
export type SynthFormat = (typeof SYNTH_FORMATS)[number];

/** What making questions goes by; plain data, for it is sent to workers. */
export interface SynthSettings extends SynthOptions {
  readonly format: SynthFormat;
  /** A model folder; its chat template and RAG texts make the blocks. */
  readonly model: string;
}

/** Contexts first..first + count. */
export interface SynthRange {
  readonly first: number;
  readonly count: number;
}

export interface SynthLines {
  readonly text: string;
  readonly numQuestions: number;
  readonly kinds: Readonly<Record<string, number>>;
}

export async function synthWork(settings: SynthSettings): Promise<Work<SynthRange, SynthLines>> {
  const rag: RagPromptOptions | undefined =
    settings.format === "train" ? (await modelPrompt(settings.model, "own")).rag : undefined;
  return ({ first, count }) => {
    const lines: string[] = [];
    const kinds: Record<string, number> = {};
    let numQuestions = 0;
    for (let index = first; index < first + count; index++) {
      const context = synthesizeContext(index, settings);
      for (const { kind } of context.questions) kinds[kind] = (kinds[kind] ?? 0) + 1;
      numQuestions += context.questions.length;
      lines.push(...linesOf(context, settings.format, rag));
    }
    return { text: lines.map((line) => `${line}\n`).join(""), numQuestions, kinds };
  };
}

function linesOf(context: SynthContext, format: SynthFormat, rag: RagPromptOptions | undefined): string[] {
  switch (format) {
    case "reading":
      return [readingLine(context)];
    case "rag":
    case "train":
      return questionLines(context, rag);
    default:
      return format satisfies never;
  }
}

function readingLine({ id, documents, questions }: SynthContext): string {
  const passages = documents.map((document) => passageText(document));
  return trainLine(id, id, [...passages, "\n"], questions.map(asked).join(""));
}

const asked = ({ question, chain }: SynthQuestion): string => `Question: ${question}\n${chain}\n`;

function trainLine(id: string, group: string, blocks: readonly string[], response: string): string {
  return JSON.stringify({ id, group, prompt: blocks.join(""), blocks, response });
}

function questionLines({ id, documents, questions }: SynthContext, rag: RagPromptOptions | undefined): string[] {
  return questions.map(({ kind, question, answers, chain, firstHop, supports }, i) => {
    const lineId = `${id}-${i}`;
    if (rag === undefined) {
      return JSON.stringify({
        id: lineId,
        group: id,
        kind,
        question,
        answers,
        generated: chain,
        first_hop: firstHop,
        supports,
        documents,
      });
    }
    const blocks = ragPrompt({ documents, question }, rag).blocks.map(({ text }) => text);
    return trainLine(lineId, id, blocks, chain);
  });
}

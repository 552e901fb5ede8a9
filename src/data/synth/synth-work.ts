import { type RagPromptOptions, ragPrompt } from "../../blocks/rag-prompt.js";
import type { Work } from "../ordered-workers.js";
import { modelPrompt } from "../rag/model-prompt.js";
import { type SynthContext, type SynthOptions, synthesizeContext } from "./context.js";

/** What making questions goes by; plain data, for it is sent to workers. */
export interface SynthSettings extends SynthOptions {
  /** "rag": a line a question, with its documents. "train": already cut into blocks by `model`'s own RAG prompt. */
  readonly format: "rag" | "train";
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
    for (let index = first; index < first + count; index++) {
      const context = synthesizeContext(index, settings);
      for (const { kind } of context.questions) kinds[kind] = (kinds[kind] ?? 0) + 1;
      lines.push(...linesOf(context, rag));
    }
    return { text: lines.map((line) => `${line}\n`).join(""), numQuestions: lines.length, kinds };
  };
}

function linesOf({ id, documents, questions }: SynthContext, rag: RagPromptOptions | undefined): string[] {
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
    return JSON.stringify({ id: lineId, group: id, prompt: blocks.join(""), blocks, response: chain });
  });
}

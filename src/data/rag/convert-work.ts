import { type RagPromptOptions, ragPrompt } from "../../blocks/rag-prompt.js";
import type { JsonObject } from "../../files/bounded-json.js";
import { objectFields } from "../../files/fields.js";
import { readAnswers } from "../raw/raw-question.js";
import type { RowWork } from "../row-work.js";
import { type ModelPrompt, modelPrompt } from "./model-prompt.js";
import { parseRagRow, type RagRow } from "./rag-row.js";

/** What makes a training line of a RAG line; plain data, for it is sent to threads. */
export interface ConvertSettings {
  /** A model folder, a tokenizer folder or a .gguf file: its chat template and RAG texts make the blocks. */
  readonly model: string;
  /** "own": the model's chat template; "tulu": the paper's. */
  readonly template: "own" | "tulu";
  /** How many of a row's documents are used, the best ones. Default all. */
  readonly maxDocuments?: number | undefined;
  /** The documents come best first; how the prompt lays them. */
  readonly order: NonNullable<RagPromptOptions["order"]>;
  /** A system message in place of the preamble. It takes a chat template. */
  readonly system?: string | undefined;
  /** Where a row has no answer to learn, its first right one is learned. Default false. */
  readonly learnsAnswers?: boolean | undefined;
}

/** Makes training lines of RAG lines. @throws Error for a model without tokenizer. */
export async function convertWork(settings: ConvertSettings): Promise<RowWork<undefined>> {
  return convertWorkOf(await modelPrompt(settings.model, settings.template), settings);
}

/** convertWork() of a model whose files are read already. */
export function convertWorkOf(
  { rag }: ModelPrompt,
  { maxDocuments, order, system, learnsAnswers }: Omit<ConvertSettings, "model" | "template">,
): RowWork<undefined> {
  const prompt: RagPromptOptions = { ...rag, order, ...(maxDocuments !== undefined && { maxDocuments }) };
  return (found) => {
    const row = parseRagRow(found);
    const response = row.generated ?? (learnsAnswers ? firstAnswer(row) : undefined);
    if (response === undefined) return { kind: "dropped", reason: "it has no answer" };
    // It throws where the chat template refuses the row.
    return { kind: "done", line: JSON.stringify(trainingLine(row, response, prompt, system)), facts: undefined };
  };
}

function firstAnswer({ where, value }: RagRow): string | undefined {
  return readAnswers(objectFields(where, value), ["answers"])[0];
}

function trainingLine(
  { id, group, documents, question }: RagRow,
  response: string,
  options: RagPromptOptions,
  system: string | undefined,
): JsonObject {
  const asked = { role: "user", content: question } as const;
  const input =
    system === undefined
      ? { documents, question }
      : { documents, messages: [{ role: "system", content: system } as const, asked] };
  const blocks = ragPrompt(input, options).blocks.map(({ text }) => text);
  return { id, ...(group !== undefined && { group }), prompt: blocks.join(""), blocks, response };
}

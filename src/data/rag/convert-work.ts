import { type RagPromptOptions, ragPrompt } from "../../blocks/rag-prompt.js";
import type { JsonObject } from "../../files/bounded-json.js";
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
}

/** Makes training lines of RAG lines. @throws Error for a model without tokenizer. */
export async function convertWork(settings: ConvertSettings): Promise<RowWork<undefined>> {
  return convertWorkOf(await modelPrompt(settings.model, settings.template), settings);
}

/** convertWork() of a model whose files are read already. */
export function convertWorkOf(
  { rag }: ModelPrompt,
  { maxDocuments, order }: Pick<ConvertSettings, "maxDocuments" | "order">,
): RowWork<undefined> {
  const prompt: RagPromptOptions = { ...rag, order, ...(maxDocuments !== undefined && { maxDocuments }) };
  return (found) => {
    const row = parseRagRow(found);
    if (row.generated === undefined) return { kind: "dropped", reason: "it has no answer" };
    // It throws where the chat template refuses the row.
    return { kind: "done", line: JSON.stringify(trainingLine(row, row.generated, prompt)), facts: undefined };
  };
}

function trainingLine(
  { id, group, documents, question }: RagRow,
  response: string,
  options: RagPromptOptions,
): JsonObject {
  const blocks = ragPrompt({ documents, question }, options).blocks.map(({ text }) => text);
  return { id, ...(group !== undefined && { group }), prompt: blocks.join(""), blocks, response };
}

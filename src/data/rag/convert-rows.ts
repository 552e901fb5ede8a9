import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { type RagPromptOptions, ragPrompt } from "../../blocks/rag-prompt.js";
import type { JsonObject } from "../../files/bounded-json.js";
import { describeWriteError, writeAtomically } from "../atomic-output.js";
import { digestInputs, writeManifest } from "../manifest.js";
import { type RowReport, RowTally } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import { modelPrompt } from "./model-prompt.js";
import { type RagRow, readRagRows } from "./rag-row.js";

export interface ConvertOptions {
  /** Files of RAG lines, or folders, in this order. */
  readonly inputs: readonly string[];
  readonly output: string;
  /** A model folder, a tokenizer folder or a .gguf file: its chat template and RAG texts make the blocks. */
  readonly model: string;
  /** "own": the model's chat template; "tulu": the paper's. */
  readonly template: "own" | "tulu";
  /** How many of a row's documents are used, the best ones. Default all. */
  readonly maxDocuments?: number | undefined;
  /** The documents come best first; how the prompt lays them. */
  readonly order: NonNullable<RagPromptOptions["order"]>;
  readonly signal: AbortSignal;
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/**
 * Turns RAG lines into training lines: the prompt cut into the blocks that serving would compute, and `generated` as the
 * response. Rows without an answer are dropped and counted.
 *
 * @throws Error for files that cannot be read or written, a model without tokenizer, or if no row is left; the signal's
 * reason. No half file stays.
 * @see FACTS §3 "RAG prompt", §4.
 */
export async function convertRows(options: ConvertOptions): Promise<RowReport> {
  const { output, maxDocuments, order, signal, onProgress } = options;
  const files = (await Promise.all(options.inputs.map(dataFiles))).flat();
  const inputs = await digestInputs(files, signal);
  const { tokenizer, rag } = await modelPrompt(options.model, options.template);
  await mkdir(dirname(output), { recursive: true }).catch((error: unknown) => {
    throw describeWriteError(error, output);
  });
  const prompt: RagPromptOptions = { ...rag, order, ...(maxDocuments !== undefined && { maxDocuments }) };
  const tally = new RowTally();
  async function* texts(): AsyncGenerator<string, void> {
    for await (const row of readRagRows(files, tally, signal)) {
      onProgress?.(row.index);
      if (row.generated === undefined) {
        tally.drop("it has no answer");
        continue;
      }
      let line: string;
      try {
        line = `${JSON.stringify(trainingLine(row, row.generated, prompt))}\n`;
      } catch (error) {
        // The chat template refuses it.
        tally.reject(row.where, error);
        continue;
      }
      tally.written += 1;
      yield line;
    }
    tally.throwIfEmpty("Cannot convert");
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { dropped, errors: _, ...counts } = tally.report();
  const ownTexts = rag.texts === undefined ? {} : { rag_prompt: { ...rag.texts } as JsonObject };
  await writeManifest(
    output,
    {
      command: "data convert",
      options: {
        template: options.template,
        chat_template_sha256: createHash("sha256")
          .update(tokenizer.chatTemplate ?? "")
          .digest("hex"),
        passages: maxDocuments ?? null,
        order,
        ...ownTexts,
      },
      inputs,
      tokenizerDigest: tokenizer.digest,
      counts,
      dropped,
    },
    signal,
  );
  return tally.report();
}

function trainingLine(
  { id, group, documents, question }: RagRow,
  response: string,
  options: RagPromptOptions,
): JsonObject {
  const blocks = ragPrompt({ documents, question }, options).blocks.map(({ text }) => text);
  return { id, ...(group !== undefined && { group }), prompt: blocks.join(""), blocks, response };
}

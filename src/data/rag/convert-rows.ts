import { createHash } from "node:crypto";
import type { JsonObject } from "../../files/bounded-json.js";
import { writeAtomically } from "../../files/outputs.js";
import { digestInputs, writeManifest } from "../manifest.js";
import { mapRows } from "../map-rows.js";
import { type RowReport, RowTally } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import { type ConvertSettings, convertWorkOf } from "./convert-work.js";
import { modelPrompt } from "./model-prompt.js";

export interface ConvertOptions extends ConvertSettings {
  /** Files of RAG lines, or folders, in this order. */
  readonly inputs: readonly string[];
  readonly output: string;
  /** Threads that read rows, where there are many; default 0: this one does it. */
  readonly numWorkers?: number | undefined;
  readonly signal: AbortSignal;
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/**
 * Turns RAG lines into training lines: the prompt cut into the blocks that serving would compute, and `generated` as the
 * response. Rows without an answer are dropped and counted.
 *
 * @throws Error for files that cannot be read or written, a model without tokenizer, or if no row is left; the signal's
 * reason. No half file stays.
 * @see docs/reference.md "The RAG prompt", "Data formats".
 */
export async function convertRows(options: ConvertOptions): Promise<RowReport> {
  const { output, maxDocuments, order, system, learnsAnswers, signal, onProgress } = options;
  const files = (await Promise.all(options.inputs.map(dataFiles))).flat();
  const inputs = await digestInputs(files, signal);
  const model = await modelPrompt(options.model, options.template);
  const { tokenizer, rag } = model;
  const tally = new RowTally();
  const how = { model: options.model, template: options.template, maxDocuments, order, system, learnsAnswers };
  const settings = { kind: "convert", ...how } as const;
  const mapping = { settings, numWorkers: options.numWorkers ?? 0, inline: async () => convertWorkOf(model, settings) };
  async function* texts(): AsyncGenerator<Uint8Array, void> {
    for await (const { line } of mapRows(files, mapping, tally, signal)) {
      onProgress?.(tally.rows);
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
        ...(system !== undefined && { system }),
        ...(learnsAnswers && { learns_answers: true }),
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

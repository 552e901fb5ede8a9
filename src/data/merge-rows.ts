import { writeAtomically } from "../files/outputs.js";
import { digestInputs, writeManifest } from "./manifest.js";
import { readObjectLines } from "./object-lines.js";
import { type RowReport, RowTally } from "./row-tally.js";
import { dataFiles } from "./rows.js";
import { writeTexts } from "./write-lines.js";

export interface MergeOptions {
  /** Files of rows of any kind, or folders, in this order. */
  readonly inputs: readonly string[];
  readonly output: string;
  readonly signal: AbortSignal;
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/**
 * Writes the rows of files as JSON lines, one file after another, each as it is spelled.
 *
 * @throws Error for files that cannot be read or written, or if no row can be used; the signal's reason. No half file stays.
 */
export async function mergeRows(options: MergeOptions): Promise<RowReport> {
  const { output, signal, onProgress } = options;
  const files = (await Promise.all(options.inputs.map(dataFiles))).flat();
  const inputs = await digestInputs(files, signal);
  const tally = new RowTally();
  async function* texts(): AsyncGenerator<Uint8Array, void> {
    for await (const { line, index } of readObjectLines(files, tally, signal)) {
      onProgress?.(index);
      tally.written += 1;
      yield line;
    }
    tally.throwIfEmpty("Cannot merge");
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { dropped, errors: _, ...counts } = tally.report();
  await writeManifest(output, { command: "data merge", options: {}, inputs, counts, dropped }, signal);
  return tally.report();
}

import type { JsonObject, JsonValue } from "../../files/bounded-json.js";
import { writeAtomically } from "../../files/outputs.js";
import { digestInputs, writeManifest } from "../manifest.js";
import { type RowReport, RowTally, readObjects } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";

export interface MadeFile {
  /** A file of objects, or a folder of them. */
  readonly input: string;
  readonly output: string;
  readonly signal: AbortSignal;
}

/**
 * Writes lines that are made of all rows of a file together, with their manifest.
 *
 * @param options.read what a row holds. What it throws counts the row as bad; the others go on.
 * @throws Error for files that cannot be read or written, or if nothing is made; what `make` throws; the signal's reason. No half file
 * stays.
 */
export async function writeMadeLines<T>(
  options: MadeFile & {
    /** As the manifest names it, with its options. */
    readonly command: string;
    readonly told: JsonObject;
    read(row: JsonValue, where: string): readonly T[];
    make(items: readonly T[]): readonly object[];
  },
): Promise<RowReport> {
  const { input, output, signal, command, told } = options;
  const files = await dataFiles(input);
  const inputs = await digestInputs(files, signal);
  const tally = new RowTally();
  const items: T[] = [];
  for await (const { where, value } of readObjects(files, tally, signal)) {
    try {
      items.push(...options.read(value, where));
    } catch (error) {
      tally.reject(where, error);
    }
  }
  const lines = options.make(items);
  tally.written = lines.length;
  tally.throwIfEmpty("Cannot make RAG lines");
  async function* texts() {
    for (const line of lines) yield Buffer.from(`${JSON.stringify(line)}\n`);
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { errors: _, dropped, ...counts } = tally.report();
  await writeManifest(output, { command, options: told, inputs, counts, dropped }, signal);
  return tally.report();
}

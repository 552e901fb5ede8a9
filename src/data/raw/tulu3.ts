import { type FileHandle, open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeAtomically } from "../../files/outputs.js";
import { describeWriteError } from "../../files/regular-file.js";
import { Histogram, histogramPicture } from "../histogram.js";
import { digestInputs, type ManifestFields, writeManifest } from "../manifest.js";
import { mapInOrder } from "../ordered-workers.js";
import { type PackSettings, packTools } from "../pack-work.js";
import { inPieces } from "../rag/read-ahead.js";
import { dataFiles, type Row, readRows } from "../rows.js";
import { type Tulu3Lines, type Tulu3Rows, tulu3Work } from "./tulu3-work.js";

export interface Tulu3Options extends PackSettings {
  /** A Parquet file of conversations, or a folder of them, read in the order of their names. */
  readonly input: string;
  /** Where `sft.train.jsonl` and `block.train.jsonl` are written, each with its manifest and a picture of lengths. */
  readonly outputDir: string;
  /** Threads that cut and tokenize; 0 does it on this one. */
  readonly numWorkers: number;
  readonly signal: AbortSignal;
  /** Told now and then of the rows read so far. */
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/** What went in and came out. */
export interface Tulu3Report {
  readonly rows: number;
  /** Rows that were no conversation. */
  readonly bad: number;
  /** One for each answer; of each file, written + all that was dropped. */
  readonly samples: number;
  readonly sft: Tulu3FileReport;
  readonly block: Tulu3FileReport;
  /** Of the first rows that could not be used. */
  readonly errors: readonly string[];
}

export interface Tulu3FileReport {
  readonly path: string;
  readonly written: number;
  /** Lines that are trained in block mode too; the others, which hold code, in full mode only. */
  readonly inBlockMode: number;
  readonly tokens: number;
  readonly dropped: Readonly<Record<string, number>>;
}

const rowsPerPiece = 64;
const lengthStep = 128;
const maxErrors = 20;

/**
 * Makes training lines of the Tulu 3 SFT mixture, or of any conversations: every answer as a line for full mode
 * (`sft.train.jsonl`), and those that block training takes, cut into blocks (`block.train.jsonl`). Cut and measured by
 * the code that packs, so that packing the lines gives what packing the conversations gives. Files of any size are streamed; the
 * same input, settings and seed give the same bytes, whatever the number of threads.
 *
 * @throws Error for files that cannot be read or written, or if nothing is left to write; the signal's reason. No half file stays.
 * @see docs/reference.md "Training samples".
 */
export async function writeTulu3(options: Tulu3Options): Promise<Tulu3Report> {
  const { input, outputDir, signal, model, template, maxTokens, singleProbability, seed } = options;
  const settings: PackSettings = { model, template, prefix: options.prefix, maxTokens, singleProbability, seed };
  const files = await dataFiles(input);
  const inputs = await digestInputs(files, signal);
  const { tokenizer, prefix } = await packTools(settings);
  const paths = tulu3Paths(outputDir);
  const counts = new Counts();
  await writeAtomically(paths.sft, (sft) =>
    writeAtomically(paths.block, (block) => writeBoth(sft, block, cutRows(files, settings, options, counts))),
  );
  const report = counts.report(paths);
  const { rows, bad, samples } = report;
  for (const kind of ["sft", "block"] as const) {
    const { path, written, inBlockMode, tokens, dropped } = report[kind];
    const picture = histogramPicture(counts[kind].lengths, "Lengths of samples", "tokens");
    await writeAtomically(`${path}.lengths.svg`, (partial) => writeFile(partial, picture));
    const fields: ManifestFields = {
      command: "data tulu3",
      options: { template, prefix, max_tokens: maxTokens, single_probability: singleProbability, seed },
      inputs,
      tokenizerDigest: tokenizer.digest,
      counts: { rows, bad, samples, written, in_block_mode: inBlockMode, tokens },
      dropped,
    };
    await writeManifest(path, fields, signal);
  }
  return report;
}

/** The files that are written into a folder. */
export function tulu3Paths(folder: string): { readonly sft: string; readonly block: string } {
  return { sft: join(folder, "sft.train.jsonl"), block: join(folder, "block.train.jsonl") };
}

class FileCounts {
  readonly lengths = new Histogram(lengthStep);
  readonly #dropped: Record<string, number> = {};
  #written = 0;
  #inBlockMode = 0;
  #tokens = 0;

  get written(): number {
    return this.#written;
  }

  add({ lengths, numInBlockMode, dropped }: Tulu3Lines): void {
    this.#written += lengths.length;
    this.#inBlockMode += numInBlockMode;
    for (const length of lengths) {
      this.#tokens += length;
      this.lengths.add(length);
    }
    for (const [reason, count] of Object.entries(dropped)) {
      this.#dropped[reason] = (this.#dropped[reason] ?? 0) + count;
    }
  }

  report(path: string): Tulu3FileReport {
    const [written, inBlockMode, tokens] = [this.#written, this.#inBlockMode, this.#tokens];
    return { path, written, inBlockMode, tokens, dropped: this.#dropped };
  }
}

class Counts {
  rows = 0;
  readonly sft = new FileCounts();
  readonly block = new FileCounts();
  readonly #errors: string[] = [];
  #bad = 0;
  #samples = 0;

  add({ sft, block, numBad, errors, numSamples }: Tulu3Rows): void {
    this.sft.add(sft);
    this.block.add(block);
    this.#bad += numBad;
    this.#samples += numSamples;
    this.#errors.push(...errors.slice(0, maxErrors - this.#errors.length));
  }

  /** @throws Error if no sample was written. */
  throwIfEmpty(): void {
    if (this.sft.written > 0) return;
    const { dropped } = this.sft.report("");
    const why = this.#errors[0] ?? Object.keys(dropped)[0] ?? "there were no rows";
    throw new Error(`Cannot make training lines: no sample is left of ${this.rows} rows; ${why}`);
  }

  report(paths: { readonly sft: string; readonly block: string }): Tulu3Report {
    const [sft, block] = [this.sft.report(paths.sft), this.block.report(paths.block)];
    return { rows: this.rows, bad: this.#bad, samples: this.#samples, sft, block, errors: this.#errors };
  }
}

async function* cutRows(
  files: readonly string[],
  settings: PackSettings,
  { numWorkers, signal, onProgress }: Tulu3Options,
  counts: Counts,
): AsyncGenerator<Tulu3Rows, void> {
  async function* rows(): AsyncGenerator<Row, void> {
    for (const file of files) yield* readRows(file, signal);
  }
  const workers = { data: { kind: "tulu3", ...settings } as const, numWorkers, inline: () => tulu3Work(settings) };
  for await (const cut of mapInOrder(inPieces(rows(), rowsPerPiece), workers, signal)) {
    counts.rows += cut.numRows;
    counts.add(cut);
    onProgress?.(counts.rows);
    yield cut;
  }
  counts.throwIfEmpty();
}

/** Writes both files in one pass. @throws Error that names the file; what `pieces` throws. */
async function writeBoth(sft: string, block: string, pieces: AsyncIterable<Tulu3Rows>): Promise<void> {
  const opened: FileHandle[] = [];
  const openFile = async (path: string): Promise<(text: string) => Promise<void>> => {
    const failed = (error: unknown): never => {
      throw describeWriteError(error, path);
    };
    const file = await open(path, "w").catch(failed);
    opened.push(file);
    return (text) => file.appendFile(text).catch(failed);
  };
  try {
    const [writeSft, writeBlock] = [await openFile(sft), await openFile(block)];
    for await (const piece of pieces) {
      await writeSft(piece.sft.text);
      await writeBlock(piece.block.text);
    }
  } finally {
    await Promise.all(opened.map((file) => file.close()));
  }
}

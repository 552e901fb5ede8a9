import { writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { writeAtomically } from "../../files/outputs.js";
import { quote } from "../../files/quote.js";
import { Histogram, histogramPicture } from "../histogram.js";
import { digestInputs, writeManifest } from "../manifest.js";
import { mapRows } from "../map-rows.js";
import { ScoresReader } from "../rag/scores-file.js";
import { type RowReport, RowTally } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import { type RagLineFacts, ragFileWork } from "./rag-file-work.js";
import type { PassageChoice } from "./rag-line.js";
import type { RawFormat } from "./raw-question.js";

export const RAW_SPLITS = ["train", "dev", "test"] as const;
export type RawSplit = (typeof RAW_SPLITS)[number];

/** How files of a folder name the part that they hold. */
const splitNames: Readonly<Record<RawSplit, string>> = { train: "train", dev: "dev|validation|val", test: "test" };

export interface RagFileOptions extends PassageChoice {
  readonly format: RawFormat;
  /** A file, or a folder of them. */
  readonly input: string;
  /** The file of RAG lines to write; its manifest and its pictures stand beside it. */
  readonly output: string;
  /** Of a folder the files of this part alone; it also names questions that have no id. */
  readonly split: RawSplit | undefined;
  /** How many lines are written at most; Infinity for all. */
  readonly limit: number;
  /** Threads that read rows, where there are many; default 0: this one does it. */
  readonly numWorkers?: number | undefined;
  /**
   * Scores that `data retrieve` wrote for the lines of the same input with all their passages, as they came: these in place of
   * the file's own.
   */
  readonly scores: string | undefined;
  readonly signal: AbortSignal;
  /** Told now and then of the rows read so far. */
  readonly onProgress?: ((rows: number) => void) | undefined;
}

export interface RagFileReport extends RowReport {
  /** Of the lines written. */
  readonly passages: number;
  /** Passages without text, which were left out of them. */
  readonly emptyPassages: number;
  /** Lines whose passages have no scores: their first ones were kept. */
  readonly unscored: number;
}

const rowsPerProgress = 1000;
const lengthStep = 500;

/**
 * Turns a raw question set into RAG lines, in the order of the input. Files of any size are streamed.
 *
 * @throws Error for files that cannot be read or written, scores of other rows, or if no row can be used; the signal's
 * reason. No half file stays.
 */
export async function writeRagFile(options: RagFileOptions): Promise<RagFileReport> {
  const { format, output, split, limit, signal } = options;
  const files = await rawFiles(options.input, split);
  const inputs = await digestInputs(options.scores === undefined ? files : [...files, options.scores], signal);
  const counts = new Counts();
  await writeAtomically(output, (partial) => writeTexts(partial, lines(files, options, counts)));
  const pictures = [
    [".lengths.svg", histogramPicture(counts.lengths, "Question and passages of a line", "characters")],
    [".passages.svg", histogramPicture(counts.numPassages, "Passages of a line", "passages")],
  ] as const;
  for (const [ending, picture] of pictures) {
    await writeAtomically(`${output}${ending}`, (partial) => writeFile(partial, picture));
  }
  const report = counts.report();
  const { rows, written, bad, dropped, passages, emptyPassages, unscored } = report;
  const note = `${unscored} of ${written} lines have passages without scores: the first ones are kept, as they came`;
  const orNull = (count: number): number | null => (count === Infinity ? null : count);
  const told = {
    command: `data ${format}`,
    options: {
      split: split ?? null,
      limit: orNull(limit),
      passages: orNull(options.numPassages),
      order: options.order,
      scores: options.scores ?? null,
    },
    inputs,
    counts: { rows, written, bad, passages, empty_passages: emptyPassages, unscored },
    dropped,
    notes: unscored === 0 ? [] : [note],
  };
  await writeManifest(output, told, signal);
  return report;
}

class Counts {
  readonly tally = new RowTally();
  /** In characters. */
  readonly lengths = new Histogram(lengthStep);
  readonly numPassages = new Histogram(1);
  #passages = 0;
  #emptyPassages = 0;
  #unscored = 0;

  add({ numCharacters, numPassages, numEmpty, isScored }: RagLineFacts): void {
    this.tally.written += 1;
    this.lengths.add(numCharacters);
    this.numPassages.add(numPassages);
    this.#passages += numPassages;
    this.#emptyPassages += numEmpty;
    this.#unscored += isScored ? 0 : 1;
  }

  report(): RagFileReport {
    const [passages, emptyPassages, unscored] = [this.#passages, this.#emptyPassages, this.#unscored];
    return { ...this.tally.report(), passages, emptyPassages, unscored };
  }
}

async function* lines(
  files: readonly string[],
  options: RagFileOptions,
  counts: Counts,
): AsyncGenerator<Uint8Array, void> {
  const { format, split, numPassages, order, limit, signal, onProgress } = options;
  const { tally } = counts;
  const scores = options.scores === undefined ? undefined : new ScoresReader(options.scores, signal);
  const settings = { kind: "rag file", format, split, numPassages, order } as const;
  const mapping = {
    // Scores are read in the order of the rows.
    settings: scores === undefined ? settings : undefined,
    numWorkers: options.numWorkers ?? 0,
    inline: async () => ragFileWork(settings, scores),
  };
  try {
    for await (const { line, facts } of mapRows(files, mapping, tally, signal)) {
      if (tally.written % rowsPerProgress === 0) onProgress?.(tally.rows);
      counts.add(facts);
      yield line;
      if (tally.written >= limit) break;
    }
    if (tally.written < limit) await scores?.end();
  } finally {
    await scores?.close();
  }
  tally.throwIfEmpty("Cannot make RAG lines");
}

/** The files of an input; of a folder, those that are named by the split. */
async function rawFiles(input: string, split: RawSplit | undefined): Promise<string[]> {
  const files = await dataFiles(input);
  const isFile = files.length === 1 && files[0] === input;
  if (isFile || split === undefined) return files;
  const word = new RegExp(`(^|[^a-z])(${splitNames[split]})([^a-z]|$)`, "i");
  const named = files.filter((path) => word.test(basename(path)));
  if (named.length > 0) return named;
  throw new Error(`Cannot read ${quote(input)}: no name of its ${files.length} files says ${quote(split)}`);
}

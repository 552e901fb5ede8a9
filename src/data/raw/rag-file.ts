import { mkdir, writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { quote } from "../../files/quote.js";
import { describeWriteError, writeAtomically } from "../atomic-output.js";
import { Histogram, histogramPicture } from "../histogram.js";
import { digestInputs, writeManifest } from "../manifest.js";
import { inPieces } from "../rag/read-ahead.js";
import { ScoresReader } from "../rag/scores-file.js";
import { type RowReport, RowTally, readObjects } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import {
  dropReason,
  ownScores,
  type PassageChoice,
  passagesWithText,
  type RagLineFields,
  ragLine,
} from "./rag-line.js";
import { type RawFormat, type RawPassage, type RawQuestion, rawQuestion } from "./raw-question.js";

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

const linesPerPiece = 64;
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
  await mkdir(dirname(output), { recursive: true }).catch((error: unknown) => {
    throw describeWriteError(error, output);
  });
  const counts = new Counts();
  await writeAtomically(output, (partial) => writeTexts(partial, lineTexts(files, options, counts)));
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

  add({ question, documents }: RagLineFields, numEmpty: number, isScored: boolean): void {
    this.tally.written += 1;
    this.lengths.add(documents.reduce((sum, { title, text }) => sum + title.length + text.length, question.length));
    this.numPassages.add(documents.length);
    this.#passages += documents.length;
    this.#emptyPassages += numEmpty;
    this.#unscored += isScored ? 0 : 1;
  }

  report(): RagFileReport {
    const [passages, emptyPassages, unscored] = [this.#passages, this.#emptyPassages, this.#unscored];
    return { ...this.tally.report(), passages, emptyPassages, unscored };
  }
}

async function* lineTexts(
  files: readonly string[],
  options: RagFileOptions,
  counts: Counts,
): AsyncGenerator<string, void> {
  const { signal } = options;
  const scores = options.scores === undefined ? undefined : new ScoresReader(options.scores, signal);
  try {
    for await (const lines of inPieces(ragLines(files, options, scores, counts), linesPerPiece)) {
      yield lines.map((line) => `${JSON.stringify(line)}\n`).join("");
    }
    if (counts.tally.written < options.limit) await scores?.end();
  } finally {
    await scores?.close();
  }
  counts.tally.throwIfEmpty("Cannot make RAG lines");
}

async function* ragLines(
  files: readonly string[],
  options: RagFileOptions,
  reader: ScoresReader | undefined,
  counts: Counts,
): AsyncGenerator<RagLineFields, void> {
  const { format, split, limit, signal, onProgress } = options;
  const { tally } = counts;
  for await (const { where, index, value } of readObjects(files, tally, signal)) {
    if (tally.rows % rowsPerProgress === 0) onProgress?.(tally.rows);
    let raw: RawQuestion;
    let passages: readonly RawPassage[];
    let scores: readonly number[] | undefined;
    try {
      raw = rawQuestion(format, value, where);
      passages = passagesWithText(raw);
      scores = ownScores(passages);
    } catch (error) {
      tally.reject(where, error);
      continue;
    }
    const reason = dropReason(raw, passages);
    if (reason !== undefined) {
      tally.drop(reason);
      continue;
    }
    const id = raw.id ?? [format, ...(split === undefined ? [] : [split]), index].join("-");
    if (reader !== undefined) {
      // What a line of all its passages would be.
      const { question } = raw;
      const row = { where, index, id, question, documents: passages, generated: undefined, group: undefined, value };
      scores = await reader.next(row);
    }
    const line = ragLine(id, raw, passages, scores, options);
    counts.add(line, raw.passages.length - passages.length, scores !== undefined);
    yield line;
    if (tally.written >= limit) return;
  }
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

import { dirname } from "node:path";
import type { JsonObject, JsonValue } from "../../files/bounded-json.js";
import { holdLock } from "../../files/lock.js";
import { makeFolder, modelFiles, writeAtomically } from "../../files/outputs.js";
import { quote } from "../../files/quote.js";
import { digestInputs, type ManifestInput, writeManifest } from "../manifest.js";
import { ResumedLines } from "../resumed-lines.js";
import { type RowReport, RowTally, refusePipes } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import { bestPassages, type PassageOrder } from "./best-passages.js";
import { BM25_B, BM25_K1 } from "./bm25.js";
import { type RagRow, readRagRows, withFields } from "./rag-row.js";
import { inPieces, readAhead } from "./read-ahead.js";
import { bm25Scorer, denseScorer, type TextEmbedder } from "./score-passages.js";
import { roundScore, ScoresReader, scoresLine } from "./scores-file.js";

/** Where scores come from. */
export type Scoring =
  | { readonly kind: "bm25"; readonly withTitle: boolean }
  | {
      readonly kind: "dense";
      readonly withTitle: boolean;
      /** The folder of the embedding model, for the manifest. */
      readonly model: string;
      readonly embedder: TextEmbedder;
    }
  /** Scores that an earlier run wrote. */
  | { readonly kind: "file"; readonly path: string };

export interface RetrieveOptions {
  /** A file of RAG lines, or a folder of them. */
  readonly input: string;
  /** The file of RAG lines to write. */
  readonly output: string;
  readonly scoring: Scoring;
  /** Where the scores of all passages are written too; undefined: nowhere. */
  readonly scoresOutput?: string | undefined;
  /** How many passages of a row are kept, the best ones. */
  readonly maxPassages: number;
  readonly order: PassageOrder;
  readonly signal: AbortSignal;
  /** Told, in a sentence, what an earlier run has left that is gone on with. */
  readonly onResume?: ((text: string) => void) | undefined;
  /** Told now and then of what is under way and of the rows that it has done. */
  readonly onProgress?: ((step: "counting" | "scoring" | "writing", rows: number) => void) | undefined;
}

export interface RetrieveReport extends RowReport {
  /** Of all rows that were written. */
  readonly passages: number;
  readonly kept: number;
}

/** Rows that are scored together: their texts go to an embedding model in one request. */
const rowsPerPiece = 32;
const progressEvery = 64;

/**
 * Scores the passages of each RAG line for its question and keeps the best.
 *
 * A kept document carries its `score`. What no longer holds is taken out or mended: `prompt` and `inputs` of other passages,
 * `group` (rows of a group have the same passages, in the same order), numbers in `supports`.
 *
 * Scores are written first and then chosen by, so a run with `{ kind: "file" }` gives the same bytes. A run that is interrupted leaves
 * them beside the output, and the same call goes on with them.
 *
 * @throws Error for files that cannot be read or written, scores of other rows, another process that writes the same output, or
 * if no row can be used; the signal's reason. No half output stays.
 */
export async function retrievePassages(options: RetrieveOptions): Promise<RetrieveReport> {
  const { input, output, scoring, scoresOutput, signal } = options;
  const files = await dataFiles(input);
  const scoredBy =
    scoring.kind === "file" ? [scoring.path] : scoring.kind === "dense" ? await modelFiles(scoring.model) : [];
  const inputs = await digestInputs([...files, ...scoredBy], signal);
  refusePipes(inputs);
  if (scoring.kind === "file") return choose(options, files, inputs, scoring.path);
  const partial = `${scoresOutput ?? `${output}.scores`}.partial`;
  await makeFolder(dirname(partial));
  await using _lock = await holdLock(`${partial}.lock`, `write ${quote(partial)}`);
  const settings = { ...scoringOptions(scoring), inputs: inputs.map(({ sha256 }) => sha256) };
  await using scores = await ResumedLines.open(partial, settings, rowsPerPiece);
  if (scores.numKept > 0) options.onResume?.(`Going on with ${quote(partial)}: ${scores.numKept} rows are scored`);
  for await (const text of scoreTexts(scoring, files, scores.numKept, options)) await scores.append(text);
  await scores.sync();
  const report = await choose(options, files, inputs, scores.path);
  await scores.finish(scoresOutput);
  if (scoresOutput !== undefined) {
    const { rows, written, bad } = report;
    const told = { command: "data retrieve", options: scoringOptions(scoring), inputs, counts: { rows, written, bad } };
    await writeManifest(scoresOutput, told, signal);
  }
  return report;
}

/** The lines of scores behind the first `numDone`. */
async function* scoreTexts(
  scoring: Exclude<Scoring, { kind: "file" }>,
  files: readonly string[],
  numDone: number,
  options: RetrieveOptions,
): AsyncGenerator<string, void> {
  const tally = new RowTally();
  async function* rowsLeft(): AsyncGenerator<RagRow, void> {
    let number = 0;
    for await (const row of rowsOf(files, "scoring", tally, options)) if (number++ >= numDone) yield row;
    if (number === 0) tally.throwIfEmpty("Cannot retrieve");
  }
  const scorer =
    scoring.kind === "dense"
      ? denseScorer(scoring.embedder, scoring.withTitle)
      : await bm25Scorer(rowsOf(files, "counting", new RowTally(), options), scoring.withTitle);
  const score = async (rows: readonly RagRow[]): Promise<string> => {
    const scores = await scorer(rows);
    return rows
      .map((row, i) =>
        scoresLine(
          row,
          (scores[i] ?? []).map((one) => checkedScore(one, row)),
        ),
      )
      .join("");
  };
  for await (const text of readAhead(inPieces(rowsLeft(), rowsPerPiece), score, 2)) {
    options.signal.throwIfAborted();
    yield text;
  }
}

function checkedScore(score: number, { where }: RagRow): number {
  if (!Number.isFinite(score)) throw new Error(`Cannot score the passages of ${where}: a score is ${score}`);
  return roundScore(score);
}

/** Writes the rows with their best passages. */
async function choose(
  options: RetrieveOptions,
  files: readonly string[],
  inputs: readonly ManifestInput[],
  scoresPath: string,
): Promise<RetrieveReport> {
  const { output, maxPassages, order, signal } = options;
  const tally = new RowTally();
  const counts = { passages: 0, kept: 0 };
  async function* texts(): AsyncGenerator<string, void> {
    const reader = new ScoresReader(scoresPath, signal);
    try {
      for await (const row of rowsOf(files, "writing", tally, options)) {
        const scores = await reader.next(row);
        const places = bestPassages(scores, maxPassages, order);
        counts.passages += scores.length;
        counts.kept += places.length;
        tally.written += 1;
        yield `${JSON.stringify(withPassages(row, places, scores))}\n`;
      }
      await reader.end();
    } finally {
      await reader.close();
    }
    tally.throwIfEmpty("Cannot retrieve");
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { errors: _, dropped, ...rows } = tally.report();
  await writeManifest(output, { ...manifestOf(options), inputs, counts: { ...rows, ...counts }, dropped }, signal);
  return { ...tally.report(), ...counts };
}

function withPassages({ value }: RagRow, places: readonly number[], scores: readonly number[]): JsonObject {
  const documents = value.documents as readonly JsonValue[];
  const kept = places.map((place): JsonValue => {
    const document = documents[place] as string | JsonObject;
    return typeof document === "string" ? document : withFields(document, { score: scores[place] as number });
  });
  const stale = ["prompt", "inputs", "group"].filter((key) => Object.hasOwn(value, key));
  return withFields(value, {
    documents: kept,
    ...Object.fromEntries(stale.map((key) => [key, undefined])),
    ...movedSupports(value, places),
  });
}

/** `supports` where it holds places of documents: the places that these have now. */
function movedSupports(value: JsonObject, places: readonly number[]): { supports?: JsonValue } {
  const supports = Object.hasOwn(value, "supports") ? value.supports : undefined;
  if (!Array.isArray(supports) || !supports.every((place: JsonValue) => Number.isInteger(place))) return {};
  const moved = supports.map((place: JsonValue) => places.indexOf(place as number)).filter((place) => place >= 0);
  return { supports: moved.sort((a, b) => a - b) };
}

function manifestOf({ scoring, maxPassages, order }: RetrieveOptions): { command: string; options: JsonObject } {
  return { command: "data retrieve", options: { ...scoringOptions(scoring), passages: maxPassages, order } };
}

/** What decides scores. */
function scoringOptions(scoring: Scoring): JsonObject {
  switch (scoring.kind) {
    case "file":
      return { method: "file" };
    case "bm25":
      return { method: "bm25", k1: BM25_K1, b: BM25_B, with_title: scoring.withTitle };
    case "dense":
      return { method: "dense", embedding_model: scoring.model, with_title: scoring.withTitle };
    default:
      return scoring satisfies never;
  }
}

async function* rowsOf(
  files: readonly string[],
  step: "counting" | "scoring" | "writing",
  tally: RowTally,
  { signal, onProgress }: RetrieveOptions,
): AsyncGenerator<RagRow, void> {
  for await (const row of readRagRows(files, tally, signal)) {
    if (row.index % progressEvery === 0) onProgress?.(step, row.index);
    yield row;
  }
}

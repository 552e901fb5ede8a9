import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { readRows } from "../data/rows.js";
import { isJsonObject } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { describeFileError, pathExists } from "../files/regular-file.js";
import { type AnsweredLine, type ReadLines, readAnsweredLines } from "./rag-line.js";
import { readTiming } from "./rag-run.js";
import { ANSWERS_FILE, SETTINGS_FILE, TIMINGS_FILE } from "./run-folder.js";
import type { NamedRun, RequestTiming } from "./summary.js";

/** A file of answers and the name of its row. */
export interface AnswerFile {
  readonly name: string;
  readonly path: string;
  /** Of a run's folder: what its answers took. */
  readonly timings?: string | undefined;
}

/**
 * The finished files that a path stands for: a file itself; of a run's folder its answers; of another folder its .jsonl,
 * .ndjson and .parquet files and the answers of runs' folders in it, in the order of their names.
 *
 * @throws Error if there is no such file, or none in the folder.
 */
export async function answerFiles(path: string): Promise<AnswerFile[]> {
  if (path === "-") return [{ name: "standard input", path }];
  const found = await stat(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  if (!found.isDirectory()) return [{ name: basename(path), path }];
  if (await isRunFolder(path)) return [runFiles(basename(resolve(path)), path)];
  const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  const files: AnswerFile[] = [];
  for (const { name } of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const inner = join(path, name);
    if (/\.(jsonl|ndjson|parquet)$/i.test(name)) files.push({ name, path: inner });
    else if (await isRunFolder(inner)) files.push(runFiles(name, inner));
  }
  if (files.length === 0) {
    throw new Error(
      `Cannot score ${quote(path)}: the folder holds no .jsonl, .ndjson or .parquet file and no run's folder`,
    );
  }
  return files;
}

/** What stands for one run: a file, or a run's folder. @throws Error as answerFiles(), or if there are several. */
export async function oneAnswerFile(path: string): Promise<AnswerFile> {
  const files = await answerFiles(path);
  const [file, second] = files as [AnswerFile, AnswerFile?];
  if (second !== undefined) {
    throw new Error(`Cannot compare with ${quote(path)}: it holds ${files.length} files of answers, wanted one`);
  }
  return file.path === path ? file : { ...file, name: basename(dirname(file.path)) };
}

/** A file's answers as a run, with what they took where that is known, and the lines that could not be used. */
export async function readAnswerFile(
  { name, path, timings }: AnswerFile,
  signal: AbortSignal,
): Promise<{ readonly run: NamedRun; readonly read: ReadLines<AnsweredLine> }> {
  const read = await readAnsweredLines(path, signal);
  const measured: RequestTiming[] = [];
  if (timings !== undefined && (await pathExists(timings))) {
    for await (const row of readRows(timings, signal)) {
      if (row.kind === "row" && isJsonObject(row.value)) measured.push(readTiming(row.value));
    }
  }
  // A run that was ended may have measured what it has not written.
  return {
    run: { name, answers: read.lines, timings: measured.filter(({ index }) => index < read.lines.length) },
    read,
  };
}

function runFiles(name: string, folder: string): AnswerFile {
  return { name, path: join(folder, ANSWERS_FILE), timings: join(folder, TIMINGS_FILE) };
}

async function isRunFolder(path: string): Promise<boolean> {
  const both = [ANSWERS_FILE, SETTINGS_FILE].map((name) => stat(join(path, name)));
  return Promise.all(both).then(
    () => true,
    () => false,
  );
}

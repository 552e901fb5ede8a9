import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { quote } from "../files/quote.js";
import { describeFileError } from "../files/regular-file.js";
import { ANSWERS_FILE, SETTINGS_FILE } from "./rag-run.js";

/** A file of answers and the name of its row. */
export interface AnswerFile {
  readonly name: string;
  readonly path: string;
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
  if (await isRunFolder(path)) return [{ name: basename(resolve(path)), path: join(path, ANSWERS_FILE) }];
  const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  const files: AnswerFile[] = [];
  for (const { name } of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const inner = join(path, name);
    if (/\.(jsonl|ndjson|parquet)$/i.test(name)) files.push({ name, path: inner });
    else if (await isRunFolder(inner)) files.push({ name, path: join(inner, ANSWERS_FILE) });
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

async function isRunFolder(path: string): Promise<boolean> {
  const both = [ANSWERS_FILE, SETTINGS_FILE].map((name) => stat(join(path, name)));
  return Promise.all(both).then(
    () => true,
    () => false,
  );
}

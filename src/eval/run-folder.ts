import { type FileHandle, open, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isJsonObject, type JsonObject, type JsonValue, parseJson, readJson } from "../files/bounded-json.js";
import { holdLock } from "../files/lock.js";
import { prepareOutputs, writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { describeWriteError, pathExists } from "../files/regular-file.js";
import type { RunSettings } from "./responder.js";

/** Of a run's folder: what decides its answers, the answers, and what they took. */
export const SETTINGS_FILE = "run.json";
export const ANSWERS_FILE = "answers.jsonl";
export const TIMINGS_FILE = "timings.jsonl";
const lockFile = "run.lock";

/** The files that a run's folder holds. */
export function runFiles(folder: string): string[] {
  return [SETTINGS_FILE, ANSWERS_FILE, TIMINGS_FILE, lockFile].map((name) => join(folder, name));
}

/**
 * prepareOutputs() for a report over runs that are gone on with: where the folder holds runs already, in itself or below, the
 * report over them is written anew without `force`.
 *
 * @param names the report's files.
 * @throws as prepareOutputs().
 */
export async function prepareReport(
  folder: string,
  names: readonly string[],
  inputs: readonly string[],
  force: boolean,
): Promise<void> {
  const runs = await runFolders(folder, 2);
  await prepareOutputs({ inputs, outputs: [...new Set([folder, ...runs])].flatMap(runFiles), force: true });
  const outputs = names.map((name) => join(folder, name));
  await prepareOutputs({ inputs, outputs, force: force || runs.length > 0 });
}

/** The folders of runs, at most `depth` folders below. */
async function runFolders(folder: string, depth: number): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const below = entries.filter((entry) => entry.isDirectory() && depth > 0);
  const runs = await Promise.all(below.map(({ name }) => runFolders(join(folder, name), depth - 1)));
  return [...(entries.some(({ name }) => name === SETTINGS_FILE) ? [folder] : []), ...runs.flat()];
}

/**
 * Writes the settings of a new run; holds those of an older one to them.
 *
 * @throws Error if the folder holds a run of other settings, or cannot be read or written.
 */
export async function agreeOnSettings(folder: string, settings: RunSettings): Promise<void> {
  const path = join(folder, SETTINGS_FILE);
  if (!(await pathExists(path))) {
    if (await pathExists(join(folder, ANSWERS_FILE))) {
      throw new Error(
        `Cannot go on in ${quote(folder)}: it holds answers, but no ${SETTINGS_FILE} with their settings`,
      );
    }
    await writeAtomically(path, (partial) => writeFile(partial, `${JSON.stringify(settings, null, 2)}\n`));
    return;
  }
  const before = await readJson(path);
  if (!isJsonObject(before)) throw new Error(`Cannot go on in ${quote(folder)}: its ${SETTINGS_FILE} is no object`);
  const names = [...new Set([...Object.keys(settings), ...Object.keys(before)])];
  const differing = names.filter((name) => (Object.hasOwn(before, name) ? before[name] : undefined) !== settings[name]);
  if (differing.length === 0) return;
  const shown = differing.map(
    (name) => `${name} was ${JSON.stringify(before[name])}, now it is ${JSON.stringify(settings[name])}`,
  );
  throw new Error(`Cannot go on in ${quote(folder)}: ${shown.join("; ")}; take another folder for another run`);
}

/**
 * The values of a file's lines; none where there is no file. What a torn write left, an end that is no line or no JSON, is
 * cut off, and with it all from the first line on that is not to be kept.
 *
 * @throws Error for a line within the file that is no JSON object, or a file that cannot be read or cut.
 */
export async function keepWholeLines(
  path: string,
  isKept: (value: JsonObject) => boolean = () => true,
): Promise<JsonObject[]> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw describeWriteError(error, path);
  });
  if (bytes === undefined) return [];
  const values: JsonObject[] = [];
  let start = 0;
  for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
    let value: JsonValue;
    try {
      value = parseJson(bytes.subarray(start, end), `line ${values.length + 1} of ${quote(path)}`);
    } catch (error) {
      if (bytes.indexOf(0x0a, end + 1) >= 0) throw error;
      break;
    }
    if (!isJsonObject(value)) throw new Error(`Cannot go on: line ${values.length + 1} of ${quote(path)} is no object`);
    if (!isKept(value)) break;
    values.push(value);
    start = end + 1;
  }
  if (start < bytes.length) await truncate(path, start);
  return values;
}

/** @throws Error that names the path if it cannot be opened. */
export async function openAppend(path: string): Promise<FileHandle> {
  return open(path, "a").catch((error: unknown) => {
    throw describeWriteError(error, path);
  });
}

/** @throws Error that names the path if it cannot be written. */
export async function appendLine(file: FileHandle, value: JsonObject, path: string): Promise<void> {
  await file.appendFile(`${JSON.stringify(value)}\n`).catch((error: unknown) => {
    throw describeWriteError(error, path);
  });
}

/** Holds a folder for this process; what a process that is gone left is taken over. @throws Error if another one runs in it. */
export async function lockFolder(folder: string): Promise<AsyncDisposable> {
  return holdLock(join(folder, lockFile), `run in ${quote(folder)}`);
}

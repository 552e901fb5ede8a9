import { type FileHandle, open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describeWriteError, writeAtomically } from "../data/atomic-output.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson, readJson } from "../files/bounded-json.js";
import { pathExists } from "../files/path-exists.js";
import { quote } from "../files/quote.js";
import type { RunSettings } from "./responder.js";

/** Of a run's folder: what decides its answers, the answers, and what they took. */
export const SETTINGS_FILE = "run.json";
export const ANSWERS_FILE = "answers.jsonl";
export const TIMINGS_FILE = "timings.jsonl";
const lockFile = "run.lock";

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
  const path = join(folder, lockFile);
  // A number may come again, in a container at each start; with the time it does not.
  const own = `${process.pid} ${Math.round(performance.timeOrigin)}`;
  for (let attempt = 0; ; attempt++) {
    try {
      await writeFile(path, `${own}\n`, { flag: "wx" });
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 2) throw describeWriteError(error, path);
      const holder = (await readFile(path, "utf8").catch(() => "")).trim();
      const pid = Number(holder.split(" ")[0]);
      if (pid > 0 && (pid === process.pid ? holder === own : isAlive(pid))) {
        throw new Error(
          `Cannot run in ${quote(folder)}: process ${pid} runs in it; if that is none of ours, remove ${lockFile}`,
        );
      }
      await rm(path, { force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

import { type BigIntStats, constants, type Stats } from "node:fs";
import { access, lstat, mkdir, open, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { holdLock } from "./lock.js";
import { quote } from "./quote.js";
import { describeFileError, describeWriteError } from "./regular-file.js";

/** What a command reads and writes, known before its work starts. */
export interface OutputPlan {
  /** Files that are read; "-" is standard input. One that is missing is told by whoever reads it. */
  readonly inputs: readonly string[];
  /** Files that are written. */
  readonly outputs: readonly string[];
  /** Whether outputs that are there are written over. Default false. */
  readonly force?: boolean | undefined;
}

/** An output that would destroy something, or that no file can stand at. */
export class RefusedOutputError extends Error {
  override readonly name = "RefusedOutputError";
}

/** What commands write beside an output and leave there. */
const lastingEndings = [
  ...[".manifest.json", ".report.json", ".lengths.svg", ".passages.svg"],
  ...[".journal.jsonl", ".errors.jsonl"],
];
/** What stands beside an output while it is made, or until an interrupted run is gone on with. */
const passingEndings = [
  ...[".partial", ".partial.json", ".partial.lock", ".rows.partial", ".drawn.partial", ".lock"],
  ...[".scores.partial", ".scores.partial.json", ".scores.partial.lock"],
  ...lastingEndings.flatMap((ending) => [`${ending}.partial`, `${ending}.partial.lock`]),
];
const writtenBeside = [...lastingEndings, ...passingEndings];

/**
 * Makes sure that writing destroys nothing, and makes the folders of the outputs. Called before any work starts.
 *
 * Files are told apart by device and inode, with links followed. What commands write beside an output counts as an output,
 * and what they have written beside an input as an input.
 *
 * @throws RefusedOutputError for an output that is an input or another output too, that is no regular file (neither is a
 * symbolic link: a rename would put a file in its place), or that is there without `force`; Error if a folder cannot be
 * made or written.
 */
export async function prepareOutputs({ inputs, outputs, force = false }: OutputPlan): Promise<void> {
  /** What each file is used for, and the path by which it was found. */
  const uses = new Map<string, { readonly path: string; readonly use: string }>();
  for (const input of inputs) {
    if (input === "-") continue;
    for (const path of [input, ...lastingEndings.map((ending) => input + ending)]) {
      const found = await stat(path, { bigint: true }).catch(() => undefined);
      const use = path === input ? "which is read" : `which belongs to ${quote(input)}`;
      if (found !== undefined) uses.set(identityOf(found), { path, use });
    }
  }
  for (const output of outputs) {
    for (const path of [output, ...writtenBeside.map((ending) => output + ending)]) {
      const found = await statOutput(path);
      const identity = found === undefined ? await placeOf(path) : identityOf(found);
      const known = uses.get(identity);
      if (known !== undefined && (found === undefined || (await isSameFile(path, known.path)))) {
        throw new RefusedOutputError(
          `Cannot write ${quote(path)}: it is the same file as ${quote(known.path)}, ${known.use}`,
        );
      }
      uses.set(identity, { path, use: "which is written too" });
      if (found !== undefined && path === output && !force) {
        throw new RefusedOutputError(
          `Cannot write ${quote(path)}: there is such a file, wanted another name or --force`,
        );
      }
    }
  }
  for (const folder of new Set(outputs.map((path) => dirname(path)))) await makeWritable(folder);
}

/**
 * prepareOutputs() for a folder that is replaced as a whole.
 *
 * @param inputs folders that are read.
 * @param mark the name of a file without which a folder is none that may be replaced.
 * @throws RefusedOutputError for a folder that holds an input, that is there without `force`, that has no mark, or that is
 * no folder; Error if the folder above cannot be made or written.
 */
export async function prepareFolder(
  output: string,
  inputs: readonly string[],
  mark: string,
  force: boolean | undefined,
): Promise<void> {
  const refuse = (why: string): never => {
    throw new RefusedOutputError(`Cannot write ${quote(output)}: ${why}`);
  };
  const found = await lstat(output).catch(() => undefined);
  if (found !== undefined && !found.isDirectory()) refuse(`it is ${kindOf(found)}, wanted a folder or a free name`);
  const place = await placeOf(output);
  for (const input of inputs) {
    const read = await realpath(input).catch(() => resolve(input));
    if (read === place || read.startsWith(place + sep)) refuse(`${quote(input)}, which is read, lies in it`);
  }
  const names = found === undefined ? [] : await readdir(output);
  if (names.length > 0 && !force) refuse("there is such a folder, wanted another name or --force");
  if (names.length > 0 && !names.includes(mark))
    refuse(`it has no ${quote(mark)}, wanted a folder with one or a free name`);
  await makeWritable(dirname(output));
}

/** The files that a model is read from: itself, or, of a folder, its weights, settings and tokenizer. */
export async function modelFiles(path: string): Promise<string[]> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isDirectory()) return [path];
  const names = await readdir(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  return names
    .filter((name) => /\.(json|txt|model|jinja|safetensors|bin|gguf)$/i.test(name))
    .sort()
    .map((name) => join(path, name));
}

/**
 * Makes a folder and those above it that are not there. Node's own `recursive` never ends below /proc, where a folder that
 * exists takes no new one and says that it does not exist.
 *
 * @throws Error that names the folder that cannot be made.
 */
export async function makeFolder(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined);
  if (found?.isDirectory()) return;
  if (found !== undefined) throw new Error(`Cannot write into ${quote(folder)}: it is no folder`);
  if (dirname(folder) !== folder) await makeFolder(dirname(folder));
  await mkdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw describeWriteError(error, folder);
  });
}

/**
 * A file that is there whole or not at all: it is written beside its place under `path` + ".partial", synced, and takes its
 * place by a rename. What an interrupted run left is written over by the next, what another process is writing is not.
 * `prepareOutputs` is asked first.
 *
 * @throws Error that names the path if it cannot be written, for instance on a full disk or while another process writes
 * it; what `write` throws. Nothing is left of it then, and a file that was there before is still there.
 */
export async function writeAtomically(path: string, write: (partial: string) => Promise<void>): Promise<void> {
  const partial = `${path}.partial`;
  await makeFolder(dirname(path));
  await using _lock = await holdLock(`${partial}.lock`, `write ${quote(path)}`);
  try {
    await write(partial);
    await syncPath(partial, "r+");
    await rename(partial, path);
    // Windows opens no folders: there the rename itself is all that can be had.
    await syncPath(dirname(path), "r").catch(() => undefined);
  } catch (error) {
    await rm(partial, { force: true });
    throw describeWriteError(error, path);
  }
}

/** Puts what was written to a file, or a folder's own entries, on the disk. */
export async function syncPath(path: string, flags: string): Promise<void> {
  const handle = await open(path, flags);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @throws Error for a folder that cannot be made, or in which no file can be. */
export async function makeWritable(folder: string): Promise<void> {
  await makeFolder(folder);
  await access(folder, constants.W_OK | constants.X_OK).catch((error: unknown) => {
    throw describeWriteError(error, folder);
  });
}

/** What stands at an output's place, itself and not what it leads to. @throws RefusedOutputError for what is no regular file. */
async function statOutput(path: string): Promise<BigIntStats | undefined> {
  const found = await lstat(path, { bigint: true }).catch((error: NodeJS.ErrnoException) => {
    // A folder that is none is told when it is made.
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw describeWriteError(error, path);
  });
  if (found === undefined || found.isFile()) return found;
  throw new RefusedOutputError(
    `Cannot write ${quote(path)}: it is ${kindOf(found)}, wanted a regular file or a free name`,
  );
}

function kindOf(found: Stats | BigIntStats): string {
  if (found.isFile()) return "a file";
  if (found.isDirectory()) return "a folder";
  if (found.isSymbolicLink()) return "a symbolic link";
  if (found.isFIFO()) return "a named pipe";
  return found.isSocket() ? "a socket" : "a device";
}

/**
 * Whether two paths lead to one file now. The first is held open meanwhile: else another process may remove its lock, and a new
 * file gets the inode of one that is gone.
 */
async function isSameFile(path: string, other: string): Promise<boolean> {
  await using handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)).catch(() => undefined);
  const stats = [handle?.stat({ bigint: true }) ?? stat(path, { bigint: true }), stat(other, { bigint: true })];
  const [one, two] = await Promise.all(stats.map((found) => found.catch(() => undefined)));
  return one !== undefined && two !== undefined && identityOf(one) === identityOf(two);
}

function identityOf({ dev, ino }: BigIntStats): string {
  return `${dev}:${ino}`;
}

/** Where a file would stand: the real path of the folders that exist, and the names below. */
async function placeOf(path: string): Promise<string> {
  const full = resolve(path);
  const folder = dirname(full);
  const real = await realpath(folder).catch(() => (folder === full ? full : placeOf(folder)));
  return join(real, basename(full));
}

import { type FileHandle, open, stat } from "node:fs/promises";
import { quote } from "./quote.js";
import { suggestPath } from "./suggest-path.js";

/** An open file and its size when it was opened. Whoever opens it closes it. */
export interface RegularFile {
  readonly handle: FileHandle;
  /** In bytes. */
  readonly size: number;
}

/**
 * Opens a file for reading. Symbolic links are followed (the Hugging Face cache is made of them).
 *
 * The kind is asked for before opening: opening a pipe would wait for a writer for ever.
 *
 * @throws Error if the path does not lead to a readable regular file.
 */
export async function openRegularFile(path: string): Promise<RegularFile> {
  try {
    const before = await stat(path);
    if (!before.isFile()) {
      throw new Error(`Cannot read ${quote(path)}: it is ${before.isDirectory() ? "a folder" : "no regular file"}`);
    }
    return { handle: await open(path, "r"), size: before.size };
  } catch (error) {
    throw describeFileError(error, path);
  }
}

/**
 * Turns an error of node:fs into one line that names the path, the reason, and for a path that leads nowhere the one that was
 * probably meant. Other errors stay as they are.
 */
export function describeFileError(error: unknown, path: string): Error {
  const code = error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
  // Others' codes say nothing of files.
  if (code === undefined || !(reasons.has(code) || (error as NodeJS.ErrnoException).errno !== undefined)) {
    return error instanceof Error ? error : new Error(`Cannot read ${quote(path)}: ${String(error)}`);
  }
  const meant = code === "ENOENT" || code === "ENOTDIR" ? suggestPath(path) : undefined;
  const suggestion = meant === undefined ? "" : `; did you mean ${quote(meant)}?`;
  return new Error(`Cannot read ${quote(path)}: ${reasons.get(code) ?? code}${suggestion}`, { cause: error });
}

/** An error of writing as one line that names the path; other errors stay as they are. */
export function describeWriteError(error: unknown, path: string): Error {
  const described = describeFileError(error, path);
  if (described === error) return described;
  return new Error(
    described.message
      .replace(/^Cannot read /, "Cannot write ")
      .replace(/^Cannot write .*?: /, `Cannot write ${quote(path)}: `),
    { cause: error },
  );
}

/** For files that need not be there: any other error is thrown on. */
export function undefinedIfMissing(error: unknown): undefined {
  const { code, cause } = error as NodeJS.ErrnoException;
  if ((code ?? (cause as NodeJS.ErrnoException | undefined)?.code) === "ENOENT") return undefined;
  throw error;
}

/**
 * What an error of the system says, in our words: one that nobody has told of before.
 *
 * @returns undefined for other errors.
 */
export function describeSystemError(error: unknown): string | undefined {
  const { code, syscall, path } = error as NodeJS.ErrnoException;
  const reason = reasons.get(code ?? "");
  if (!(error instanceof Error) || reason === undefined) return undefined;
  // Which file was one too many says nothing.
  if (path === undefined || code === "EMFILE" || code === "ENFILE") return `Cannot go on: ${reason}`;
  const isReading = /^(open|read|scandir|opendir|l?stat|access|realpath)$/.test(syscall ?? "open");
  return `Cannot ${isReading ? "read" : "write"} ${quote(path)}: ${reason}`;
}

const reasons: ReadonlyMap<string, string> = new Map([
  ["ENOENT", "no such file or folder"],
  ["ENOTDIR", "a part of the path is no folder"],
  ["EISDIR", "it is a folder"],
  ["EACCES", "permission denied"],
  ["EPERM", "permission denied"],
  ["ELOOP", "its symbolic links form a loop"],
  ["ENAMETOOLONG", "the path is too long"],
  ["EEXIST", "there is such a file"],
  ["EBUSY", "it is in use"],
  ["EIO", "the device fails"],
  ["EMFILE", "too many files are open"],
  ["ENFILE", "too many files are open on this machine"],
  ["EFBIG", "a file may not be that large here"],
  ["ENOSPC", "the disk is full"],
  ["EDQUOT", "the disk quota is used up"],
  ["EROFS", "it is on a read-only file system"],
  ["ERR_INVALID_ARG_VALUE", "the path is not valid"],
]);

/** Whether there is something at a path that this process can see. */
export function pathExists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

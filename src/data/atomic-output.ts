import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { quote } from "../files/quote.js";
import { describeFileError } from "../files/regular-file.js";

/**
 * A file that is there whole or not at all: it is written beside its place under `path` + ".partial", synced, and takes its
 * place by a rename. What an interrupted run left is written over by the next.
 *
 * @throws Error that names the path if it cannot be written, for instance on a full disk; what `write` throws. Nothing
 * is left of it then, and a file that was there before is still there.
 */
export async function writeAtomically(path: string, write: (partial: string) => Promise<void>): Promise<void> {
  const partial = `${path}.partial`;
  try {
    await write(partial);
    const file = await open(partial, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(partial, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(partial, { force: true });
    throw describeWriteError(error, path);
  }
}

/** A folder's own entries, where the system lets it be opened. */
async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // Windows opens no folders: there the rename itself is all that can be had.
  }
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

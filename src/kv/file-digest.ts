import { createHash, type Hash } from "node:crypto";
import type { BigIntStats } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { describeFileError } from "../files/regular-file.js";

/** What tells one state of a file from another without reading it. Times in ns and sizes in bytes, as decimal text. */
export interface FileState {
  readonly size: string;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
  readonly device: string;
  readonly inode: string;
}

const CHUNK_BYTES = 1 << 20;

/**
 * The state of a regular file. Links are followed.
 *
 * @throws Error if there is none, or it is something else (a folder, a pipe).
 */
export async function fileState(path: string): Promise<FileState> {
  let stats: BigIntStats;
  try {
    // Before opening: opening a pipe waits for its other end.
    stats = await stat(path, { bigint: true });
  } catch (error) {
    throw hashError(path, error);
  }
  if (!stats.isFile()) throw new Error(`Cannot hash "${path}": it is not a regular file`);
  return stateOf(stats);
}

function stateOf(stats: BigIntStats): FileState {
  return {
    size: String(stats.size),
    mtimeNs: String(stats.mtimeNs),
    ctimeNs: String(stats.ctimeNs),
    device: String(stats.dev),
    inode: String(stats.ino),
  };
}

export function sameState(a: FileState, b: FileState): boolean {
  return (
    a.size === b.size &&
    a.mtimeNs === b.mtimeNs &&
    a.ctimeNs === b.ctimeNs &&
    a.device === b.device &&
    a.inode === b.inode
  );
}

/**
 * The digest of a file's bytes in hexadecimal digits, SHA-256 by default. Reads 1 MiB at a time, two pieces in memory, and lets the event loop
 * run between them (a piece takes 1 to 3 ms to hash).
 *
 * @param state the file's state as it was looked up: the digest is of that state or it is an error.
 * @param options.onBytes told how many more bytes were hashed.
 * @param options.hash another hash, which may have taken something before the file.
 * @throws Error if the file cannot be read or changes meanwhile; the signal's reason.
 */
export async function hashFile(
  path: string,
  state: FileState,
  options: {
    readonly signal?: AbortSignal | undefined;
    readonly onBytes?: ((numBytes: number) => void) | undefined;
    readonly hash?: Hash;
  } = {},
): Promise<string> {
  const { signal, onBytes, hash = createHash("sha256") } = options;
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw hashError(path, error);
  }
  try {
    const pieces = [Buffer.allocUnsafe(CHUNK_BYTES), Buffer.allocUnsafe(CHUNK_BYTES)] as const;
    let numRead = 0;
    let reading = readPiece(path, file, pieces[0]);
    for (let i = 1; ; i++) {
      const { bytesRead } = await reading;
      if (bytesRead === 0) break;
      numRead += bytesRead;
      signal?.throwIfAborted();
      // A file that grows faster than it is hashed would never end.
      if (numRead > Number(state.size)) throw changedError(path);
      // The other piece is read while this one is hashed.
      reading = readPiece(path, file, pieces[(i % 2) as 0 | 1]);
      hash.update(pieces[((i + 1) % 2) as 0 | 1].subarray(0, bytesRead));
      onBytes?.(bytesRead);
    }
    const [opened, named] = [stateOf(await file.stat({ bigint: true })), await fileState(path)];
    if (numRead !== Number(state.size) || !sameState(state, opened) || !sameState(state, named)) {
      throw changedError(path);
    }
    return hash.digest("hex");
  } finally {
    await file.close();
  }
}

function readPiece(path: string, file: FileHandle, piece: Buffer): Promise<{ bytesRead: number }> {
  const reading = file.read(piece, 0, piece.length, null).catch((error: unknown) => {
    throw hashError(path, error);
  });
  // When the loop ends early, nobody waits for the last piece.
  reading.catch(() => {});
  return reading;
}

export function changedError(path: string): Error {
  return new Error(`Cannot hash "${path}": it changed while it was read`);
}

function hashError(path: string, cause: unknown): Error {
  return new Error(describeFileError(cause, path).message.replace(/^Cannot read /, "Cannot hash "), { cause });
}

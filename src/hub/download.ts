import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { Response } from "undici";
import { networkFailure } from "../files/http-failures.js";
import { holdLock } from "../files/lock.js";
import { makeFolder } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { describeWriteError, undefinedIfMissing } from "../files/regular-file.js";
import { fileState, hashFile } from "../kv/file-digest.js";
import type { HubFetch } from "./hub-fetch.js";

/** What a file's bytes must hash to: SHA-256, or, of files that are not in Git LFS, Git's id of the blob. */
export interface FileDigest {
  readonly algorithm: "sha256" | "git-sha1";
  readonly hex: string;
}

export interface RemoteFile {
  readonly url: string;
  /** Its name in messages. */
  readonly name: string;
  /** Where it will stand, whole and checked, or not at all. */
  readonly path: string;
  readonly numBytes: number;
  readonly digest: FileDigest;
}

export interface DownloadOptions {
  readonly fetch: HubFetch;
  readonly signal?: AbortSignal | undefined;
  /** Told how many bytes are on the disk. */
  readonly onBytes?: ((numBytes: number) => void) | undefined;
}

/** The connection ended too early, or the server sent another piece than was asked for: what is there is gone on with. */
class CutError extends Error {}

/** Connections in a row that bring nothing new. */
const maxCuts = 5;

/** What an interrupted download left, and the next one goes on with. */
export const partOf = (path: string): string => `${path}.incomplete`;

/**
 * Fetches a file. Bytes are kept beside its place as they come, a part that an earlier run left is gone on with, and the file
 * takes its name once its digest is right.
 *
 * @throws Error of one line: another process fetches it, bytes that are not the file's, a connection that is cut again and
 *   again, a full disk; HubError; the signal's reason. What was fetched is kept, but for bytes that proved wrong.
 */
export async function download(file: RemoteFile, options: DownloadOptions): Promise<void> {
  const part = partOf(file.path);
  await makeFolder(dirname(file.path));
  await using _lock = await holdLock(`${part}.lock`, `fetch ${quote(file.name)}`);
  // Another process may have fetched it meanwhile.
  if ((await sizeOf(file.path)) === file.numBytes) return;
  for (let isAgain = false; ; isAgain = true) {
    await fill(part, file, options);
    const actual = await digestOf(part, file, options.signal);
    if (actual === file.digest.hex) break;
    await rm(part, { force: true });
    // A part from an earlier run may be to blame: once more from the start.
    if (isAgain) {
      const { algorithm, hex } = file.digest;
      throw new Error(`Cannot fetch ${quote(file.name)}: its ${algorithm} is ${actual}, wanted ${hex}`);
    }
  }
  await rename(part, file.path).catch((error: unknown) => {
    throw describeWriteError(error, file.path);
  });
}

/** A file's digest as `FileDigest.hex` has it. */
export async function digestOf(path: string, { digest }: Pick<RemoteFile, "digest">, signal?: AbortSignal) {
  const state = await fileState(path);
  return hashFile(path, state, { hash: emptyHash(digest.algorithm, state.size), signal });
}

function emptyHash(algorithm: FileDigest["algorithm"], size: string): Hash {
  return algorithm === "sha256" ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}

/** Adds to the part until it has the file's size. */
async function fill(part: string, file: RemoteFile, { fetch, signal, onBytes }: DownloadOptions): Promise<void> {
  const handle = await open(part, "a+").catch((error: unknown) => {
    throw describeWriteError(error, part);
  });
  try {
    let [most, cuts] = [0, 0];
    let etag: string | undefined;
    for (;;) {
      const start = (await handle.stat()).size;
      if (start > file.numBytes) await handle.truncate(0);
      if (start === file.numBytes) break;
      const from = start > file.numBytes ? 0 : start;
      const range = from === 0 ? {} : { range: `bytes=${from}-`, ...(etag !== undefined && { "if-range": etag }) };
      const response = await fetch(file.url, { headers: { ...range, "accept-encoding": "identity" } });
      try {
        const given = response.headers.get("etag");
        etag = given?.startsWith('"') ? given : undefined;
        await take(response, from, handle, file, onBytes);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof CutError)) throw error;
        const { size } = await handle.stat();
        cuts = size > most ? 0 : cuts + 1;
        most = Math.max(most, size);
        if (cuts >= maxCuts) {
          throw new Error(
            `Cannot fetch ${quote(file.name)}: ${error.message}; ${size} of ${file.numBytes} bytes are kept, and the same command goes on from there`,
          );
        }
      }
    }
    await handle.sync();
  } finally {
    const { size } = await handle.stat();
    await handle.close();
    if (size === 0 && file.numBytes > 0) await rm(part, { force: true });
  }
}

/**
 * Appends an answer's bytes.
 *
 * @param from how many bytes the part has.
 * @throws CutError where another connection may bring the rest; Error where the server has another file.
 */
async function take(
  response: Response,
  from: number,
  handle: FileHandle,
  { name, path, numBytes }: RemoteFile,
  onBytes: DownloadOptions["onBytes"],
): Promise<void> {
  const sizeError = (size: number | string) =>
    new Error(`Cannot fetch ${quote(name)}: the server has ${size} bytes, wanted ${numBytes}`);
  let at = from;
  if (response.status === 206) {
    const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "") ?? [];
    if (total !== undefined && total !== "*" && Number(total) !== numBytes)
      throw await refuse(response, sizeError(total));
    if (Number(start ?? Number.NaN) !== from) {
      // Nothing that it sends has a known place.
      await handle.truncate(0);
      throw await refuse(response, new CutError("the server sends another part of it than was asked for"));
    }
  } else {
    // The whole file: the server knows no ranges, or the file is another one than before.
    await handle.truncate(0);
    at = 0;
    if (response.status === 416) throw await refuse(response, new CutError("the server has no such part of it"));
    const length = response.headers.get("content-length");
    const isEncoded = response.headers.has("content-encoding");
    if (length !== null && !isEncoded && Number(length) !== numBytes) throw await refuse(response, sizeError(length));
  }
  try {
    for await (const chunk of response.body ?? []) {
      at += chunk.length;
      if (at > numBytes) {
        await handle.truncate(0);
        throw sizeError(`more than ${numBytes}`);
      }
      await writeAll(handle, chunk, path);
      onBytes?.(at);
    }
  } catch (error) {
    if (error instanceof Error && error.message.startsWith("Cannot ")) throw error;
    throw new CutError(`the connection was lost (${networkFailure(error).reason})`, { cause: error });
  }
  if (at < numBytes) throw new CutError("the connection ended too early");
}

async function writeAll(handle: FileHandle, chunk: Uint8Array, path: string): Promise<void> {
  await handle.appendFile(chunk).catch((error: unknown) => {
    throw describeWriteError(error, path);
  });
}

/** Lets go of an answer that is not read. */
async function refuse(response: Response, error: Error): Promise<Error> {
  await response.body?.cancel().catch(() => undefined);
  return error;
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(undefinedIfMissing))?.size;
}

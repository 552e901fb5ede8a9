import type { FileHandle } from "node:fs/promises";
import { quote } from "./quote.js";
import { describeFileError, openRegularFile } from "./regular-file.js";

/**
 * The bytes of one run of a file.
 *
 * @param offset where the run starts, in bytes from the start of the file.
 * @throws Error if the file cannot be read or ends before the run does: nothing is allocated then.
 */
export async function readRange(path: string, offset: number, byteLength: number): Promise<Uint8Array<ArrayBuffer>> {
  const { handle, size } = await openRegularFile(path);
  try {
    if (offset + byteLength > size) {
      throw new Error(
        `Cannot read ${quote(path)}: bytes ${offset} to ${offset + byteLength} are wanted, the file has ${size}`,
      );
    }
    const bytes = new Uint8Array(byteLength);
    await readFully(handle, bytes, offset, path);
    return bytes;
  } finally {
    await handle.close();
  }
}

/**
 * Fills `target` with the file's bytes from `offset` on.
 *
 * @throws Error if the file ends before `target` is full (it was cut after its size was read), or cannot be read.
 */
export async function readFully(handle: FileHandle, target: Uint8Array, offset: number, path: string): Promise<void> {
  let done = 0;
  while (done < target.byteLength) {
    // One read call takes at most 2^31 - 1 bytes; 256 MiB pieces keep each call short.
    const wanted = Math.min(target.byteLength - done, 2 ** 28);
    const { bytesRead } = await handle.read(target, done, wanted, offset + done).catch((error: unknown) => {
      throw describeFileError(error, path);
    });
    if (bytesRead === 0) {
      throw new Error(`Cannot read ${quote(path)}: it ends at byte ${offset + done}, inside what was wanted`);
    }
    done += bytesRead;
  }
}

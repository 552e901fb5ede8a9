import type { FileHandle } from "node:fs/promises";
import { type BlockBytes, BlockCodecError } from "./block-codec.js";

export function bytesInFile(file: FileHandle, size: number): BlockBytes {
  const read = async (count: number, position = 0, bytes = new Uint8Array(count)) => {
    for (let done = 0; done < count; ) {
      const { bytesRead } = await file.read(bytes, done, count - done, position + done);
      if (bytesRead === 0) throw tooFew(position + done, position + count);
      done += bytesRead;
    }
    return bytes;
  };
  return { size, read };
}

export function bytesInMemory(bytes: Uint8Array): BlockBytes {
  const read = async (count: number, position = 0) => {
    if (position + count > bytes.length) throw tooFew(bytes.length, position + count);
    return bytes.subarray(position, position + count);
  };
  return { size: bytes.length, read };
}

/** @param get so many bytes from a place on, fewer or undefined where there are not as many. */
export function bytesInObject(
  size: number,
  get: (count: number, position: number) => Promise<Uint8Array | undefined>,
): BlockBytes {
  const read = async (count: number, position = 0) => {
    const found = await get(count, position);
    if (found?.length === count) return found;
    throw new BlockCodecError("length", `it ends before ${position + count} bytes`);
  };
  return { size, read };
}

function tooFew(numBytes: number, wanted: number): BlockCodecError {
  return new BlockCodecError("length", `it ends after ${numBytes} bytes, wanted ${wanted}`);
}

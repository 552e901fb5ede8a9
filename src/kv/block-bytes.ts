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

function tooFew(numBytes: number, wanted: number): BlockCodecError {
  return new BlockCodecError("length", `it ends after ${numBytes} bytes, wanted ${wanted}`);
}

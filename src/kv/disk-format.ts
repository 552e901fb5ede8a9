import type { FileHandle } from "node:fs/promises";
import { BlockCodecError, decodeBlockKV, encodeBlockKV } from "./block-codec.js";
import type { BlockId, ContextId } from "./block-id.js";
import type { BlockKVShape, BlockMemory } from "./block-kv.js";
import type { BlockRequest } from "./block-store.js";
import type { BlockFileFormat } from "./disk-tier.js";

function headerOf(request: BlockRequest): Buffer {
  const { id, shape, owner, tokenIds, context, isPage } = request;
  const text = Buffer.from(JSON.stringify({ id, shape, owner, tokens: [...tokenIds], context, isPage }));
  const length = Buffer.alloc(8);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text]);
}

/** Stands in until the format is there. */
export function blockFileFormat<M extends BlockMemory>(allocate: (shape: BlockKVShape) => M): BlockFileFormat<M> {
  const read = async (file: FileHandle, position: number, length: number): Promise<Buffer> => {
    const bytes = Buffer.alloc(length);
    const { bytesRead } = await file.read(bytes, 0, length, position);
    if (bytesRead < length) throw new BlockCodecError("length", `it ends after ${position + bytesRead} bytes`);
    return bytes;
  };
  const readRequest = async (file: FileHandle): Promise<BlockRequest> => {
    const length = (await read(file, 0, 8)).readUInt32LE(0);
    if (length > 1 << 22) throw new BlockCodecError("length", "its header is too long");
    try {
      const { tokens, ...rest } = JSON.parse((await read(file, 8, length)).toString());
      return { ...rest, tokenIds: Int32Array.from(tokens) } as BlockRequest & { id: BlockId; context: ContextId };
    } catch {
      throw new BlockCodecError("magic", "its header is none");
    }
  };
  return {
    numBytes: (block, request) => headerOf(request).length + block.byteLength + 96,
    encode: async (block, request) => [headerOf(request), encodeBlockKV(block, request.id)],
    readRequest,
    decode: async (file, request) => {
      const { length } = headerOf(await readRequest(file));
      const { size } = await file.stat();
      const bytes = await read(file, length, size - length);
      return decodeBlockKV(bytes, request.id, request.shape, () => allocate(request.shape));
    },
  };
}

import { createHash } from "node:crypto";
import { KV_TYPES } from "../files/element-types.js";
import { type BlockId, isBlockId } from "./block-id.js";
import {
  BLOCK_KV_FORMAT_VERSION,
  BlockKV,
  type BlockKVShape,
  type BlockMemory,
  blockKVByteLength,
  describeShape,
  sameShape,
} from "./block-kv.js";

// The file: magic (8 bytes), then little endian u32s: format version, KV type (its place in KV_TYPES), L, Hkv, D, T;
// the id (32 bytes); the payload; SHA-256 over all before it (32 bytes). The payload's length follows from the shape.
const MAGIC = Buffer.from("BLOCK-KV", "latin1");
const ID_OFFSET = MAGIC.length + 6 * 4;
const PAYLOAD_OFFSET = ID_OFFSET + 32;
const DIGEST_LENGTH = 32;

/** Why bytes are not the block that was asked for. */
export type BlockCodecFault = "magic" | "version" | "length" | "digest" | "id" | "shape";

/** Bytes from outside this process are not the block that was asked for. A store treats it as a miss, and says so. */
export class BlockCodecError extends Error {
  override readonly name = "BlockCodecError";
  readonly fault: BlockCodecFault;

  constructor(fault: BlockCodecFault, what: string) {
    super(`Cannot decode a block KV: ${what}`);
    this.fault = fault;
  }
}

/**
 * The bytes of a block, to leave this process's memory: its id, its shape, keys and values, and a SHA-256 over them all.
 *
 * @throws Error if the block was disposed. RangeError if the id is not one, or a size is past 2^32 - 1.
 */
export function encodeBlockKV(block: BlockKV, id: BlockId): Uint8Array {
  if (!isBlockId(id)) throw new RangeError(`Cannot encode a block KV: the id is "${id}", wanted 64 hexadecimal digits`);
  const { shape } = block;
  const bytes = Buffer.alloc(PAYLOAD_OFFSET + block.byteLength + DIGEST_LENGTH);
  MAGIC.copy(bytes);
  const numbers = [
    BLOCK_KV_FORMAT_VERSION,
    KV_TYPES.indexOf(shape.type),
    shape.numLayers,
    shape.numKvHeads,
    shape.headSize,
    shape.numTokens,
  ];
  for (const [i, number] of numbers.entries()) {
    if (number > 0xffff_ffff) {
      throw new RangeError(`Cannot encode a block KV: a size is ${number}, wanted at most 2^32 - 1`);
    }
    bytes.writeUInt32LE(number, MAGIC.length + 4 * i);
  }
  bytes.write(id, ID_OFFSET, "hex");
  bytes.set(block.read(), PAYLOAD_OFFSET);
  const end = bytes.length - DIGEST_LENGTH;
  bytes.set(digest(bytes.subarray(0, end)), end);
  // No Buffer: its slice() shares memory, which a caller does not expect of a Uint8Array.
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * The block that `encodeBlockKV` wrote. Everything is checked before memory is allocated.
 *
 * @param id the block that was asked for.
 * @param shape the shape that it must have.
 * @param allocate gives memory of that many bytes, which becomes the block's.
 * @throws BlockCodecError if a byte is missing, changed or too many, or it is another block; its `fault` says which.
 */
export function decodeBlockKV<M extends BlockMemory>(
  bytes: Uint8Array,
  id: BlockId,
  shape: BlockKVShape,
  allocate: (byteLength: number) => M,
): BlockKV<M> {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.length < PAYLOAD_OFFSET + DIGEST_LENGTH) {
    throw new BlockCodecError("length", `${view.length} bytes are fewer than a header's`);
  }
  if (!view.subarray(0, MAGIC.length).equals(MAGIC))
    throw new BlockCodecError("magic", "it does not start as one does");
  const [version, typeCode, numLayers, numKvHeads, headSize, numTokens] = Array.from({ length: 6 }, (_, i) =>
    view.readUInt32LE(MAGIC.length + 4 * i),
  ) as [number, number, number, number, number, number];
  if (version !== BLOCK_KV_FORMAT_VERSION) {
    throw new BlockCodecError("version", `its format is ${version}, wanted ${BLOCK_KV_FORMAT_VERSION}`);
  }
  const type = KV_TYPES[typeCode];
  if (type === undefined) {
    throw new BlockCodecError("shape", `its KV type is ${typeCode}, wanted less than ${KV_TYPES.length}`);
  }
  const found: BlockKVShape = { numLayers, numKvHeads, headSize, numTokens, type };
  if (!sameShape(found, shape)) {
    throw new BlockCodecError("shape", `it holds ${describeShape(found)}, wanted ${describeShape(shape)}`);
  }
  const byteLength = blockKVByteLength(shape);
  const wantedLength = PAYLOAD_OFFSET + byteLength + DIGEST_LENGTH;
  if (view.length !== wantedLength) {
    throw new BlockCodecError("length", `it has ${view.length} bytes, wanted ${wantedLength}`);
  }
  const end = view.length - DIGEST_LENGTH;
  if (!digest(view.subarray(0, end)).equals(view.subarray(end))) {
    throw new BlockCodecError("digest", "its bytes do not match their digest");
  }
  const foundId = view.toString("hex", ID_OFFSET, PAYLOAD_OFFSET);
  if (foundId !== id) throw new BlockCodecError("id", `its id is "${foundId}", wanted "${id}"`);

  const memory = allocate(byteLength);
  try {
    memory.write(view.subarray(PAYLOAD_OFFSET, end));
    return new BlockKV(shape, memory);
  } catch (error) {
    memory[Symbol.dispose]();
    throw error;
  }
}

function digest(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

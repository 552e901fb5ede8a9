import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { isJsonObject, type JsonValue, parseJson } from "../files/bounded-json.js";
import { elementTypeOf, elementTypes, isInBlocks, KV_TYPES, rowBytes } from "../files/element-types.js";
import { quote } from "../files/quote.js";
import { type BlockId, type ContextId, isBlockId, ownerName } from "./block-id.js";
import {
  BLOCK_KV_FORMAT_VERSION,
  BlockKV,
  type BlockKVShape,
  type BlockMemory,
  blockKVByteLength,
  describeShape,
  sameShape,
} from "./block-kv.js";
import { sha256 } from "./hash-fields.js";

// The file is a safetensors file of four tensors: docs/block-kv-format.md.
const digestBytes = 32;
/** Where keys and values start is a multiple of it. */
const alignment = 64;
/** Of the JSON, in bytes. */
export const maxJsonBytes = 2 ** 20;
/** Far above any model: what a head claims is allocated only below them. */
const [maxTokens, maxLayers, maxLayerBytes] = [2 ** 24, 2 ** 12, 2 ** 32];
/** Of layers that are read, and checked, together. */
const pieceBytes = 2 ** 20;
/** Read at first: more than the head of most blocks. */
const firstReadBytes = 2 ** 14;

/** What a block's file says of it beside its keys and values. */
export interface BlockFields {
  readonly id: BlockId;
  readonly shape: BlockKVShape;
  /** Keys of a block are those before RoPE, a page's are turned to its place. */
  readonly kind: "block" | "page";
  readonly tokenIds: Int32Array;
  /** What it saw beside itself; absent: nothing. */
  readonly context?: ContextId | undefined;
  /** The model's identity. */
  readonly model: string;
  /** The salt of its id. The file has `ownerName()` of it. */
  readonly salt: string;
  /** Which elements of a key RoPE turns together. @see RopeConfig.pairs */
  readonly pairs: "half" | "adjacent";
  /** What computed it, and in which types: two of them give other last bits. */
  readonly producer: string;
  readonly compute: string;
  /** Names of the documents that it is part of. */
  readonly documents?: readonly string[] | undefined;
}

/** A block's file as far as its keys and values. */
export interface BlockHead extends Omit<BlockFields, "salt"> {
  /** `ownerName()` of the salt. */
  readonly owner: string;
  /** Where the first layer starts, in bytes; the others follow. */
  readonly start: number;
  /** Of a layer: its keys [Hkv, T, D], then its values. */
  readonly layerBytes: number;
  /** SHA-256 of each layer, [L, 32]. */
  readonly layerDigests: Uint8Array;
}

/** Why bytes are not the block that was asked for: "key" where they cannot be decrypted, a field's name where they are another one. */
export type BlockCodecFault = "format" | "version" | "requires" | "length" | "digest" | "key" | keyof BlockFields;

/** Bytes from outside this process are not the block that was asked for. A store treats it as a miss, and says so. */
export class BlockCodecError extends Error {
  override readonly name = "BlockCodecError";
  readonly fault: BlockCodecFault;

  constructor(fault: BlockCodecFault, what: string) {
    super(`Cannot decode a block KV: ${what}`);
    this.fault = fault;
  }
}

/** The bytes of a block's file, wherever they lie. */
export interface BlockBytes {
  readonly size: number;
  /**
   * @param room as long as that, where the bytes may be put.
   * @throws BlockCodecError where there are fewer.
   */
  read(count: number, position?: number, room?: Uint8Array): Promise<Uint8Array>;
}

/** Where the tensors of a block's file lie, as safetensors has it. */
function tensorsOf(shape: BlockKVShape) {
  const { numLayers, numKvHeads, numTokens, headSize, type } = shape;
  const element = elementTypeOf(type);
  // Safetensors has no types in blocks.
  const [dtype, head] = isInBlocks(type) ? ["U8", rowBytes(element, headSize)] : [element, headSize];
  let end = 0;
  const tensor = (dtype: string, sizes: readonly number[], byteLength: number) => {
    const start = end;
    end += byteLength;
    return { dtype, shape: sizes, data_offsets: [start, end] };
  };
  return {
    tokens: tensor("I32", [numTokens], 4 * numTokens),
    layer_digests: tensor("U8", [numLayers, digestBytes], numLayers * digestBytes),
    head_digest: tensor("U8", [digestBytes], digestBytes),
    kv: tensor(dtype, [numLayers, 2, numKvHeads, numTokens, head], blockKVByteLength(shape)),
  };
}

/** Some bytes that say what a block is, beside its digests and tokens: of most between 900 and 1,000. */
const fieldBytes = 1000;

/** How long the file of a block is, but for the lengths of its names. */
export function blockFileBytes(shape: BlockKVShape): number {
  return fieldBytes + (tensorsOf(shape).kv.data_offsets[1] as number);
}

function layerBytesOf(shape: BlockKVShape): number {
  return blockKVByteLength(shape) / shape.numLayers;
}

const hex = z.string().regex(/^[0-9a-f]{64}$/);
const metadataSchema = z.object({
  kind: z.enum(["block", "page"]),
  id: hex.transform((id) => id as BlockId),
  context: hex.transform((id) => id as ContextId).optional(),
  model: hex,
  owner: hex,
  kv_type: z.enum(KV_TYPES),
  pairs: z.enum(["half", "adjacent"]),
  producer: z.string(),
  compute: z.string(),
  documents: z
    .string()
    .transform((text): unknown => JSON.parse(text))
    .pipe(z.array(z.string()))
    .optional(),
});
const knownFields: readonly string[] = Object.keys(metadataSchema.shape);

/**
 * The bytes of a block, to leave this process's memory: a file that says what it is and has digests of all of it.
 *
 * @throws Error if the block was disposed. RangeError for fields that no file has.
 */
export async function encodeBlockKV(block: BlockKV, fields: Omit<BlockFields, "shape">): Promise<Uint8Array> {
  const { shape } = block;
  const { id, context, kind, model, salt, tokenIds, pairs, producer, compute, documents } = fields;
  const refuse = (what: string) => new RangeError(`Cannot encode a block KV: ${what}`);
  for (const name of [id, model, ...(context === undefined ? [] : [context])]) {
    if (!isBlockId(name)) throw refuse(`an id is "${name}", wanted 64 hexadecimal digits`);
  }
  if (tokenIds.length !== shape.numTokens) {
    throw refuse(`it has ${tokenIds.length} token ids, wanted ${shape.numTokens}`);
  }
  if (shape.numTokens > maxTokens || shape.numLayers > maxLayers) {
    throw refuse(
      `it has ${shape.numTokens} tokens and ${shape.numLayers} layers, at most ${maxTokens} and ${maxLayers} are wanted`,
    );
  }
  const tensors = tensorsOf(shape);
  const json = Buffer.from(
    JSON.stringify({
      __metadata__: {
        format: "block-kv",
        version: String(BLOCK_KV_FORMAT_VERSION),
        ...{ kind, id, context, model, owner: ownerName(salt), kv_type: shape.type, pairs, producer, compute },
        ...(documents && { documents: JSON.stringify(documents) }),
      },
      ...tensors,
    }),
  );
  const [kvStart, kvEnd] = tensors.kv.data_offsets as [number, number];
  const jsonBytes = json.length + (-(8 + json.length + kvStart) & (alignment - 1));
  if (jsonBytes > maxJsonBytes) throw refuse(`its header has ${jsonBytes} bytes, at most ${maxJsonBytes} are wanted`);
  const dataStart = 8 + jsonBytes;
  // Not of Buffer's pool, and no Buffer: its slice() shares memory, which a caller does not expect of a Uint8Array.
  const bytes = new Uint8Array(dataStart + kvEnd);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(jsonBytes), true);
  bytes.fill(0x20, 8, dataStart);
  bytes.set(json, 8);
  bytes.set(new Uint8Array(tokenIds.buffer, tokenIds.byteOffset, tokenIds.byteLength), dataStart);
  const head = { shape, start: dataStart + kvStart, layerBytes: (kvEnd - kvStart) / shape.numLayers };
  const memory = block.read();
  const layers = Array.from({ length: shape.numLayers }, (_, index) => {
    const layer = layerOf(head, bytes, index);
    for (const [at, part] of halvesOf(layer, index, shape.numLayers)) part.set(memory.subarray(at, at + part.length));
    return sha256(layer);
  });
  bytes.set(Buffer.concat(await Promise.all(layers)), dataStart + tensors.layer_digests.data_offsets[0]!);
  const headEnd = head.start - digestBytes;
  bytes.set(await sha256(bytes.subarray(0, headEnd)), headEnd);
  return bytes;
}

/**
 * Reads and checks a block's file as far as its keys and values. Nothing is allocated for what its bytes only claim.
 *
 * @param fileBytes how long the file is.
 * @param readFirst gives so many of its first bytes, at most `fileBytes`. Called up to three times, mostly once.
 * @throws BlockCodecError if it is no sound file of this version; what `readFirst` throws.
 */
export async function readBlockHead(
  fileBytes: number,
  readFirst: (numBytes: number) => Uint8Array | Promise<Uint8Array>,
): Promise<BlockHead> {
  let bytes = await readFirst(Math.min(fileBytes, firstReadBytes));
  if (bytes.length < 8) throw new BlockCodecError("length", `${fileBytes} bytes are fewer than a header's`);
  const claimed = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  if (claimed > maxJsonBytes) throw new BlockCodecError("format", "it does not start as one does");
  const dataStart = 8 + Number(claimed);
  const need = async (numBytes: number): Promise<void> => {
    if (numBytes > fileBytes) throw new BlockCodecError("length", `it has ${fileBytes} bytes, its header ${numBytes}`);
    if (bytes.length < numBytes) bytes = await readFirst(numBytes);
  };
  await need(dataStart);
  const { shape, metadata } = parseHeader(bytes.subarray(8, dataStart));
  const { tokens, layer_digests, head_digest, kv } = tensorsOf(shape);
  const at = ({ data_offsets }: typeof kv) => data_offsets.map((offset) => dataStart + offset) as [number, number];
  const [start, end] = at(kv);
  if (end !== fileBytes) throw new BlockCodecError("length", `it has ${fileBytes} bytes, wanted ${end}`);
  await need(start);
  const [headEnd] = at(head_digest);
  if (Buffer.compare(await sha256(bytes.subarray(0, headEnd)), bytes.subarray(headEnd, start)) !== 0) {
    throw new BlockCodecError("digest", "its header does not match its digest");
  }
  const { kv_type: _, ...said } = metadata;
  // No slice(): a Buffer's shares its memory.
  const copyOf = (tensor: typeof kv) => new Uint8Array(bytes.subarray(...at(tensor)));
  return {
    ...said,
    shape,
    tokenIds: new Int32Array(copyOf(tokens).buffer),
    start,
    layerBytes: (end - start) / shape.numLayers,
    layerDigests: copyOf(layer_digests),
  };
}

/** @throws BlockCodecError if the tensors are not a block's, or the metadata says what is not read. */
function parseHeader(text: Uint8Array) {
  let json: JsonValue;
  try {
    json = parseJson(text, "the header", { maxBytes: maxJsonBytes, maxDepth: 8, uniqueKeys: true });
  } catch (error) {
    throw new BlockCodecError("format", (error as Error).message);
  }
  const { __metadata__: said, ...tensors } = isJsonObject(json) ? json : {};
  if (!isJsonObject(said) || said.format !== "block-kv") {
    throw new BlockCodecError("format", "it does not say that it is one");
  }
  if (said.version !== String(BLOCK_KV_FORMAT_VERSION)) {
    throw new BlockCodecError(
      "version",
      `its format is ${quote(String(said.version), 20)}, wanted "${BLOCK_KV_FORMAT_VERSION}"`,
    );
  }
  const unknown = String(said.requires ?? "")
    .split(" ")
    .find((name) => name !== "" && !knownFields.includes(name));
  if (unknown !== undefined)
    throw new BlockCodecError("requires", `${quote(unknown, 40)} must be read, and is not known`);
  const sizes = isJsonObject(tensors.kv) && Array.isArray(tensors.kv.shape) ? tensors.kv.shape : [];
  const [numLayers, , numKvHeads, numTokens, head] = sizes as [number, number, number, number, number];
  try {
    const metadata = metadataSchema.parse(said);
    const type = metadata.kv_type;
    const { blockSize, typeSize } = elementTypes[elementTypeOf(type)];
    const headSize = isInBlocks(type) ? (head / typeSize) * blockSize : head;
    const shape: BlockKVShape = { numLayers, numKvHeads, headSize, numTokens, type };
    const isBounded = numTokens <= maxTokens && numLayers <= maxLayers && layerBytesOf(shape) <= maxLayerBytes;
    if (isDeepStrictEqual(tensors, tensorsOf(shape)) && isBounded) return { shape, metadata };
  } catch {
    // Fields of another kind, sizes that are no numbers or too large.
  }
  throw new BlockCodecError("format", "its fields and tensors are not a block's");
}

/**
 * Checks that a file is the block that was asked for.
 *
 * @param wanted without `producer` and `compute`, any will do.
 * @throws BlockCodecError whose `fault` is the first field that differs.
 */
export function requireBlock(head: BlockHead, { salt, shape, documents: _, ...wanted }: WantedBlock): void {
  if (head.owner !== ownerName(salt)) throw new BlockCodecError("salt", "it is another owner's");
  if (!sameShape(head.shape, shape)) {
    throw new BlockCodecError("shape", `it holds ${describeShape(head.shape)}, wanted ${describeShape(shape)}`);
  }
  for (const [name, value] of Object.entries({ context: undefined, ...wanted })) {
    const found = head[name as keyof typeof wanted];
    if ((value === undefined && name !== "context") || isDeepStrictEqual(found, value)) continue;
    const [is, want] = [found, value].map((one) =>
      quote(one instanceof Int32Array ? one.subarray(0, 8).join(" ") : String(one), 80),
    );
    throw new BlockCodecError(name as keyof typeof wanted, `its ${name} is ${is}, wanted ${want}`);
  }
}

/** The block that is asked for. */
export type WantedBlock = Omit<BlockFields, "producer" | "compute"> &
  Partial<Pick<BlockFields, "producer" | "compute">>;

/** @throws BlockCodecError if the bytes are not those of the layer, [2, Hkv, T, D]. */
export async function requireLayer(head: BlockHead, layer: number, bytes: Uint8Array): Promise<void> {
  requireDigest(head, layer, await sha256(bytes));
}

function requireDigest(head: BlockHead, layer: number, digest: Uint8Array): void {
  const wanted = head.layerDigests.subarray(layer * digestBytes, (layer + 1) * digestBytes);
  if (Buffer.compare(digest, wanted) === 0) return;
  throw new BlockCodecError("digest", `layer ${layer} does not match its digest`);
}

/**
 * Reads and checks all layers, a part at a time: a forged file may claim layers larger than memory.
 * @throws BlockCodecError as requireLayer(), and for a file that is shorter now.
 */
export async function requireLayers(
  head: BlockHead,
  read: (numBytes: number, position: number) => Promise<Uint8Array>,
): Promise<void> {
  for (let layer = 0; layer < head.shape.numLayers; layer++) {
    const digest = createHash("sha256");
    const start = head.start + layer * head.layerBytes;
    for (let done = 0; done < head.layerBytes; done += pieceBytes) {
      digest.update(await read(Math.min(pieceBytes, head.layerBytes - done), start + done));
    }
    requireDigest(head, layer, digest.digest());
  }
}

/**
 * The block that `encodeBlockKV` wrote, read some layers at a time: while those are checked, the next ones are read.
 *
 * @param allocate gives memory of that many bytes, which becomes the block's. Called once the head is checked; where a layer is not what
 * its digest says, the memory is given back.
 * @throws BlockCodecError if a byte is missing, changed or too many, or it is another block; its `fault` says which.
 */
export async function decodeBlockKV<M extends BlockMemory>(
  bytes: BlockBytes,
  wanted: WantedBlock,
  allocate: (byteLength: number) => M,
): Promise<BlockKV<M>> {
  const head = await readBlockHead(bytes.size, (numBytes) => bytes.read(numBytes));
  requireBlock(head, wanted);
  const { shape, start, layerBytes } = head;
  const { numLayers } = shape;
  const atATime = Math.min(numLayers, Math.max(1, Math.floor(pieceBytes / layerBytes)));
  const rooms = Array.from({ length: Math.min(2, Math.ceil(numLayers / atATime)) }, () =>
    Buffer.allocUnsafeSlow(atATime * layerBytes),
  );
  const read = (first: number): Promise<Uint8Array> => {
    const count = Math.min(atATime, numLayers - first) * layerBytes;
    const room = rooms[(first / atATime) % 2] as Uint8Array;
    return bytes.read(count, start + first * layerBytes, room.subarray(0, count));
  };
  const memory = allocate(numLayers * layerBytes);
  let reading = read(0);
  try {
    for (let first = 0; first < numLayers; first += atATime) {
      const piece = await reading;
      if (first + atATime < numLayers) reading = read(first + atATime);
      const layers = Array.from({ length: piece.length / layerBytes }, (_, i) =>
        layerOf({ start: 0, layerBytes }, piece, i),
      );
      await Promise.all(layers.map((layer, i) => requireLayer(head, first + i, layer)));
      const parts = layers.flatMap((layer, i) => halvesOf(layer, first + i, numLayers));
      await Promise.all(parts.map(([at, part]) => memory.write(part, at)));
    }
    return new BlockKV(shape, memory);
  } catch (error) {
    // It may be writing into its room.
    await reading.catch(() => undefined);
    memory[Symbol.dispose]();
    throw error;
  }
}

function layerOf(
  { start, layerBytes }: Pick<BlockHead, "start" | "layerBytes">,
  file: Uint8Array,
  layer: number,
): Uint8Array {
  return file.subarray(start + layer * layerBytes, start + (layer + 1) * layerBytes);
}

/** A layer's keys and its values, each with where they lie in a block's memory, which has all layers' keys and then all values. */
function halvesOf(layer: Uint8Array, index: number, numLayers: number): [at: number, part: Uint8Array][] {
  const half = layer.length / 2;
  return [
    [index * half, layer.subarray(0, half)],
    [(numLayers + index) * half, layer.subarray(half)],
  ];
}

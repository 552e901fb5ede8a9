import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { elementTypeOf, elementTypes, type TensorType, type WeightsConversion } from "../files/element-types.js";
import { readFully } from "../files/read-range.js";
import { openRegularFile } from "../files/regular-file.js";
import type { Ggml } from "../ggml/library.js";
import { dequantizeInto } from "../ggml/quantize.js";
import { rememberedDigest } from "../kv/digest-memory.js";
import { hashFields, sha256 } from "../kv/hash-fields.js";
import type { Gemma3Config } from "../model/architectures/gemma3.js";
import type { GraniteConfig } from "../model/architectures/granite.js";
import type { LlamaConfig } from "../model/architectures/llama.js";
import type { Qwen3MoeConfig } from "../model/architectures/qwen3-moe.js";
import { tensorToWrite } from "../model/gguf-export.js";
import { AdapterMerger } from "../model/low-rank.js";
import type { Adapter, FilePart, ModelSource } from "../model/model-source.js";
import { attentionFactor, frequencyFactors, type RopeConfig, rotatedSize } from "../model/rope.js";
import { convertedType } from "../model/weights.js";

type ConfigField = keyof (LlamaConfig & Gemma3Config & GraniteConfig & Qwen3MoeConfig);

/**
 * How each field of a config is in a model's identity: itself, layer by layer (its RoPE and window) or through the scale of
 * attention, in the names and shapes of the weights, or not at all, since no key or value depends on it.
 */
export const countedBy: Readonly<Record<ConfigField, "itself" | "layers" | "weights" | "nothing">> = {
  // As GGUF names it, which has no name of its own for mistral.
  architecture: "nothing",
  vocabSize: "weights",
  numLayers: "weights",
  hiddenSize: "weights",
  intermediateSize: "weights",
  numHeads: "itself",
  numKvHeads: "itself",
  headSize: "itself",
  rmsNormEps: "itself",
  rope: "layers",
  localRope: "layers",
  layersWithoutRope: "layers",
  slidingWindow: "layers",
  slidingLayers: "layers",
  contextLength: "nothing",
  tiedHead: "weights",
  blockAttention: "nothing",
  qkvBias: "weights",
  outputBias: "weights",
  mlpBias: "weights",
  qkNorm: "weights",
  queryScalar: "layers",
  attentionMultiplier: "layers",
  embeddingMultiplier: "itself",
  residualMultiplier: "itself",
  logitsScaling: "nothing",
  numExperts: "weights",
  numExpertsUsed: "itself",
  expertSize: "weights",
  normalizesExperts: "itself",
  expertStep: "weights",
  denseLayers: "weights",
};

/** Where the files' digests are remembered, and what gives them up. */
export interface IdentityOptions {
  readonly cacheDir: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The name of all that a block's keys and values depend on beside its tokens, whatever form the model's files have: SHA-256 over
 * the settings of its arithmetic, the values of its weights, how they are converted, and its adapters. docs/block-kv-format.md
 * defines it.
 *
 * The files are read once, in pieces and off the event loop, and remembered.
 *
 * @returns 64 hexadecimal digits.
 * @throws Error if a file cannot be read or changes meanwhile; the signal's reason.
 */
export async function modelIdentity(
  ggml: Ggml,
  source: ModelSource,
  conversion: WeightsConversion,
  options: IdentityOptions,
): Promise<string> {
  const { adapters = [], ...base } = source;
  const values = await digestOf(weightValues(ggml, base, options.signal), options);
  const added: string[] = [];
  for (const adapter of adapters) added.push(await digestOf(adapterValues(ggml, base, adapter), options));
  const types = fallbackTypes(source, conversion);
  return hashFields("block-attention model identity", [
    identitySettings(source),
    values,
    conversion,
    String(types.length),
    ...types,
    ...added,
  ]);
}

/** Settings of the arithmetic as JSON, its numbers rounded to F32, as ggml takes them and GGUF has them. */
export function identitySettings({
  architecture,
  config: exact,
}: Pick<ModelSource, "architecture" | "config">): string {
  const config = JSON.parse(JSON.stringify(exact), (_, value: unknown) =>
    typeof value === "number" ? Math.fround(value) : value,
  ) as typeof exact;
  // A field that the table lacks counts: another identity is a miss, and never a wrong answer.
  const counted = Object.entries(config).filter(([name]) => (countedBy[name as ConfigField] ?? "itself") === "itself");
  const layers = Array.from({ length: config.numLayers }, (_, layer) => {
    const rope = architecture.rope(config, layer);
    return [architecture.window(config, layer) ?? null, rope ? turns(rope) : null];
  });
  const scale = Math.fround(architecture.attentionScale(config));
  return JSON.stringify([architecture.gguf.name, counted.sort(([a], [b]) => (a < b ? -1 : 1)), scale, layers]);
}

/** How queries and keys are turned, whatever words the files have for it. */
function turns(rope: RopeConfig): readonly unknown[] {
  const factors = [...Float32Array.from(frequencyFactors(rope))];
  const own = factors.every((factor) => factor === 1) ? [] : factors;
  return [rope.theta, rotatedSize(rope), Math.fround(attentionFactor(rope)), own];
}

/** Some numbers of a model's files, in the form in which they are hashed. */
interface Values {
  /** Text that tells what they are. */
  readonly name: string;
  /** Where they are read, and text that tells how. */
  readonly parts: readonly FilePart[];
  readonly how: string;
  /** @param read takes the parts, piece by piece. */
  readonly pieces: (read: (numBytes: number) => AsyncIterable<Uint8Array>) => AsyncIterable<Uint8Array>;
}

/**
 * Weights as values: in F32 whatever a file's width of floats, offsets added, pairs of RoPE's rows half a head apart. What is
 * quantized is named by its own bytes: no exact conversion leads from them to others.
 */
function weightValues(ggml: Ggml, source: Omit<ModelSource, "adapters">, signal?: AbortSignal): Values[] {
  const { architecture, config, tensors } = source;
  return [...architecture.tensors(config)].map(({ name, rotated }) => {
    const entry = tensors.get(name);
    if (entry === undefined) throw new Error(`Cannot hash tensor "${name}": the model does not have it`);
    const { type, shape, parts, added = 0 } = entry;
    const hashed: TensorType = elementTypes[type].blockSize > 1 ? type : "F32";
    const isLaid = rotated === true && config.rope.pairs === "adjacent";
    const what = { name: `${name} ${hashed} ${shape.join("x")}`, parts };
    const how = `${type} ${added} ${isLaid ? config.headSize : 0}`;
    if (isLaid) return { ...what, how, pieces: tensorToWrite(ggml, source, name, hashed, "half", signal).pieces };
    if (type === hashed && added === 0) return { ...what, how, pieces: (read) => read(pieceBytes) };
    return { ...what, how, pieces: (read) => widened(ggml, type, added, read) };
  });
}

/** Floats in F32, with what their file lacks. A piece is used again for the next. */
async function* widened(ggml: Ggml, type: TensorType, added: number, read: Parameters<Values["pieces"]>[0]) {
  const { typeSize } = elementTypes[type];
  const room = new Float32Array(pieceBytes / Float32Array.BYTES_PER_ELEMENT);
  for await (const bytes of read(room.length * typeSize)) {
    const values = room.subarray(0, bytes.length / typeSize);
    dequantizeInto(ggml, type, bytes, values);
    if (added !== 0) for (let i = 0; i < values.length; i++) values[i]! += added;
    yield new Uint8Array(room.buffer, 0, values.byteLength);
  }
}

/** What an adapter adds to each weight: its factors and their scale. Weights that it has whole are the model's. */
function adapterValues(ggml: Ggml, source: ModelSource, { updates }: Adapter): Values[] {
  const merger = new AdapterMerger(ggml, source, 1);
  const byName = [...updates].sort(([a], [b]) => (a < b ? -1 : 1));
  return byName.flatMap(([weight, own]) =>
    own.map((update): Values => {
      const { left, right, scale, firstRow, numRows, rank } = update;
      return {
        name: [weight, firstRow, numRows, rank, scale].join(" "),
        parts: [left.entry, right.entry],
        how: JSON.stringify([left, right, update.pairs, source.config.headSize]),
        async *pieces() {
          for (const factor of Object.values(await merger.factorsOf(update, "half"))) {
            yield new Uint8Array(factor.buffer);
          }
        },
      };
    }),
  );
}

/** A digest of values and their names, as it is remembered, or computed. */
function digestOf(all: readonly Values[], { cacheDir, signal }: IdentityOptions): Promise<string> {
  const files = [...new Set(all.flatMap(({ parts }) => parts.map(({ path }) => path)))];
  const places = ({ parts }: Values) => parts.map((part) => [files.indexOf(part.path), part.offset, part.byteLength]);
  const read = all.map((values) => JSON.stringify([values.name, values.how, places(values)]));
  return rememberedDigest({
    of: hashFields("block-attention values of files, version 1", read),
    files,
    cacheDir,
    async compute() {
      const digests = await hashAll(all, signal);
      const indexOf = (start: string) => all.findIndex(({ name }) => name.startsWith(start));
      const [embedding, head] = [indexOf("token_embd.weight "), indexOf("output.weight ")];
      // A head that is the embedding once more is as if it were tied to it.
      const isTied = head >= 0 && digests[head] === digests[embedding];
      const fields = all.flatMap(({ name }, i) => (isTied && i === head ? [] : [name, digests[i] as string]));
      return hashFields("block-attention values", fields);
    },
  });
}

/** Bytes that are hashed at a time, by threads beside the event loop's. */
const pieceBytes = 2 ** 20;
/** Tensors that are read side by side, and pieces of each that are hashed. */
const [maxLanes, maxPieces] = [4, 4];

/** The digest of each, in hexadecimal digits. */
async function hashAll(all: readonly Values[], signal: AbortSignal | undefined): Promise<string[]> {
  const files = new Map<string, FileHandle>();
  const digests: string[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    const buffer = new Uint8Array(pieceBytes);
    for (let index = next++; index < all.length; index = next++) {
      signal?.throwIfAborted();
      const { parts, pieces } = all[index] as Values;
      const read = (numBytes: number) => readParts(files, parts, buffer.subarray(0, numBytes));
      digests[index] = await hashPieces(pieces(read), signal);
    }
  };
  try {
    for (const { path } of all.flatMap(({ parts }) => parts)) {
      if (!files.has(path)) files.set(path, (await openRegularFile(path)).handle);
    }
    const ends = await Promise.allSettled(Array.from({ length: maxLanes }, lane));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
    return digests;
  } finally {
    for (const file of files.values()) await file.close();
  }
}

/** @param buffer what every piece is a part of. */
async function* readParts(files: ReadonlyMap<string, FileHandle>, parts: readonly FilePart[], buffer: Uint8Array) {
  for (const { path, offset, byteLength } of parts) {
    for (let at = 0; at < byteLength; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, byteLength - at));
      await readFully(files.get(path) as FileHandle, piece, offset + at, path);
      yield piece;
    }
  }
}

/** SHA-256 over the SHA-256 of each MiB of bytes, in hexadecimal digits. A piece may be used again for the next. */
async function hashPieces(pieces: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): Promise<string> {
  const digests: Promise<Uint8Array>[] = [];
  const next = Buffer.allocUnsafe(pieceBytes);
  let filled = 0;
  const hash = async (piece: Uint8Array): Promise<void> => {
    signal?.throwIfAborted();
    digests.push(sha256(piece));
    filled = 0;
    await digests.at(-maxPieces);
  };
  for await (const bytes of pieces) {
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + pieceBytes - filled);
      at += piece.length;
      if (piece.length === pieceBytes) {
        await hash(piece);
        continue;
      }
      next.set(piece, filled);
      filled += piece.length;
      if (filled === pieceBytes) await hash(next);
    }
  }
  if (filled > 0) await hash(next.subarray(0, filled));
  const all = createHash("sha256");
  for (const digest of digests) all.update(await digest);
  return all.digest("hex");
}

/** The types of rows that do not fill blocks of the type asked for. F16 goes without saying. */
function fallbackTypes({ tensors }: ModelSource, conversion: WeightsConversion): string[] {
  if (conversion === "keep") return [];
  const matrices = [...tensors.values()].filter(({ shape }) => shape.length > 1);
  const types = [...new Set(matrices.map((entry) => convertedType(entry, conversion)))].sort();
  return types.filter((type) => type !== elementTypeOf(conversion) && type !== "F16");
}

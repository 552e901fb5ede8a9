import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { elementTypes, type TensorType } from "../../src/files/element-types.js";
import type { ModelConfig } from "../../src/model/config.js";
import { fromBF16, fromF16, toBF16, toF16 } from "./half-floats.js";
import { Random } from "./random.js";
import { drawTensor, encodeFloats } from "./random-model.js";
import {
  listTensors,
  type RandomModelShape,
  type RandomTensor,
  type ResolvedShape,
  resolveShape,
  ropeParameters,
  rotatedSize,
} from "./random-shape.js";
import { makeTokenizer } from "./random-tokenizer.js";

/** Rows of numbers to rows of a type, as ggml packs them: ggml-quantizer.ts. */
export type QuantizeRows = (type: TensorType, data: Float32Array, rowLength: number) => Uint8Array;

export interface RandomGgufOptions extends RandomModelShape {
  /** The type of the matrices; norms and biases are F32 always. */
  readonly type?: TensorType;
  /** As llama.cpp's _M files: every other layer's values and MLP outputs in Q6_K. */
  readonly mixed?: boolean;
  /** The type of the head (of the embedding too, where tied). Default: as llama.cpp, Q6_K beside Q4_0 and the K types. */
  readonly headType?: TensorType;
  /**
   * Quantized matrices put together from a thousand random groups instead of drawn number by number: a model of
   * benchmark size in seconds. Says nothing sensible, but computes as any other.
   */
  readonly cheap?: boolean;
  /** Needed for types other than F32, F16 and BF16. */
  readonly quantizeRows?: QuantizeRows;
}

const alignment = 32;

/**
 * Writes the weights of `writeRandomModel` (same options, same seed) as GGUF, as llama.cpp's converter lays them out:
 * its tensor names, the rows of llama's queries and keys with the pairs side by side, llama3 scaling as a tensor.
 * Tensors are drawn and written piece by piece.
 *
 * @throws RangeError for a shape that no model has, or rows that the type cannot hold.
 */
export function writeRandomGguf(path: string, options: RandomGgufOptions): void {
  const shape = resolveShape(options);
  const { type = "F32", cheap = false } = options;
  const headType = options.headType ?? (["Q4_0", "Q4_K", "Q5_K"].includes(type) ? "Q6_K" : type);
  const { architecture, config, tensors: needed } = listTensors(shape);
  const tensors = needed.map((tensor) => ({
    ...tensor,
    rotated: architecture.gguf.pairs === "adjacent" && tensor.rotated === true,
    type: chooseType(tensor, shape, options, headType),
  }));
  const factors = ropeFactors(shape);
  const infos = [
    ...factors.map(([name, { length, byteLength }]) => ({
      name,
      shape: [length],
      type: "F32" as TensorType,
      byteLength,
    })),
    ...tensors.map((tensor) => ({
      name: tensor.name,
      shape: tensor.shape,
      type: tensor.type,
      byteLength: byteLengthOf(tensor),
    })),
  ];

  const header = new GgufBytes();
  const metadata = makeMetadata(shape, type, architecture.gguf.name, config);
  // What one architecture alone has is as the product writes it: llama.cpp reads these files too, and must give the same.
  for (const [key, { kind, value }] of architecture.gguf.write?.(config) ?? []) {
    metadata.push([`${architecture.gguf.name}.${key}`, { [kind]: value } as unknown as Value]);
  }
  header.bytes(Buffer.from("GGUF"));
  header.u32(3);
  header.u64(infos.length);
  header.u64(metadata.length);
  for (const [key, value] of metadata) header.entry(key, value);
  let offset = 0;
  for (const info of infos) {
    header.string(info.name);
    header.u32(info.shape.length);
    for (const size of [...info.shape].reverse()) header.u64(size);
    header.u32(elementTypes[info.type].id);
    header.u64(offset);
    offset += align(info.byteLength);
  }
  header.pad(alignment);

  mkdirSync(dirname(path), { recursive: true });
  const file = openSync(path, "w");
  try {
    writeSync(file, header.take());
    const writePadding = (byteLength: number) => writeSync(file, new Uint8Array(align(byteLength) - byteLength));
    for (const [, numbers] of factors) {
      writeSync(file, encodeFloats(numbers, "F32"));
      writePadding(numbers.byteLength);
    }
    for (const tensor of tensors) {
      const isDrawn = !cheap || elementTypes[tensor.type].blockSize === 1;
      const pieces = isDrawn ? drawPieces(tensor, shape, options) : composePieces(tensor, shape, options);
      for (const piece of pieces) writeSync(file, piece);
      writePadding(byteLengthOf(tensor));
    }
  } finally {
    closeSync(file);
  }
}

type TypedTensor = RandomTensor & { readonly type: TensorType };

function chooseType(
  tensor: RandomTensor,
  shape: ResolvedShape,
  options: RandomGgufOptions,
  headType: TensorType,
): TensorType {
  const { type = "F32", mixed = false } = options;
  if (tensor.shape.length === 1 || tensor.isPrecise) return "F32";
  if (tensor.name === "output.weight") return fitType(headType, tensor);
  if (tensor.name === "token_embd.weight") return fitType(shape.tied ? headType : type, tensor);
  const layer = Number(tensor.name.split(".")[1]);
  const isPrecise = /attn_v|ffn_down/.test(tensor.name) && layer % 2 === 0;
  return fitType(mixed && isPrecise ? "Q6_K" : type, tensor);
}

/** llama.cpp's way out where rows do not divide into groups of 256: Q8_0 for Q6_K. */
function fitType(type: TensorType, tensor: RandomTensor): TensorType {
  const rowLength = tensor.shape.at(-1)!;
  if (rowLength % elementTypes[type].blockSize === 0) return type;
  if (type === "Q6_K" && rowLength % 32 === 0) return "Q8_0";
  throw new RangeError(
    `Cannot write ${tensor.name}: rows of ${rowLength} do not divide into ${type}'s groups of ${elementTypes[type].blockSize}`,
  );
}

function byteLengthOf(tensor: TypedTensor): number {
  const { blockSize: groupSize, typeSize: groupBytes } = elementTypes[tensor.type];
  return (tensor.shape.reduce((product, n) => product * n, 1) / groupSize) * groupBytes;
}

function* drawPieces(tensor: TypedTensor, shape: ResolvedShape, options: RandomGgufOptions): Generator<Uint8Array> {
  for (const { values, rowLength } of drawTensor(tensor, shape.seed, shape.headSize)) {
    const isMatrix = tensor.shape.length > 1;
    // A bias is one row, but its numbers are permuted as the rows of its matrix are.
    const laid = tensor.rotated ? pairSideBySide(values, isMatrix ? rowLength : 1, shape.headSize) : values;
    if (isMatrix) yield encodeRows(tensor.type, laid, rowLength, options);
    else yield encodeFloats(roundLikeCheckpoint(laid, options.type ?? "F32"), "F32");
  }
}

/** Matrices from runs of a stock of random groups, about 8 MB at a time. */
function* composePieces(tensor: TypedTensor, shape: ResolvedShape, options: RandomGgufOptions): Generator<Uint8Array> {
  const { blockSize: groupSize, typeSize: groupBytes } = elementTypes[tensor.type];
  const numStarts = 1024;
  const runBytes = 32 * groupBytes;
  const random = new Random(shape.seed, tensor.name);
  const values = new Float32Array((numStarts + 32) * groupSize);
  random.fill(values, tensor.mean, tensor.deviation);
  const stock = encodeRows(tensor.type, values, groupSize, options);
  const numGroups = byteLengthOf(tensor) / groupBytes;
  const groupsAtOnce = Math.floor(2 ** 23 / groupBytes);
  const source = Buffer.from(stock.buffer, stock.byteOffset, stock.byteLength);
  for (let group = 0; group < numGroups; group += groupsAtOnce) {
    const piece = Buffer.allocUnsafe(Math.min(groupsAtOnce, numGroups - group) * groupBytes);
    for (let at = 0; at < piece.length; at += runBytes) {
      const start = (random.bits() & (numStarts - 1)) * groupBytes;
      source.copy(piece, at, start, start + runBytes);
    }
    yield piece;
  }
}

function encodeRows(type: TensorType, values: Float32Array, rowLength: number, options: RandomGgufOptions): Uint8Array {
  if (type === "F32" || type === "F16" || type === "BF16") return encodeFloats(values, type);
  if (options.quantizeRows === undefined) {
    throw new RangeError(`Cannot write ${type}: quantizeRows is missing`);
  }
  return options.quantizeRows(type, values, rowLength);
}

/** A 16-bit checkpoint has 16-bit norms and biases, which its GGUF holds in 32 bit. */
function roundLikeCheckpoint(values: Float32Array, type: TensorType): Float32Array {
  if (type === "F16") return fromF16(toF16(values));
  return type === "BF16" ? fromBF16(toBF16(values)) : values;
}

/** Row h·D + 2i + k comes from row h·D + k·D/2 + i: pairs (i, i + D/2) become (2i, 2i + 1). */
function pairSideBySide(values: Float32Array, rowLength: number, headSize: number): Float32Array {
  const laid = new Float32Array(values.length);
  const numRows = values.length / rowLength;
  for (let row = 0; row < numRows; row++) {
    const inHead = row % headSize;
    const from = row - inHead + (inHead % 2) * (headSize / 2) + Math.floor(inHead / 2);
    laid.set(values.subarray(from * rowLength, (from + 1) * rowLength), row * rowLength);
  }
  return laid;
}

/** The tensors that say what each pair's plain frequency is divided by, where the scaling becomes such. */
function ropeFactors(shape: ResolvedShape): [name: string, numbers: Float32Array][] {
  const scaling = ropeParameters(shape);
  if (shape.rope === "longrope") {
    return ["long", "short"].map((name) => [
      `rope_factors_${name}.weight`,
      Float32Array.from(scaling?.[`${name}_factor`] as number[]),
    ]);
  }
  return scaling !== undefined && shape.rope === "llama3" ? [["rope_freqs.weight", llama3Factors(shape, scaling)]] : [];
}

function llama3Factors(shape: ResolvedShape, scaling: NonNullable<ReturnType<typeof ropeParameters>>): Float32Array {
  const [factor, low, high, original] = [
    scaling.factor,
    scaling.low_freq_factor,
    scaling.high_freq_factor,
    scaling.original_max_position_embeddings,
  ].map(Number) as [number, number, number, number];
  return Float32Array.from({ length: shape.headSize / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * shape.theta ** ((2 * i) / shape.headSize);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

type Value =
  | { readonly u32: number }
  | { readonly i32s: readonly number[] }
  | { readonly f32: number }
  | { readonly bool: boolean }
  | { readonly text: string }
  | { readonly texts: readonly string[] };

function makeMetadata(
  shape: ResolvedShape,
  type: TensorType,
  arch: string,
  { contextLength, rope, localRope, slidingWindow, slidingLayers }: ModelConfig,
): [string, Value][] {
  const tokenizer = makeTokenizer();
  const padding = Array.from({ length: shape.vocabSize - tokenizer.tokens.length }, (_, i) => `[PAD${i}]`);
  const tokenTypes = tokenizer.tokens.map(({ kind }) => ({ normal: 1, control: 3, "user-defined": 4 })[kind]);
  const scaling = ropeParameters(shape);
  const scalingEntries: [string, Value][] =
    scaling === undefined || shape.rope === "llama3"
      ? []
      : rope.scaling.kind === "longrope"
        ? [
            [`${arch}.rope.scaling.attn_factor`, { f32: rope.scaling.attentionFactor }],
            [`${arch}.rope.scaling.original_context_length`, { u32: contextLength }],
          ]
        : [
            [`${arch}.rope.scaling.type`, { text: shape.rope }],
            [`${arch}.rope.scaling.factor`, { f32: Number(scaling.factor) }],
            ...(shape.rope === "yarn"
              ? [
                  [
                    `${arch}.rope.scaling.original_context_length`,
                    { u32: Number(scaling.original_max_position_embeddings) },
                  ] as [string, Value],
                ]
              : []),
          ];
  const blockAttention: [string, Value][] =
    shape.blockAttention === undefined
      ? []
      : [
          ["block_attention.version", { u32: shape.blockAttention.version }],
          ["block_attention.prefix", { text: shape.blockAttention.prefix }],
          ["block_attention.modes", { texts: shape.blockAttention.modes }],
        ];
  return [
    ["general.architecture", { text: arch }],
    ["general.name", { text: "random" }],
    ["general.alignment", { u32: alignment }],
    ["general.file_type", { u32: elementTypes[type].fileType }],
    ["general.quantization_version", { u32: 2 }],
    [
      `${arch}.context_length`,
      { u32: rope.scaling.kind === "longrope" ? rope.scaling.longContextLength : shape.contextLength },
    ],
    [`${arch}.embedding_length`, { u32: shape.hiddenSize }],
    [`${arch}.block_count`, { u32: shape.numLayers }],
    [`${arch}.feed_forward_length`, { u32: shape.intermediateSize }],
    [`${arch}.attention.head_count`, { u32: shape.numHeads }],
    [`${arch}.attention.head_count_kv`, { u32: shape.numKvHeads }],
    [`${arch}.attention.layer_norm_rms_epsilon`, { f32: 1e-5 }],
    [`${arch}.attention.key_length`, { u32: shape.headSize }],
    [`${arch}.attention.value_length`, { u32: shape.headSize }],
    [`${arch}.rope.dimension_count`, { u32: rotatedSize(shape) }],
    [`${arch}.rope.freq_base`, { f32: shape.theta }],
    [`${arch}.vocab_size`, { u32: shape.vocabSize }],
    ...(localRope ? ([[`${arch}.rope.freq_base_swa`, { f32: localRope.theta }]] as [string, Value][]) : []),
    ...(slidingWindow ? ([[`${arch}.attention.sliding_window`, { u32: slidingWindow }]] as [string, Value][]) : []),
    ...(slidingLayers
      ? ([[`${arch}.attention.sliding_window_pattern`, { i32s: slidingLayers.map(Number) }]] as [string, Value][])
      : []),
    ...scalingEntries,
    ...blockAttention,
    ["tokenizer.ggml.model", { text: "gpt2" }],
    ["tokenizer.ggml.pre", { text: "gpt-2" }],
    ["tokenizer.ggml.tokens", { texts: [...tokenizer.tokens.map(({ text }) => text), ...padding] }],
    ["tokenizer.ggml.token_type", { i32s: [...tokenTypes, ...padding.map(() => 5)] }],
    ["tokenizer.ggml.merges", { texts: tokenizer.merges.map(([left, right]) => `${left} ${right}`) }],
    ["tokenizer.ggml.bos_token_id", { u32: tokenizer.bosTokenId }],
    ["tokenizer.ggml.eos_token_id", { u32: tokenizer.eosTokenId }],
    ["tokenizer.ggml.eot_token_id", { u32: tokenizer.endOfTurnTokenId }],
    ["tokenizer.ggml.padding_token_id", { u32: tokenizer.eosTokenId }],
    ["tokenizer.ggml.add_bos_token", { bool: shape.addsBos }],
    ["tokenizer.ggml.add_eos_token", { bool: false }],
    ["tokenizer.chat_template", { text: tokenizer.chatTemplate }],
  ];
}

function align(byteLength: number): number {
  return Math.ceil(byteLength / alignment) * alignment;
}

/** The header's bytes as they grow. */
class GgufBytes {
  #parts: Uint8Array[] = [];
  #length = 0;

  bytes(part: Uint8Array): void {
    this.#parts.push(part);
    this.#length += part.length;
  }

  u32(value: number): void {
    const part = Buffer.alloc(4);
    part.writeUInt32LE(value);
    this.bytes(part);
  }

  u64(value: number): void {
    const part = Buffer.alloc(8);
    part.writeBigUInt64LE(BigInt(value));
    this.bytes(part);
  }

  string(value: string): void {
    const text = Buffer.from(value, "utf8");
    this.u64(text.length);
    this.bytes(text);
  }

  /** A key and its value, with GGUF's numbers for the value's type. */
  entry(key: string, value: Value): void {
    this.string(key);
    if ("u32" in value) {
      this.u32(4);
      this.u32(value.u32);
    } else if ("f32" in value) {
      this.u32(6);
      this.bytes(encodeFloats(Float32Array.of(value.f32), "F32"));
    } else if ("bool" in value) {
      this.u32(7);
      this.bytes(Uint8Array.of(value.bool ? 1 : 0));
    } else if ("text" in value) {
      this.u32(8);
      this.string(value.text);
    } else if ("texts" in value) {
      this.u32(9);
      this.u32(8);
      this.u64(value.texts.length);
      for (const text of value.texts) this.string(text);
    } else {
      this.u32(9);
      this.u32(5);
      this.u64(value.i32s.length);
      this.bytes(new Uint8Array(Int32Array.from(value.i32s).buffer));
    }
  }

  pad(multiple: number): void {
    this.bytes(new Uint8Array((multiple - (this.#length % multiple)) % multiple));
  }

  take(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

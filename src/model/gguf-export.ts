import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { elementTypes, rowBytes, type TensorType, type WeightsConversion } from "../files/element-types.js";
import type { GgufEntry, GgufTensorToWrite } from "../files/gguf-writer.js";
import { quote } from "../files/quote.js";
import { readRange } from "../files/read-range.js";
import type { Ggml } from "../ggml/library.js";
import { convertRows } from "../ggml/quantize.js";
import type { Architecture } from "./architecture.js";
import { architectures } from "./architectures/registry.js";
import { localThetaKey, longFactorsName, ropeFactorsName, shortFactorsName } from "./gguf-model.js";
import { yarnMagnitude } from "./hugging-face-rope.js";
import { AdapterMerger } from "./low-rank.js";
import { type ModelSource, partsWithin, type WeightEntry } from "./model-source.js";
import { frequencyFactors, layRows, type RopeConfig, rotatedSize } from "./rope.js";
import { convertedType } from "./weights.js";

/** Elements read, converted and written at a time. */
const pieceElements = 1 << 20;

/**
 * A model's config as GGUF metadata: what openGgufModel() and llama.cpp read, and `block_attention.*`.
 *
 * @throws Error for RoPE settings that GGUF cannot say.
 */
export function ggufModelEntries(source: ModelSource, conversion: WeightsConversion): Map<string, GgufEntry> {
  const { architecture, config } = source;
  const { gguf } = architecture;
  const arch = gguf.name;
  const { scaling } = config.rope;
  const u32 = (value: number): GgufEntry => ({ kind: "u32", value });
  const f32 = (value: number): GgufEntry => ({ kind: "f32", value });
  const text = (value: string): GgufEntry => ({ kind: "text", value });
  const entries = new Map<string, GgufEntry>([
    ["general.architecture", text(arch)],
    ["general.name", text(basename(source.path))],
    ["general.file_type", u32(fileType(source, conversion))],
    ["general.quantization_version", u32(2)],
    [`${arch}.context_length`, u32(scaling.kind === "longrope" ? scaling.longContextLength : config.contextLength)],
    [`${arch}.embedding_length`, u32(config.hiddenSize)],
    [`${arch}.block_count`, u32(config.numLayers)],
    [`${arch}.feed_forward_length`, u32(config.intermediateSize)],
    [`${arch}.attention.head_count`, u32(config.numHeads)],
    [`${arch}.attention.head_count_kv`, u32(config.numKvHeads)],
    [`${arch}.attention.key_length`, u32(config.headSize)],
    [`${arch}.attention.value_length`, u32(config.headSize)],
    [`${arch}.attention.layer_norm_rms_epsilon`, f32(config.rmsNormEps)],
    [`${arch}.rope.dimension_count`, u32(rotatedSize(config.rope))],
    [`${arch}.rope.freq_base`, f32(config.rope.theta)],
    [`${arch}.vocab_size`, u32(config.vocabSize)],
  ]);
  if (config.slidingWindow !== undefined) {
    entries.set(`${arch}.attention.sliding_window`, u32(config.slidingWindow));
    if (config.slidingLayers !== undefined || gguf.slidingPattern !== undefined) {
      const layers = Array.from({ length: config.numLayers }, (_, layer) =>
        Number(config.slidingLayers?.[layer] ?? true),
      );
      entries.set(`${arch}.attention.sliding_window_pattern`, { kind: "i32s", value: layers });
    }
  }
  if (config.localRope !== undefined) entries.set(`${arch}.${localThetaKey}`, f32(config.localRope.theta));
  const scale = (name: string, entry: GgufEntry) => entries.set(`${arch}.rope.scaling.${name}`, entry);
  switch (scaling.kind) {
    case "none":
      break;
    case "llama3":
    case "factors":
      // They become a tensor.
      if (!gguf.hasFactors) throw unsaid(source, scaling.kind, ({ gguf }) => gguf.hasFactors);
      break;
    case "longrope":
      if (!gguf.hasLongRope) throw unsaid(source, scaling.kind, ({ gguf }) => gguf.hasLongRope === true);
      scale("type", text("longrope"));
      scale("attn_factor", f32(scaling.attentionFactor));
      scale("original_context_length", u32(scaling.originalContextLength));
      break;
    case "linear":
      scale("type", text("linear"));
      scale("factor", f32(scaling.factor));
      break;
    case "yarn": {
      if (!scaling.truncate) {
        throw new Error(`Cannot convert ${quote(source.path)}: GGUF has no YaRN without "truncate"`);
      }
      scale("type", text("yarn"));
      scale("factor", f32(scaling.factor));
      scale("original_context_length", u32(scaling.originalContextLength));
      if (scaling.betaFast !== 32) scale("yarn_beta_fast", f32(scaling.betaFast));
      if (scaling.betaSlow !== 1) scale("yarn_beta_slow", f32(scaling.betaSlow));
      const share = scaling.attentionFactor / yarnMagnitude(scaling.factor);
      if (Math.abs(share - 1) > 1e-6) scale("attn_factor", f32(share));
      break;
    }
    default:
      scaling satisfies never;
  }
  for (const [key, entry] of gguf.write?.(config) ?? []) entries.set(`${arch}.${key}`, entry);
  const own = config.blockAttention;
  if (own !== undefined) {
    entries.set("block_attention.version", u32(own.version));
    entries.set("block_attention.prefix", text(own.prefix));
    entries.set("block_attention.modes", { kind: "texts", value: own.modes });
    if (own.repair !== undefined) entries.set("block_attention.repair", text(own.repair));
    for (const [key, value] of Object.entries(own.ragPrompt ?? {})) {
      entries.set(`block_attention.rag_prompt.${key}`, text(value));
    }
  }
  return entries;
}

/**
 * A Hugging Face model's weights under llama.cpp's names, converted as asked. Where llama.cpp wants it, the rows of a head of
 * queries and keys are put in pairs side by side.
 *
 * @throws Error for a file that cannot be read, while pieces are taken; the signal's reason.
 */
export function ggufTensors(
  ggml: Ggml,
  source: ModelSource,
  conversion: WeightsConversion,
  signal?: AbortSignal,
): GgufTensorToWrite[] {
  const { architecture, config, tensors } = source;
  const isPaired = architecture.gguf.pairs === "adjacent" && config.rope.pairs === "half";
  const written = [...architecture.tensors(config)].map(({ name, rotated }): GgufTensorToWrite => {
    const entry = tensors.get(name) as WeightEntry;
    const type = convertedType(entry, conversion);
    return tensorToWrite(ggml, source, name, type, isPaired && rotated ? "adjacent" : undefined, signal);
  });
  const { scaling } = config.rope;
  const factors =
    scaling.kind === "longrope"
      ? [
          vector(longFactorsName, Float32Array.from(scaling.longFactors)),
          vector(shortFactorsName, Float32Array.from(scaling.factors)),
        ]
      : scaling.kind === "llama3" || scaling.kind === "factors"
        ? [vector(ropeFactorsName, Float32Array.from(frequencyFactors(config.rope)))]
        : [];
  return [...factors, ...written];
}

/**
 * A weight of a model, by llama.cpp's name, converted while it is written.
 *
 * @param pairs how the rows of a head are laid anew; undefined: they stay as they are.
 */
export function tensorToWrite(
  ggml: Ggml,
  source: ModelSource,
  name: string,
  type: TensorType,
  pairs: RopeConfig["pairs"] | undefined,
  signal: AbortSignal | undefined,
): GgufTensorToWrite {
  const entry = source.tensors.get(name) as WeightEntry;
  const { shape } = entry;
  const [rowLength, numRows] = rowsOf(entry);
  const byteLength = rowBytes(type, rowLength) * numRows;
  return { name, type, shape, byteLength, pieces: () => piecesOf(ggml, source, name, type, pairs, signal) };
}

function vector(name: string, numbers: Float32Array<ArrayBuffer>): GgufTensorToWrite {
  const bytes = new Uint8Array(numbers.buffer);
  return {
    name,
    type: "F32",
    shape: [numbers.length],
    byteLength: bytes.byteLength,
    async *pieces() {
      yield bytes;
    },
  };
}

function unsaid({ path, architecture }: ModelSource, scaling: string, says: (one: Architecture) => boolean): Error {
  const others = architectures.filter(says).map(({ name }) => name);
  return new Error(
    `Cannot convert ${quote(path)}: GGUF has no ${scaling} RoPE scaling for ${architecture.gguf.name}, only for ${others.join(", ")}`,
  );
}

/** llama.cpp's number for what most of the file is. @see include/llama.h, enum llama_ftype */
function fileType({ tensors }: ModelSource, conversion: WeightsConversion): number {
  const matrix = [...tensors.values()].find(({ name, shape }) => shape.length > 1 && !name.includes("embed"));
  const type = matrix === undefined ? "F32" : convertedType(matrix, conversion);
  return elementTypes[type].fileType;
}

function rowsOf({ shape }: WeightEntry): [rowLength: number, numRows: number] {
  return [shape.at(-1) ?? 1, shape.slice(0, -1).reduce((product, size) => product * size, 1)];
}

async function* piecesOf(
  ggml: Ggml,
  source: ModelSource,
  name: string,
  type: TensorType,
  pairs: RopeConfig["pairs"] | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const entry = source.tensors.get(name) as WeightEntry;
  using merger = new AdapterMerger(ggml, source, availableParallelism());
  const change = await merger.changeOf(name, pairs ?? source.config.rope.pairs);
  const { headSize } = source.config;
  const [rowLength, numRows] = rowsOf(entry);
  const sourceRow = rowBytes(entry.type, rowLength);
  // Whole heads, so that their rows change places inside a piece.
  const step = pairs !== undefined && numRows > 1 ? headSize : 1;
  const rowsAtOnce = Math.max(step, Math.floor(pieceElements / rowLength / step) * step);
  for (let first = 0; first < numRows; first += rowsAtOnce) {
    signal?.throwIfAborted();
    const count = Math.min(rowsAtOnce, numRows - first);
    const parts: Uint8Array<ArrayBuffer>[] = [];
    for (const { path, offset, byteLength } of partsWithin(entry, first * sourceRow, count * sourceRow)) {
      parts.push(await readRange(path, offset, byteLength));
    }
    const read = parts.length === 1 ? (parts[0] as Uint8Array<ArrayBuffer>) : Buffer.concat(parts);
    // A bias is one row: its elements change places as the rows of its matrix do.
    const unit = numRows > 1 ? sourceRow : rowBytes(entry.type, 1);
    const bytes = pairs === undefined ? read : layRows(read, unit, headSize, pairs);
    if (entry.type === type && change === undefined) {
      yield bytes;
      continue;
    }
    const out = new Uint8Array(count * rowBytes(type, rowLength));
    const values = new Float32Array(count * rowLength);
    const changed = change && (() => change(values, first));
    await convertRows(ggml, entry.type, type, bytes, rowLength, values, out, changed);
    yield out;
  }
}

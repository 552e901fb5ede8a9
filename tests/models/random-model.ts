import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { JsonObject } from "../../src/files/bounded-json.js";
import { toBF16, toF16 } from "./half-floats.js";
import { Random } from "./random.js";
import {
  listTensors,
  makeConfig,
  type RandomModelShape,
  type RandomTensor,
  type ResolvedShape,
  resolveShape,
} from "./random-shape.js";
import { makeTokenizer, tokenizerFiles } from "./random-tokenizer.js";

export type FloatType = "F32" | "F16" | "BF16";

export interface RandomModelOptions extends RandomModelShape {
  readonly dtype?: FloatType;
  /** More than one: model-00001-of-0000N.safetensors with an index. */
  readonly shards?: number;
  /** Transformers 4 writes rope_theta, rope_scaling and torch_dtype; 5 writes rope_parameters and dtype. */
  readonly configStyle?: "transformers-4" | "transformers-5";
}

/**
 * Writes a Hugging Face folder with random weights: config.json, generation_config.json, tokenizer.json,
 * tokenizer_config.json and the safetensors. The same options give the same bytes on every platform.
 *
 * @throws RangeError for a shape that no model has.
 * @example writeRandomModel(folder, { architecture: "llama" }): two layers, 64 wide, about 0.5 MB
 */
export function writeRandomModel(folder: string, options: RandomModelOptions): void {
  const shape = resolveShape(options);
  const { dtype = "F32", shards = 1, configStyle = "transformers-5" } = options;
  mkdirSync(folder, { recursive: true });
  const tokenizer = makeTokenizer();
  const { architecture, tensors } = listTensors(shape);
  const { rope_parameters: rope, ...others } = makeConfig(shape) as JsonObject & { rope_parameters: JsonObject };
  const { rope_theta, partial_rotary_factor = 1, ...scaling } = rope;
  const torchType = { F32: "float32", F16: "float16", BF16: "bfloat16" }[dtype];
  const config = {
    architectures: [architecture.huggingFace.className],
    ...others,
    ...(configStyle === "transformers-4"
      ? {
          rope_theta,
          partial_rotary_factor,
          rope_scaling: scaling.rope_type === "default" ? null : scaling,
          torch_dtype: torchType,
          transformers_version: "4.57.0",
        }
      : { rope_parameters: rope, dtype: torchType, transformers_version: "5.23.0" }),
  };
  const endTokenIds = [tokenizer.eosTokenId, tokenizer.endOfTurnTokenId];
  writeFileSync(join(folder, "config.json"), JSON.stringify(config, null, 2));
  writeFileSync(
    join(folder, "generation_config.json"),
    JSON.stringify({ bos_token_id: tokenizer.bosTokenId, eos_token_id: endTokenIds, do_sample: false }, null, 2),
  );
  const { tokenizerJson, tokenizerConfigJson } = tokenizerFiles(shape);
  writeFileSync(join(folder, "tokenizer.json"), tokenizerJson);
  writeFileSync(join(folder, "tokenizer_config.json"), tokenizerConfigJson);

  if (shards === 1) {
    writeSafetensors(join(folder, "model.safetensors"), tensors, shape, dtype);
    return;
  }
  const weightMap: Record<string, string> = {};
  let totalSize = 0;
  for (let i = 0; i < shards; i++) {
    const inShard = tensors.filter((_, t) => t % shards === i);
    const name = `model-${String(i + 1).padStart(5, "0")}-of-${String(shards).padStart(5, "0")}.safetensors`;
    totalSize += writeSafetensors(join(folder, name), inShard, shape, dtype);
    for (const tensor of inShard) {
      for (let expert = 0; expert < (tensor.fused ? tensor.shape[0]! : 1); expert++) {
        weightMap[tensor.huggingFaceName.replace("*", `${expert}`)] = name;
      }
    }
  }
  writeFileSync(
    join(folder, "model.safetensors.index.json"),
    JSON.stringify({ metadata: { total_size: totalSize }, weight_map: weightMap }),
  );
}

/**
 * A tensor's numbers, in pieces of whole rows (a multiple of `rowMultiple` rows each), so that a large one never lies
 * in memory at once. The pieces put together are the same whatever their size.
 */
export function* drawTensor(
  tensor: RandomTensor,
  seed: number,
  rowMultiple = 1,
): Generator<{ values: Float32Array; numRows: number; rowLength: number }> {
  const random = new Random(seed, tensor.huggingFaceName);
  const rowLength = tensor.shape.at(-1)!;
  const numRows = tensor.shape.slice(0, -1).reduce((product, n) => product * n, 1);
  const rowsAtOnce = Math.max(1, Math.floor(2 ** 20 / rowLength / rowMultiple)) * rowMultiple;
  for (let row = 0; row < numRows; row += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, numRows - row);
    const values = new Float32Array(count * rowLength);
    random.fill(values, tensor.mean, tensor.deviation);
    yield { values, numRows: count, rowLength };
  }
}

/** Little-endian bytes of the numbers in a float type. */
export function encodeFloats(values: Float32Array, type: FloatType): Uint8Array {
  const stored = type === "F32" ? values : type === "F16" ? toF16(values) : toBF16(values);
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

/** Writes one safetensors file and returns its weights' size in bytes. */
function writeSafetensors(
  path: string,
  tensors: readonly RandomTensor[],
  shape: ResolvedShape,
  dtype: FloatType,
): number {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  const bytesPerNumber = dtype === "F32" ? 4 : 2;
  let offset = 0;
  for (const tensor of tensors) {
    // A stack of experts' matrices is a tensor for each.
    const [numExperts, size] = tensor.fused ? [tensor.shape[0]!, tensor.shape.slice(1)] : [1, tensor.shape];
    const byteLength = size.reduce((product, n) => product * n, bytesPerNumber);
    for (let expert = 0; expert < numExperts; expert++) {
      const name = tensor.huggingFaceName.replace("*", `${expert}`);
      header[name] = { dtype, shape: size, data_offsets: [offset, offset + byteLength] };
      offset += byteLength;
    }
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8, " "));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const file = openSync(path, "w");
  try {
    writeSync(file, length);
    writeSync(file, padded);
    for (const tensor of tensors) {
      const { huggingFaceLacks: lacks = 0 } = tensor;
      for (const { values } of drawTensor(tensor, shape.seed)) {
        writeSync(file, encodeFloats(lacks === 0 ? values : values.map((value) => value - lacks), dtype));
      }
    }
  } finally {
    closeSync(file);
  }
  return offset;
}

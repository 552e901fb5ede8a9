import { open } from "node:fs/promises";
import { isDeepStrictEqual } from "node:util";
import type { JsonObject } from "../files/bounded-json.js";
import { writeAll } from "../files/gguf-writer.js";
import { quote } from "../files/quote.js";
import type { Ggml } from "../ggml/library.js";
import { tensorToWrite } from "./gguf-export.js";
import { parseHuggingFaceConfig } from "./hugging-face-config.js";
import type { ModelSource } from "./model-source.js";

/**
 * A model's config as config.json has it.
 *
 * @throws Error for a model that config.json, as it is written here, would not say whole.
 */
export function huggingFaceConfig({ architecture, config, path, endTokenIds }: ModelSource): JsonObject {
  const own = config.blockAttention;
  const { qkvBias = false, mlpBias = false } = config as { qkvBias?: boolean; mlpBias?: boolean };
  const json: JsonObject = {
    architectures: [architecture.huggingFace.className],
    model_type: architecture.name,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    head_dim: config.headSize,
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.rope.theta,
    max_position_embeddings: config.contextLength,
    tie_word_embeddings: config.tiedHead,
    hidden_act: "silu",
    // Qwen 2 has biases without a word.
    ...(architecture.name === "llama" && { attention_bias: qkvBias, mlp_bias: mlpBias }),
    eos_token_id: [...endTokenIds],
    torch_dtype: "bfloat16",
    ...(own && {
      block_attention: {
        version: own.version,
        prefix: own.prefix,
        modes: [...own.modes],
        ...(own.repair !== undefined && { repair: own.repair }),
        ...(own.ragPrompt && { rag_prompt: { ...own.ragPrompt } }),
      },
    }),
  };
  const where = quote(path);
  const { pairs } = config.rope;
  const { config: read } = parseHuggingFaceConfig(json, where);
  if (!isDeepStrictEqual({ ...read, rope: { ...read.rope, pairs } }, config)) {
    throw new Error(`Cannot convert ${where}: config.json is not written for what this ${architecture.name} model has`);
  }
  return json;
}

/**
 * Writes a model's weights in BF16 as one safetensors file, under Hugging Face's names and with its order of rows.
 *
 * @param onTensor told of each tensor's bytes once they are written.
 * @throws Error for weights that Hugging Face keeps otherwise; a file that cannot be read or written; the signal's reason.
 */
export async function writeSafetensors(
  path: string,
  ggml: Ggml,
  source: ModelSource,
  signal: AbortSignal,
  onTensor: (byteLength: number) => void,
): Promise<void> {
  const { architecture, config } = source;
  const isPaired = config.rope.pairs === "adjacent";
  let end = 0;
  const header: Record<string, JsonObject> = {};
  const tensors = [...architecture.tensors(config)].map(({ name, huggingFaceName, rotated, ...needed }) => {
    if (huggingFaceName.includes("*") || needed.huggingFaceLacks !== undefined) {
      throw new Error(`Cannot convert ${quote(source.path)}: ${quote(name)} is kept otherwise in Hugging Face folders`);
    }
    const written = tensorToWrite(ggml, source, name, "BF16", isPaired && rotated ? "half" : undefined, signal);
    const start = end;
    end += written.byteLength;
    header[huggingFaceName] = { dtype: "BF16", shape: [...written.shape], data_offsets: [start, end] };
    return written;
  });
  const file = await open(path, "w");
  try {
    const text = Buffer.from(JSON.stringify({ __metadata__: { format: "pt" }, ...header }));
    const padded = Buffer.concat([text, Buffer.alloc(-text.length & 7, " ")]);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(padded.length));
    await writeAll(file, length);
    await writeAll(file, padded);
    for (const { pieces, byteLength } of tensors) {
      for await (const piece of pieces()) await writeAll(file, piece);
      onTensor(byteLength);
    }
  } finally {
    await file.close();
  }
}

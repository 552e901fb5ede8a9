import { readBoolean } from "../../files/fields.js";
import type { Architecture, NeededTensor } from "../architecture.js";
import { biasesIn, type LlamaConfig, llama, llamaTensors } from "./llama.js";
import { norm, normedAttention, preNormLayer, preNorms, swiglu } from "./parts.js";
import { qwen2 } from "./qwen2.js";

/**
 * Qwen2 with an RMS norm over each head of the queries and keys, before RoPE.
 * @see Transformers, models/qwen3; llama.cpp, src/models/qwen3.cpp
 */
export const qwen3: Architecture<LlamaConfig> = {
  ...llama,
  name: "qwen3",
  huggingFace: {
    ...qwen2.huggingFace,
    className: "Qwen3ForCausalLM",
    headSize: 128,
    read: (config, fields) => {
      const attentionBias = readBoolean(fields, "attention_bias") ?? false;
      return { ...config, qkvBias: attentionBias, outputBias: attentionBias, mlpBias: false, qkNorm: true };
    },
  },
  gguf: {
    ...qwen2.gguf,
    name: "qwen3",
    read: (config, _, hasTensor) => ({ ...config, ...biasesIn(hasTensor), qkNorm: true }),
  },
  tensors: (config) => qwen3Tensors(config),
  layer: (build, x) => preNormLayer(build, x, normedAttention, swiglu),
};

/** Its weights. @param mlpOf as `llamaTensors()` takes it. */
export function qwen3Tensors(config: LlamaConfig, mlpOf?: (layer: number) => readonly NeededTensor[] | undefined) {
  const norms = ["q", "k"].map((part) => norm(`attn_${part}_norm`, `self_attn.${part}_norm`, config.headSize));
  return llamaTensors(config, [...preNorms(config), ...norms], mlpOf);
}

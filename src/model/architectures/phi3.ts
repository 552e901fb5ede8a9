import { readInteger } from "../../files/fields.js";
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { llama } from "./llama.js";
import { fusedAttention, fusedSwiglu, layerTensors, linear, outerTensors, preNormLayer, preNorms } from "./parts.js";

/**
 * Llama with one product for queries, keys and values and one for the MLP's gate and up: Phi 3, Phi 3.5, and Phi 4, whose mini
 * model turns three quarters of each head. @see Transformers, models/phi3; llama.cpp, src/models/phi3.cpp
 */
export const phi3: Architecture = {
  ...llama,
  name: "phi3",
  hasPartialRope: true,
  huggingFace: {
    className: "Phi3ForCausalLM",
    maxPositions: 4096,
    rmsNormEps: 1e-5,
    noBiases: ["attention_bias", "mlp_bias"],
    slidingWindow: (fields) => {
      const size = readInteger(fields, "sliding_window", 1);
      return size === undefined ? undefined : { size };
    },
    read: (config) => config,
  },
  gguf: { name: "phi3", pairs: "half", hasFactors: false, hasLongRope: true, read: (config) => config },
  *tensors(config: ModelConfig) {
    const { hiddenSize, intermediateSize, headSize, numHeads, numKvHeads } = config;
    yield* outerTensors(config);
    yield* layerTensors(config, [
      ...preNorms(config),
      ...linear("attn_qkv", "self_attn.qkv_proj", [(numHeads + 2 * numKvHeads) * headSize, hiddenSize]),
      ...linear("attn_output", "self_attn.o_proj", [hiddenSize, numHeads * headSize]),
      ...linear("ffn_up", "mlp.gate_up_proj", [2 * intermediateSize, hiddenSize]),
      ...linear("ffn_down", "mlp.down_proj", [hiddenSize, intermediateSize]),
    ]);
  },
  layer: (build, x) => preNormLayer(build, x, fusedAttention, fusedSwiglu),
};

import type { Architecture, NeededTensor } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import {
  attention,
  embedding,
  layerTensors,
  linear,
  norm,
  normedHead,
  outerTensors,
  preNormLayer,
  swiglu,
} from "./parts.js";

/** What llama's kin differ in. */
export interface LlamaConfig extends ModelConfig {
  /** Biases on the projections of queries, keys and values (qwen2, or `attention_bias`). */
  readonly qkvBias: boolean;
  /** A bias on the attention's output projection (llama and qwen3 with `attention_bias`). */
  readonly outputBias: boolean;
  /** Biases on the three products of the MLP (`mlp_bias`). */
  readonly mlpBias: boolean;
  /** RMS norm over each head of the queries and keys, before RoPE (qwen3). */
  readonly qkNorm: boolean;
}

export const llama: Architecture<LlamaConfig> = {
  tensors: (config) => llamaTensors(config),
  rope: ({ rope }) => rope,
  embed: embedding,
  layer: (build, x) => preNormLayer(build, x, attention, swiglu),
  head: normedHead,
};

/** @param more those that a layer of another architecture has beside llama's norms. */
export function* llamaTensors(config: LlamaConfig, more: readonly NeededTensor[] = []): Generator<NeededTensor> {
  const { hiddenSize, intermediateSize, headSize, qkvBias, outputBias, mlpBias } = config;
  const queryRows = config.numHeads * headSize;
  const kvRows = config.numKvHeads * headSize;
  yield* outerTensors(config);
  yield* layerTensors(config, [
    norm("attn_norm", "input_layernorm", hiddenSize),
    norm("ffn_norm", "post_attention_layernorm", hiddenSize),
    ...more,
    ...linear("attn_q", "self_attn.q_proj", [queryRows, hiddenSize], { hasBias: qkvBias, rotated: true }),
    ...linear("attn_k", "self_attn.k_proj", [kvRows, hiddenSize], { hasBias: qkvBias, rotated: true }),
    ...linear("attn_v", "self_attn.v_proj", [kvRows, hiddenSize], { hasBias: qkvBias }),
    ...linear("attn_output", "self_attn.o_proj", [hiddenSize, queryRows], { hasBias: outputBias }),
    ...linear("ffn_gate", "mlp.gate_proj", [intermediateSize, hiddenSize], { hasBias: mlpBias }),
    ...linear("ffn_up", "mlp.up_proj", [intermediateSize, hiddenSize], { hasBias: mlpBias }),
    ...linear("ffn_down", "mlp.down_proj", [hiddenSize, intermediateSize], { hasBias: mlpBias }),
  ]);
}

import { readBoolean } from "../../files/fields.js";
import type { Architecture, NeededTensor } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import {
  attention,
  embedding,
  layerRope,
  layerTensors,
  layerWindow,
  linear,
  normedHead,
  outerTensors,
  preNormLayer,
  preNorms,
  swiglu,
} from "./parts.js";

/** What llama and the architectures like it differ in. */
export interface LlamaConfig extends ModelConfig {
  /** Biases on the projections of queries, keys and values (qwen2, or `attention_bias`). */
  readonly qkvBias: boolean;
  /** A bias on the attention's output projection (llama and qwen3 with `attention_bias`). */
  readonly outputBias: boolean;
  /** Biases on the three products of the MLP (`mlp_bias`). */
  readonly mlpBias: boolean;
  /** RMS norm over each head of the queries and keys, before RoPE (qwen3). */
  readonly qkNorm: boolean;
  /** Layers that turn no queries and keys (smollm3, some of granite). Absent: none. */
  readonly layersWithoutRope?: readonly number[];
}

/** @see Transformers, models/llama; llama.cpp, src/models/llama.cpp */
export const llama: Architecture<LlamaConfig> = {
  name: "llama",
  huggingFace: {
    className: "LlamaForCausalLM",
    maxPositions: 2048,
    // Transformers passes over it here.
    slidingWindow: () => undefined,
    read: (config, fields) => {
      const attentionBias = readBoolean(fields, "attention_bias") ?? false;
      const mlpBias = readBoolean(fields, "mlp_bias") ?? false;
      return { ...config, qkvBias: attentionBias, outputBias: attentionBias, mlpBias, qkNorm: false };
    },
  },
  gguf: {
    name: "llama",
    pairs: "adjacent",
    hasFactors: true,
    read: (config, _, hasTensor) => ({ ...config, ...biasesIn(hasTensor), qkNorm: false }),
  },
  tensors: (config) => llamaTensors(config),
  rope: (config, layer) => (config.layersWithoutRope?.includes(layer) ? undefined : layerRope(config, layer)),
  window: layerWindow,
  attentionScale: ({ headSize }) => 1 / Math.sqrt(headSize),
  embed: embedding,
  layer: (build, x) => preNormLayer(build, x, attention, swiglu),
  head: normedHead,
};

/** Which biases a GGUF file has. */
export function biasesIn(hasTensor: (name: string) => boolean) {
  return {
    qkvBias: hasTensor("blk.0.attn_q.bias"),
    outputBias: hasTensor("blk.0.attn_output.bias"),
    mlpBias: hasTensor("blk.0.ffn_up.bias"),
  };
}

/**
 * Llama's weights.
 *
 * @param norms each layer's.
 * @param mlpOf what a layer of another architecture has in place of the MLP's; undefined: the MLP's.
 */
export function* llamaTensors(
  config: LlamaConfig,
  norms: readonly NeededTensor[] = preNorms(config),
  mlpOf: (layer: number) => readonly NeededTensor[] | undefined = () => undefined,
): Generator<NeededTensor> {
  const { hiddenSize, intermediateSize, headSize, qkvBias, outputBias, mlpBias } = config;
  const queryRows = config.numHeads * headSize;
  const kvRows = config.numKvHeads * headSize;
  yield* outerTensors(config);
  const mlp = [
    ...linear("ffn_gate", "mlp.gate_proj", [intermediateSize, hiddenSize], { hasBias: mlpBias }),
    ...linear("ffn_up", "mlp.up_proj", [intermediateSize, hiddenSize], { hasBias: mlpBias }),
    ...linear("ffn_down", "mlp.down_proj", [hiddenSize, intermediateSize], { hasBias: mlpBias }),
  ];
  yield* layerTensors(config, (layer) => [
    ...norms,
    ...linear("attn_q", "self_attn.q_proj", [queryRows, hiddenSize], { hasBias: qkvBias, rotated: true }),
    ...linear("attn_k", "self_attn.k_proj", [kvRows, hiddenSize], { hasBias: qkvBias, rotated: true }),
    ...linear("attn_v", "self_attn.v_proj", [kvRows, hiddenSize], { hasBias: qkvBias }),
    ...linear("attn_output", "self_attn.o_proj", [hiddenSize, queryRows], { hasBias: outputBias }),
    ...(mlpOf(layer) ?? mlp),
  ]);
}

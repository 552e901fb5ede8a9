import { readBoolean, readInteger, readPositive } from "../../files/fields.js";
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { type LlamaConfig, llama, llamaTensors } from "./llama.js";
import { embedding, gegluMlp, norm, normedAttention, preNormLayer, rmsNorm, statedWindow } from "./parts.js";

export interface Gemma3Config extends LlamaConfig {
  /** Scores of attention are divided by its root: the head size, but of the largest model. */
  readonly queryScalar: number;
}

/**
 * The text model: norms before and after attention and MLP, GELU, and of six layers five that slide and have a RoPE of their own.
 * @see Transformers, models/gemma3; llama.cpp, src/models/gemma3.cpp
 */
export const gemma3: Architecture<Gemma3Config> = {
  ...llama,
  name: "gemma3_text",
  localTheta: 10_000,
  huggingFace: {
    className: "Gemma3ForCausalLM",
    maxPositions: 131_072,
    numKvHeads: 4,
    headSize: 256,
    tiedHead: true,
    theta: 1_000_000,
    activation: { key: "hidden_activation", name: "gelu_pytorch_tanh" },
    reads: ["query_pre_attn_scalar"],
    noBiases: ["mlp_bias"],
    slidingWindow: (fields, numLayers, layerTypes) => {
      const size = statedWindow(fields);
      if (size === undefined) return undefined;
      const names = ["sliding_window_pattern", "_sliding_window_pattern"] as const;
      const pattern = names.map((name) => readInteger(fields, name, 1)).find((found) => found !== undefined) ?? 6;
      const slides = (layer: number) =>
        layerTypes ? layerTypes[layer] === "sliding_attention" : (layer + 1) % pattern !== 0;
      return { size, layers: Array.from({ length: numLayers }, (_, layer) => slides(layer)) };
    },
    read: (config, fields) => {
      const attentionBias = readBoolean(fields, "attention_bias") ?? false;
      const queryScalar = readPositive(fields, "query_pre_attn_scalar") ?? 256;
      return { ...config, ...sameInBoth, qkvBias: attentionBias, outputBias: attentionBias, queryScalar };
    },
  },
  gguf: {
    name: "gemma3",
    pairs: "half",
    hasFactors: false,
    slidingPattern: 6,
    read: (config) => ({
      ...config,
      ...sameInBoth,
      qkvBias: false,
      outputBias: false,
      queryScalar: ggufScalar(config),
    }),
    write: (config) => {
      if (config.queryScalar !== ggufScalar(config) || config.qkvBias) {
        throw new Error(
          `Cannot convert a gemma3_text model: GGUF has no biases and no "query_pre_attn_scalar" of ${config.queryScalar} for it`,
        );
      }
      return [];
    },
  },
  *tensors(config) {
    const { hiddenSize, headSize } = config;
    const norms = [
      norm("attn_norm", "input_layernorm", hiddenSize),
      norm("post_attention_norm", "post_attention_layernorm", hiddenSize),
      norm("ffn_norm", "pre_feedforward_layernorm", hiddenSize),
      norm("post_ffw_norm", "post_feedforward_layernorm", hiddenSize),
      norm("attn_q_norm", "self_attn.q_norm", headSize),
      norm("attn_k_norm", "self_attn.k_norm", headSize),
    ];
    for (const tensor of llamaTensors(config, norms)) {
      yield tensor.name.includes("norm") ? { ...tensor, huggingFaceLacks: 1 } : tensor;
    }
  },
  attentionScale: ({ queryScalar }) => 1 / Math.sqrt(queryScalar),
  embed: (build, tokens) => build.graph.scale(embedding(build, tokens), Math.sqrt(build.config.hiddenSize)),
  layer: (build, x) =>
    preNormLayer(
      build,
      x,
      (_, rows) => {
        const attended = normedAttention(build, rows);
        return attended && rmsNorm(build, "post_attention_norm", attended);
      },
      (_, rows) => rmsNorm(build, "post_ffw_norm", gegluMlp(build, rows)),
    ),
};

const sameInBoth = { mlpBias: false, qkNorm: true } as const;

/** llama.cpp knows the largest model by its layers. */
function ggufScalar({ numLayers, hiddenSize, numHeads, headSize }: ModelConfig): number {
  return numLayers === 62 ? hiddenSize / numHeads : headSize;
}

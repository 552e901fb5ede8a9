import { readPositive, required } from "../../src/files/fields.js";
import type { Architecture } from "../../src/model/architecture.js";
import {
  embedding,
  fusedAttention,
  fusedSwiglu,
  layerTensors,
  linear,
  norm,
  normedHead,
  outerTensors,
  rmsNorm,
} from "../../src/model/architectures/parts.js";
import type { ModelConfig } from "../../src/model/config.js";

/**
 * An architecture that no model has, made of what other architectures do and the product's do not: multipliers as Granite's, one
 * product for queries, keys and values and one for the MLP's gate and rise as Phi 3's, and of each three layers one with a
 * sliding window and a RoPE of its own and one without RoPE as SmolLM 3's.
 */
export interface FusedScaledConfig extends ModelConfig {
  readonly embeddingMultiplier: number;
  readonly residualMultiplier: number;
  readonly attentionMultiplier: number;
  readonly logitsScaling: number;
  /** In tokens, of layers with that RoPE. */
  readonly localWindow: number;
}

/** [field, key of config.json, key of GGUF]. */
const multipliers = [
  ["embeddingMultiplier", "embedding_multiplier", "embedding_scale"],
  ["residualMultiplier", "residual_multiplier", "residual_scale"],
  ["attentionMultiplier", "attention_multiplier", "attention.scale"],
  ["logitsScaling", "logits_scaling", "logit_scale"],
] as const;
const ggufWindow = "attention.local_window";

function withOwn(config: ModelConfig, read: (jsonKey: string, ggufKey: string) => number): FusedScaledConfig {
  const own = Object.fromEntries(multipliers.map(([field, json, gguf]) => [field, read(json, gguf)] as const));
  const localWindow = read("local_window", ggufWindow);
  return { ...config, ...(own as Record<(typeof multipliers)[number][0], number>), localWindow };
}

export const fusedScaled: Architecture<FusedScaledConfig> = {
  name: "fused_scaled",
  localTheta: 10_000,
  huggingFace: {
    className: "FusedScaledForCausalLM",
    maxPositions: 2048,
    noBiases: ["attention_bias", "mlp_bias"],
    // "swish" is another name of "silu".
    reads: [...multipliers.map(([, key]) => key), "hidden_act"],
    slidingWindow: () => undefined,
    read: (config, fields) => withOwn(config, (key) => required(fields, key, readPositive(fields, key))),
  },
  gguf: {
    name: "fused-scaled",
    pairs: "half",
    hasFactors: false,
    reads: [...multipliers.map(([, , key]) => key), ggufWindow],
    read: (config, fields) =>
      withOwn(config, (_, name) => {
        const key = `fused-scaled.${name}`;
        return required(fields, key, readPositive(fields, key));
      }),
    *write(config) {
      for (const [field, , key] of multipliers) yield [key, { kind: "f32", value: config[field] }];
      yield [ggufWindow, { kind: "u32", value: config.localWindow }];
    },
  },
  *tensors(config) {
    const { hiddenSize, intermediateSize, headSize, numHeads, numKvHeads } = config;
    yield* outerTensors(config);
    yield* layerTensors(config, [
      norm("attn_norm", "input_layernorm", hiddenSize),
      ...linear("attn_qkv", "self_attn.qkv_proj", [(numHeads + 2 * numKvHeads) * headSize, hiddenSize]),
      ...linear("attn_output", "self_attn.o_proj", [hiddenSize, numHeads * headSize]),
      norm("ffn_norm", "post_attention_layernorm", hiddenSize),
      ...linear("ffn_up", "mlp.gate_up_proj", [2 * intermediateSize, hiddenSize]),
      ...linear("ffn_down", "mlp.down_proj", [hiddenSize, intermediateSize]),
    ]);
  },
  rope: ({ rope, localRope = rope }, layer) => [rope, localRope, undefined][layer % 3],
  window: ({ localWindow }, layer) => (layer % 3 === 1 ? localWindow : undefined),
  attentionScale: ({ attentionMultiplier }) => attentionMultiplier,
  embed: (build, tokens) => build.graph.scale(embedding(build, tokens), build.config.embeddingMultiplier),
  layer(build, x) {
    const { graph, config } = build;
    const attended = fusedAttention(build, rmsNorm(build, "attn_norm", x));
    if (attended === undefined) return undefined;
    const after = graph.add(x, graph.scale(attended, config.residualMultiplier));
    const risen = fusedSwiglu(build, rmsNorm(build, "ffn_norm", after));
    return graph.add(after, graph.scale(risen, config.residualMultiplier));
  },
  head: (build, x) => build.graph.scale(normedHead(build, x), 1 / build.config.logitsScaling),
};

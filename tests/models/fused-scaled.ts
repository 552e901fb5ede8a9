import { readPositive, required } from "../../src/files/fields.js";
import type { Tensor } from "../../src/ggml/tensor.js";
import type { Architecture, LayerBuild, ModelBuild } from "../../src/model/architecture.js";
import {
  embedding,
  layerTensors,
  linear,
  norm,
  normedHead,
  outerTensors,
  rmsNorm,
} from "../../src/model/architectures/parts.js";
import type { ModelConfig } from "../../src/model/config.js";
import type { RopeConfig } from "../../src/model/rope.js";

/**
 * An architecture that no model has, made of what other architectures do and the product's do not: multipliers as Granite's, one
 * product for queries, keys and values and one for the MLP's gate and rise as Phi 3's, and of each three layers one with a
 * sliding window and a RoPE of its own as Gemma 3's and one without RoPE as SmolLM 3's.
 */
export interface FusedScaledConfig extends ModelConfig {
  readonly embeddingMultiplier: number;
  readonly residualMultiplier: number;
  readonly attentionMultiplier: number;
  readonly logitsScaling: number;
  readonly localRope: RopeConfig;
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
const [ggufTheta, ggufWindow] = ["rope.local.freq_base", "attention.local_window"];

function withOwn(config: ModelConfig, read: (jsonKey: string, ggufKey: string) => number): FusedScaledConfig {
  const own = Object.fromEntries(multipliers.map(([field, json, gguf]) => [field, read(json, gguf)] as const));
  const localRope = { ...config.rope, theta: read("rope_local_base_freq", ggufTheta) };
  const localWindow = read("local_window", ggufWindow);
  return { ...config, ...(own as Record<(typeof multipliers)[number][0], number>), localRope, localWindow };
}

export const fusedScaled: Architecture<FusedScaledConfig> = {
  name: "fused_scaled",
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
    reads: [...multipliers.map(([, , key]) => key), ggufTheta, ggufWindow],
    read: (config, fields) =>
      withOwn(config, (_, name) => {
        const key = `fused-scaled.${name}`;
        return required(fields, key, readPositive(fields, key));
      }),
    *write(config) {
      for (const [field, , key] of multipliers) yield [key, { kind: "f32", value: config[field] }];
      yield [ggufTheta, { kind: "f32", value: config.localRope.theta }];
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
  rope: ({ rope, localRope }, layer) => [rope, localRope, undefined][layer % 3],
  window: ({ localWindow }, layer) => (layer % 3 === 1 ? localWindow : undefined),
  attentionScale: ({ attentionMultiplier }) => attentionMultiplier,
  embed: (build, tokens) => times(build, embedding(build, tokens), build.config.embeddingMultiplier),
  layer(build, x) {
    const { graph, config, product } = build;
    const { intermediateSize, residualMultiplier } = config;
    const attended = attend(build, product("attn_qkv", rmsNorm(build, "attn_norm", x)));
    if (attended === undefined) return undefined;
    const after = graph.add(x, times(build, product("attn_output", attended), residualMultiplier));
    const fused = product("ffn_up", rmsNorm(build, "ffn_norm", after));
    const half = (i: number) =>
      graph.contiguous(graph.view(fused, [intermediateSize, fused.ne[1]], [fused.nb[1]], 4 * i * intermediateSize));
    return graph.add(after, times(build, product("ffn_down", graph.swiglu(half(0), half(1))), residualMultiplier));
  },
  head: (build, x) => times(build, normedHead(build, x), 1 / build.config.logitsScaling),
};

/** Queries, keys and values are windows on the rows of one product. */
function attend({ graph, config, attend }: LayerBuild, fused: Tensor): Tensor | undefined {
  const { headSize, numHeads, numKvHeads } = config;
  const heads = (first: number, count: number) =>
    graph.view(fused, [headSize, count, fused.ne[1]], [4 * headSize, fused.nb[1]], 4 * first * headSize);
  return attend({
    queries: heads(0, numHeads),
    keys: heads(numHeads, numKvHeads),
    values: heads(numHeads + numKvHeads, numKvHeads),
  });
}

function times({ graph }: ModelBuild, x: Tensor, multiplier: number): Tensor {
  const [width] = x.ne;
  return graph.mul(x, graph.input("multiplier", "F32", [width], new Float32Array(width).fill(multiplier)));
}

/** The same model as weights of llama: multipliers go into the weights, and fused products are cut. */
export function asLlama(weights: ReadonlyMap<string, Float32Array>, config: FusedScaledConfig) {
  const { numLayers, hiddenSize, headSize, numHeads, numKvHeads, intermediateSize } = config;
  const found = new Map(weights);
  const scale = (name: string, factor: number) =>
    found.set(
      name,
      found.get(name)!.map((x) => x * factor),
    );
  const cut = (name: string, parts: readonly (readonly [string, rows: number])[]) => {
    let row = 0;
    for (const [part, rows] of parts) {
      found.set(part, weights.get(name)!.slice(row * hiddenSize, (row + rows) * hiddenSize));
      row += rows;
    }
  };
  for (let layer = 0; layer < numLayers; layer++) {
    const name = (part: string) => `blk.${layer}.${part}.weight`;
    const [q, kv] = [numHeads * headSize, numKvHeads * headSize];
    cut(name("attn_qkv"), [
      [name("attn_q"), q],
      [name("attn_k"), kv],
      [name("attn_v"), kv],
    ]);
    cut(name("ffn_up"), [
      [name("ffn_gate"), intermediateSize],
      [name("ffn_up"), intermediateSize],
    ]);
    scale(name("attn_q"), config.attentionMultiplier * Math.sqrt(headSize));
    for (const part of ["attn_output", "ffn_down"]) scale(name(part), config.residualMultiplier);
  }
  scale("token_embd.weight", config.embeddingMultiplier);
  scale("output.weight", 1 / config.logitsScaling);
  return found;
}

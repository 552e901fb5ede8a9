import { type Fields, readInteger } from "../../files/fields.js";
import type { Graph } from "../../ggml/graph.js";
import type { Tensor } from "../../ggml/tensor.js";
import type { LayerBuild, ModelBuild, NeededTensor } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import type { RopeConfig } from "../rope.js";

/** Parts that several architectures are made of. */

/** x over its root mean square, times the weight of that name. */
export function rmsNorm({ graph, config, weight }: ModelBuild, name: string, x: Tensor): Tensor {
  return graph.mul(graph.rmsNorm(x, config.rmsNormEps), weight(`${name}.weight`));
}

/** Rows [D * count, rows] as heads, [D, count, rows]. */
export function asHeads({ graph, config }: LayerBuild, rows: Tensor, count: number): Tensor {
  return graph.reshape(rows, [config.headSize, count, rows.ne[1]]);
}

/** A product's rows as heads. */
function heads(build: LayerBuild, name: string, x: Tensor, count: number): Tensor {
  return asHeads(build, build.product(name, x), count);
}

/** What models with a mixture of experts add to the config. */
export interface ExpertsConfig {
  readonly numExperts: number;
  /** Experts that each token goes through. */
  readonly numExpertsUsed: number;
  /** The intermediate size of each expert. */
  readonly expertSize: number;
  /** Whether the weights of a token's experts add up to 1. */
  readonly normalizesExperts: boolean;
  /** Of each so many layers the last has experts; 1: all have. */
  readonly expertStep: number;
  /** Layers that have one MLP for all tokens all the same. */
  readonly denseLayers: readonly number[];
}

/** down(silu(gate(x)) * up(x)). */
export function swiglu({ graph, product }: LayerBuild, x: Tensor): Tensor {
  return product("ffn_down", graph.swiglu(product("ffn_gate", x), product("ffn_up", x)));
}

/** The same with one product for gate and up, whose rows are the gate's and then up's. */
export function fusedSwiglu({ graph, product }: LayerBuild, x: Tensor): Tensor {
  return product("ffn_down", graph.swigluHalves(product("ffn_up", x)));
}

/** down(gelu(gate(x)) * up(x)). */
export function gegluMlp({ graph, product }: LayerBuild, x: Tensor): Tensor {
  return product("ffn_down", geglu(graph, product("ffn_gate", x), product("ffn_up", x)));
}

/**
 * gelu(gate) * up, by the approximation of GELU with tanh.
 *
 * That is gate * sigmoid(gate * t) * up with t = 2 sqrt(2/pi) (1 + 0.044715 gate²), and so silu(gate * t) * up / t. ggml's own
 * operation looks it up on the CPU, in a table of 16-bit floats, which costs three digits.
 */
export function geglu(graph: Graph, gate: Tensor, up: Tensor): Tensor {
  const slope = 2 * Math.sqrt(2 / Math.PI);
  const t = graph.scale(graph.mul(gate, gate), 0.044715 * slope, slope);
  return graph.swiglu(graph.mul(gate, t), graph.div(up, t));
}

/** What a layer's heads attend to, multiplied by its output weights. */
export function attend(build: LayerBuild, heads: Parameters<LayerBuild["attend"]>[0]): Tensor | undefined {
  const attended = build.attend(heads);
  return attended && build.product("attn_output", attended);
}

/**
 * A mixture of experts: each row goes through the MLPs of the experts that its router scores highest, and their results are added,
 * by the softmax of the scores. Where those weights add up to 1 that is the softmax over the chosen ones' scores alone.
 */
export function experts(
  { graph, config, product, expertProduct }: LayerBuild<ModelConfig & ExpertsConfig>,
  x: Tensor,
): Tensor {
  const { hiddenSize, numExperts, numExpertsUsed, normalizesExperts } = config;
  const numRows = x.ne[1];
  const scores = product("ffn_gate_inp", x);
  const chosen = graph.topK(scores, numExpertsUsed);
  const softmax = (rows: Tensor) => graph.softmax(rows, undefined, 1);
  const all = graph.reshape(normalizesExperts ? scores : softmax(scores), [1, numExperts, numRows]);
  const ofChosen = graph.reshape(graph.getRows(all, chosen), [numExpertsUsed, numRows]);
  const weights = graph.reshape(normalizesExperts ? softmax(ofChosen) : ofChosen, [1, numExpertsUsed, numRows]);
  const rows = graph.reshape(x, [hiddenSize, 1, numRows]);
  const [gate, up] = [expertProduct("ffn_gate_exps", rows, chosen), expertProduct("ffn_up_exps", rows, chosen)];
  const out = graph.mul(expertProduct("ffn_down_exps", graph.swiglu(gate, up), chosen), weights);
  const one = (i: number) => graph.view(out, [hiddenSize, numRows], [out.nb[2]], i * out.nb[1]);
  let sum = one(0);
  for (let i = 1; i < numExpertsUsed; i++) sum = graph.add(sum, one(i));
  return sum;
}

/** Attention over normed rows, with one product each for queries, keys and values. */
export function attention(build: LayerBuild, x: Tensor): Tensor | undefined {
  const { numHeads, numKvHeads } = build.config;
  return attend(build, {
    queries: heads(build, "attn_q", x, numHeads),
    keys: heads(build, "attn_k", x, numKvHeads),
    values: heads(build, "attn_v", x, numKvHeads),
  });
}

/** The same with an RMS norm over each head of the queries and keys, before RoPE. */
export function normedAttention(build: LayerBuild, x: Tensor): Tensor | undefined {
  const { numHeads, numKvHeads } = build.config;
  return attend(build, {
    queries: rmsNorm(build, "attn_q_norm", heads(build, "attn_q", x, numHeads)),
    keys: rmsNorm(build, "attn_k_norm", heads(build, "attn_k", x, numKvHeads)),
    values: heads(build, "attn_v", x, numKvHeads),
  });
}

/** Attention with one product, whose rows are the queries', the keys' and the values'. */
export function fusedAttention(build: LayerBuild, x: Tensor): Tensor | undefined {
  const { graph, config, product } = build;
  const { headSize, numHeads, numKvHeads } = config;
  const fused = product("attn_qkv", x);
  const heads = (first: number, count: number) =>
    graph.view(fused, [headSize, count, fused.ne[1]], [4 * headSize, fused.nb[1]], 4 * first * headSize);
  return attend(build, {
    queries: heads(0, numHeads),
    keys: heads(numHeads, numKvHeads),
    values: heads(numHeads + numKvHeads, numKvHeads),
  });
}

/** A layer of two halves, attention and MLP: each takes normed rows, and its result is added to the rows. */
export function preNormLayer<B extends LayerBuild>(
  build: B,
  x: Tensor,
  attend: (build: B, x: Tensor) => Tensor | undefined,
  mlp: (build: B, x: Tensor) => Tensor,
): Tensor | undefined {
  const { graph } = build;
  const attended = attend(build, rmsNorm(build, "attn_norm", x));
  if (attended === undefined) return undefined;
  const after = graph.add(x, attended);
  return graph.add(after, mlp(build, rmsNorm(build, "ffn_norm", after)));
}

/** The weights of `preNormLayer()`'s norms. */
export function preNorms({ hiddenSize }: ModelConfig): NeededTensor[] {
  return [norm("attn_norm", "input_layernorm", hiddenSize), norm("ffn_norm", "post_attention_layernorm", hiddenSize)];
}

/** `sliding_window`, where its absence means 4,096 places and null no window. */
export function statedWindow(fields: Fields): number | undefined {
  const size = readInteger(fields, "sliding_window", 1);
  return fields.get("sliding_window") === undefined ? 4096 : size;
}

/** How far back a layer's rows see. */
export function layerWindow({ slidingWindow, slidingLayers }: ModelConfig, layer: number): number | undefined {
  return slidingLayers?.[layer] === false ? undefined : slidingWindow;
}

/** By which RoPE a layer turns. */
export function layerRope(config: ModelConfig, layer: number): RopeConfig {
  return (layerWindow(config, layer) === undefined ? undefined : config.localRope) ?? config.rope;
}

/** Looks the tokens' rows of the embedding up. */
export function embedding({ graph, weight }: ModelBuild, tokens: Tensor): Tensor {
  return graph.getRows(weight("token_embd.weight"), tokens);
}

/** The logits of normed rows. */
export function normedHead(build: ModelBuild, x: Tensor): Tensor {
  return build.product("output", rmsNorm(build, "output_norm", x));
}

/** The weights of `embedding()` and `normedHead()`. */
export function* outerTensors({ vocabSize, hiddenSize, tiedHead }: ModelConfig): Generator<NeededTensor> {
  const matrix = [vocabSize, hiddenSize];
  yield { name: "token_embd.weight", huggingFaceName: "model.embed_tokens.weight", shape: matrix };
  yield { name: "output_norm.weight", huggingFaceName: "model.norm.weight", shape: [hiddenSize] };
  if (!tiedHead) yield { name: "output.weight", huggingFaceName: "lm_head.weight", shape: matrix };
}

/** The weights of all layers. @param inLayer those of one, with their names within it. */
export function* layerTensors(
  config: ModelConfig,
  inLayer: readonly NeededTensor[] | ((layer: number) => readonly NeededTensor[]),
): Generator<NeededTensor> {
  for (let layer = 0; layer < config.numLayers; layer += 1) {
    const within = <T extends { readonly huggingFaceName: string }>(tensor: T): T => {
      return { ...tensor, huggingFaceName: `model.layers.${layer}.${tensor.huggingFaceName}` };
    };
    for (const tensor of typeof inLayer === "function" ? inLayer(layer) : inLayer) {
      const { name, fused } = tensor;
      yield { ...within(tensor), name: `blk.${layer}.${name}`, ...(fused && { fused: within(fused) }) };
    }
  }
}

/** A product's weight [rows, columns], and its bias if it has one. */
export function linear(
  name: string,
  huggingFaceName: string,
  [rows, columns]: readonly [rows: number, columns: number],
  { hasBias = false, rotated = false } = {},
): NeededTensor[] {
  const named = (kind: string, shape: number[]) => ({
    name: `${name}.${kind}`,
    huggingFaceName: `${huggingFaceName}.${kind}`,
    shape,
    rotated,
  });
  return [named("weight", [rows, columns]), ...(hasBias ? [named("bias", [rows])] : [])];
}

export function norm(name: string, huggingFaceName: string, size: number): NeededTensor {
  return { name: `${name}.weight`, huggingFaceName: `${huggingFaceName}.weight`, shape: [size] };
}

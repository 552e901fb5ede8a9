import type { Tensor } from "../../ggml/tensor.js";
import type { LayerBuild, ModelBuild, NeededTensor } from "../architecture.js";
import type { ModelConfig } from "../config.js";

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
export function heads(build: LayerBuild, name: string, x: Tensor, count: number): Tensor {
  return asHeads(build, build.product(name, x), count);
}

/** down(silu(gate(x)) * up(x)). */
export function swiglu({ graph, product }: LayerBuild, x: Tensor): Tensor {
  return product("ffn_down", graph.swiglu(product("ffn_gate", x), product("ffn_up", x)));
}

/** Attention over normed rows, with one product each for queries, keys and values. */
export function attention(build: LayerBuild, x: Tensor): Tensor | undefined {
  const { numHeads, numKvHeads } = build.config;
  const attended = build.attend({
    queries: heads(build, "attn_q", x, numHeads),
    keys: heads(build, "attn_k", x, numKvHeads),
    values: heads(build, "attn_v", x, numKvHeads),
  });
  return attended && build.product("attn_output", attended);
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
export function* layerTensors(config: ModelConfig, inLayer: readonly NeededTensor[]): Generator<NeededTensor> {
  for (let layer = 0; layer < config.numLayers; layer += 1) {
    for (const tensor of inLayer) {
      const name = `blk.${layer}.${tensor.name}`;
      yield { ...tensor, name, huggingFaceName: `model.layers.${layer}.${tensor.huggingFaceName}` };
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

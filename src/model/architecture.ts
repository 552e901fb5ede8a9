import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import type { ModelConfig } from "./config.js";
import type { RopeConfig } from "./rope.js";

/** A weight that a model needs. */
export interface NeededTensor {
  /** llama.cpp's name, under which the model's weights are known. */
  readonly name: string;
  readonly huggingFaceName: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** Rows of queries or keys, which RoPE turns in pairs: some GGUF files have the pairs side by side. */
  readonly rotated?: boolean;
}

/** A graph under construction, as an architecture sees it. */
export interface ModelBuild<C extends ModelConfig = ModelConfig> {
  readonly graph: Graph;
  readonly config: C;
  /** @throws RangeError if the model has no such weight. */
  weight(name: string): Tensor;
  /** x [in, rows] times `${name}.weight`, plus `${name}.bias` where the model has one: [out, rows]. */
  product(name: string, x: Tensor): Tensor;
}

/** One layer of it. Names of weights are those within the layer: "attn_q" is "blk.3.attn_q". */
export interface LayerBuild<C extends ModelConfig = ModelConfig> extends ModelBuild<C> {
  /** Counted from 0. */
  readonly layer: number;
  /**
   * Keeps the rows' keys and values, and attends. RoPE, the scale of the scores and who sees whom are applied here.
   *
   * @param heads before RoPE, [D, heads, rows] each.
   * @returns [D * H, rows]; undefined where nothing reads what this layer computes past its keys and values.
   */
  attend(heads: { readonly queries: Tensor; readonly keys: Tensor; readonly values: Tensor }): Tensor | undefined;
}

/** What models of one architecture have in common. */
export interface Architecture<C extends ModelConfig = ModelConfig> {
  /** Every weight, one after the other: a config from outside may claim any number of layers. */
  tensors(config: C): Iterable<NeededTensor>;
  /** How a layer turns queries and keys; the same object where it is the same. Undefined: the layer has no positions. */
  rope(config: C, layer: number): RopeConfig | undefined;
  /** The rows [hidden, rows] of token ids [rows] that the first layer takes. */
  embed(build: ModelBuild<C>, tokens: Tensor): Tensor;
  /** One layer over x [hidden, rows]; undefined where its attention gives nothing. */
  layer(build: LayerBuild<C>, x: Tensor): Tensor | undefined;
  /** The logits [vocabulary, rows] of the last layer's rows. */
  head(build: ModelBuild<C>, x: Tensor): Tensor;
}

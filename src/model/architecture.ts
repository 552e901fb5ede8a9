import type { Fields } from "../files/fields.js";
import type { GgufEntry } from "../files/gguf-writer.js";
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
  /** What Hugging Face's numbers lack of the weight's, in a vector: Gemma's norms multiply by 1 + w. */
  readonly huggingFaceLacks?: number;
  /**
   * A stack of matrices, one for each expert: `huggingFaceName` has "*" for the expert's number. Folders may hold, instead, one
   * tensor of that name in which part `index` of `of` equal parts of each expert's rows is this one.
   */
  readonly fused?: { readonly huggingFaceName: string; readonly index: number; readonly of: number };
  /** In memory it is F32, whatever type the others are asked to have. */
  readonly isPrecise?: true;
}

/** Layers that see only some places back. */
export interface SlidingWindow {
  /** How many places back their rows see, their own among them. */
  readonly size: number;
  /** Which layers. Default: all. */
  readonly layers?: readonly boolean[] | undefined;
}

/** A graph under construction, as an architecture sees it. */
export interface ModelBuild<C extends ModelConfig = ModelConfig> {
  readonly graph: Graph;
  readonly config: C;
  /** @throws RangeError if the model has no such weight. */
  weight(name: string): Tensor;
  /** x [in, rows] times `${name}.weight`, plus `${name}.bias` where the model has one: [out, rows]. */
  product(name: string, x: Tensor): Tensor;
  /** x [in, U or 1, rows] times the weights of that name of the experts [U, rows] of each row: [out, U, rows]. */
  expertProduct(name: string, x: Tensor, experts: Tensor): Tensor;
}

/** One layer of it. Names of weights are those within the layer: "attn_q" is "blk.3.attn_q". */
export interface LayerBuild<C extends ModelConfig = ModelConfig> extends ModelBuild<C> {
  /** Counted from 0. */
  readonly layer: number;
  /**
   * Keeps the rows' keys and values, and attends: RoPE, the scale of the scores and the mask are applied here.
   *
   * @param heads before RoPE, [D, heads, rows] each.
   * @returns [D * H, rows]; undefined where nothing reads what this layer computes past its keys and values.
   */
  attend(heads: { readonly queries: Tensor; readonly keys: Tensor; readonly values: Tensor }): Tensor | undefined;
}

/** How config.json describes models of an architecture. */
export interface HuggingFaceTraits<C extends ModelConfig> {
  /** The one entry of `architectures`. */
  readonly className: string;
  /** `max_position_embeddings`, where it is absent. */
  readonly maxPositions: number;
  /** `num_key_value_heads`, where it is absent. Default, and where it is null: as many as query heads. */
  readonly numKvHeads?: number;
  /** `head_dim`, where it is absent. Default: `hidden_size` over `num_attention_heads`. */
  readonly headSize?: number;
  /** `rms_norm_eps`, where it is absent. Default 1e-6. */
  readonly rmsNormEps?: number;
  /** `tie_word_embeddings`, where it is absent. Default false. */
  readonly tiedHead?: boolean;
  /** `rope_theta`, where it is absent. Default 10,000. */
  readonly theta?: number;
  /** Where config.json names the MLP's activation, and the one that the graph computes. Default: `hidden_act`, silu. */
  readonly activation?: { readonly key: string; readonly name: string };
  /** Settings that `read()` reads. Others that could change the arithmetic are refused. */
  readonly reads?: readonly string[];
  /** Biases that Transformers does not give these models: a file that asks for them means another model. */
  readonly noBiases?: readonly string[];
  /** Undefined: no layer slides. @param layerTypes `layer_types`, one for each layer. */
  slidingWindow(
    fields: Fields,
    numLayers: number,
    layerTypes: readonly string[] | undefined,
  ): SlidingWindow | undefined;
  /** Adds the architecture's own to what all have. */
  read(config: ModelConfig, fields: Fields): C;
}

/** How GGUF files hold models of an architecture. */
export interface GgufTraits<C extends ModelConfig> {
  /** `general.architecture`. Several may share it: the registry's first reads such files. */
  readonly name: string;
  /** Where rows of queries and keys lie: llama.cpp's converter permutes Llama's. @see llama_model_rope_type */
  readonly pairs: RopeConfig["pairs"];
  /** Whether llama.cpp reads `rope_freqs.weight`, which llama3 scaling becomes. */
  readonly hasFactors: boolean;
  /** Whether it reads `rope_factors_short.weight` and `rope_factors_long.weight`, which longrope becomes. */
  readonly hasLongRope?: boolean;
  /** Of so many layers the last does not slide, where the file does not say which do. Default: all slide. */
  readonly slidingPattern?: number;
  /** Metadata that `read()` reads, such as "residual_scale". Other metadata that could change the arithmetic is refused. */
  readonly reads?: readonly string[];
  /** Adds the architecture's own to what all have. @param fields keys with the architecture's name before them. */
  read(config: ModelConfig, fields: Fields, hasTensor: (name: string) => boolean): C;
  /** The metadata that `read()` reads. */
  write?(config: C): Iterable<readonly [key: string, GgufEntry]>;
}

/** What models of one architecture have in common. Nothing outside its file knows of it. */
export interface Architecture<C extends ModelConfig = ModelConfig> {
  /** As `model_type` of config.json has it. */
  readonly name: string;
  /** Layers that slide turn by a RoPE of their own, without scaling: its theta, where the files do not say it. */
  readonly localTheta?: number;
  /** RoPE may turn the first elements of a head alone. */
  readonly hasPartialRope?: boolean;
  readonly huggingFace: HuggingFaceTraits<C>;
  readonly gguf: GgufTraits<C>;
  /** Every weight, one after the other: a config from outside may claim any number of layers. */
  tensors(config: C): Iterable<NeededTensor>;
  /** How a layer turns queries and keys: one object for equal layers. Undefined: the layer has no positions. */
  rope(config: C, layer: number): RopeConfig | undefined;
  /** How many places back a layer's rows see, their own among them. Undefined: all. */
  window(config: C, layer: number): number | undefined;
  /** What scores of attention are multiplied by before the softmax. */
  attentionScale(config: C): number;
  /** The rows [hidden, rows] of token ids [rows] that the first layer takes. */
  embed(build: ModelBuild<C>, tokens: Tensor): Tensor;
  /** One layer over x [hidden, rows]. Undefined where `attend()` returns undefined. */
  layer(build: LayerBuild<C>, x: Tensor): Tensor | undefined;
  /** The logits [vocabulary, rows] of the last layer's rows. */
  head(build: ModelBuild<C>, x: Tensor): Tensor;
}

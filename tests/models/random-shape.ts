import type { JsonObject, JsonValue } from "../../src/files/bounded-json.js";
import type { Architecture, NeededTensor } from "../../src/model/architecture.js";
import { architectures } from "../../src/model/architectures/registry.js";
import type { BlockAttentionConfig } from "../../src/model/block-attention-config.js";
import type { ModelConfig } from "../../src/model/config.js";
import { parseHuggingFaceConfig } from "../../src/model/hugging-face-config.js";
import { countTokens, makeTokenizer } from "./random-tokenizer.js";

/** Each with fixed parameters, chosen so that a head of 16 or more has pairs in every band of the scaling. */
export type RandomRope = "plain" | "linear" | "llama3" | "yarn" | "longrope";

/** What a random model looks like. All but the architecture have a default; `resolveShape` gives them. */
export interface RandomModelShape {
  readonly architecture: string;
  readonly hiddenSize?: number;
  readonly intermediateSize?: number;
  readonly numLayers?: number;
  readonly numHeads?: number;
  readonly numKvHeads?: number;
  /** Default hiddenSize / numHeads. */
  readonly headSize?: number;
  /** At least the tokenizer's size; default 352. */
  readonly vocabSize?: number;
  readonly tied?: boolean;
  readonly rope?: RandomRope;
  readonly theta?: number;
  /** Longrope's original one, where it has longrope. */
  readonly contextLength?: number;
  /** How much of each head is turned. Phi3 only. */
  readonly rotatedShare?: number;
  /** In tokens; undefined: none, but gemma3 always has one. Mistral, phi3 and gemma3. */
  readonly slidingWindow?: number;
  /** Of so many layers the last does not slide. Gemma3 only. */
  readonly slidingPattern?: number;
  /** Llama and qwen3: biases on queries, keys, values and the attention's output. Qwen2 always has the first three. */
  readonly attentionBias?: boolean;
  /** Llama: biases on the MLP's three products. */
  readonly mlpBias?: boolean;
  /** 1: the scores of attention deviate by about 2. 3 and more: nearly all weight on few tokens. */
  readonly attentionScale?: number;
  /** The deviation of the logits; the larger, the clearer the next token. */
  readonly logitScale?: number;
  readonly blockAttention?: BlockAttentionConfig;
  /** Whether the tokenizer puts BOS before a prompt. Default: llama and mistral do. */
  readonly addsBos?: boolean;
  /** More of config.json, for what one architecture alone has. */
  readonly settings?: JsonObject;
  readonly seed?: number;
}

export interface ResolvedShape extends Required<Omit<RandomModelShape, "slidingWindow" | "blockAttention">> {
  readonly slidingWindow: number | undefined;
  readonly blockAttention: BlockAttentionConfig | undefined;
}

/** One weight, and how its numbers are drawn. */
export interface RandomTensor extends NeededTensor {
  readonly mean: number;
  readonly deviation: number;
}

/** @throws RangeError for a shape that no model has. */
export function resolveShape(shape: RandomModelShape): ResolvedShape {
  const { architecture, hiddenSize = 64, numHeads = 4, attentionBias = false, mlpBias = false } = shape;
  const resolved: ResolvedShape = {
    architecture,
    hiddenSize,
    intermediateSize: shape.intermediateSize ?? hiddenSize * 2,
    numLayers: shape.numLayers ?? 2,
    numHeads,
    numKvHeads: shape.numKvHeads ?? Math.max(1, numHeads / 2),
    headSize: shape.headSize ?? hiddenSize / numHeads,
    vocabSize: shape.vocabSize ?? 352,
    tied: shape.tied ?? false,
    rope: shape.rope ?? "plain",
    theta: shape.theta ?? 10_000,
    contextLength: shape.contextLength ?? 4096,
    rotatedShare: shape.rotatedShare ?? 1,
    slidingWindow: shape.slidingWindow ?? (architecture === "gemma3_text" ? 40 : undefined),
    slidingPattern: shape.slidingPattern ?? 2,
    attentionBias,
    mlpBias,
    attentionScale: shape.attentionScale ?? 1,
    logitScale: shape.logitScale ?? 2,
    blockAttention: shape.blockAttention,
    addsBos: shape.addsBos ?? (architecture === "llama" || architecture === "mistral"),
    settings: shape.settings ?? {},
    seed: shape.seed ?? 1,
  };
  if (resolved.vocabSize < countTokens()) {
    throw new RangeError(`Cannot make a model: vocabSize is ${resolved.vocabSize}, the tokenizer has ${countTokens()}`);
  }
  if (resolved.headSize % 2 !== 0 || numHeads % resolved.numKvHeads !== 0) {
    throw new RangeError(
      `Cannot make a model: ${numHeads} heads of ${resolved.headSize} over ${resolved.numKvHeads}, wanted an even size and a whole ratio`,
    );
  }
  return resolved;
}

/** A random model's config.json, as Transformers 5 writes it. */
export function makeConfig(shape: ResolvedShape): JsonObject {
  const tokenizer = makeTokenizer();
  const traits = architectures.find(({ name }) => name === shape.architecture);
  const { key, name } = traits?.huggingFace.activation ?? { key: "hidden_act", name: "silu" };
  const rope = {
    rope_theta: shape.theta,
    ...(ropeParameters(shape) ?? { rope_type: "default" }),
    ...(shape.rotatedShare !== 1 && { partial_rotary_factor: shape.rotatedShare }),
  };
  const localRope = {
    rope_type: "default",
    rope_theta: shape.settings.rope_local_base_freq ?? traits?.localTheta ?? 0,
  };
  const isLong = shape.rope === "longrope";
  return {
    model_type: shape.architecture,
    [key]: name,
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.intermediateSize,
    num_hidden_layers: shape.numLayers,
    num_attention_heads: shape.numHeads,
    num_key_value_heads: shape.numKvHeads,
    ...(shape.headSize === defaultHeadSize(shape) ? {} : { head_dim: shape.headSize }),
    max_position_embeddings: shape.contextLength * (isLong ? longStretch : 1),
    ...(isLong && { original_max_position_embeddings: shape.contextLength }),
    rms_norm_eps: 1e-5,
    tie_word_embeddings: shape.tied,
    vocab_size: shape.vocabSize,
    bos_token_id: tokenizer.bosTokenId,
    eos_token_id: tokenizer.eosTokenId,
    // Transformers wants it in the vocabulary; the default of some architectures is far outside.
    pad_token_id: tokenizer.eosTokenId,
    attention_dropout: 0,
    initializer_range: 0.02,
    use_cache: true,
    attention_bias: shape.attentionBias,
    mlp_bias: shape.mlpBias,
    use_sliding_window: false,
    sliding_window: shape.slidingWindow ?? null,
    ...(shape.architecture === "gemma3_text" && {
      sliding_window_pattern: shape.slidingPattern,
      query_pre_attn_scalar: shape.headSize,
    }),
    rope_parameters: traits?.localTheta ? { full_attention: rope, sliding_attention: localRope } : rope,
    ...(shape.blockAttention === undefined
      ? {}
      : { block_attention: JSON.parse(JSON.stringify(shape.blockAttention)) as JsonValue }),
    ...shape.settings,
  };
}

/** Of a config.json that does not say it. */
function defaultHeadSize({ architecture, hiddenSize, numHeads }: ResolvedShape): number {
  const traits = architectures.find(({ name }) => name === architecture)?.huggingFace;
  return traits?.headSize ?? hiddenSize / numHeads;
}

/** The architecture and config of a random model, and every weight, in the order in which Hugging Face lists them. */
export function listTensors(shape: ResolvedShape): {
  architecture: Architecture;
  config: ModelConfig;
  tensors: RandomTensor[];
} {
  const { architecture, config } = parseHuggingFaceConfig(makeConfig(shape), "a random model's config.json");
  const place = ({ name }: NeededTensor): number => {
    const [, layer, part] = /^blk\.(\d+)\.(\w+)/.exec(name) ?? [];
    if (part === undefined) return name === "token_embd.weight" ? -1 : Number.MAX_SAFE_INTEGER;
    const found = partsInOrder.indexOf(part);
    return Number(layer) * 100 + (found === -1 ? partsInOrder.length : found);
  };
  const tensors = [...architecture.tensors(config)].map((tensor) => ({ ...tensor, ...drawing(tensor, shape) }));
  return { architecture, config, tensors: tensors.sort((a, b) => place(a) - place(b)) };
}

/** Those of a layer up to the MLP. */
const partsInOrder = "attn_norm attn_q attn_k attn_v attn_output attn_q_norm attn_k_norm ffn_norm".split(" ");

function drawing({ name, shape: size }: NeededTensor, shape: ResolvedShape): { mean: number; deviation: number } {
  const sharpness = Math.sqrt(shape.attentionScale);
  if (/attn_[qk]_norm/.test(name)) return { mean: 1.5 * sharpness, deviation: 0.15 };
  if (name.includes("norm")) return { mean: 1, deviation: 0.1 };
  if (name.endsWith("bias")) return { mean: 0, deviation: /attn_[qkv]\./.test(name) ? 0.5 : 0.2 };
  // A tied embedding is the head too, so its deviation is the head's.
  if (name === "token_embd.weight" && !shape.tied) {
    // Gemma multiplies it by the root of its width.
    return { mean: 0, deviation: shape.architecture === "gemma3_text" ? 1 / Math.sqrt(shape.hiddenSize) : 1 };
  }
  if (!name.startsWith("blk.")) return { mean: 0, deviation: shape.logitScale / Math.sqrt(shape.hiddenSize) };
  const gain = /attn_[qk]\./.test(name) ? sharpness : 1;
  return { mean: 0, deviation: (1.5 * gain) / Math.sqrt(size.at(-1) as number) };
}

const longStretch = 8;

/** How many of a head's elements are turned. */
export function rotatedSize({ headSize, rotatedShare }: ResolvedShape): number {
  return headSize * rotatedShare;
}

type RopeParameters = Readonly<Record<string, string | number | readonly number[]>>;

/** The parameters of a model's kind of scaling, as config.json names them. */
export function ropeParameters(shape: ResolvedShape): RopeParameters | undefined {
  if (shape.rope !== "longrope") return fixedParameters[shape.rope];
  const factors = (slope: number) => Array.from({ length: rotatedSize(shape) / 2 }, (_, i) => 1 + slope * i);
  return { rope_type: "longrope", short_factor: factors(0.25), long_factor: factors(2) };
}

const fixedParameters: Readonly<Record<Exclude<RandomRope, "longrope">, RopeParameters | undefined>> = {
  plain: undefined,
  linear: { rope_type: "linear", factor: 4 },
  llama3: {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 512,
  },
  yarn: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 1024 },
};

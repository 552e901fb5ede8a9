import type { BlockAttentionConfig } from "../../src/model/block-attention-config.js";
import type { Architecture } from "../../src/model/config.js";
import { countTokens } from "./random-tokenizer.js";

/** Each with fixed parameters, chosen so that a head of 16 or more has pairs in every band of the scaling. */
export type RandomRope = "plain" | "linear" | "llama3" | "yarn";

/** What a random model looks like. All but the architecture have a default; `resolveShape` gives them. */
export interface RandomModelShape {
  readonly architecture: Architecture;
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
  readonly contextLength?: number;
  /** In tokens; undefined: none. Mistral only. */
  readonly slidingWindow?: number;
  /** Llama: biases on queries, keys, values and the attention's output. Qwen2 always has the first three. */
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
  readonly seed?: number;
}

export interface ResolvedShape extends Required<Omit<RandomModelShape, "slidingWindow" | "blockAttention">> {
  readonly slidingWindow: number | undefined;
  readonly blockAttention: BlockAttentionConfig | undefined;
}

/** One weight: its two names, its shape (outermost first), and how its numbers are drawn. */
export interface RandomTensor {
  readonly huggingFaceName: string;
  readonly ggufName: string;
  readonly shape: readonly number[];
  readonly mean: number;
  readonly deviation: number;
  /** Rows that arch llama's GGUF lays out with the pairs side by side. */
  readonly rotated: boolean;
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
    slidingWindow: shape.slidingWindow,
    attentionBias,
    mlpBias,
    attentionScale: shape.attentionScale ?? 1,
    logitScale: shape.logitScale ?? 2,
    blockAttention: shape.blockAttention,
    addsBos: shape.addsBos ?? (architecture === "llama" || architecture === "mistral"),
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
  if ((attentionBias || mlpBias) && architecture !== "llama") {
    throw new RangeError(`Cannot make a model: attentionBias and mlpBias are of llama, not of ${architecture}`);
  }
  return resolved;
}

/** Every weight of a model, in the order in which Hugging Face lists them. */
export function listTensors(shape: ResolvedShape): RandomTensor[] {
  const { architecture, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headSize } = shape;
  const queries = numHeads * headSize;
  const keys = numKvHeads * headSize;
  const qkvBias = architecture === "qwen2" || shape.attentionBias;
  const sharpness = Math.sqrt(shape.attentionScale);
  const tensors: RandomTensor[] = [];
  const add = (
    huggingFaceName: string,
    ggufName: string,
    size: number[],
    mean: number,
    deviation: number,
    rotated = false,
  ) => tensors.push({ huggingFaceName, ggufName, shape: size, mean, deviation, rotated });

  // A tied embedding is the head too, so its deviation is the head's.
  const headDeviation = shape.logitScale / Math.sqrt(hiddenSize);
  add(
    "model.embed_tokens.weight",
    "token_embd.weight",
    [shape.vocabSize, hiddenSize],
    0,
    shape.tied ? headDeviation : 1,
  );
  for (let i = 0; i < numLayers; i++) {
    const hf = `model.layers.${i}`;
    const gguf = `blk.${i}`;
    const linear = (
      hfName: string,
      ggufName: string,
      rows: number,
      columns: number,
      gain: number,
      biasDeviation: number | undefined,
      rotated = false,
    ) => {
      const deviation = (1.5 * gain) / Math.sqrt(columns);
      add(`${hf}.${hfName}.weight`, `${gguf}.${ggufName}.weight`, [rows, columns], 0, deviation, rotated);
      if (biasDeviation !== undefined) {
        add(`${hf}.${hfName}.bias`, `${gguf}.${ggufName}.bias`, [rows], 0, biasDeviation, rotated);
      }
    };
    add(`${hf}.input_layernorm.weight`, `${gguf}.attn_norm.weight`, [hiddenSize], 1, 0.1);
    const bias = qkvBias ? 0.5 : undefined;
    const permuted = architecture === "llama" || architecture === "mistral";
    linear("self_attn.q_proj", "attn_q", queries, hiddenSize, sharpness, bias, permuted);
    linear("self_attn.k_proj", "attn_k", keys, hiddenSize, sharpness, bias, permuted);
    linear("self_attn.v_proj", "attn_v", keys, hiddenSize, 1, bias);
    linear("self_attn.o_proj", "attn_output", hiddenSize, queries, 1, shape.attentionBias ? 0.2 : undefined);
    if (architecture === "qwen3") {
      add(`${hf}.self_attn.q_norm.weight`, `${gguf}.attn_q_norm.weight`, [headSize], 1.5 * sharpness, 0.15);
      add(`${hf}.self_attn.k_norm.weight`, `${gguf}.attn_k_norm.weight`, [headSize], 1.5 * sharpness, 0.15);
    }
    add(`${hf}.post_attention_layernorm.weight`, `${gguf}.ffn_norm.weight`, [hiddenSize], 1, 0.1);
    const mlpBias = shape.mlpBias ? 0.2 : undefined;
    linear("mlp.gate_proj", "ffn_gate", intermediateSize, hiddenSize, 1, mlpBias);
    linear("mlp.up_proj", "ffn_up", intermediateSize, hiddenSize, 1, mlpBias);
    linear("mlp.down_proj", "ffn_down", hiddenSize, intermediateSize, 1, mlpBias);
  }
  add("model.norm.weight", "output_norm.weight", [hiddenSize], 1, 0.1);
  if (!shape.tied) add("lm_head.weight", "output.weight", [shape.vocabSize, hiddenSize], 0, headDeviation);
  return tensors;
}

/** The parameters of each kind of scaling, as config.json names them. */
export const ropeParameters: Readonly<Record<RandomRope, Readonly<Record<string, string | number>> | undefined>> = {
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

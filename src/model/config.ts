import type { BlockAttentionConfig } from "./block-attention-config.js";
import type { RopeConfig } from "./rope.js";

export type Architecture = "llama" | "mistral" | "qwen2" | "qwen3";

/** A decoder-only transformer with RMS norm, RoPE and SwiGLU, as config.json or GGUF metadata describe it. */
export interface ModelConfig {
  readonly architecture: Architecture;
  readonly vocabSize: number;
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHeads: number;
  /** Heads of keys and values: numHeads / numKvHeads query heads share one. */
  readonly numKvHeads: number;
  /** D, given or derived as hiddenSize / numHeads. */
  readonly headSize: number;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  /** The longest prompt plus answer, in tokens. */
  readonly contextLength: number;
  /** In tokens; prompts longer than it are refused. Undefined: every layer sees everything. */
  readonly slidingWindow: number | undefined;
  /** Biases on the projections of queries, keys and values (qwen2, or `attention_bias`). */
  readonly qkvBias: boolean;
  /** A bias on the attention's output projection (llama with `attention_bias`). */
  readonly outputBias: boolean;
  /** Biases on the three products of the MLP (`mlp_bias`). */
  readonly mlpBias: boolean;
  /** RMS norm over each head of the queries and keys, before RoPE (qwen3). */
  readonly qkNorm: boolean;
  /** The embedding matrix is the head too. */
  readonly tiedHead: boolean;
  /** What the model's own files say of its block-attention training; undefined where they say nothing. */
  readonly blockAttention: BlockAttentionConfig | undefined;
}

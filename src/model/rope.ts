/** How a model's RoPE angles are scaled. Only kinds whose angles are linear in the position can be re-encoded. */
export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalContextLength: number;
    }
  | {
      readonly kind: "yarn";
      readonly factor: number;
      readonly originalContextLength: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** The factor on queries and keys, all told (cos and sin are multiplied by it, once). */
      readonly attentionFactor: number;
      /** Whether the correction range is rounded outward to whole dimensions (Transformers' `truncate`, default true). */
      readonly truncate: boolean;
    }
  /** GGUF's tensor `rope_freqs.weight`: each pair's plain frequency is divided by its factor. D/2 values. */
  | { readonly kind: "factors"; readonly factors: readonly number[] };

export interface RopeConfig {
  /** D, in elements; even. */
  readonly headSize: number;
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** Which elements make a pair: "half" is (i, i + D/2) as Transformers has it, "adjacent" is (2i, 2i + 1) as llama.cpp permutes Llama's rows. */
  readonly pairs: "half" | "adjacent";
}

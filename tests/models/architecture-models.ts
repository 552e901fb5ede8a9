import type { RandomModelShape } from "./random-shape.js";

/** A small random model of every architecture, with what it alone has. What must hold of all models is tried on these. */
export const architectureModels: Readonly<Record<string, RandomModelShape>> = {
  llama: { architecture: "llama", rope: "llama3", seed: 31 },
  mistral: { architecture: "mistral", numKvHeads: 1, headSize: 32, seed: 33 },
  qwen2: { architecture: "qwen2", tied: true, rope: "linear", seed: 34 },
  qwen3: { architecture: "qwen3", headSize: 32, rope: "yarn", seed: 35 },
  // The rows of experts are whole blocks of every type.
  qwen3_moe: {
    architecture: "qwen3_moe",
    numLayers: 3,
    settings: { num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 256, norm_topk_prob: true },
    seed: 38,
  },
  phi3: { architecture: "phi3", hiddenSize: 128, rope: "longrope", rotatedShare: 0.75, tied: true, seed: 39 },
  gemma3_text: { architecture: "gemma3_text", headSize: 32, rope: "linear", theta: 1_000_000, tied: true, seed: 40 },
  // The fourth layer is without RoPE. Each layer adds to what rounding to BF16 does, so attention is less sharp.
  smollm3: { architecture: "smollm3", numLayers: 4, attentionScale: 0.5, tied: true, seed: 36 },
  olmo2: { architecture: "olmo2", numKvHeads: 4, theta: 500_000, seed: 37 },
  granite: {
    architecture: "granite",
    tied: true,
    logitScale: 2.5,
    settings: { embedding_multiplier: 3, residual_multiplier: 0.6, attention_multiplier: 0.2, logits_scaling: 1.25 },
    seed: 41,
  },
};

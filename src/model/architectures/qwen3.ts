import type { Tensor } from "../../ggml/tensor.js";
import type { Architecture, LayerBuild } from "../architecture.js";
import { type LlamaConfig, llama, llamaTensors } from "./llama.js";
import { heads, norm, preNormLayer, rmsNorm, swiglu } from "./parts.js";

/** Llama with an RMS norm over each head of the queries and keys, before RoPE. */
export const qwen3: Architecture<LlamaConfig> = {
  ...llama,
  tensors: (config) =>
    llamaTensors(config, [
      norm("attn_q_norm", "self_attn.q_norm", config.headSize),
      norm("attn_k_norm", "self_attn.k_norm", config.headSize),
    ]),
  layer: (build, x) => preNormLayer(build, x, normedAttention, swiglu),
};

function normedAttention(build: LayerBuild, x: Tensor): Tensor | undefined {
  const { numHeads, numKvHeads } = build.config;
  const attended = build.attend({
    queries: rmsNorm(build, "attn_q_norm", heads(build, "attn_q", x, numHeads)),
    keys: rmsNorm(build, "attn_k_norm", heads(build, "attn_k", x, numKvHeads)),
    values: heads(build, "attn_v", x, numKvHeads),
  });
  return attended && build.product("attn_output", attended);
}

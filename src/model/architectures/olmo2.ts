import type { Tensor } from "../../ggml/tensor.js";
import type { Architecture, LayerBuild } from "../architecture.js";
import { type LlamaConfig, llama, llamaTensors } from "./llama.js";
import { asHeads, attend, norm, rmsNorm, swiglu } from "./parts.js";

/**
 * Llama whose norms stand behind attention and MLP instead of before them, and over all queries and all keys of a row before
 * these are cut into heads. @see Transformers, models/olmo2; llama.cpp, src/models/olmo2.cpp
 */
export const olmo2: Architecture<LlamaConfig> = {
  ...llama,
  name: "olmo2",
  huggingFace: {
    ...llama.huggingFace,
    className: "Olmo2ForCausalLM",
    noBiases: ["mlp_bias"],
    rmsNormEps: 1e-5,
    slidingWindow: () => undefined,
  },
  gguf: { ...llama.gguf, name: "olmo2", pairs: "half", hasFactors: false },
  tensors: (config) =>
    llamaTensors(config, [
      norm("attn_q_norm", "self_attn.q_norm", config.numHeads * config.headSize),
      norm("attn_k_norm", "self_attn.k_norm", config.numKvHeads * config.headSize),
      norm("post_attention_norm", "post_attention_layernorm", config.hiddenSize),
      norm("post_ffw_norm", "post_feedforward_layernorm", config.hiddenSize),
    ]),
  layer(build, x) {
    const attended = attention(build, x);
    if (attended === undefined) return undefined;
    const after = build.graph.add(x, rmsNorm(build, "post_attention_norm", attended));
    return build.graph.add(after, rmsNorm(build, "post_ffw_norm", swiglu(build, after)));
  },
};

function attention(build: LayerBuild, x: Tensor): Tensor | undefined {
  const { config, product } = build;
  return attend(build, {
    queries: asHeads(build, rmsNorm(build, "attn_q_norm", product("attn_q", x)), config.numHeads),
    keys: asHeads(build, rmsNorm(build, "attn_k_norm", product("attn_k", x)), config.numKvHeads),
    values: asHeads(build, product("attn_v", x), config.numKvHeads),
  });
}

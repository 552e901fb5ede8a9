import type { Architecture } from "../architecture.js";
import { type LlamaConfig, llama } from "./llama.js";
import { statedWindow } from "./parts.js";

/** Llama with a sliding window and without biases. Its GGUF files are llama's. @see Transformers, models/mistral */
export const mistral: Architecture<LlamaConfig> = {
  ...llama,
  name: "mistral",
  huggingFace: {
    className: "MistralForCausalLM",
    maxPositions: 131_072,
    numKvHeads: 8,
    noBiases: ["attention_bias", "mlp_bias"],
    slidingWindow: (fields) => {
      const size = statedWindow(fields);
      return size === undefined ? undefined : { size };
    },
    read: (config) => ({ ...config, qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false }),
  },
};

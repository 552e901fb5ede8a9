import { readInteger } from "../../files/fields.js";
import type { Architecture } from "../architecture.js";
import { type LlamaConfig, llama } from "./llama.js";

/** Llama with a sliding window and without biases. Its GGUF files are llama's. @see Transformers, models/mistral */
export const mistral: Architecture<LlamaConfig> = {
  ...llama,
  name: "mistral",
  huggingFace: {
    className: "MistralForCausalLM",
    maxPositions: 131_072,
    numKvHeads: 8,
    noBiases: ["attention_bias", "mlp_bias"],
    // null has a meaning of its own: no window.
    slidingWindow: (fields) => {
      const size = fields.get("sliding_window") === undefined ? 4096 : readInteger(fields, "sliding_window", 1);
      return size === undefined ? undefined : { size };
    },
    read: (config) => ({ ...config, qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false }),
  },
};

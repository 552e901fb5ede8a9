import { type Fields, readBoolean, readInteger } from "../../files/fields.js";
import type { Architecture, SlidingWindow } from "../architecture.js";
import { biasesIn, type LlamaConfig, llama } from "./llama.js";
import { statedWindow } from "./parts.js";

/** Llama with biases on queries, keys and values. @see Transformers, models/qwen2; llama.cpp, src/models/qwen2.cpp */
export const qwen2: Architecture<LlamaConfig> = {
  ...llama,
  name: "qwen2",
  huggingFace: {
    className: "Qwen2ForCausalLM",
    maxPositions: 32_768,
    numKvHeads: 32,
    noBiases: ["mlp_bias"],
    slidingWindow: qwenWindow,
    // Transformers gives qwen2 these three biases whatever `attention_bias` says.
    read: (config) => ({ ...config, qkvBias: true, outputBias: false, mlpBias: false, qkNorm: false }),
  },
  gguf: {
    name: "qwen2",
    pairs: "half",
    hasFactors: false,
    read: (config, _, hasTensor) => ({ ...config, ...biasesIn(hasTensor), qkNorm: false }),
  },
};

/** Qwen's models have a window only where `use_sliding_window` says so, and slide from layer `max_window_layers` on. */
function qwenWindow(
  fields: Fields,
  numLayers: number,
  layerTypes: readonly string[] | undefined,
): SlidingWindow | undefined {
  const given = statedWindow(fields);
  const size = readBoolean(fields, "use_sliding_window") ? given : undefined;
  const firstSliding = readInteger(fields, "max_window_layers", 0) ?? 28;
  if (size !== undefined) {
    const layers = layerTypes?.map((type) => type === "sliding_attention");
    return { size, layers: layers ?? Array.from({ length: numLayers }, (_, layer) => layer >= firstSliding) };
  }
  if (layerTypes?.includes("sliding_attention")) {
    throw new Error(
      `Cannot read ${fields.where}: "layer_types" names sliding layers, but "use_sliding_window" and "sliding_window" give no window`,
    );
  }
  return undefined;
}

import { type Fields, isAbsent, readBoolean, readInteger, wrongValue } from "../../files/fields.js";
import type { Architecture } from "../architecture.js";
import { biasesIn, type LlamaConfig, llama } from "./llama.js";

/** Llama in which some layers have no RoPE. @see Transformers, models/smollm3; llama.cpp, src/models/smollm3.cpp */
export const smollm3: Architecture<LlamaConfig> = {
  ...llama,
  name: "smollm3",
  huggingFace: {
    className: "SmolLM3ForCausalLM",
    maxPositions: 32_768,
    numKvHeads: 4,
    tiedHead: true,
    reads: ["no_rope_layers", "no_rope_layer_interval"],
    slidingWindow(fields) {
      // No published model has it, and GGUF cannot say it.
      if (readBoolean(fields, "use_sliding_window")) throw wrongValue(fields, "use_sliding_window", "false");
      return undefined;
    },
    read: (config, fields) => ({
      ...llama.huggingFace.read(config, fields),
      layersWithoutRope: readLayersWithoutRope(fields, config.numLayers),
    }),
  },
  gguf: {
    ...llama.gguf,
    name: "smollm3",
    hasFactors: false,
    read: (config, _, hasTensor) => ({
      ...config,
      ...biasesIn(hasTensor),
      qkNorm: false,
      layersWithoutRope: everyNth(ggufInterval, config.numLayers),
    }),
    write({ numLayers, layersWithoutRope }) {
      if (String(layersWithoutRope) === String(everyNth(ggufInterval, numLayers))) return [];
      throw new Error(
        `Cannot convert a smollm3 model: layers ${layersWithoutRope?.join(", ") || "none"} have no RoPE, in GGUF every ${ggufInterval}th has none`,
      );
    },
  },
};

/** llama.cpp knows no other. */
const ggufInterval = 4;

function everyNth(interval: number, numLayers: number): number[] {
  return Array.from({ length: Math.floor(numLayers / interval) }, (_, i) => (i + 1) * interval - 1);
}

/** `no_rope_layers` has 1 for each layer with RoPE and 0 for each without, and possibly more than there are layers. */
function readLayersWithoutRope(fields: Fields, numLayers: number): number[] {
  const list = fields.get("no_rope_layers");
  if (isAbsent(fields, "no_rope_layers")) {
    return everyNth(readInteger(fields, "no_rope_layer_interval", 1) ?? ggufInterval, numLayers);
  }
  if (!Array.isArray(list) || list.length < numLayers || !list.every((flag) => flag === 0 || flag === 1)) {
    throw wrongValue(fields, "no_rope_layers", `a list of ${numLayers} or more times 0 or 1`);
  }
  return [...list.slice(0, numLayers).keys()].filter((layer) => list[layer] === 0);
}

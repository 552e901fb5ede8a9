import { readBoolean, readPositive, required } from "../../files/fields.js";
import type { Architecture } from "../architecture.js";
import { biasesIn, type LlamaConfig, llama } from "./llama.js";
import { attention, embedding, normedHead, preNormLayer, swiglu } from "./parts.js";

export type GraniteConfig = LlamaConfig & Multipliers;

interface Multipliers {
  readonly embeddingMultiplier: number;
  /** Of what attention and MLP add to the rows. */
  readonly residualMultiplier: number;
  /** Of the scores. Llama's is 1 over the root of the head size. */
  readonly attentionMultiplier: number;
  /** What the logits are divided by. */
  readonly logitsScaling: number;
}

const jsonKeys = {
  embeddingMultiplier: "embedding_multiplier",
  residualMultiplier: "residual_multiplier",
  attentionMultiplier: "attention_multiplier",
  logitsScaling: "logits_scaling",
} as const;
const ggufKeys = {
  embeddingMultiplier: "embedding_scale",
  residualMultiplier: "residual_scale",
  attentionMultiplier: "attention.scale",
  logitsScaling: "logit_scale",
} as const;
const finetuned = "rope.scaling.finetuned";

/** Llama with multipliers. @see Transformers, models/granite; llama.cpp, src/models/granite.cpp */
export const granite: Architecture<GraniteConfig> = {
  ...llama,
  name: "granite",
  huggingFace: {
    ...llama.huggingFace,
    className: "GraniteForCausalLM",
    reads: Object.values(jsonKeys),
    slidingWindow: () => undefined,
    read: (config, fields) => ({
      ...llama.huggingFace.read(config, fields),
      ...readMultipliers((name) => readPositive(fields, jsonKeys[name]) ?? 1),
    }),
  },
  gguf: {
    ...llama.gguf,
    name: "granite",
    reads: [...Object.values(ggufKeys), finetuned],
    read(config, fields, hasTensor) {
      const defaults: Partial<Multipliers> = {
        embeddingMultiplier: 1,
        residualMultiplier: 1,
        attentionMultiplier: 1 / Math.sqrt(config.headSize),
      };
      return {
        ...config,
        ...biasesIn(hasTensor),
        qkNorm: false,
        // What only informs elsewhere says here whether there is RoPE at all.
        ...(readBoolean(fields, `granite.${finetuned}`) === false && {
          layersWithoutRope: [...Array(config.numLayers).keys()],
        }),
        ...readMultipliers((name) => {
          const key = `granite.${ggufKeys[name]}`;
          // llama.cpp takes 0 for absent.
          const given = fields.get(key) === 0 ? undefined : readPositive(fields, key);
          return required(fields, key, given ?? defaults[name]);
        }),
      };
    },
    *write(config) {
      for (const [name, key] of Object.entries(ggufKeys)) {
        yield [key, { kind: "f32", value: config[name as keyof Multipliers] }];
      }
      if (config.layersWithoutRope) yield [finetuned, { kind: "bool", value: false }];
    },
  },
  attentionScale: ({ attentionMultiplier }) => attentionMultiplier,
  embed: (build, tokens) => build.graph.scale(embedding(build, tokens), build.config.embeddingMultiplier),
  layer(build, x) {
    const { graph, config } = build;
    return preNormLayer(
      build,
      x,
      (_, rows) => {
        const attended = attention(build, rows);
        return attended && graph.scale(attended, config.residualMultiplier);
      },
      (_, rows) => graph.scale(swiglu(build, rows), config.residualMultiplier),
    );
  },
  head: (build, x) => build.graph.scale(normedHead(build, x), 1 / build.config.logitsScaling),
};

function readMultipliers(read: (name: keyof Multipliers) => number): Multipliers {
  return {
    embeddingMultiplier: read("embeddingMultiplier"),
    residualMultiplier: read("residualMultiplier"),
    attentionMultiplier: read("attentionMultiplier"),
    logitsScaling: read("logitsScaling"),
  };
}

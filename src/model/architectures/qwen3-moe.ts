import { type Fields, readBoolean, readInteger, required, wrongValue } from "../../files/fields.js";
import type { Architecture, NeededTensor } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import type { LlamaConfig } from "./llama.js";
import { type ExpertsConfig, experts, linear, normedAttention, preNormLayer, statedWindow, swiglu } from "./parts.js";
import { qwen2 } from "./qwen2.js";
import { qwen3, qwen3Tensors } from "./qwen3.js";

export type Qwen3MoeConfig = LlamaConfig & ExpertsConfig;

/** Transformers' defaults. */
const [defaultExperts, defaultUsed, defaultSize] = [128, 8, 768];
/** Generous: models have up to 512 experts. Of one, ggml would choose kernels by the number of rows: `CpuPolicy`. */
const [minExperts, maxExperts] = [2, 65_536];
const ggufName = "qwen3moe";

/** Qwen3 with a mixture of experts for MLP. @see Transformers, models/qwen3_moe; llama.cpp, src/models/qwen3moe.cpp */
export const qwen3Moe: Architecture<Qwen3MoeConfig> = {
  ...qwen3,
  name: "qwen3_moe",
  huggingFace: {
    ...qwen2.huggingFace,
    className: "Qwen3MoeForCausalLM",
    numKvHeads: 4,
    // In all layers, or in none.
    slidingWindow: (fields) => {
      const size = statedWindow(fields);
      return readBoolean(fields, "use_sliding_window") && size !== undefined ? { size } : undefined;
    },
    reads: [
      "num_experts",
      "num_local_experts",
      "num_experts_per_tok",
      "moe_intermediate_size",
      "norm_topk_prob",
      "decoder_sparse_step",
      "mlp_only_layers",
    ],
    read: (config, fields) => ({
      ...qwen3.huggingFace.read(config, fields),
      ...requireExperts(fields, {
        numExperts: readNumExperts(fields),
        numExpertsUsed: readInteger(fields, "num_experts_per_tok", 1) ?? defaultUsed,
        expertSize: readInteger(fields, "moe_intermediate_size", 1) ?? defaultSize,
        normalizesExperts: readBoolean(fields, "norm_topk_prob") ?? false,
        expertStep: readInteger(fields, "decoder_sparse_step", 1) ?? 1,
        denseLayers: readDenseLayers(fields, config),
      }),
    }),
  },
  gguf: {
    ...qwen3.gguf,
    name: ggufName,
    reads: ["expert_count", "expert_used_count", "expert_feed_forward_length"],
    read: (config, fields, hasTensor) => {
      const need = (name: string, min = 1) => {
        const key = `${ggufName}.${name}`;
        return required(fields, key, readInteger(fields, key, min, maxExperts));
      };
      return {
        ...qwen3.gguf.read(config, fields, hasTensor),
        ...requireExperts(fields, {
          numExperts: need("expert_count", minExperts),
          numExpertsUsed: need("expert_used_count"),
          expertSize: need("expert_feed_forward_length"),
          normalizesExperts: true,
          expertStep: 1,
          denseLayers: [],
        }),
      };
    },
    *write({ numExperts, numExpertsUsed, expertSize, normalizesExperts, expertStep, denseLayers }) {
      const reason = !normalizesExperts
        ? "weights of experts that do not add up to 1"
        : expertStep > 1 || denseLayers.length > 0
          ? "layers without experts"
          : undefined;
      if (reason !== undefined) throw new Error(`Cannot convert this model: GGUF has no ${reason} for ${ggufName}`);
      yield ["expert_count", { kind: "u32", value: numExperts }];
      yield ["expert_used_count", { kind: "u32", value: numExpertsUsed }];
      yield ["expert_feed_forward_length", { kind: "u32", value: expertSize }];
    },
  },
  tensors: (config) => qwen3Tensors(config, (layer) => (isDense(config, layer) ? undefined : expertTensors(config))),
  layer: (build, x) => preNormLayer(build, x, normedAttention, isDense(build.config, build.layer) ? swiglu : experts),
};

function readNumExperts(fields: Fields): number {
  // Transformers 5 writes the second name.
  const [own, other] = ["num_experts", "num_local_experts"].map((key) =>
    readInteger(fields, key, minExperts, maxExperts),
  );
  if (own !== undefined && other !== undefined && own !== other) {
    throw wrongValue(fields, "num_local_experts", `"num_experts", which is ${own},`);
  }
  return own ?? other ?? defaultExperts;
}

function readDenseLayers(fields: Fields, { numLayers }: ModelConfig): readonly number[] {
  const listed: unknown = fields.get("mlp_only_layers") ?? [];
  if (!Array.isArray(listed) || !listed.every((layer) => Number.isSafeInteger(layer))) {
    throw wrongValue(fields, "mlp_only_layers", "a list of layers");
  }
  return listed.filter((layer: number) => layer >= 0 && layer < numLayers);
}

function isDense({ denseLayers, expertStep }: ExpertsConfig, layer: number): boolean {
  return denseLayers.includes(layer) || (layer + 1) % expertStep !== 0;
}

function requireExperts(fields: Fields, config: ExpertsConfig): ExpertsConfig {
  const { numExperts, numExpertsUsed } = config;
  if (numExpertsUsed > numExperts) {
    throw new Error(`Cannot read ${fields.where}: a token uses ${numExpertsUsed} experts of ${numExperts}`);
  }
  return config;
}

function expertTensors({ hiddenSize, numExperts, expertSize }: Qwen3MoeConfig): NeededTensor[] {
  const stack = (
    name: string,
    part: string,
    [rows, columns]: readonly [number, number],
    fused: NonNullable<NeededTensor["fused"]>,
  ) => {
    const huggingFaceName = `mlp.experts.*.${part}_proj.weight`;
    return { name: `${name}_exps.weight`, huggingFaceName, shape: [numExperts, rows, columns], fused };
  };
  const gateUp = (index: number) => ({ huggingFaceName: "mlp.experts.gate_up_proj", index, of: 2 });
  const wide = [expertSize, hiddenSize] as const;
  return [
    // A token's experts must not change with rounding.
    ...linear("ffn_gate_inp", "mlp.gate", [numExperts, hiddenSize]).map((router) => ({
      ...router,
      isPrecise: true as const,
    })),
    stack("ffn_gate", "gate", wide, gateUp(0)),
    stack("ffn_up", "up", wide, gateUp(1)),
    stack("ffn_down", "down", [hiddenSize, expertSize], { huggingFaceName: "mlp.experts.down_proj", index: 0, of: 1 }),
  ];
}

import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import {
  type Fields,
  objectFields,
  readBoolean,
  readInteger,
  readPositive,
  readText,
  refuseUnread,
  required,
  wrongValue,
} from "../files/fields.js";
import { quote } from "../files/quote.js";
import type { Architecture, SlidingWindow } from "./architecture.js";
import { unsupported } from "./architectures/refused.js";
import { architectures } from "./architectures/registry.js";
import { parseBlockAttentionConfig } from "./block-attention-config.js";
import { checkModelConfig, type ModelConfig } from "./config.js";
import { parseHuggingFaceRope } from "./hugging-face-rope.js";

/**
 * Reads config.json as Transformers 4 and 5 write it; what is absent has Transformers' default for the architecture.
 *
 * Keys that only inform are passed over. Keys known to change the arithmetic, which no code here reads, are refused unless
 * they stand at the value that changes nothing.
 *
 * @param where the file for errors, for instance its quoted path.
 * @throws Error of one line naming the key, its value and what is wanted.
 * @see Transformers 5.23, models/{llama,mistral,qwen2,qwen3}/configuration_*.py
 */
export function parseHuggingFaceConfig(
  json: JsonValue,
  where: string,
): { readonly architecture: Architecture; readonly config: ModelConfig } {
  if (!isJsonObject(json)) throw new Error(`Cannot read ${where}: it is no object`);
  const fields = objectFields(where, json);
  const architecture = readArchitecture(fields);
  const traits = architecture.huggingFace;
  refuseUnreadSettings(fields, architecture);
  const numHeads = needCount(fields, "num_attention_heads");
  const hiddenSize = needCount(fields, "hidden_size");
  const headSize = readInteger(fields, "head_dim", 1) ?? traits.headSize ?? hiddenSize / numHeads;
  if (!Number.isInteger(headSize)) {
    throw new Error(
      `Cannot read ${where}: "hidden_size" ${hiddenSize} is no multiple of "num_attention_heads" ${numHeads}, and "head_dim" is missing`,
    );
  }
  const numLayers = needCount(fields, "num_hidden_layers");
  const maxPositions = readInteger(fields, "max_position_embeddings", 1) ?? traits.maxPositions;
  const config: ModelConfig = {
    architecture: architecture.name,
    vocabSize: needCount(fields, "vocab_size"),
    numLayers,
    hiddenSize,
    intermediateSize: needCount(fields, "intermediate_size"),
    numHeads,
    numKvHeads: readNumKvHeads(fields, numHeads, traits.numKvHeads),
    headSize,
    rmsNormEps: readPositive(fields, "rms_norm_eps") ?? traits.rmsNormEps ?? 1e-6,
    ...parseHuggingFaceRope(json, where, { headSize, maxPositions, architecture }),
    ...slidingFields(traits.slidingWindow(fields, numLayers, readLayerTypes(fields, numLayers))),
    tiedHead: readBoolean(fields, "tie_word_embeddings") ?? traits.tiedHead ?? false,
    blockAttention: parseBlockAttentionConfig(json.block_attention, where),
  };
  checkModelConfig(config, where);
  return { architecture, config: traits.read(config, fields) };
}

/** A window as the config has it: said as shortly as it can be, for it decides block ids. */
export function slidingFields(window: SlidingWindow | undefined): Pick<ModelConfig, "slidingWindow" | "slidingLayers"> {
  const { size, layers } = window ?? {};
  if (size === undefined || layers?.every((slides) => !slides)) return { slidingWindow: undefined };
  return { slidingWindow: size, ...(layers?.includes(false) && { slidingLayers: layers }) };
}

/**
 * The ids that end an answer: `eos_token_id` of config.json or generation_config.json, one or a list.
 *
 * @throws Error if it is neither.
 */
export function readEndTokenIds(json: JsonObject, where: string): number[] {
  const fields = objectFields(where, json);
  const value: unknown = fields.get("eos_token_id") ?? [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  if (!ids.every((id): id is number => typeof id === "number" && Number.isSafeInteger(id) && id >= 0)) {
    throw wrongValue(fields, "eos_token_id", "a token id or a list of them");
  }
  return ids;
}

function readArchitecture(fields: Fields): Architecture {
  const modelType = required(fields, "model_type", readText(fields, "model_type"));
  const architecture = architectures.find(({ name }) => name === modelType);
  if (architecture === undefined) {
    throw unsupported(
      fields.where,
      '"model_type"',
      modelType,
      architectures.map(({ name }) => name),
    );
  }
  const { className } = architecture.huggingFace;
  const classes: unknown = fields.get("architectures") ?? [className];
  if (!Array.isArray(classes) || classes.length !== 1 || classes[0] !== className) {
    const shown = quote(Array.isArray(classes) ? classes.map(String).join(", ") : String(classes), 60);
    throw new Error(
      `Cannot read ${fields.where}: "architectures" says ${shown}, for ${modelType} only ${quote(className)} is supported`,
    );
  }
  return architecture;
}

/** Generous: the largest models have 126 layers and rows of 53,248. */
const maxCount = 2 ** 24;

function needCount(fields: Fields, key: string): number {
  return required(fields, key, readInteger(fields, key, 1, maxCount));
}

function readNumKvHeads(fields: Fields, numHeads: number, fallback: number | undefined): number {
  if (fields.get("num_key_value_heads") === undefined && fallback !== undefined) return fallback;
  return readInteger(fields, "num_key_value_heads", 1, maxCount) ?? numHeads;
}

function readLayerTypes(fields: Fields, numLayers: number): readonly string[] | undefined {
  const value: unknown = fields.get("layer_types") ?? undefined;
  if (value === undefined) return undefined;
  const known = ["full_attention", "sliding_attention"];
  if (!Array.isArray(value) || value.length !== numLayers || !value.every((type) => known.includes(type))) {
    throw wrongValue(
      fields,
      "layer_types",
      `a list of ${numLayers} times ${known.map((type) => quote(type)).join(" or ")}`,
    );
  }
  return value;
}

/** Settings of other models and of changed ones, each with the values that change nothing. Absent and null change nothing. */
const unreadSettings: ReadonlyMap<string, readonly JsonValue[]> = new Map<string, readonly JsonValue[]>([
  ["quantization_config", []],
  ["compression_config", []],
  // other parts of a model
  ["text_config", []],
  ["vision_config", []],
  ["audio_config", []],
  ["is_encoder_decoder", [false]],
  ["add_cross_attention", [false]],
  ["pruned_heads", []],
  ["num_nextn_predict_layers", [0]],
  // mixtures of experts
  ["num_experts", [0]],
  ["num_local_experts", [0]],
  ["n_routed_experts", [0]],
  ["num_experts_per_tok", [0]],
  ["moe_intermediate_size", [0]],
  // caps and multipliers
  ["attn_logit_softcapping", [0]],
  ["final_logit_softcapping", [0]],
  ["logit_softcapping", [0]],
  ["attention_multiplier", []],
  ["query_pre_attn_scalar", []],
  ["residual_multiplier", [1]],
  ["embedding_multiplier", [1]],
  ["logits_scaling", [1]],
  ["logit_scale", [1]],
  ["scale_emb", [1]],
  ["scale_depth", []],
  ["scale_attn_by_inverse_layer_idx", [false]],
  ["scale_attn_weights", [true]],
  ["normalize_embedding", [false]],
  // other attention, other places
  ["is_causal", [true]],
  ["use_bidirectional_attention", [false]],
  ["alibi", [false]],
  ["clip_qkv", []],
  ["use_qk_norm", [false]],
  ["qk_norm", [false]],
  ["qk_layernorm", [false]],
  ["use_parallel_residual", [false]],
  ["parallel_attn", [false]],
  ["attention_chunk_size", []],
  ["dual_chunk_attention_config", []],
  ["attn_temperature_tuning", [false]],
  ["no_rope_layers", []],
  ["no_rope_layer_interval", []],
  ["rotary_pct", [1]],
  ["rope_interleaved", [false]],
  ["rope_interleave", [false]],
  ["attention_out_bias", [false]],
  ["use_bias", [false]],
]);

function refuseUnreadSettings(fields: Fields, { name, huggingFace }: Architecture): void {
  const { reads = [], noBiases = [], activation = { key: "hidden_act", name: "silu" } } = huggingFace;
  const named = readText(fields, activation.key) ?? activation.name;
  if (named !== activation.name && !reads.includes(activation.key)) {
    throw wrongValue(fields, activation.key, quote(activation.name));
  }
  refuseUnread(
    fields,
    [...unreadSettings].filter(([key]) => !reads.includes(key)),
  );
  for (const key of noBiases) {
    if (readBoolean(fields, key)) {
      throw new Error(`Cannot read ${fields.where}: ${quote(key)} is true, ${name} has no such biases`);
    }
  }
}

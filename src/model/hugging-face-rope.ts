import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import {
  type Fields,
  isAbsent,
  objectFields,
  readBoolean,
  readInteger,
  readPositive,
  readText,
  required,
  wrongValue,
} from "../files/fields.js";
import { quote } from "../files/quote.js";
import type { RopeConfig, RopeScaling } from "./rope.js";

/** RoPE as config.json describes it, and how long a context it reaches. */
export interface HuggingFaceRope {
  readonly rope: RopeConfig;
  /** In tokens. */
  readonly contextLength: number;
}

/**
 * Reads RoPE from config.json: `rope_parameters` (Transformers 5), or `rope_theta` and `rope_scaling` (Transformers 4, whose
 * older files name the kind `type`).
 *
 * The context is `max_position_embeddings` as given, but for YaRN over a stated original context at least factor times
 * that: the recipe of Qwen 2.5 adds YaRN to a config whose `max_position_embeddings` still is the original.
 *
 * @param maxPositions `max_position_embeddings`, the default filled in.
 * @throws Error for a kind whose angles are not linear in the position, and for settings that no code reads.
 * @see Transformers 5.23, modeling_rope_utils.py, RotaryEmbeddingConfigMixin
 */
export function parseHuggingFaceRope(
  config: JsonObject,
  where: string,
  headSize: number,
  maxPositions: number,
): HuggingFaceRope {
  const top = objectFields(where, config);
  const found = ["rope_scaling", "rope_parameters"]
    .map((key) => ({ key, value: top.get(key) as JsonValue | undefined }))
    .filter(
      ({ value }) => value !== undefined && value !== null && !(isJsonObject(value) && Object.keys(value).length === 0),
    );
  const read = found.map(({ key, value }) => {
    if (!isJsonObject(value)) throw wrongValue(top, key, "an object");
    return parseParameters(
      objectFields(`${quote(key)} of ${where}`, value),
      Object.keys(value),
      top,
      headSize,
      maxPositions,
    );
  });
  const [first, second] = read;
  if (first === undefined) {
    const theta = readPositive(top, "rope_theta") ?? defaultTheta;
    return { rope: { headSize, theta, scaling: { kind: "none" }, pairs: "half" }, contextLength: maxPositions };
  }
  if (second !== undefined && JSON.stringify(first) !== JSON.stringify(second)) {
    throw new Error(`Cannot read ${where}: "rope_scaling" and "rope_parameters" say different things`);
  }
  return first;
}

/** Transformers' default of all four architectures. */
const defaultTheta = 10_000;

const yarnKeys = [
  "factor",
  "original_max_position_embeddings",
  "attention_factor",
  "beta_fast",
  "beta_slow",
  "mscale",
  "mscale_all_dim",
  "truncate",
];

/** What each kind reads, beside what all have. */
const keysOfKind: ReadonlyMap<string, readonly string[]> = new Map([
  ["default", []],
  ["linear", ["factor"]],
  ["llama3", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]],
  ["yarn", yarnKeys],
]);
/** `finetuned` is only information. */
const commonKeys = ["rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"];

function parseParameters(
  fields: Fields,
  keys: readonly string[],
  top: Fields,
  headSize: number,
  maxPositions: number,
): HuggingFaceRope {
  const kind = readText(fields, "rope_type") ?? readText(fields, "type") ?? "default";
  const known = keysOfKind.get(kind);
  if (known === undefined) {
    const reason = totalLengthKinds.has(kind)
      ? "its angles depend on the prompt's whole length, so stored keys cannot be moved"
      : "only default, linear, llama3 and yarn are read";
    throw new Error(`Cannot read ${fields.where}: the RoPE type ${quote(kind, 60)} is refused, ${reason}`);
  }
  const unread = keys.find((key) => !isAbsent(fields, key) && !commonKeys.includes(key) && !known.includes(key));
  if (unread !== undefined) {
    throw new Error(`Cannot read ${fields.where}: ${quote(unread)} is not read for the RoPE type ${quote(kind)}`);
  }
  const partial = readPositive(fields, "partial_rotary_factor") ?? 1;
  if (partial !== 1) {
    throw new Error(`Cannot read ${fields.where}: "partial_rotary_factor" is ${partial}, only whole heads are rotated`);
  }
  const theta = readPositive(fields, "rope_theta") ?? readPositive(top, "rope_theta") ?? defaultTheta;
  const scaling = parseScaling(kind, fields, top, maxPositions);
  const statesOriginal = [fields, top].some((from) => !isAbsent(from, "original_max_position_embeddings"));
  const contextLength =
    scaling.kind === "yarn" && statesOriginal
      ? Math.max(maxPositions, Math.floor(scaling.factor * scaling.originalContextLength))
      : maxPositions;
  return { rope: { headSize, theta, scaling, pairs: "half" }, contextLength };
}

const totalLengthKinds: ReadonlySet<string> = new Set(["dynamic", "longrope", "su"]);

function parseScaling(kind: string, fields: Fields, top: Fields, maxPositions: number): RopeScaling {
  if (kind === "default") return { kind: "none" };
  // The key beside the RoPE parameters comes first, as in Transformers.
  const originalContextLength =
    readInteger(top, "original_max_position_embeddings", 1) ??
    readInteger(fields, "original_max_position_embeddings", 1) ??
    maxPositions;
  const givenFactor = readPositive(fields, "factor");
  if (kind === "yarn") {
    return parseYarn(fields, givenFactor ?? maxPositions / originalContextLength, originalContextLength);
  }
  const factor = required(fields, "factor", givenFactor);
  if (kind === "linear") return { kind: "linear", factor };
  const lowFrequencyFactor = required(fields, "low_freq_factor", readPositive(fields, "low_freq_factor"));
  const highFrequencyFactor = required(fields, "high_freq_factor", readPositive(fields, "high_freq_factor"));
  if (highFrequencyFactor <= lowFrequencyFactor) {
    throw wrongValue(fields, "high_freq_factor", `more than "low_freq_factor", ${lowFrequencyFactor},`);
  }
  return { kind: "llama3", factor, lowFrequencyFactor, highFrequencyFactor, originalContextLength };
}

function parseYarn(fields: Fields, factor: number, originalContextLength: number): RopeScaling {
  const mscale = readNumber(fields, "mscale");
  const mscaleAllDim = readNumber(fields, "mscale_all_dim");
  // Transformers takes the ratio only where both are given and not 0.
  const recommended =
    mscale && mscaleAllDim
      ? yarnMagnitude(factor, mscale) / yarnMagnitude(factor, mscaleAllDim)
      : yarnMagnitude(factor);
  if (!(recommended > 0)) throw wrongValue(fields, "mscale", "a number that keeps the attention factor above 0");
  return {
    kind: "yarn",
    factor,
    originalContextLength,
    betaFast: readPositive(fields, "beta_fast") ?? 32,
    betaSlow: readPositive(fields, "beta_slow") ?? 1,
    attentionFactor: readPositive(fields, "attention_factor") ?? recommended,
    truncate: readBoolean(fields, "truncate") ?? true,
  };
}

/** By how much YaRN's authors let queries and keys grow at this factor. @see arXiv:2309.00071 §3.4 */
export function yarnMagnitude(factor: number, multiplier = 1): number {
  return factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1;
}

function readNumber(fields: Fields, key: string): number | undefined {
  const value = fields.get(key) ?? undefined;
  if (value !== undefined && (typeof value !== "number" || !Number.isFinite(value))) {
    throw wrongValue(fields, key, "a number");
  }
  return value;
}

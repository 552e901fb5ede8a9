import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import {
  type Fields,
  isAbsent,
  objectFields,
  readBoolean,
  readInteger,
  readNumber,
  readPositive,
  readText,
  required,
  wrongValue,
} from "../files/fields.js";
import { quote } from "../files/quote.js";
import type { Architecture } from "./architecture.js";
import type { ModelConfig } from "./config.js";
import type { RopeConfig, RopeScaling } from "./rope.js";

/** RoPE as config.json describes it, and how long a context it reaches. */
export interface HuggingFaceRope extends Pick<ModelConfig, "rope" | "localRope"> {
  /** In tokens. */
  readonly contextLength: number;
}

/** What the RoPE parameters are read beside. */
interface RopeReading {
  readonly headSize: number;
  /** `max_position_embeddings`, the default filled in. */
  readonly maxPositions: number;
  readonly architecture: Pick<Architecture, "localTheta" | "hasPartialRope" | "huggingFace">;
}

/**
 * Reads RoPE from config.json: `rope_parameters` (Transformers 5), or `rope_theta` and `rope_scaling` (Transformers 4, whose
 * older files name the kind `type`). Where sliding layers turn otherwise, `rope_parameters` has an object for each kind of
 * layer, and Transformers 4 wrote `rope_local_base_freq`.
 *
 * The context is `max_position_embeddings` as given, but for longrope the original context, and for YaRN over a stated original
 * context at least factor times that: the recipe of Qwen 2.5 adds YaRN to a config whose `max_position_embeddings` still is the
 * original.
 *
 * @throws Error for a kind whose angles are not linear in the position, and for settings that no code reads.
 * @see Transformers 5.23, modeling_rope_utils.py, RotaryEmbeddingConfigMixin
 */
export function parseHuggingFaceRope(config: JsonObject, where: string, reading: RopeReading): HuggingFaceRope {
  const { architecture } = reading;
  const top = objectFields(where, config);
  const object = (fields: Fields, key: string): JsonObject | undefined => {
    const value = (fields.get(key) ?? undefined) as JsonValue | undefined;
    if (value !== undefined && !isJsonObject(value)) throw wrongValue(fields, key, "an object");
    return value === undefined || Object.keys(value).length === 0 ? undefined : value;
  };
  const { localTheta } = architecture;
  const read = ["rope_scaling", "rope_parameters"].flatMap((key): HuggingFaceRope[] => {
    const found = object(top, key);
    if (found === undefined) return [];
    const parse = (value: JsonObject) =>
      parseParameters(objectFields(`${quote(key)} of ${where}`, value), Object.keys(value), top, reading);
    const isByLayer = localTheta !== undefined && ["full_attention", "sliding_attention"].some((kind) => kind in found);
    if (!isByLayer) return [parse(found)];
    const byLayer = objectFields(`${quote(key)} of ${where}`, found);
    const local = parse({ rope_theta: localTheta, ...object(byLayer, "sliding_attention") });
    return [{ ...parse(object(byLayer, "full_attention") ?? {}), localRope: local.rope }];
  });
  const [first = parseParameters(objectFields(where, {}), [], top, reading), second] = read;
  if (second !== undefined && JSON.stringify(first) !== JSON.stringify(second)) {
    throw new Error(`Cannot read ${where}: "rope_scaling" and "rope_parameters" say different things`);
  }
  if (localTheta === undefined || first.localRope !== undefined) return first;
  const theta = readPositive(top, "rope_local_base_freq") ?? localTheta;
  return { ...first, localRope: { ...first.rope, theta, scaling: { kind: "none" } } };
}

/** Transformers' default of most architectures. */
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

const longRopeKeys = ["short_factor", "long_factor", "factor", "attention_factor", "original_max_position_embeddings"];

/** What each kind reads, beside what all have. */
const keysOfKind: ReadonlyMap<string, readonly string[]> = new Map([
  ["default", []],
  ["linear", ["factor"]],
  ["llama3", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]],
  ["yarn", yarnKeys],
  ["longrope", longRopeKeys],
  ["su", longRopeKeys],
]);
export const ropeTypes: readonly string[] = [...keysOfKind.keys()];
/** `finetuned` is only information. */
const commonKeys = ["rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"];

function parseParameters(
  fields: Fields,
  keys: readonly string[],
  top: Fields,
  { headSize, maxPositions, architecture }: RopeReading,
): HuggingFaceRope {
  const kind = readText(fields, "rope_type") ?? readText(fields, "type") ?? "default";
  const known = keysOfKind.get(kind);
  if (known === undefined) {
    const reason =
      kind === "dynamic"
        ? "its angles depend on the prompt's whole length, so stored keys cannot be moved"
        : `only ${ropeTypes.join(", ")} are read`;
    throw new Error(`Cannot read ${fields.where}: the RoPE type ${quote(kind, 60)} is refused, ${reason}`);
  }
  const unread = keys.find((key) => !isAbsent(fields, key) && !commonKeys.includes(key) && !known.includes(key));
  if (unread !== undefined) {
    throw new Error(`Cannot read ${fields.where}: ${quote(unread)} is not read for the RoPE type ${quote(kind)}`);
  }
  const partial = readPositive(fields, "partial_rotary_factor") ?? readPositive(top, "partial_rotary_factor") ?? 1;
  const rotatedSize = Math.floor(headSize * partial);
  if (rotatedSize !== headSize && (architecture.hasPartialRope !== true || partial > 1)) {
    throw new Error(`Cannot read ${fields.where}: "partial_rotary_factor" is ${partial}, only whole heads are rotated`);
  }
  const theta =
    readPositive(fields, "rope_theta") ??
    readPositive(top, "rope_theta") ??
    architecture.huggingFace.theta ??
    defaultTheta;
  const scaling = parseScaling(kind, fields, top, maxPositions);
  const statesOriginal = [fields, top].some((from) => !isAbsent(from, "original_max_position_embeddings"));
  const rope: RopeConfig = {
    headSize,
    ...(rotatedSize !== headSize && { rotatedSize }),
    theta,
    scaling,
    pairs: "half",
  };
  return { rope, contextLength: reachOf(scaling, maxPositions, statesOriginal) };
}

/** The longest context, of a model whose files say `contextLength` and may state the original one. */
export function reachOf(scaling: RopeScaling, contextLength: number, statesOriginal: boolean): number {
  if (scaling.kind === "longrope") return Math.min(contextLength, scaling.originalContextLength);
  if (scaling.kind !== "yarn" || !statesOriginal) return contextLength;
  return Math.max(contextLength, Math.floor(scaling.factor * scaling.originalContextLength));
}

function parseScaling(kind: string, fields: Fields, top: Fields, maxPositions: number): RopeScaling {
  if (kind === "default") return { kind: "none" };
  // The key beside the RoPE parameters comes first, as in Transformers.
  const originalContextLength =
    readInteger(top, "original_max_position_embeddings", 1) ??
    readInteger(fields, "original_max_position_embeddings", 1) ??
    maxPositions;
  const givenFactor = readPositive(fields, "factor");
  if (kind === "longrope" || kind === "su") {
    return parseLongRope(fields, givenFactor ?? maxPositions / originalContextLength, {
      originalContextLength,
      longContextLength: maxPositions,
    });
  }
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

function parseLongRope(
  fields: Fields,
  factor: number,
  lengths: { readonly originalContextLength: number; readonly longContextLength: number },
): RopeScaling {
  const factorsOf = (key: string): readonly number[] => {
    const value: unknown = fields.get(key);
    if (!Array.isArray(value) || !value.every((x) => Number.isFinite(x) && x > 0)) {
      throw wrongValue(fields, key, "a list of numbers above 0");
    }
    return value;
  };
  const recommended = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(lengths.originalContextLength));
  return {
    kind: "longrope",
    factors: factorsOf("short_factor"),
    longFactors: factorsOf("long_factor"),
    attentionFactor: readPositive(fields, "attention_factor") ?? recommended,
    ...lengths,
  };
}

/** By how much YaRN's authors let queries and keys grow at this factor. @see arXiv:2309.00071 §3.4 */
export function yarnMagnitude(factor: number, multiplier = 1): number {
  return factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1;
}

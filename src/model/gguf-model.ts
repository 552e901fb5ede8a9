import { resolve } from "node:path";
import { type Fields, isAbsent, readInteger, readPositive, readText, required, wrongValue } from "../files/fields.js";
import { type GgufFile, type GgufMetadata, readGguf } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import { readRange } from "../files/read-range.js";
import type { FileTensor } from "../files/tensor-source.js";
import type { Architecture, SlidingWindow } from "./architecture.js";
import { unsupported } from "./architectures/refused.js";
import { architectures } from "./architectures/registry.js";
import { readGgufBlockAttention } from "./block-attention-config.js";
import { checkModelConfig, type ModelConfig } from "./config.js";
import { slidingFields } from "./hugging-face-config.js";
import { reachOf, yarnMagnitude } from "./hugging-face-rope.js";
import { adapterAsModel } from "./model-path.js";
import type { ModelSource } from "./model-source.js";
import { pickTensors } from "./pick-tensors.js";
import type { RopeConfig, RopeScaling } from "./rope.js";

/**
 * Reads a GGUF model as far as its headers, and the few numbers of RoPE's factors.
 *
 * @throws Error of one line for whatever is missing, not sound or not supported.
 * @see llama.cpp, src/llama-model.cpp (load_hparams), src/llama-context.cpp (YaRN), src/models/*.cpp
 */
export async function openGgufModel(path: string): Promise<ModelSource> {
  const file = await readGguf(resolve(path));
  const where = quote(file.path);
  if (file.tensors.size === 0) throw new Error(`Cannot read ${where}: it holds only a vocabulary, no tensors`);
  const { architecture, config } = await readConfig(file, where);
  const tensors = pickTensors(
    architecture,
    config,
    file.tensors,
    "name",
    // Old files carry angles that nothing reads; RoPE's factors were read above, if at all.
    (name) =>
      name.endsWith(".attn_rot_embd.weight") ||
      name.endsWith(".attn_rot_embd") ||
      (architecture.gguf.hasFactors && name === ropeFactorsName) ||
      (architecture.gguf.hasLongRope === true && [shortFactorsName, longFactorsName].includes(name)),
    where,
  );
  return {
    kind: "gguf",
    path: file.path,
    architecture,
    config,
    tensors,
    files: file.files,
    endTokenIds: readEndTokenIds(file.metadata, where),
    warnings: [],
  };
}

export const localThetaKey = "rope.freq_base_swa";
export const ropeFactorsName = "rope_freqs.weight";
export const shortFactorsName = "rope_factors_short.weight";
export const longFactorsName = "rope_factors_long.weight";

async function readConfig(
  file: GgufFile,
  where: string,
): Promise<{ readonly architecture: Architecture; readonly config: ModelConfig }> {
  const { metadata, tensors } = file;
  const fields: Fields = { where, get: (key) => metadata.get(key) };
  const architecture = readArchitecture(fields);
  const { gguf } = architecture;
  const key = (name: string) => `${gguf.name}.${name}`;
  const need = (name: string) => required(fields, key(name), readInteger(fields, key(name), 1, maxCount));
  refuseUnreadKeys(fields, metadata, architecture);
  const numHeads = need("attention.head_count");
  const hiddenSize = need("embedding_length");
  const headSize = readInteger(fields, key("attention.key_length"), 1, maxCount) ?? hiddenSize / numHeads;
  if (!Number.isInteger(headSize)) {
    throw new Error(
      `Cannot read ${where}: the embedding length ${hiddenSize} is no multiple of the ${numHeads} heads, and ${quote(key("attention.key_length"))} is missing`,
    );
  }
  const valueSize = readInteger(fields, key("attention.value_length"), 1) ?? hiddenSize / numHeads;
  const rotatedSize = readInteger(fields, key("rope.dimension_count"), 1) ?? headSize;
  const wrong =
    valueSize !== headSize
      ? (["attention.value_length", valueSize] as const)
      : rotatedSize > headSize || (rotatedSize < headSize && !architecture.hasPartialRope)
        ? (["rope.dimension_count", rotatedSize] as const)
        : undefined;
  if (wrong !== undefined) {
    throw new Error(
      `Cannot read ${where}: ${quote(key(wrong[0]))} is ${wrong[1]}, the head size ${headSize} is wanted`,
    );
  }
  const numLayers = need("block_count");
  const contextLength = need("context_length");
  const scaling = await readScaling(file, fields, architecture, rotatedSize, contextLength);
  const { localTheta } = architecture;
  const rope: RopeConfig = {
    headSize,
    ...(rotatedSize !== headSize && { rotatedSize }),
    theta: readPositive(fields, key("rope.freq_base")) ?? 10_000,
    scaling,
    pairs: gguf.pairs,
  };
  const shapeOf = (name: string) => {
    const tensor = tensors.get(name);
    return tensor?.kind === "readable" ? tensor.entry.shape : tensor?.shape;
  };
  const config: ModelConfig = {
    architecture: architecture.name,
    vocabSize: required(fields, "token_embd.weight", shapeOf("token_embd.weight")?.[0]),
    numLayers,
    hiddenSize,
    intermediateSize: need("feed_forward_length"),
    numHeads,
    numKvHeads: readInteger(fields, key("attention.head_count_kv"), 1, maxCount) ?? numHeads,
    headSize,
    rmsNormEps: required(
      fields,
      key("attention.layer_norm_rms_epsilon"),
      readPositive(fields, key("attention.layer_norm_rms_epsilon")),
    ),
    rope,
    ...(localTheta !== undefined && {
      localRope: {
        ...rope,
        theta: readPositive(fields, key(localThetaKey)) ?? localTheta,
        scaling: { kind: "none" },
      },
    }),
    // As for config.json, a stated original context is stretched by its factor.
    contextLength: reachOf(scaling, contextLength, !isAbsent(fields, key("rope.scaling.original_context_length"))),
    ...slidingFields(readWindow(fields, key, numLayers, gguf.slidingPattern)),
    tiedHead: !tensors.has("output.weight"),
    blockAttention: readGgufBlockAttention(metadata, where),
  };
  checkModelConfig(config, where);
  return { architecture, config: gguf.read(config, fields, (name) => tensors.has(name)) };
}

/** Generous: the largest models have 126 layers and rows of 53,248. */
const maxCount = 2 ** 24;

function readArchitecture(fields: Fields): Architecture {
  if (readText(fields, "general.type") === "adapter") throw adapterAsModel(fields.where);
  const name = required(fields, "general.architecture", readText(fields, "general.architecture"));
  const architecture = architectures.find(({ gguf }) => gguf.name === name);
  if (architecture === undefined) {
    throw unsupported(
      fields.where,
      "its architecture",
      name,
      architectures.map(({ gguf }) => gguf.name),
    );
  }
  return architecture;
}

/** The architecture's keys that are read, or that only inform. */
const knownKeys: ReadonlySet<string> = new Set([
  "context_length",
  "embedding_length",
  "block_count",
  "feed_forward_length",
  "vocab_size",
  "tensor_data_layout",
  "attention.head_count",
  "attention.head_count_kv",
  "attention.key_length",
  "attention.value_length",
  "attention.layer_norm_rms_epsilon",
  "attention.sliding_window",
  "attention.sliding_window_pattern",
  "rope.dimension_count",
  "rope.freq_base",
  "rope.scale_linear",
  "rope.scaling.type",
  "rope.scaling.factor",
  "rope.scaling.original_context_length",
  "rope.scaling.finetuned",
  "rope.scaling.attn_factor",
  "rope.scaling.yarn_log_multiplier",
  "rope.scaling.yarn_ext_factor",
  "rope.scaling.yarn_attn_factor",
  "rope.scaling.yarn_beta_fast",
  "rope.scaling.yarn_beta_slow",
]);

/** Every key of the architecture's own is arithmetic, so one that nothing reads is refused unless it says no: 0, false or "". */
function refuseUnreadKeys(fields: Fields, metadata: GgufMetadata, { gguf, localTheta }: Architecture): void {
  const start = `${gguf.name}.`;
  for (const [key, value] of metadata) {
    const name = key.slice(start.length);
    const isRead =
      knownKeys.has(name) || gguf.reads?.includes(name) || (name === localThetaKey && localTheta !== undefined);
    const isUnread = key.startsWith(start) && !isRead;
    const isNeutral = !value || (key === `${start}attention.causal` && value === true);
    if (isUnread && !isNeutral) {
      throw new Error(`Cannot read ${fields.where}: ${quote(key)} may change the arithmetic and is not supported`);
    }
  }
}

/**
 * Which layers slide: `sliding_window_pattern` is a list of them, or a number of layers of which the last does not.
 *
 * llama.cpp passes over the window of llama, qwen2 and phi3; here what the file says holds, as in Transformers.
 *
 * @see llama_model_base::load_swa_pattern()
 */
function readWindow(
  fields: Fields,
  key: (name: string) => string,
  numLayers: number,
  defaultPattern = 0,
): SlidingWindow | undefined {
  const size = readInteger(fields, key("attention.sliding_window"), 0);
  if (!size) return undefined;
  const name = key("attention.sliding_window_pattern");
  const value = fields.get(name);
  if (typeof value !== "object") {
    const pattern = readInteger(fields, name, 0) ?? defaultPattern;
    return {
      size,
      layers: Array.from({ length: numLayers }, (_, layer) => pattern === 0 || (layer + 1) % pattern !== 0),
    };
  }
  const layers = Array.from(value as ArrayLike<unknown>, Boolean);
  if (layers.length !== numLayers) throw wrongValue(fields, name, `a list of ${numLayers}, one for each layer,`);
  return { size, layers };
}

/**
 * Reads `rope.scaling.*`, `rope_freqs.weight` and longrope's two lists of factors.
 *
 * llama.cpp multiplies cos and sin by 1 + 0.1 ln(factor) in ggml's kernel and takes that out again in its own attention
 * factor, so that all told it is YaRN's magnitude times `attn_factor`. The `yarn_*` keys are what its converter copies from
 * config.json; they have the meaning that Transformers gives them.
 */
async function readScaling(
  file: GgufFile,
  fields: Fields,
  { gguf }: Architecture,
  rotatedSize: number,
  contextLength: number,
): Promise<RopeScaling> {
  const key = (name: string) => `${gguf.name}.rope.scaling.${name}`;
  const type = readText(fields, key("type")) ?? "linear";
  const stated = [key("factor"), `${gguf.name}.rope.scale_linear`].find((name) => !isAbsent(fields, name));
  // llama.cpp reads 0 as not scaled.
  const factor = stated === undefined || fields.get(stated) === 0 ? 1 : (readPositive(fields, stated) ?? 1);
  const attnFactor = readPositive(fields, key("attn_factor")) ?? 1;
  const factors = gguf.hasFactors ? await readFactors(file, ropeFactorsName, rotatedSize) : undefined;
  // The factors alone say it: llama.cpp's converter writes no type.
  if (gguf.hasLongRope && (file.tensors.has(shortFactorsName) || type === "longrope")) {
    const [short, long] = await Promise.all(
      [shortFactorsName, longFactorsName].map(async (name) =>
        required(fields, name, await readFactors(file, name, rotatedSize)),
      ),
    );
    const originalContextLength = readInteger(fields, key("original_context_length"), 1);
    return {
      kind: "longrope",
      factors: short as readonly number[],
      longFactors: long as readonly number[],
      attentionFactor: attnFactor,
      originalContextLength: required(fields, key("original_context_length"), originalContextLength),
      longContextLength: contextLength,
    };
  }
  switch (type) {
    case "none":
    case "linear": {
      if (attnFactor !== 1) {
        throw new Error(
          `Cannot read ${fields.where}: ${quote(key("attn_factor"))} is ${attnFactor}, it is read for YaRN only`,
        );
      }
      const linearFactor = type === "none" ? 1 : factor;
      if (factors !== undefined) return { kind: "factors", factors: factors.map((divisor) => divisor * linearFactor) };
      return linearFactor === 1 ? { kind: "none" } : { kind: "linear", factor: linearFactor };
    }
    case "yarn":
      if (factors !== undefined) {
        throw new Error(
          `Cannot read ${fields.where}: it has YaRN and ${quote(ropeFactorsName)}, only one of them is read`,
        );
      }
      return readYarn(fields, key, gguf.name, factor, attnFactor);
    default:
      throw wrongValue(
        fields,
        key("type"),
        gguf.hasLongRope ? "none, linear, yarn or longrope" : "none, linear or yarn",
      );
  }
}

function readYarn(
  fields: Fields,
  key: (name: string) => string,
  name: string,
  factor: number,
  attnFactor: number,
): RopeScaling {
  const extFactor = fields.get(key("yarn_ext_factor")) ?? 1;
  // -1 is llama.cpp's "not set", which means 1 for YaRN.
  if (extFactor !== 1 && extFactor !== -1) throw wrongValue(fields, key("yarn_ext_factor"), "1");
  const multiplier = fields.get(key("yarn_log_multiplier"))
    ? readPositive(fields, key("yarn_log_multiplier"))
    : undefined;
  const magnitude = yarnMagnitude(factor) / (multiplier === undefined ? 1 : yarnMagnitude(factor, multiplier));
  return {
    kind: "yarn",
    factor,
    originalContextLength:
      readInteger(fields, key("original_context_length"), 1) ??
      required(fields, `${name}.context_length`, readInteger(fields, `${name}.context_length`, 1)),
    betaFast: readPositive(fields, key("yarn_beta_fast")) ?? 32,
    betaSlow: readPositive(fields, key("yarn_beta_slow")) ?? 1,
    attentionFactor: readPositive(fields, key("yarn_attn_factor")) ?? magnitude * attnFactor,
    truncate: true,
  };
}

/** The numbers of such a tensor; undefined where there is none. Llama3 scaling becomes `rope_freqs.weight` in GGUF. */
async function readFactors(file: GgufFile, name: string, rotatedSize: number): Promise<readonly number[] | undefined> {
  const tensor: FileTensor | undefined = file.tensors.get(name);
  if (tensor === undefined) return undefined;
  const where = quote(file.path);
  if (tensor.kind === "unreadable" || tensor.entry.type !== "F32") {
    throw new Error(`Cannot read ${where}: the type of tensor ${quote(name)} is not F32`);
  }
  const { shape, offset, byteLength } = tensor.entry;
  if (shape.length !== 1 || shape[0] !== rotatedSize / 2) {
    throw new Error(
      `Cannot read ${where}: the shape of tensor ${quote(name)} is [${shape.join(", ")}], [${rotatedSize / 2}] is wanted`,
    );
  }
  const bytes = await readRange(file.path, offset, byteLength);
  const factors = Array.from(new Float32Array(bytes.buffer));
  if (!factors.every((factor) => Number.isFinite(factor) && factor > 0)) {
    throw new Error(`Cannot read ${where}: ${quote(name)} holds a factor that is no finite number above 0`);
  }
  return factors;
}

function readEndTokenIds(metadata: GgufMetadata, where: string): number[] {
  const fields: Fields = { where, get: (key) => metadata.get(key) };
  const ids = ["eos", "eot", "eom"].map((name) => readInteger(fields, `tokenizer.ggml.${name}_token_id`, 0));
  return [...new Set(ids.filter((id) => id !== undefined))];
}

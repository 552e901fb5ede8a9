import { chosenModel, loadTokenizer, reuseNote, weightTypes } from "../engine/model.js";
import { modelIdentity } from "../engine/model-identity.js";
import { KV_TYPES, kvTypeFits, type WeightsConversion } from "../files/element-types.js";
import { formatBytes } from "../files/format-bytes.js";
import { thisUsersCacheDir } from "../files/user-cache-dir.js";
import { Backend } from "../ggml/backend.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { blockKVByteLength } from "../kv/block-kv.js";
import type { ModelConfig } from "../model/config.js";
import type { ModelSource } from "../model/model-source.js";
import { openModel } from "../model/open-model.js";
import { rotatedSize } from "../model/rope.js";
import { conversionNotes, estimateWeightBytes } from "../model/weights.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { command, type FlagsOf, toggle } from "./command.js";
import { adapterFlags, engineFlag, trainingFlags } from "./options.js";
import { defaultName } from "./pull-model.js";
import { errorLine, note, type Terminal, write, writeJson } from "./terminal.js";

const infoFlags = {
  model: engineFlag("model"),
  ...adapterFlags,
  weights: engineFlag("weights"),
  backend: engineFlag("backend"),
  device: engineFlag("device"),
  ...trainingFlags,
  identity: toggle("names its keys and values, for another engine that shares the store; reads all weights once"),
  json: toggle("one line of JSON"),
};

export const infoCommand = command({
  name: "info",
  summary: "Tells what a model is, without loading it.",
  flags: infoFlags,
  run: runInfo,
  help: `
Examples:
  block-attention info --model model.gguf
  block-attention info --model ./llama --weights q8_0 --json`,
});

/** Tells what a model is, from its headers alone. @returns the exit code. */
async function runInfo(flags: FlagsOf<typeof infoFlags>, terminal: Terminal): Promise<number> {
  const path = chosenModel(flags);
  const source = await openModel(path, flags);
  const about = describeModel(source, await loadTokenizer(path), await onDevice(source, flags), flags.weights);
  const info = { ...about, ...(flags.identity === true && { identity: await identityOf(source, flags, terminal) }) };
  for (const warning of info.warnings) note(terminal, `${terminal.errorColors.yellow("Warning")}: ${warning}`);
  if (flags.model === undefined) note(terminal, `No model is named: this is ${defaultName(terminal.env)}`);
  if (flags.json === true) await writeJson(terminal, info);
  else await write(terminal.stdout, formatInfo(info, terminal), terminal.signal);
  return 0;
}

/**
 * The device that would compute, and what loading would say of weights that it does not take; or why there is none.
 *
 * @throws Error where the one that is asked for is not there.
 */
async function onDevice(source: ModelSource, { backend: kind, device, weights = "keep" }: FlagsOf<typeof infoFlags>) {
  try {
    const ggml = loadGgml(await findGgmlDirectory(kind ?? "auto"));
    using backend = new Backend(ggml, { threads: 1, backend: kind, device });
    return { name: backend.device.name, conversions: [...conversionNotes(backend, source, weights)], reason: null };
  } catch (error) {
    if (kind !== undefined || device !== undefined) throw error;
    return { name: null, conversions: [], reason: errorLine(error) };
  }
}

async function identityOf(
  source: ModelSource,
  { backend, weights = "keep" }: FlagsOf<typeof infoFlags>,
  { env, signal }: Terminal,
): Promise<string> {
  const cacheDir = thisUsersCacheDir(env);
  return await modelIdentity(loadGgml(await findGgmlDirectory(backend ?? "auto")), source, weights, {
    cacheDir,
    signal,
  });
}

type ModelInfo = ReturnType<typeof describeModel> & { readonly identity?: string };

/** What `info --json` tells. Bytes are bytes; sizes are in elements. */
function describeModel(
  source: ModelSource,
  tokenizer: Tokenizer,
  device: Awaited<ReturnType<typeof onDevice>>,
  weights: WeightsConversion = "keep",
) {
  const { config } = source;
  const entries = [...source.tensors.values()];
  const parameters = entries.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  const own = config.blockAttention;
  const note = reuseNote(own?.modes);
  return {
    path: source.path,
    format: source.kind,
    architecture: config.architecture,
    parameters,
    layers: config.numLayers,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    heads: config.numHeads,
    kv_heads: config.numKvHeads,
    head_size: config.headSize,
    vocabulary: config.vocabSize,
    tied_head: config.tiedHead,
    context_tokens: config.contextLength,
    sliding_window: config.slidingWindow ?? null,
    sliding_layers: config.slidingWindow ? (config.slidingLayers?.filter(Boolean).length ?? config.numLayers) : 0,
    rope: describeRope(config),
    weights: {
      conversion: weights,
      file_bytes: entries.reduce((sum, { byteLength }) => sum + byteLength, 0),
      memory_bytes: estimateWeightBytes(source, weights),
      file_types: Object.fromEntries(weightTypes(source, "keep")),
      memory_types: Object.fromEntries(weightTypes(source, weights)),
    },
    device,
    kv_bytes_per_token: Object.fromEntries(
      KV_TYPES.filter((type) => kvTypeFits(type, config.headSize)).map((type) => [
        type,
        blockKVByteLength({ ...config, numTokens: 1, type }),
      ]),
    ),
    tokenizer: {
      tokens: tokenizer.vocabSize,
      bos_token_id: tokenizer.bosTokenId ?? null,
      end_token_ids: [...new Set([...tokenizer.endTokenIds, ...source.endTokenIds])].sort((a, b) => a - b),
      adds_dummy_space: tokenizer.addsDummySpace,
      chat_template: tokenizer.chatTemplate !== undefined,
    },
    ...(source.adapters && {
      adapters: source.adapters.map(({ path, scale, updates, whole }) => ({
        path,
        scale,
        weights: updates.size + whole.size,
      })),
    }),
    warnings: [...source.warnings, ...tokenizer.warnings],
    block_attention: own === undefined ? null : { version: own.version, prefix: own.prefix, modes: own.modes },
    block_mode: {
      sound: note === undefined,
      reason: note ?? "trained for it",
    },
  };
}

function describeRope({ rope, localRope }: ModelConfig) {
  const factor = "factor" in rope.scaling ? rope.scaling.factor : null;
  return {
    scaling: rope.scaling.kind,
    theta: rope.theta,
    local_theta: localRope?.theta ?? null,
    factor,
    pairs: rope.pairs,
    rotated_size: rotatedSize(rope),
  };
}

function formatInfo(info: ModelInfo, { colors }: Terminal): string {
  const { weights, device, tokenizer, rope, block_mode: blockMode, block_attention: own } = info;
  const types = (counts: Readonly<Record<string, number>>) =>
    Object.entries(counts)
      .map(([type, count]) => `${count} x ${type}`)
      .join(", ");
  const kv = Object.entries(info.kv_bytes_per_token).map(([type, bytes]) => `${bytes} B (${type})`);
  const trained = own === null ? "the model's files say nothing" : `trained in ${own.modes.join(" and ")} mode`;
  const prefix = own?.prefix ? `, prefix ${JSON.stringify(own.prefix)}` : "";
  const fields: [string, string][] = [
    ["model", `${info.path} (${info.format})`],
    ...(info.identity === undefined ? [] : [["identity", info.identity] as [string, string]]),
    [
      "architecture",
      `${info.architecture}, ${info.layers} layers, ${info.hidden_size} wide, MLP ${info.intermediate_size}`,
    ],
    ["attention", `${info.heads} heads of ${info.head_size}, ${info.kv_heads} of keys and values`],
    ...(info.adapters ?? []).map(({ path, scale, weights }): [string, string] => [
      "adapter",
      `${path}, scale ${scale}, changes ${weights} weights`,
    ]),
    ["parameters", info.parameters.toLocaleString("en-US")],
    ["weights", `${formatBytes(weights.file_bytes)} in the file (${types(weights.file_types)})`],
    [
      "in memory",
      `${formatBytes(weights.memory_bytes)} with --weights ${weights.conversion} (${types(weights.memory_types)})`,
    ],
    [
      "device",
      device.reason ?? (device.conversions.join("; ") || `${device.name}, which takes the weights as they are`),
    ],
    [
      "context",
      `${info.context_tokens} tokens${info.sliding_window === null ? "" : `, sliding window ${info.sliding_window} in ${info.sliding_layers} of ${info.layers} layers`}`,
    ],
    ["KV a token", kv.join(", ")],
    [
      "RoPE",
      `${rope.scaling === "none" ? "plain" : rope.scaling}, theta ${rope.theta}${rope.factor === null ? "" : `, factor ${rope.factor}`}${rope.local_theta === null ? "" : `, in sliding layers theta ${rope.local_theta}`}${rope.rotated_size === info.head_size ? "" : `, of ${rope.rotated_size} elements of a head`}`,
    ],
    [
      "tokenizer",
      `${tokenizer.tokens} tokens, BOS ${tokenizer.bos_token_id ?? "none"}, ends ${tokenizer.end_token_ids.join(", ") || "none"}`,
    ],
    ["chat template", tokenizer.chat_template ? "yes" : "no"],
    ["block attention", trained + prefix],
    ["block mode", blockMode.sound ? colors.green(`sound (${blockMode.reason})`) : colors.yellow(blockMode.reason)],
  ];
  const width = Math.max(...fields.map(([name]) => name.length));
  return fields.map(([name, value]) => `${colors.dim(name.padEnd(width))}  ${value}\n`).join("");
}

import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { isJsonObject, type JsonValue, readJson } from "../files/bounded-json.js";
import {
  type Fields,
  objectFields,
  readBoolean,
  readInteger,
  readNumber,
  readText,
  refuseUnread,
  required,
  wrongValue,
} from "../files/fields.js";
import { readGguf } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import { readSafetensors } from "../files/safetensors.js";
import type { FileTensor, TensorEntry } from "../files/tensor-source.js";
import type { NeededTensor } from "./architecture.js";
import { parseBlockAttentionConfig, readGgufBlockAttention } from "./block-attention-config.js";
import { statModel } from "./model-path.js";
import type { Adapter, LowRankFactor, LowRankUpdate, ModelSource, WeightEntry } from "./model-source.js";
import { checkTensor, weightOf, wholeOf } from "./pick-tensors.js";

/** An adapter that is merged into a model while it is loaded. */
export interface AdapterInput {
  /** A folder as PEFT writes it, or a .gguf file as llama.cpp reads it. */
  readonly path: string;
  /** Multiplies what the adapter adds. Default 1; at 0 the adapter is checked and left out, as if it were not given. */
  readonly scale?: number | undefined;
}

const embeddingName = "token_embd.weight";
const headName = "output.weight";

/**
 * A model with adapters over it, in their order. Where one changes the head or the embedding of a model that has one matrix for
 * both, the model gets two.
 *
 * @throws Error of one line for an adapter that is not sound, not supported, or another model's.
 */
export async function withAdapters(source: ModelSource, inputs: readonly AdapterInput[]): Promise<ModelSource> {
  const opened: Adapter[] = [];
  for (const { path, scale = 1 } of inputs) opened.push(await openAdapter(source, path, scale));
  const adapters = opened.filter(({ scale }) => scale !== 0);
  if (adapters.length === 0) return source;
  const tensors = new Map(source.tensors);
  const changes = (name: string) => adapters.some(({ updates, whole }) => updates.has(name) || whole.has(name));
  const unties = source.config.tiedHead && (changes(embeddingName) || changes(headName));
  if (unties) tensors.set(headName, tensors.get(embeddingName) as WeightEntry);
  for (const { whole } of adapters) for (const [name, entry] of whole) tensors.set(name, entry);
  for (const { updates } of adapters) {
    for (const name of updates.keys()) tensors.set(name, { ...(tensors.get(name) as WeightEntry), isMerged: true });
  }
  const own = adapters.findLast(({ blockAttention }) => blockAttention !== undefined);
  const config = {
    ...source.config,
    tiedHead: source.config.tiedHead && !unties,
    blockAttention: own?.blockAttention ?? source.config.blockAttention,
  };
  return { ...source, config, tensors, adapters };
}

async function openAdapter(source: ModelSource, path: string, scale: number): Promise<Adapter> {
  if ((await statModel(path)).isDirectory()) return openPeftAdapter(source, resolve(path), scale);
  if (/\.(safetensors|json|bin|pth?)$/i.test(path)) {
    throw new Error(`Cannot read ${quote(path)}: give the adapter's folder, or a .gguf file`);
  }
  return openGgufAdapter(source, resolve(path), scale);
}

/** @see PEFT 0.21, tuners/lora/config.py, utils/save_and_load.py */
async function openPeftAdapter(source: ModelSource, path: string, scale: number): Promise<Adapter> {
  const configPath = join(path, "adapter_config.json");
  const json = await readJson(configPath);
  if (!isJsonObject(json)) throw new Error(`Cannot read ${quote(configPath)}: it is no object`);
  const fields = objectFields(quote(configPath), json);
  if (required(fields, "peft_type", readText(fields, "peft_type")) !== "LORA") {
    throw wrongValue(fields, "peft_type", '"LORA"');
  }
  refuseUnread(fields, unreadSettings);
  const termsOf = readTerms(fields);
  const parameters: unknown = fields.get("target_parameters") ?? [];
  if (!Array.isArray(parameters)) throw wrongValue(fields, "target_parameters", "a list");
  // PEFT holds its patterns against the whole name of these.
  const isParameter = (name: string) => parameters.some((end) => `.${name}`.endsWith(`.${end}`));
  const blockAttention = parseBlockAttentionConfig(json.block_attention, quote(configPath));
  const names = await readdir(path);
  if (!names.includes(weightsFile)) {
    const other = names.find((name) => /^adapter_model\.(bin|pth?)$/.test(name));
    const advice = other === undefined ? "" : `, and ${quote(other)} is not read: save the adapter as safetensors`;
    throw new Error(`Cannot read ${quote(path)}: "${weightsFile}" is not there${advice}`);
  }
  const weightsPath = join(path, weightsFile);
  const changes = gatherChanges(source, await readSafetensors(weightsPath), quote(weightsPath), {
    kind: "hugging-face",
    pairs: "half",
    embeddingRowsAreInner: true,
    split(name) {
      const [, own = ""] = /^base_model\.model\.(.+)$/.exec(name) ?? [];
      const [, module, isEmbedding, factor] = /^(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$/.exec(own) ?? [];
      if (module === undefined) return { weight: own.replace(/\.base_layer(?=\.weight$)/, ""), part: "whole" };
      const form = isEmbedding ? "embedding" : "linear";
      return { weight: `${module}.weight`, part: factor === "A" ? "a" : "b", form };
    },
    scaleOf(weight, rank) {
      const terms = termsOf(isParameter(weight) ? weight : weight.replace(/\.weight$/, ""));
      if (rank === terms.rank) return (scale * terms.alpha) / terms.divisor;
      throw new Error(
        `Cannot read ${quote(weightsPath)}: the rank for ${quote(weight)} is ${rank}, ${terms.rank} is wanted by the config`,
      );
    },
  });
  return { path, scale, files: [configPath, weightsPath], ...changes, blockAttention };
}

const weightsFile = "adapter_model.safetensors";

/**
 * Settings that change what an adapter computes, each with the values that change nothing. Those of training alone, and
 * `target_modules` and `target_parameters`, which the names of the tensors say once more, are passed over.
 */
const unreadSettings: ReadonlyMap<string, readonly JsonValue[]> = new Map<string, readonly JsonValue[]>([
  ["task_type", ["CAUSAL_LM"]],
  ["bias", ["none"]],
  ["lora_bias", [false]],
  ["fan_in_fan_out", [false]],
  // kinds of LoRA
  ["use_dora", [false]],
  ["use_qalora", [false]],
  ["use_bdlora", [false]],
  ["alora_invocation_tokens", []],
  ["arrow_config", []],
  ["kasa_config", []],
  ["monteclora_config", []],
  // Others begin with changed weights of the model.
  ["init_lora_weights", [true, false, "gaussian", "orthogonal", "eva"]],
  ["layer_replication", []],
  ["trainable_token_indices", []],
  ["ensure_weight_tying", [false]],
]);

/** What a module's product is scaled by: alpha over the divisor. */
interface Terms {
  readonly rank: number;
  readonly alpha: number;
  readonly divisor: number;
}

/** How `r`, `lora_alpha`, their patterns and `use_rslora` apply to a module, such as model.layers.0.self_attn.q_proj. */
function readTerms(fields: Fields): (module: string) => Terms {
  const rank = required(fields, "r", readInteger(fields, "r", 1, maxRank));
  const alpha = required(fields, "lora_alpha", readNumber(fields, "lora_alpha"));
  const ranks = readPatterns(fields, "rank_pattern", (patterns, key) => readInteger(patterns, key, 1, maxRank));
  const alphas = readPatterns(fields, "alpha_pattern", readNumber);
  const isRootScaled = readBoolean(fields, "use_rslora") ?? false;
  return (module) => {
    const ownRank = ranks(module) ?? rank;
    return { rank: ownRank, alpha: alphas(module) ?? alpha, divisor: isRootScaled ? Math.sqrt(ownRank) : ownRank };
  };
}

const maxRank = 2 ** 16;
/** Names and simple regular expressions. What could take long to match, and what JavaScript reads otherwise than Python, is refused. */
const soundPattern = /^(?:[\w.^$|-]|\\[.d]|\[[\w-]+\]|[*+](?![*+?{])|\((?:\?:)?|\)(?![*+?{]))+$/;

/** The value that the first pattern to match the end of a module's name has. @see PEFT, get_pattern_key() */
function readPatterns(
  fields: Fields,
  name: string,
  read: (patterns: Fields, key: string) => number | undefined,
): (module: string) => number | undefined {
  const given = fields.get(name) ?? {};
  if (!isJsonObject(given as JsonValue)) throw wrongValue(fields, name, "an object");
  const patterns = objectFields(`${quote(name)} of ${fields.where}`, given as Readonly<Record<string, unknown>>);
  const known = Object.keys(given as object).map((key) => {
    const isSound = soundPattern.test(key) && key.length <= 200 && (key.match(/[*+]/g)?.length ?? 0) <= 3;
    if (!isSound) throw new Error(`Cannot read ${patterns.where}: the pattern ${quote(key, 60)} is not supported`);
    try {
      return { regex: new RegExp(`^(?:.*\\.)?(?:${key})$`), value: required(patterns, key, read(patterns, key)) };
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new Error(`Cannot read ${patterns.where}: the pattern ${quote(key, 60)} is not sound`, { cause: error });
    }
  });
  return (module) => known.find(({ regex }) => regex.test(module))?.value;
}

/** @see llama.cpp, src/llama-adapter.cpp, convert_lora_to_gguf.py */
async function openGgufAdapter(source: ModelSource, path: string, scale: number): Promise<Adapter> {
  const { metadata, tensors } = await readGguf(path);
  const fields: Fields = { where: quote(path), get: (key) => metadata.get(key) };
  const { gguf } = source.architecture;
  const wanted = { "general.type": "adapter", "adapter.type": "lora", "general.architecture": gguf.name };
  for (const [key, value] of Object.entries(wanted)) {
    if (required(fields, key, readText(fields, key)) !== value) throw wrongValue(fields, key, quote(value));
  }
  const invocation = "adapter.alora.invocation_tokens";
  if (metadata.has(invocation)) throw new Error(`Cannot read ${fields.where}: ${quote(invocation)} is not supported`);
  // 0 is llama.cpp's "not set".
  const alpha = readNumber(fields, "adapter.lora.alpha") || undefined;
  const changes = gatherChanges(source, tensors, fields.where, {
    kind: "gguf",
    pairs: gguf.pairs,
    embeddingRowsAreInner: false,
    split(name) {
      const [, weight, factor] = /^(.+)\.lora_([ab])$/.exec(name) ?? [];
      if (weight === undefined) return { weight: name, part: "whole" };
      return { weight, part: factor as "a" | "b", form: weight === embeddingName ? "embedding" : "linear" };
    },
    scaleOf: (_, rank) => (alpha === undefined ? scale : (scale * alpha) / rank),
  });
  return { path, scale, files: [path], ...changes, blockAttention: readGgufBlockAttention(metadata, fields.where) };
}

/** How a kind of adapter's file has its tensors. */
interface AdapterFormat {
  /** The kind of model whose names, and rows of queries and keys, it has. */
  readonly kind: ModelSource["kind"];
  readonly pairs: LowRankUpdate["pairs"];
  /** Whether the first factor of an embedding is [rank, rows], not [rows, rank]. */
  readonly embeddingRowsAreInner: boolean;
  /** A tensor's part in the change of a weight, by the weight's name in such files. */
  split(
    name: string,
  ):
    | { readonly weight: string; readonly part: "a" | "b"; readonly form: "linear" | "embedding" }
    | { readonly weight: string; readonly part: "whole" };
  /** @param weight its name in such files. */
  scaleOf(weight: string, rank: number): number;
}

/** Where a tensor of a file changes a weight: the rows that follow `firstRow`. */
interface Place {
  readonly weight: NeededTensor;
  readonly shape: readonly number[];
  readonly firstRow: number;
}

/** What LoRA factors change, by its name in files; a stack of experts is a module for each in Hugging Face's. */
function* placesOf(weight: NeededTensor, nameIn: "name" | "huggingFaceName"): Generator<[string, Place]> {
  const { shape, fused } = weight;
  if (nameIn === "name" || fused === undefined) yield [weight[nameIn], { weight, shape, firstRow: 0 }];
  else {
    const [numExperts = 0, rows = 0, columns = 0] = shape;
    for (let i = 0; i < numExperts; i++) {
      yield [weight[nameIn].replace("*", `${i}`), { weight, shape: [rows, columns], firstRow: i * rows }];
    }
  }
}

/**
 * What a file's tensors change, held against what the model needs.
 *
 * @throws Error for a tensor that changes nothing of the model, a factor without the other, or one of another shape.
 */
function gatherChanges(
  { kind, architecture, config }: ModelSource,
  inFile: ReadonlyMap<string, FileTensor>,
  where: string,
  format: AdapterFormat,
): Pick<Adapter, "updates" | "whole"> {
  const nameIn = format.kind === "gguf" ? "name" : "huggingFaceName";
  const places = new Map<string, Place>();
  const fused = new Map<string, NeededTensor[]>();
  for (const weight of architecture.tensors({ ...config, tiedHead: false })) {
    for (const [name, place] of placesOf(weight, nameIn)) places.set(name, place);
    if (weight.fused === undefined || format.kind === "gguf") continue;
    const module = weight.fused.huggingFaceName.replace(/\.[^.]+$/, "");
    fused.set(module, [...(fused.get(module) ?? []), weight]);
  }
  const whole = new Map<string, WeightEntry>();
  type Factors = { a?: FileTensor; b?: FileTensor };
  const factors = new Map<string, { place: Place; form: "linear" | "embedding" } & Factors>();
  const fusedFactors = new Map<string, Factors>();
  for (const [name, tensor] of inFile) {
    const { weight: named, ...found } = format.split(name);
    if (found.part !== "whole" && found.form === "linear" && fused.has(fusedModule(named))) {
      fusedFactors.set(named, { ...fusedFactors.get(named), [found.part]: tensor });
      continue;
    }
    const place = places.get(named);
    // Formats have some weights otherwise, and not only their rows; experts are taken all or none.
    const isUnfit = found.part === "whole" && (kind !== format.kind || place?.weight.shape !== place?.shape);
    if (place === undefined || isUnfit) {
      throw new Error(
        `Cannot read ${where}: tensor ${quote(name)} is no LoRA factor of a weight of this ${config.architecture} model`,
      );
    }
    const { weight, shape } = place;
    if (found.part === "whole")
      whole.set(weight.name, weightOf(weight, nameIn, wholeOf(checkTensor(tensor, shape, where))));
    else factors.set(named, { ...factors.get(named), place, form: found.form, [found.part]: tensor });
  }
  if (inFile.size === 0) throw new Error(`Cannot read ${where}: it has no tensors`);
  const updates = new Map<string, LowRankUpdate[]>();
  for (const [name, { place, form, a, b }] of factors) {
    const { weight, shape, firstRow } = place;
    const [numRows, columns] = shape.slice(-2);
    if (a === undefined || b === undefined) throw oneMissing(name, where);
    if (numRows === undefined || columns === undefined) {
      throw new Error(`Cannot read ${where}: ${quote(name)} has LoRA factors, but is no matrix`);
    }
    const rank = shapeOf(b).at(-1) || 1;
    const stack = shape.slice(0, -2);
    /** Of each matrix of the stack. */
    const factorsIn = (tensor: FileTensor, length: number, rankIsInner: boolean): LowRankFactor[] => {
      const matrix = rankIsInner ? [length, rank] : [rank, length];
      const entry = checkTensor(tensor, [...stack, ...matrix], where);
      const [of = 1] = stack;
      return Array.from({ length: of }, (_, i) => ({ entry: partOf(entry, i, of, matrix), rankIsInner }));
    };
    const isLinear = form === "linear";
    const left = isLinear ? factorsIn(b, numRows, true) : factorsIn(a, numRows, !format.embeddingRowsAreInner);
    const right = isLinear ? factorsIn(a, columns, false) : factorsIn(b, columns, true);
    const terms = {
      rank,
      scale: format.scaleOf(name, rank),
      pairs: weight.rotated ? format.pairs : undefined,
      numRows,
    };
    const own = updates.get(weight.name) ?? [];
    updates.set(weight.name, own);
    for (const [i, factor] of left.entries()) {
      own.push({ ...terms, left: factor, right: right[i] as LowRankFactor, firstRow: firstRow + i * numRows });
    }
  }
  for (const [name, { a, b }] of fusedFactors) {
    if (a === undefined || b === undefined) throw oneMissing(name, where);
    for (const [weight, own] of fusedUpdates(fused.get(fusedModule(name)) as NeededTensor[], a, b, where, format)) {
      updates.set(weight, [...(updates.get(weight) ?? []), ...own]);
    }
  }
  return { updates, whole };
}

/** The module of experts that are one parameter, without the layers that PEFT wraps around it for each. */
function fusedModule(weight: string): string {
  return weight.replace(/(\.base_layer)*\.weight$/, "");
}

function oneMissing(name: string, where: string): Error {
  return new Error(`Cannot read ${where}: of the two LoRA factors of ${quote(name)} one is missing`);
}

/**
 * What factors of all experts of a layer at once change: a [experts * rank, columns], expert by expert, and b [rows, rank * experts],
 * which has the experts' numbers in turn. Names do not say which parameter of the module is meant, but the shapes do.
 *
 * @see PEFT, ParamWrapper.get_delta_weight()
 */
function* fusedUpdates(
  weights: readonly NeededTensor[],
  a: FileTensor,
  b: FileTensor,
  where: string,
  { scaleOf }: AdapterFormat,
): Generator<readonly [string, readonly LowRankUpdate[]]> {
  const [[all = 0, width], [height, inner]] = [shapeOf(a), shapeOf(b)];
  const changed = weights.filter(({ shape: [, rows = 0, columns], fused }) => {
    return columns === width && rows * (fused?.of ?? 1) === height;
  });
  const [numExperts = 1, numRows = 0, columns = 0] = changed[0]?.shape ?? [];
  const rank = all / numExperts;
  if (changed.length === 0 || !Number.isInteger(rank) || rank < 1 || inner !== all) {
    const { name } = a.kind === "readable" ? a.entry : a;
    const is = `[${shapeOf(a).join(", ")}] and [${shapeOf(b).join(", ")}]`;
    throw new Error(`Cannot read ${where}: LoRA factors of ${is} fit no parameter of this model, ${quote(name)}`);
  }
  const [right, left] = [checkTensor(a, [all, columns], where), checkTensor(b, [height as number, all], where)];
  for (const { name, fused } of changed) {
    const { huggingFaceName, index, of } = fused as NonNullable<NeededTensor["fused"]>;
    const scale = scaleOf(huggingFaceName, rank);
    const rows = partOf(left, index, of, [numRows, all]);
    const updates = Array.from({ length: numExperts }, (_, expert): LowRankUpdate => {
      const turn = { index: expert, of: numExperts };
      return {
        left: { entry: rows, rankIsInner: true, turn },
        right: { entry: partOf(right, expert, numExperts, [rank, columns]), rankIsInner: false },
        ...{ scale, rank, numRows, firstRow: expert * numRows, pairs: undefined },
      };
    });
    yield [name, updates];
  }
}

/** One of so many equal parts of a tensor, one after another. */
function partOf(entry: TensorEntry, index: number, of: number, shape: readonly number[]): TensorEntry {
  const byteLength = entry.byteLength / of;
  return { ...entry, shape, offset: entry.offset + index * byteLength, byteLength };
}

function shapeOf(tensor: FileTensor): readonly number[] {
  return tensor.kind === "readable" ? tensor.entry.shape : tensor.shape;
}

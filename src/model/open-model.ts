import { join, resolve } from "node:path";
import { isJsonObject, readJson } from "../files/bounded-json.js";
import { readGguf } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import { readRange } from "../files/read-range.js";
import { pathExists, undefinedIfMissing } from "../files/regular-file.js";
import { readSafetensorsFolder } from "../files/safetensors.js";
import type { FileTensor } from "../files/tensor-source.js";
import { type AdapterInput, withAdapters } from "./adapters.js";
import {
  type BlockAttentionConfig,
  type BlockAttentionOverride,
  overrideBlockAttention,
  parseBlockAttentionConfig,
  readGgufBlockAttention,
} from "./block-attention-config.js";
import { openGgufModel } from "./gguf-model.js";
import { parseHuggingFaceConfig, readEndTokenIds } from "./hugging-face-config.js";
import { findModel } from "./model-path.js";
import type { ModelSource } from "./model-source.js";
import { pickTensors } from "./pick-tensors.js";

export interface ModelOverride extends BlockAttentionOverride {
  readonly adapters?: readonly AdapterInput[] | undefined;
}

/**
 * Reads a model's headers: what it is, and where each weight lies. No weight is loaded.
 *
 * @param path a Hugging Face folder, a .gguf file, any part of a split one, or a folder that holds one, or an adapter's folder as
 *   findModel() takes it.
 * @param override adapters, and the user's word on prefix and trained modes (`--prefix`, `--trained-modes`), over the model's own.
 * @throws Error of one line for whatever is missing, not sound or not supported.
 */
export async function openModel(path: string, override: ModelOverride = {}): Promise<ModelSource> {
  const found = await findModel(path, "config.json");
  const base = await (found.kind === "gguf" ? openGgufModel(found.path) : openHuggingFace(found.path));
  const own = found.adapter === undefined ? [] : [{ path: found.adapter }];
  const source = await withAdapters(base, [...own, ...(override.adapters ?? [])]);
  const blockAttention = overrideBlockAttention(source.config.blockAttention, override);
  return { ...source, config: { ...source.config, blockAttention } };
}

/**
 * A model's own block-attention config, without the rest of the model: a folder with a tokenizer alone has none.
 *
 * @throws Error of one line for files that cannot be read, or say what is not supported.
 */
export async function readBlockAttention(path: string): Promise<BlockAttentionConfig | undefined> {
  const found = await findModel(path, "tokenizer.json");
  const isGguf = found.kind === "gguf";
  const inFile = isGguf ? readGgufBlockAttention((await readGguf(found.path)).metadata, quote(found.path)) : undefined;
  if (isGguf && found.adapter === undefined) return inFile;
  const file = join(path, isGguf ? "adapter_config.json" : "config.json");
  const json = await readJson(file).catch(undefinedIfMissing);
  if (json === undefined) return undefined;
  if (!isJsonObject(json)) throw new Error(`Cannot read ${quote(file)}: it is no object`);
  return parseBlockAttentionConfig(json.block_attention, quote(file)) ?? inFile;
}

/**
 * Reads a Hugging Face folder as far as its headers: config.json, generation_config.json, safetensors.
 *
 * @throws Error of one line for whatever is missing, not sound or not supported.
 */
async function openHuggingFace(folder: string): Promise<ModelSource> {
  const path = resolve(folder);
  const configPath = join(path, "config.json");
  const json = await readJson(configPath);
  const { architecture, config: written } = parseHuggingFaceConfig(json, quote(configPath));
  const endTokenIds = new Set(isJsonObject(json) ? readEndTokenIds(json, quote(configPath)) : []);
  const generationPath = join(path, "generation_config.json");
  if (await pathExists(generationPath)) {
    const generation = await readJson(generationPath);
    if (!isJsonObject(generation)) throw new Error(`Cannot read ${quote(generationPath)}: it is no object`);
    for (const id of readEndTokenIds(generation, quote(generationPath))) {
      endTokenIds.add(id);
    }
  }
  const weights = await readSafetensorsFolder(path);
  const hasOwnHead = written.tiedHead && (await isOtherHead(weights.tensors));
  const config = hasOwnHead ? { ...written, tiedHead: false } : written;
  const warnings = hasOwnHead
    ? [
        `${quote(configPath)} ties the head to the embedding, but the folder has a head with other numbers: its own head is used`,
      ]
    : [];
  const tensors = pickTensors(
    architecture,
    config,
    weights.tensors,
    "huggingFaceName",
    // Angles that Transformers once saved, and a head that is the embedding byte for byte.
    (name) => name.endsWith("rotary_emb.inv_freq") || (config.tiedHead && name === headName),
    quote(path),
  );
  const files = [configPath, ...weights.files];
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    if (await pathExists(join(path, name))) {
      files.push(join(path, name));
    }
  }
  return { kind: "hugging-face", path, architecture, config, tensors, files, endTokenIds: [...endTokenIds], warnings };
}

const headName = "lm_head.weight";
/** Bytes compared at a time. */
const pieceBytes = 2 ** 24;

/** Whether there is a head that is not the embedding once more. As Transformers 5, which then does not tie them. */
async function isOtherHead(tensors: ReadonlyMap<string, FileTensor>): Promise<boolean> {
  const [head, embedding] = [tensors.get(headName), tensors.get("model.embed_tokens.weight")];
  if (head === undefined) return false;
  // What is wrong with one of them is said where all weights are checked.
  if (head.kind === "unreadable" || embedding?.kind !== "readable") return true;
  const [one, other] = [head.entry, embedding.entry];
  if (one.type !== other.type || one.shape.join() !== other.shape.join()) return true;
  for (let at = 0; at < one.byteLength; at += pieceBytes) {
    const length = Math.min(pieceBytes, one.byteLength - at);
    const pieces = await Promise.all([one, other].map(({ path, offset }) => readRange(path, offset + at, length)));
    if (Buffer.compare(pieces[0]!, pieces[1]!) !== 0) return true;
  }
  return false;
}

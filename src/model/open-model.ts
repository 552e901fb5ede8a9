import { join } from "node:path";
import { isJsonObject, readJson } from "../files/bounded-json.js";
import { readGguf } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import { undefinedIfMissing } from "../files/regular-file.js";
import {
  type BlockAttentionConfig,
  type BlockAttentionOverride,
  overrideBlockAttention,
  parseBlockAttentionConfig,
  readGgufBlockAttention,
} from "./block-attention-config.js";
import { openGgufModel } from "./gguf-model.js";
import { openHuggingFace } from "./hugging-face.js";
import { modelKind } from "./model-path.js";
import type { ModelSource } from "./model-source.js";

/**
 * Reads a model's headers: what it is, and where each weight lies. No weight is loaded.
 *
 * @param path a Hugging Face folder, or a .gguf file.
 * @param override the user's word on prefix and trained modes (`--prefix`, `--trained-modes`), over the model's own.
 * @throws Error of one line for whatever is missing, not sound or not supported.
 */
export async function openModel(path: string, override: BlockAttentionOverride = {}): Promise<ModelSource> {
  const kind = await modelKind(path, "config.json");
  const source = await (kind === "gguf" ? openGgufModel(path) : openHuggingFace(path));
  const blockAttention = overrideBlockAttention(source.config.blockAttention, override);
  return { ...source, config: { ...source.config, blockAttention } };
}

/**
 * A model's own block-attention config, without the rest of the model: a folder with a tokenizer alone has none.
 *
 * @throws Error of one line for files that cannot be read, or say what is not supported.
 */
export async function readBlockAttention(path: string): Promise<BlockAttentionConfig | undefined> {
  if ((await modelKind(path, "tokenizer.json")) === "gguf") {
    return readGgufBlockAttention((await readGguf(path)).metadata, quote(path));
  }
  const file = join(path, "config.json");
  const json = await readJson(file).catch(undefinedIfMissing);
  if (json === undefined) return undefined;
  if (!isJsonObject(json)) throw new Error(`Cannot read ${quote(file)}: it is no object`);
  return parseBlockAttentionConfig(json.block_attention, quote(file));
}

import { stat } from "node:fs/promises";
import { quote } from "../files/quote.js";
import { describeFileError } from "../files/regular-file.js";
import { type BlockAttentionOverride, overrideBlockAttention } from "./block-attention-config.js";
import { openGgufModel } from "./gguf-model.js";
import { openHuggingFace } from "./hugging-face.js";
import type { ModelSource } from "./model-source.js";

/**
 * Reads a model's headers: what it is, and where each weight lies. No weight is loaded.
 *
 * @param path a Hugging Face folder, or a .gguf file.
 * @param override the user's word on prefix and trained modes (`--prefix`, `--trained-modes`), over the model's own.
 * @throws Error of one line for whatever is missing, not sound or not supported.
 */
export async function openModel(path: string, override: BlockAttentionOverride = {}): Promise<ModelSource> {
  const source = await openByKind(path);
  const blockAttention = overrideBlockAttention(source.config.blockAttention, override);
  return { ...source, config: { ...source.config, blockAttention } };
}

async function openByKind(path: string): Promise<ModelSource> {
  const found = await stat(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  if (found.isDirectory()) {
    return openHuggingFace(path);
  }
  if (/\.(safetensors|json|bin)$/i.test(path)) {
    throw new Error(`Cannot read ${quote(path)}: give the model's folder, or a .gguf file`);
  }
  return openGgufModel(path);
}

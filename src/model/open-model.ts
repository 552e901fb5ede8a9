import { type BlockAttentionOverride, overrideBlockAttention } from "./block-attention-config.js";
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

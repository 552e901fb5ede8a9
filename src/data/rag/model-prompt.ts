import { compileChatTemplate } from "../../blocks/chat-template.js";
import type { RagPromptOptions } from "../../blocks/rag-prompt.js";
import { loadTokenizer, templateOf } from "../../engine/model.js";
import { openModel } from "../../model/open-model.js";
import type { Tokenizer } from "../../tokenizer/tokenizer.js";
import { TULU_TEMPLATE } from "../tulu-template.js";

/** What a model's RAG prompt is made by, and its tokenizer. */
export interface ModelPrompt {
  readonly tokenizer: Tokenizer;
  readonly rag: Pick<RagPromptOptions, "template" | "texts">;
}

/**
 * The chat template and the RAG prompt's texts that serving would take for a model. Where a folder is a tokenizer's alone, the
 * texts are the defaults.
 *
 * @param template "own": the model's chat template, none where it has none; "tulu": the paper's.
 * @throws Error if there is no tokenizer.
 */
export async function modelPrompt(model: string, template: "own" | "tulu"): Promise<ModelPrompt> {
  const tokenizer = await loadTokenizer(model);
  const opened = await openModel(model, {}).catch(() => undefined);
  const texts = opened?.config.blockAttention?.ragPrompt;
  const chosen = template === "own" ? templateOf(tokenizer) : tuluTemplate(tokenizer);
  return { tokenizer, rag: { template: chosen, texts } };
}

function tuluTemplate(tokenizer: Tokenizer) {
  return compileChatTemplate(TULU_TEMPLATE, {
    tokens: { ...tokenizer.templateTokens, eos_token: "<|end_of_text|>" },
    addsBos: tokenizer.bosTokenId !== undefined,
  });
}

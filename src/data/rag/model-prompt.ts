import { compileChatTemplate } from "../../blocks/chat-template.js";
import type { RagPromptOptions } from "../../blocks/rag-prompt.js";
import { loadTokenizer, templateOf } from "../../engine/model.js";
import { readBlockAttention } from "../../model/open-model.js";
import type { Tokenizer } from "../../tokenizer/tokenizer.js";

/** What a model's prompts are made by, and its tokenizer. */
export interface ModelPrompt {
  readonly tokenizer: Tokenizer;
  /** The model's own text before block 0 in block mode; "" for none. */
  readonly prefix: string;
  readonly rag: Pick<RagPromptOptions, "template" | "texts">;
}

/**
 * The chat template, the prefix and the RAG prompt's texts that serving would take for a model. Where a folder is a tokenizer's
 * alone, there is no prefix, and the texts are the defaults.
 *
 * @param template "own": the model's chat template, none where it has none; "tulu": the paper's.
 * @throws Error if there is no tokenizer, or a file cannot be read.
 */
export async function modelPrompt(model: string, template: "own" | "tulu"): Promise<ModelPrompt> {
  const tokenizer = await loadTokenizer(model);
  const own = await readBlockAttention(model);
  const chosen = template === "own" ? templateOf(tokenizer) : tuluTemplate(tokenizer);
  return { tokenizer, prefix: own?.prefix ?? "", rag: { template: chosen, texts: own?.ragPrompt } };
}

function tuluTemplate(tokenizer: Tokenizer) {
  return compileChatTemplate(TULU_TEMPLATE, {
    tokens: { ...tokenizer.templateTokens, eos_token: "<|end_of_text|>" },
    addsBos: tokenizer.bosTokenId !== undefined,
  });
}

/** The chat template of the paper's training data, in Jinja: no BOS. @see docs/reference.md "Training samples". */
export const TULU_TEMPLATE =
  "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end_of_text|>\\n' }}" +
  "{% elif message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}" +
  "{% else %}{{ '<|user|>\\n' + message['content'] + '\\n' }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

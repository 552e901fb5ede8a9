import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../../files/test-files.suite.js";

const vocab = Object.fromEntries(
  ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "##b"].map((word, id) => [word, id]),
);
const tokenizer = {
  version: "1.0",
  truncation: { max_length: 4, strategy: "LongestFirst", stride: 0, direction: "Right" },
  padding: { strategy: { Fixed: 16 }, direction: "Right", pad_id: 0, pad_type_id: 0, pad_token: "[PAD]" },
  added_tokens: [],
  normalizer: {
    type: "BertNormalizer",
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase: true,
  },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: {
    type: "TemplateProcessing",
    single: [
      { SpecialToken: { id: "[CLS]", type_id: 0 } },
      { Sequence: { id: "A", type_id: 0 } },
      { SpecialToken: { id: "[SEP]", type_id: 0 } },
    ],
    pair: [],
    special_tokens: {
      "[CLS]": { id: "[CLS]", ids: [2], tokens: ["[CLS]"] },
      "[SEP]": { id: "[SEP]", ids: [3], tokens: ["[SEP]"] },
    },
  },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab,
  },
};

const files = {
  "tokenizer.json": tokenizer,
  "config.json": { max_position_embeddings: 16 },
  "1_Pooling/config.json": {
    word_embedding_dimension: 2,
    pooling_mode_mean_tokens: true,
    pooling_mode_cls_token: false,
  },
  "model.onnx": "",
};

/** An encoder's folder whose model is an empty file. Ids: [CLS] 2, [SEP] 3, a 4, b 5, c 6, ##b 7. @param changes files; undefined: there is none. */
export async function encoderFolder(changes: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const folder = await temporaryFolder();
  mkdirSync(join(folder, "1_Pooling"));
  for (const [name, value] of Object.entries({ ...files, ...changes }))
    if (value !== undefined)
      writeFileSync(join(folder, name), typeof value === "string" ? value : JSON.stringify(value));
  return folder;
}

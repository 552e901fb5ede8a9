import type { JsonObject } from "../files/bounded-json.js";
import type { GgufMetadata } from "../files/gguf.js";
import { ggmlPreTokenizer } from "./ggml-pre-tokenizers.js";
import { probes, sameIds } from "./gguf-export.js";
import { tokenizerFromGguf } from "./gguf-tokenizer.js";
import { fail, GgufFields, kinds, readVocabulary } from "./gguf-vocabulary.js";
import { tokenizerFromHuggingFace } from "./hugging-face-tokenizer.js";

/** What a Hugging Face folder says of a tokenizer, by the names of its files. */
export interface HuggingFaceTokenizer {
  readonly "tokenizer.json": JsonObject;
  readonly "tokenizer_config.json": JsonObject;
  readonly "generation_config.json": JsonObject;
}

/**
 * The byte-level tokenizer of a GGUF file as Hugging Face's files, so that Python's tokenizers gives the same ids.
 *
 * @throws Error for another kind of vocabulary, and for one whose files would give other ids, with such a text.
 */
export function huggingFaceTokenizer(metadata: GgufMetadata): HuggingFaceTokenizer {
  const file = new GgufFields(metadata);
  const kind = file.string("tokenizer.ggml.model") ?? "";
  if (kind !== "gpt2") fail(`the vocabulary kind is "${kind}", only byte-level ones ("gpt2") can be converted`);
  const read = tokenizerFromGguf(metadata);
  const { tokens, types } = readVocabulary(file);
  const pre = ggmlPreTokenizer(file.string("tokenizer.ggml.pre") ?? "");
  const added = tokens.flatMap((content, id) => {
    const special = types[id] === kinds.control;
    if (!special && types[id] !== kinds.userDefined) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const bos = read.bosTokenId === undefined ? undefined : (tokens[read.bosTokenId] as string);
  const files: HuggingFaceTokenizer = {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          ...pre.expressions.map((source) => ({
            type: "Split",
            pattern: { Regex: source },
            behavior: "Isolated",
            invert: false,
          })),
          byteLevel,
        ],
      },
      post_processor:
        bos === undefined
          ? null
          : {
              type: "TemplateProcessing",
              single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
              pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
              special_tokens: { [bos]: { id: bos, ids: [read.bosTokenId as number], tokens: [bos] } },
            },
      decoder: byteLevel,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: pre.ignoresMerges,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: file.strings("tokenizer.ggml.merges") ?? [],
      },
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      add_bos_token: bos !== undefined,
      clean_up_tokenization_spaces: false,
      ...Object.fromEntries(Object.entries(read.templateTokens).filter(([, text]) => text !== "")),
      ...(read.chatTemplate !== undefined && { chat_template: read.chatTemplate }),
    },
    "generation_config.json": { eos_token_id: [...read.endTokenIds] },
  };
  const json = (name: keyof HuggingFaceTokenizer) => ({ name, value: files[name] });
  const written = tokenizerFromHuggingFace({
    tokenizer: json("tokenizer.json"),
    tokenizerConfig: json("tokenizer_config.json"),
    generationConfig: json("generation_config.json"),
  });
  const other = probes.find((text) => !sameIds(read, written, text));
  if (other !== undefined) fail(`Hugging Face's files would give ${JSON.stringify(other)} other ids`);
  return files;
}

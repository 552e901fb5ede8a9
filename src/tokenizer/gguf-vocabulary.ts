import { type Fields, readBoolean, readInteger, readText, wrongValue } from "../files/fields.js";
import type { GgufMetadata } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import { maxTokens } from "./pair-merges.js";
import { longest } from "./tokenizer.js";

export function fail(reason: string): never {
  throw new Error(`Cannot read the tokenizer: ${reason}`);
}

/** Token kinds as `tokenizer.ggml.token_type` writes them. */
export const kinds = { unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Vocabulary {
  readonly tokens: readonly string[];
  readonly ids: ReadonlyMap<string, number>;
  /** As llama.cpp corrects them: texts that it knows as ends of a turn are control tokens, whatever the file says. */
  readonly types: Int32Array;
  /** The ends of answers that are known by their text. */
  readonly endsByText: ReadonlySet<number>;
}

export function readVocabulary(file: GgufFields): Vocabulary {
  const written = file.strings("tokenizer.ggml.tokens") ?? fail("tokenizer.ggml.tokens is missing");
  if (written.length === 0 || written.length > maxTokens) {
    fail(`the vocabulary has ${written.length} tokens, not 1 to ${maxTokens}`);
  }
  const tokens = written.map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (token.length > longest.token) fail(`token ${id} has ${token.length} UTF-16 units, not up to ${longest.token}`);
    const before = ids.get(token);
    if (before !== undefined) fail(`tokens ${before} and ${id} are both ${quote(token)}`);
    ids.set(token, id);
  });
  const types = new Int32Array(tokens.length).fill(1);
  const writtenTypes = file.numbers("tokenizer.ggml.token_type");
  if (writtenTypes !== undefined) {
    if (writtenTypes.length < tokens.length)
      fail(`there are ${writtenTypes.length} token types for ${tokens.length} tokens`);
    for (let id = 0; id < tokens.length; id++) types[id] = writtenTypes[id]!;
  }
  return { tokens, ids, types, endsByText: correctTypes(ids, types, file) };
}

/** Marks the tokens that llama.cpp knows by their text as what they are, in place, and gives those that end an answer. */
function correctTypes(ids: ReadonlyMap<string, number>, types: Int32Array, file: GgufFields): Set<number> {
  const ends = new Set<number>();
  for (const text of endTexts) {
    const id = ids.get(text);
    if (id === undefined) continue;
    ends.add(id);
    types[id] = kinds.control;
  }
  // Fill-in-the-middle tokens are sought by text only where no key names them.
  for (const { key, texts, ends: endsAnswer } of fillInTokens) {
    const named = file.tokenId(key, types.length);
    const found = texts.map((text) => ids.get(text)).find((id) => id !== undefined);
    if (named === undefined && found !== undefined) types[found] = kinds.control;
    const id = named ?? found;
    if (endsAnswer && id !== undefined) ends.add(id);
  }
  // gpt-oss writes these into its answers.
  for (const text of ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]) {
    const id = ids.get(text);
    if (id !== undefined) types[id] = kinds.userDefined;
  }
  const has = (text: string) => ids.has(text);
  const end = ids.get("<|end|>");
  if (
    end !== undefined &&
    ((has("<|return|>") && (has("<|call|>") || has("<|calls|>"))) ||
      ((has("<|call|>") || has("<|calls|>")) && has("<|flush|>")))
  ) {
    // There, <|end|> ends a part of an answer, not the answer.
    ends.delete(end);
    types[end] = kinds.userDefined;
  }
  const slash = ids.get("</s>");
  if (slash !== undefined && has("<|tool_response>")) {
    ends.delete(slash);
    types[slash] = 1;
  }
  return ends;
}

/** The texts that end an answer in llama.cpp, whatever the file's keys say. */
const endTexts: readonly string[] = [
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|flush|>",
  "<|calls|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "</s>",
  "<|eom_id|>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "[EOS]",
  "<|end_of_text|>",
  "<end_of_utterance>",
  "<eos>",
  "<turn|>",
  "<|tool_response>",
  "<｜end▁of▁sentence｜>",
  "[e~[",
];

interface FillInToken {
  readonly key: string;
  readonly texts: readonly string[];
  readonly ends: boolean;
}

const fillInTokens: readonly FillInToken[] = [
  {
    key: "tokenizer.ggml.fim_pre_token_id",
    texts: [
      "<|fim_prefix|>",
      "<fim-prefix>",
      "<fim_prefix>",
      "<｜fim▁begin｜>",
      "<PRE>",
      "▁<PRE>",
      "<|code_prefix|>",
      "<|prefix|>",
    ],
    ends: false,
  },
  {
    key: "tokenizer.ggml.fim_suf_token_id",
    texts: [
      "<|fim_suffix|>",
      "<fim-suffix>",
      "<fim_suffix>",
      "<｜fim▁hole｜>",
      "<SUF>",
      "▁<SUF>",
      "<|code_suffix|>",
      "<|suffix|>",
    ],
    ends: false,
  },
  {
    key: "tokenizer.ggml.fim_mid_token_id",
    texts: [
      "<|fim_middle|>",
      "<fim-middle>",
      "<fim_middle>",
      "<｜fim▁end｜>",
      "<MID>",
      "▁<MID>",
      "<|code_middle|>",
      "<|middle|>",
    ],
    ends: false,
  },
  {
    key: "tokenizer.ggml.fim_pad_token_id",
    texts: ["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ends: true,
  },
  {
    key: "tokenizer.ggml.fim_rep_token_id",
    texts: ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    ends: true,
  },
  { key: "tokenizer.ggml.fim_sep_token_id", texts: ["<|file_sep|>"], ends: true },
];

/** The tokens that text can become: not control, unknown or byte tokens. */
export function plainTokens({ tokens, types }: Vocabulary): Map<string, number> {
  const plain = new Map<string, number>();
  tokens.forEach((token, id) => {
    const type = types[id];
    if (type !== kinds.control && type !== kinds.unknown && type !== kinds.byte) plain.set(token, id);
  });
  return plain;
}

export function inVocabulary(id: number | undefined, tokens: readonly string[]): number | undefined {
  return id !== undefined && id < tokens.length ? id : undefined;
}

/** Metadata values with their types checked. */
export class GgufFields implements Fields {
  readonly where = "the tokenizer";

  constructor(private readonly metadata: GgufMetadata) {}

  get(key: string): unknown {
    return this.metadata.get(key);
  }

  string(key: string, most: number = longest.token): string | undefined {
    const text = readText(this, key);
    if (text === undefined || text.length <= most) return text;
    return fail(`${quote(key)} has ${text.length} UTF-16 units, not up to ${most}`);
  }

  boolean(key: string): boolean | undefined {
    return readBoolean(this, key);
  }

  strings(key: string): readonly string[] | undefined {
    const value = this.metadata.get(key);
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.every((item): item is string => typeof item === "string")) return value;
    throw wrongValue(this, key, "a list of texts");
  }

  numbers(key: string): ArrayLike<number> | undefined {
    const value = this.metadata.get(key);
    if (value === undefined) return undefined;
    if (
      value instanceof Int32Array ||
      value instanceof Float32Array ||
      value instanceof Uint32Array ||
      value instanceof Int16Array ||
      value instanceof Uint16Array ||
      value instanceof Int8Array ||
      value instanceof Uint8Array ||
      value instanceof Float64Array
    ) {
      return value;
    }
    throw wrongValue(this, key, "a list of numbers");
  }

  /** An id that the vocabulary has. */
  tokenId(key: string, numTokens: number): number | undefined {
    return readInteger(this, key, 0, numTokens - 1);
  }
}

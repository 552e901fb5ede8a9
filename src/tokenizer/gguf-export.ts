import type { GgufMetadata, GgufValue } from "../files/gguf.js";
import type { GgufEntry } from "../files/gguf-writer.js";
import { quote } from "../files/quote.js";
import { tokenizerFromGguf } from "./gguf-tokenizer.js";
import {
  type BpeTables,
  type HuggingFaceFiles,
  readBpeTables,
  tokenizerFromHuggingFace,
} from "./hugging-face-tokenizer.js";
import type { Tokenizer } from "./tokenizer.js";

export interface GgufTokenizerEntries {
  readonly entries: ReadonlyMap<string, GgufEntry>;
  /** What llama.cpp will do otherwise, a line each. */
  readonly warnings: readonly string[];
}

/**
 * A Hugging Face tokenizer as GGUF metadata, so that llama.cpp gives the same ids.
 *
 * GGUF has no field for how text is cut into words, only names that llama.cpp knows. As its own converter, this finds the
 * name by trying: over texts of many kinds the ids must be the same.
 *
 * @param vocabSize rows of the model's embedding: ids past the tokenizer's get tokens that are never used.
 * @throws Error for a tokenizer that GGUF cannot say, with a text that would get other ids; as tokenizerFromHuggingFace().
 * @see llama.cpp, convert_hf_to_gguf.py (get_vocab_base_pre) and src/llama-vocab.cpp
 */
export function ggufTokenizerEntries(files: HuggingFaceFiles, vocabSize: number): GgufTokenizerEntries {
  const tokenizer = tokenizerFromHuggingFace(files);
  const tables = readBpeTables(files);
  const where = quote(files.tokenizer.name);
  const tokens = allTokens(tables, vocabSize, where);
  const common = commonEntries(tokenizer, tables, tokens);
  let otherText = "";
  for (const vocabulary of tables.isByteLevel ? byteLevelEntries(tables) : spmEntries(tables, tokenizer, tokens)) {
    const entries = new Map<string, GgufEntry>([...vocabulary, ...common.entries]);
    const read = tokenizerFromGguf(asMetadata(entries));
    const text = probes.find((probe) => !sameIds(tokenizer, read, probe));
    if (text === undefined) {
      return { entries, warnings: [...tokenizer.warnings, ...common.warnings, ...warningsOf(tokenizer, read, tables)] };
    }
    otherText = text.length > otherText.length ? text : otherText;
  }
  throw new Error(
    `Cannot convert ${where}: llama.cpp knows no way to cut text as it does, for instance ${quote(otherText, 60)} would get other ids`,
  );
}

/** Names of `tokenizer.ggml.pre` that stand for the families, the usual ones first. */
const preTokenizers: readonly string[] = [
  "llama-bpe",
  "dbrx",
  "qwen2",
  "gpt-2",
  "smollm",
  "tekken",
  "gpt-4o",
  "deepseek-llm",
  "deepseek-coder",
  "deepseek-v3",
  "falcon",
  "bailingmoe",
  "seed-coder",
  "qwen35",
];

/** Short before long, so that the text in an error is a short one. */
export const probes: readonly string[] = [
  "a b",
  "\n",
  "a\nb",
  "a\n\n b",
  "  a   b ",
  "\t\tx\r\ny",
  "1234567 3.14 2,000",
  "don't WE'LL I'm they'Ve",
  "foo(bar)[0] = {x: 1};  // !!!\n\n\n    return",
  "- Title: Into the Wild (film)\nInto the Wild is a 2007 American film directed by Sean Penn.\n",
  "Małgorzata Braunek née Źródło, Ωμέγα, Привет мир, שלום עולם, مرحبا",
  "漢字かな交じり文。 한국어 ภาษาไทย हिन्दी",
  "🙂👩‍👩‍👧 ½ ² Ⅷ ١٢٣ …—–“quoted”",
  "camelCaseWords HTTPServer2 snake_case x/y\\z http://example.com/?q=1&r=2",
  "Please write a high-quality answer for the given question using only the provided search documents (some of which might be irrelevant).\nQuestion: Who?\n",
];

export function sameIds(first: Tokenizer, second: Tokenizer, text: string): boolean {
  const [a, b] = [first.encode(text, "none"), second.encode(text, "none")];
  return a.length === b.length && a.every((id, i) => id === b[i]);
}

function allTokens({ tokens }: BpeTables, vocabSize: number, where: string): string[] {
  if (tokens.length > vocabSize) {
    throw new Error(`Cannot convert ${where}: it has ${tokens.length} tokens, the model's embedding has ${vocabSize}`);
  }
  return Array.from({ length: vocabSize }, (_, id) => tokens[id] ?? `[PAD${id}]`);
}

/** As `tokenizer.ggml.token_type` writes them. */
const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

function commonEntries(
  { bosTokenId, endTokenIds, templateTokens, chatTemplate }: Tokenizer,
  tables: BpeTables,
  tokens: readonly string[],
): GgufTokenizerEntries {
  const added = new Map(tables.addedTokens.map((token) => [token.id, token]));
  const types = tokens.map((text, id): number => {
    if (tables.tokens[id] === undefined) return kinds.unused;
    if (!tables.isByteLevel && text === tables.unknownToken) return kinds.unknown;
    if (!tables.isByteLevel && /^<0x[0-9A-F]{2}>$/.test(text)) return kinds.byte;
    const token = added.get(id);
    return token === undefined ? kinds.normal : token.control ? kinds.control : kinds.userDefined;
  });
  const idOf = (text: string) => {
    const id = text === "" ? -1 : tables.tokens.indexOf(text);
    return id < 0 ? undefined : id;
  };
  const eos = idOf(templateTokens.eos_token) ?? [...endTokenIds][0];
  const [eot, eom, ...more] = [...endTokenIds].filter((id) => id !== eos && id < tokens.length);
  const ids = {
    bos: bosTokenId ?? idOf(templateTokens.bos_token),
    eos,
    eot,
    eom,
    padding: idOf(templateTokens.pad_token),
    unknown: idOf(templateTokens.unk_token),
  };
  const entries = new Map<string, GgufEntry>([
    ["tokenizer.ggml.tokens", { kind: "texts", value: tokens }],
    ["tokenizer.ggml.token_type", { kind: "i32s", value: types }],
  ]);
  for (const [name, id] of Object.entries(ids)) {
    if (id !== undefined) entries.set(`tokenizer.ggml.${name}_token_id`, { kind: "u32", value: id });
  }
  entries.set("tokenizer.ggml.add_bos_token", { kind: "bool", value: bosTokenId !== undefined });
  entries.set("tokenizer.ggml.add_eos_token", { kind: "bool", value: false });
  if (chatTemplate !== undefined) entries.set("tokenizer.chat_template", { kind: "text", value: chatTemplate });
  const warnings =
    more.length === 0
      ? []
      : [
          `GGUF names three tokens that end an answer; llama.cpp may not stop at ${more.map((id) => quote(tokens[id] ?? "")).join(", ")}`,
        ];
  return { entries, warnings };
}

/** One set of entries for each way of cutting words that llama.cpp knows. */
function* byteLevelEntries({ merges }: BpeTables): Generator<[string, GgufEntry][]> {
  const written = merges.map((pair) => pair.join(" "));
  for (const pre of preTokenizers) {
    yield [
      ["tokenizer.ggml.model", { kind: "text", value: "gpt2" }],
      ["tokenizer.ggml.pre", { kind: "text", value: pre }],
      ["tokenizer.ggml.merges", { kind: "texts", value: written }],
    ];
  }
}

/** SPM merges by the score of what comes out: here the rank of the first merge that makes it, below 0. */
function* spmEntries(
  { merges }: BpeTables,
  { addsDummySpace }: Tokenizer,
  tokens: readonly string[],
): Generator<[string, GgufEntry][]> {
  const rank = new Map<string, number>();
  for (const [i, pair] of merges.entries()) {
    const made = pair.join("");
    if (!rank.has(made)) rank.set(made, i);
  }
  const scores = tokens.map((text) => -(rank.get(text) ?? merges.length) - 1);
  yield [
    ["tokenizer.ggml.model", { kind: "text", value: "llama" }],
    ["tokenizer.ggml.pre", { kind: "text", value: "default" }],
    ["tokenizer.ggml.scores", { kind: "f32s", value: scores }],
    ["tokenizer.ggml.add_space_prefix", { kind: "bool", value: addsDummySpace }],
  ];
}

function warningsOf(tokenizer: Tokenizer, read: Tokenizer, { normalizer }: BpeTables): string[] {
  const warnings: string[] = [];
  if (normalizer !== undefined && /^NFK?[CD]$/.test(normalizer)) {
    warnings.push(
      `The tokenizer normalizes text to ${normalizer}, llama.cpp does not: text that is not may get other ids`,
    );
  }
  const missing = [...tokenizer.endTokenIds].filter((id) => !read.endTokenIds.has(id));
  const extra = [...read.endTokenIds].filter((id) => !tokenizer.endTokenIds.has(id));
  if (missing.length > 0) warnings.push(`Ids that end an answer here and not in GGUF: ${missing.join(", ")}`);
  if (extra.length > 0)
    warnings.push(`Ids that end an answer in GGUF and not here, by their text: ${extra.join(", ")}`);
  return warnings;
}

function asMetadata(entries: ReadonlyMap<string, GgufEntry>): GgufMetadata {
  const read = (entry: GgufEntry): GgufValue => {
    if (entry.kind === "i32s") return Int32Array.from(entry.value);
    return entry.kind === "f32s" ? Float32Array.from(entry.value) : entry.value;
  };
  return new Map([...entries].map(([key, entry]) => [key, read(entry)]));
}

import { expect, test } from "vitest";
import type { GgufMetadata, GgufValue } from "../files/gguf.js";
import { byteAlphabet } from "./byte-level.js";
import { tokenizerFromGguf } from "./gguf-tokenizer.js";

/** Byte-level BPE: 256 bytes, then these tokens. */
function bpe(
  more: Readonly<Record<string, number>>,
  changes: Readonly<Record<string, GgufValue | undefined>> = {},
): GgufMetadata {
  const tokens = [...byteAlphabet(), ...Object.keys(more)];
  const types = Int32Array.from([...new Array<number>(256).fill(1), ...Object.values(more)]);
  const values: Record<string, GgufValue | undefined> = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.eos_token_id": 0,
    ...changes,
  };
  return new Map(Object.entries(values).filter((entry): entry is [string, GgufValue] => entry[1] !== undefined));
}

const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);

/** SPM: unknown, BOS, EOS, 256 bytes, then these tokens with their scores. */
function spm(more: Readonly<Record<string, number>>, changes: Readonly<Record<string, GgufValue>> = {}): GgufMetadata {
  const values: Record<string, GgufValue> = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", ...bytes, ...Object.keys(more)],
    "tokenizer.ggml.token_type": Int32Array.from([2, 3, 3, ...bytes.map(() => 6), ...Object.keys(more).map(() => 1)]),
    "tokenizer.ggml.scores": Float32Array.from([0, 0, 0, ...bytes.map(() => 0), ...Object.values(more)]),
    ...changes,
  };
  return new Map(Object.entries(values));
}

test("tokenizerFromGguf(): SPM merges by score, after a dummy space, bytes for the rest", () => {
  const tokenizer = tokenizerFromGguf(spm({ "▁": -9, a: -8, b: -8, ab: -2, ba: -1, "▁a": -3 }));
  const [mark, a, , ab, ba, markA] = [259, 260, 261, 262, 263, 264];
  expect(tokenizer.encode("aba", "none")).toEqual([markA, ba]);
  expect(tokenizer.encode("bab", "none")).toEqual([mark, ba, 261]);
  expect(tokenizer.encode("a</s>a", "all")).toEqual([markA, 2, markA]);
  expect(tokenizer.encode("  ab", "none")).toEqual([mark, mark, mark, ab]);
  expect(tokenizer.encode("é", "none")).toEqual([mark, 3 + 0xc3, 3 + 0xa9]);
  expect(tokenizer.decode([markA, mark, a, 3 + 0xc3, 3 + 0xa9])).toBe("a aé");
  expect(tokenizer.bosTokenId).toBe(1);
  expect(tokenizer.addsDummySpace).toBe(true);
});

test("tokenizerFromGguf(): SPM may merge characters that are no tokens", () => {
  const tokenizer = tokenizerFromGguf(spm({ "▁": -1, xy: -2 }, { "tokenizer.ggml.add_space_prefix": false }));
  expect(tokenizer.encode("xyx", "none")).toEqual([260, 3 + 0x78]);
  expect(tokenizer.addsDummySpace).toBe(false);
  expect(tokenizer.decode(tokenizer.encode(" x", "none"))).toBe(" x");
});

test("tokenizerFromGguf(): Phi 3's special tokens take the white space behind them", () => {
  const metadata = (name: string) => spm({ "▁": -1, "\n": -1, a: -2 }, { "general.name": name });
  const encode = (name: string) => tokenizerFromGguf(metadata(name)).encode("<s>\n</s> \na", "all");
  const [mark, line, a] = [259, 260, 261];
  expect(encode("Phi 4")).toEqual([1, mark, line, 2, mark, mark, line, a]);
  expect(encode("Phi-3.5 mini")).toEqual([1, mark, line, 2, mark, a]);
  expect(tokenizerFromGguf(metadata("phi3")).digest).not.toBe(tokenizerFromGguf(metadata("x")).digest);
});

test("tokenizerFromGguf(): text never becomes a control token by merging", () => {
  const tokenizer = tokenizerFromGguf(spm({ "<": -1, "/": -1, s: -1, ">": -1, "</": -1, "s>": -1, "▁": -1 }));
  expect(tokenizer.encode("</s>", "none")).toEqual([265, 263, 264]);
  expect(tokenizer.encode("</s>", "all")).toEqual([2]);
});

test("tokenizerFromGguf(): control tokens in trusted text only, user-defined ones always", () => {
  const tokenizer = tokenizerFromGguf(bpe({ "<|im_start|>": 3, "<|im_end|>": 3, "<tool>": 4, "<unk>": 2 }));
  expect(tokenizer.encode("<|im_end|><tool>", "all")).toEqual([257, 258]);
  const untrusted = tokenizer.encode("<|im_end|><tool>", "none");
  expect(untrusted).toHaveLength("<|im_end|>".length + 1);
  expect(untrusted.at(-1)).toBe(258);
  expect(tokenizer.specialTokenIds).toEqual(new Set([256, 257, 259]));
  expect(tokenizer.decode([256, 258, 257])).toBe("<tool>");
});

test("tokenizerFromGguf(): an unused token spells nothing", () => {
  const tokenizer = tokenizerFromGguf(bpe({ "[PAD15]": 5, "<tool>": 4 }));
  expect(tokenizer.decode([256, 257, ...tokenizer.encode("a", "none")])).toBe("<tool>a");
  expect(tokenizer.tokenBytes(256)).toHaveLength(0);
});

test("tokenizerFromGguf(): texts of a megabyte are refused, by key or id", () => {
  const megabyte = "a".repeat(2 ** 20);
  expect(() => tokenizerFromGguf(bpe({ [megabyte]: 1 }))).toThrow("token 256 has 1048576 UTF-16 units, not up to 8192");
  expect(() => tokenizerFromGguf(bpe({ ["a".repeat(2000)]: 3 }))).toThrow("token 256 is control and has 2000 UTF-16");
  expect(() => tokenizerFromGguf(bpe({}, { "tokenizer.chat_template": megabyte }))).toThrow(
    '"tokenizer.chat_template" has 1048576 UTF-16 units, not up to 262144',
  );
  const long = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`${"ab".repeat(4000)}${i}`, -1]));
  expect(() => tokenizerFromGguf(spm(long))).toThrow("its tokens are too long");
});

test("tokenizerFromGguf(): ends of answers by key and by text, as llama.cpp finds them", () => {
  const metadata = bpe(
    { "<|im_end|>": 1, "<|x|>": 3, "<|y|>": 3 },
    { "tokenizer.ggml.eot_token_id": 257, "tokenizer.ggml.eom_token_id": 258 },
  );
  const tokenizer = tokenizerFromGguf(metadata);
  expect(tokenizer.endTokenIds).toEqual(new Set([0, 256, 257, 258]));
  // Known as a control token by its text, though the file calls it normal.
  expect(tokenizer.specialTokenIds.has(256)).toBe(true);
});

test("tokenizerFromGguf(): BOS by key, else as the pre-tokenizer's models have it", () => {
  const bosOf = (changes: Record<string, GgufValue>) =>
    tokenizerFromGguf(bpe({ "<s>": 3 }, { "tokenizer.ggml.bos_token_id": 256, ...changes })).bosTokenId;
  expect(bosOf({})).toBeUndefined();
  expect(bosOf({ "tokenizer.ggml.pre": "llama-bpe" })).toBe(256);
  expect(bosOf({ "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": false })).toBeUndefined();
  expect(bosOf({ "tokenizer.ggml.add_bos_token": true })).toBe(256);
});

test("tokenizerFromGguf(): merges through texts that are no tokens", () => {
  const tokenizer = tokenizerFromGguf(bpe({ abc: 1 }, { "tokenizer.ggml.merges": ["a b", "ab c"] }));
  expect(tokenizer.encode("abc", "none")).toEqual([256]);
  expect(tokenizer.encode("ab", "none")).toEqual([0x61, 0x62]);
});

test("tokenizerFromGguf(): says what is wrong, in one line", () => {
  const errorOf = (metadata: GgufMetadata) => {
    let message = "";
    try {
      tokenizerFromGguf(metadata);
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toMatch(/^Cannot read the tokenizer: [^\n]*[^.\n]$/);
    return message;
  };
  expect(errorOf(new Map())).toContain("tokenizer.ggml.model is missing");
  expect(errorOf(bpe({}, { "tokenizer.ggml.model": "t5" }))).toContain('"t5" is not supported');
  expect(errorOf(bpe({}, { "tokenizer.ggml.model": 7 }))).toContain("7");
  expect(errorOf(bpe({}, { "tokenizer.ggml.pre": "new-model" }))).toContain(
    'the pre-tokenizer "new-model" is not supported',
  );
  expect(errorOf(bpe({}, { "tokenizer.ggml.pre": undefined }))).toContain("tokenizer.ggml.pre is missing");
  expect(errorOf(bpe({}, { "tokenizer.ggml.tokens": ["a", "a"] }))).toContain('tokens 0 and 1 are both "a"');
  expect(errorOf(bpe({}, { "tokenizer.ggml.tokens": [] }))).toContain("0 tokens");
  expect(errorOf(bpe({}, { "tokenizer.ggml.tokens": Int32Array.of(1) }))).toContain("tokenizer.ggml.tokens");
  expect(errorOf(bpe({}, { "tokenizer.ggml.token_type": Int32Array.of(1) }))).toContain("1 token types for 256 tokens");
  expect(errorOf(bpe({}, { "tokenizer.ggml.merges": ["ab"] }))).toContain('merge 0 is "ab"');
  expect(errorOf(bpe({}, { "tokenizer.ggml.eos_token_id": 256 }))).toContain("256");
  expect(errorOf(spm({ a: Number.NaN }))).toContain("no number");
  expect(errorOf(spm({ a: 1 }, { "tokenizer.ggml.scores": Float32Array.of(1) }))).toContain("1 scores for 260 tokens");
});

test("TextTokenizer.tokenBytes(): byte-level BPE spells bytes, SPM spaces and bytes, control tokens themselves", () => {
  const byteLevel = tokenizerFromGguf(bpe({ "<|im_end|>": 3, Ġa: 1 }));
  expect([...byteLevel.tokenBytes(byteAlphabet().indexOf("Ã"))]).toEqual([0xc3]);
  expect(Buffer.from(byteLevel.tokenBytes(256)).toString()).toBe("<|im_end|>");
  expect(Buffer.from(byteLevel.tokenBytes(257)).toString()).toBe(" a");
  const pieces = tokenizerFromGguf(spm({ "▁a": -1 }));
  expect(Buffer.from(pieces.tokenBytes(259)).toString()).toBe(" a");
  expect([...pieces.tokenBytes(3 + 0xc3)]).toEqual([0xc3]);
  expect(Buffer.from(pieces.tokenBytes(2)).toString()).toBe("</s>");
});

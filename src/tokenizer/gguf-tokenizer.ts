import { createHash } from "node:crypto";
import type { GgufMetadata } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import type { AddedToken } from "./added-tokens.js";
import { BpeModel, type FirstSymbols } from "./bpe-model.js";
import { byteAlphabet } from "./byte-level.js";
import { ggmlPreTokenizer } from "./ggml-pre-tokenizers.js";
import {
  fail,
  GgufFields,
  inVocabulary,
  kinds,
  plainTokens,
  readVocabulary,
  type Vocabulary,
} from "./gguf-vocabulary.js";
import { maxTokens, PairMerges } from "./pair-merges.js";
import type { SplitStep } from "./pattern.js";
import { canCutBeforeSpaces, cutBeforeSpaces } from "./space-words.js";
import { TextTokenizer, type TokenizerParts } from "./text-tokenizer.js";
import { byteLevelDecoder, spmDecoder } from "./token-decoder.js";
import { longest, type Tokenizer } from "./tokenizer.js";

/**
 * The tokenizer of a GGUF file, with the ids that llama.cpp gives: byte-level BPE (`gpt2`) and SPM (`llama`).
 *
 * Two differences, both on purpose: text never merges into a control token by itself, so that a passage cannot spell one;
 * and a byte that the vocabulary lacks becomes the unknown token where llama.cpp would stop.
 *
 * @throws Error for a kind of vocabulary or pre-tokenizer that is not supported, and for arrays that do not fit.
 * @see llama.cpp, src/llama-vocab.cpp
 */
export function tokenizerFromGguf(metadata: GgufMetadata): Tokenizer {
  const file = new GgufFields(metadata);
  const model = file.string("tokenizer.ggml.model") ?? fail("tokenizer.ggml.model is missing");
  if (model !== "gpt2" && model !== "llama")
    fail(`the vocabulary kind ${quote(model)} is not supported, only "gpt2" and "llama" are`);
  const vocabulary = readVocabulary(file);
  return new TextTokenizer(model === "gpt2" ? bpeParts(file, vocabulary) : spmParts(file, vocabulary));
}

function bpeParts(file: GgufFields, vocabulary: Vocabulary): TokenizerParts {
  const name =
    file.string("tokenizer.ggml.pre") ??
    fail("tokenizer.ggml.pre is missing; files without it were written by old converters and must be converted again");
  const pre = ggmlPreTokenizer(name);
  const { tokens, types } = vocabulary;
  const plain = plainTokens(vocabulary);
  const written = file.strings("tokenizer.ggml.merges") ?? fail("tokenizer.ggml.merges is missing");
  if (written.length > maxTokens) fail(`there are ${written.length} merges, not up to ${maxTokens}`);
  // Merges may pass through texts that are no tokens: these get ids past the vocabulary, which never leave the model.
  const symbols = new Map(plain);
  const expansions = new Map<number, number[]>();
  const symbolOf = (text: string): number => {
    let id = symbols.get(text);
    if (id === undefined) {
      id = tokens.length + expansions.size;
      symbols.set(text, id);
      expansions.set(
        id,
        Array.from(text, (character) => plain.get(character)).filter((part) => part !== undefined),
      );
    }
    return id;
  };
  const merges = new PairMerges(written.length);
  written.forEach((merge, rank) => {
    const space = merge.indexOf(" ", 1);
    if (space === -1 || space === merge.length - 1)
      fail(`merge ${rank} is ${quote(merge)}, not two tokens with a space between`);
    const left = merge.slice(0, space);
    const right = merge.slice(space + 1);
    if (vocabulary.ids.has(left + right) && !plain.has(left + right)) return;
    const leftId = symbolOf(left);
    const rightId = symbolOf(right);
    if (!merges.has(leftId, rightId)) merges.set(leftId, rightId, rank, symbolOf(left + right));
  });
  const alphabet = byteAlphabet();
  const first: FirstSymbols = {
    kind: "bytes",
    alphabet,
    ids: Int32Array.from(alphabet, (character) => symbols.get(character) ?? -1),
  };
  const model = new BpeModel({
    first,
    merges,
    unknownId: undefined,
    fuseUnknown: false,
    wholeWords: pre.ignoresMerges ? plain : undefined,
    expansions,
  });
  const bos = file.tokenId("tokenizer.ggml.bos_token_id", tokens.length) ?? inVocabulary(pre.bosTokenId, tokens);
  const eos = file.tokenId("tokenizer.ggml.eos_token_id", tokens.length) ?? inVocabulary(11, tokens);
  const decoder = byteLevelDecoder();
  return {
    ...commonParts(file, vocabulary, bos, eos, pre.addsBos, [
      "gpt2",
      name,
      pre.ignoresMerges,
      tokens,
      [...types],
      written,
    ]),
    normalize: (text) => text,
    splitSteps: pre.steps,
    model,
    decoder,
    addsDummySpace: false,
  };
}

function spmParts(file: GgufFields, vocabulary: Vocabulary): TokenizerParts {
  const { tokens, types } = vocabulary;
  const scores = file.numbers("tokenizer.ggml.scores");
  if (scores === undefined) fail("tokenizer.ggml.scores is missing");
  if (scores.length < tokens.length) fail(`there are ${scores.length} scores for ${tokens.length} tokens`);
  const plain = plainTokens(vocabulary);
  const byteIds = Int32Array.from({ length: 256 }, (_, byte) => {
    const id = vocabulary.ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    return id ?? -1;
  });
  const unknown = file.tokenId("tokenizer.ggml.unknown_token_id", tokens.length) ?? inVocabulary(0, tokens);
  const { symbols, expansions } = spmSymbols(plain, tokens.length, byteIds, unknown);
  const model = new BpeModel({
    first: { kind: "characters", ids: symbols, byteIds },
    merges: mergesOfScores(plain, symbols, scores),
    unknownId: unknown,
    fuseUnknown: false,
    wholeWords: undefined,
    expansions,
  });
  const addsSpace = file.boolean("tokenizer.ggml.add_space_prefix") ?? true;
  const bos = file.tokenId("tokenizer.ggml.bos_token_id", tokens.length) ?? inVocabulary(1, tokens);
  const eos = file.tokenId("tokenizer.ggml.eos_token_id", tokens.length) ?? inVocabulary(2, tokens);
  const steps: SplitStep[] = canCutBeforeSpaces(plain.keys()) ? [cutBeforeSpaces()] : [];
  return {
    ...commonParts(file, vocabulary, bos, eos, true, [
      "llama",
      addsSpace,
      unknown ?? null,
      tokens,
      [...types],
      Array.from(scores),
    ]),
    // Every run of plain text starts anew: after the start of the text, or after a token found by its spelling.
    // Over megabytes of spaces it takes a third of what replaceAll() does.
    normalize: (text) => (addsSpace ? "▁" : "") + text.split(" ").join("▁"),
    splitSteps: steps,
    model,
    decoder: spmDecoder(addsSpace),
    addsDummySpace: addsSpace,
  };
}

/** Characters that occur in tokens but are none themselves: ids past the vocabulary, for merges to start from. */
function spmSymbols(
  plain: ReadonlyMap<string, number>,
  numTokens: number,
  byteIds: Int32Array,
  unknown: number | undefined,
) {
  const symbols = new Map(plain);
  const expansions = new Map<number, number[]>();
  for (const token of plain.keys()) {
    for (const character of token) {
      if (symbols.has(character)) continue;
      const id = numTokens + expansions.size;
      symbols.set(character, id);
      const bytes = Array.from(Buffer.from(character, "utf8"), (byte) => byteIds[byte]!);
      expansions.set(id, bytes.every((byteId) => byteId >= 0) ? bytes : unknown === undefined ? [] : [unknown]);
    }
  }
  return { symbols, expansions };
}

/** A vocabulary of a quarter of a million tokens of ten characters has 25 million. */
const maxCutUnits = 2 ** 28;

/**
 * SPM merges the neighbours whose joint text is the token of the highest score, the leftmost among equals. That is BPE in
 * which every way to cut a token in two is a pair, ranked by the token's score.
 */
function mergesOfScores(
  plain: ReadonlyMap<string, number>,
  symbols: ReadonlyMap<string, number>,
  scores: ArrayLike<number>,
): PairMerges {
  // Each way to cut a token looks at all of it.
  const numUnits = [...plain.keys()].reduce((total, { length }) => total + length ** 2, 0);
  if (numUnits > maxCutUnits) fail("its tokens are too long: there are too many ways to cut them in two");
  const distinct = new Set<number>();
  for (const id of plain.values()) {
    const score = scores[id]!;
    if (Number.isNaN(score)) fail(`the score of token ${id} is no number`);
    distinct.add(score);
  }
  const ranks = new Map([...distinct].sort((a, b) => b - a).map((score, rank) => [score, rank]));
  const pairs: number[] = [];
  for (const [token, id] of plain) {
    const characters = Array.from(token);
    let left = "";
    for (const character of characters.slice(0, -1)) {
      left += character;
      const leftId = symbols.get(left);
      const rightId = leftId === undefined ? undefined : symbols.get(token.slice(left.length));
      if (leftId !== undefined && rightId !== undefined) pairs.push(leftId, rightId, ranks.get(scores[id]!)!, id);
    }
  }
  const merges = new PairMerges(pairs.length / 4);
  for (let i = 0; i < pairs.length; i += 4) merges.set(pairs[i]!, pairs[i + 1]!, pairs[i + 2]!, pairs[i + 3]!);
  return merges;
}

function commonParts(
  file: GgufFields,
  { tokens, types, endsByText }: Vocabulary,
  bos: number | undefined,
  eos: number | undefined,
  addsBosByDefault: boolean,
  digested: readonly unknown[],
) {
  const named = ["eot", "eom"].map((name) => file.tokenId(`tokenizer.ggml.${name}_token_id`, tokens.length));
  const addsBos = file.boolean("tokenizer.ggml.add_bos_token") ?? addsBosByDefault;
  const bosTokenId = addsBos ? bos : undefined;
  // As llama.cpp knows Phi 3, whose special tokens but these take the white space behind them.
  const isPhi3 = /phi-?3/i.test(file.string("general.name") ?? "");
  const stripsRight = (content: string) => isPhi3 && !["<unk>", "<s>", "<|endoftext|>"].includes(content);
  const special = new Set<number>();
  const addedTokens: AddedToken[] = [];
  tokens.forEach((content, id) => {
    const control = types[id] === kinds.control || types[id] === kinds.unknown;
    if (control) special.add(id);
    if (control || types[id] === kinds.userDefined) {
      if (content.length > longest.addedToken)
        fail(
          `token ${id} is ${control ? "control" : "user-defined"} and has ${content.length} UTF-16 units, not up to ${longest.addedToken}`,
        );
      const rstrip = stripsRight(content);
      addedTokens.push({ id, content, control, lstrip: false, rstrip, singleWord: false, normalized: false });
    }
  });
  const text = (id: number | undefined) => (id === undefined ? "" : tokens[id]!);
  return {
    // As in llama.cpp, an unused token spells nothing.
    tokens: tokens.map((token, id) => (types[id] === kinds.unused ? undefined : token)),
    addedTokens,
    bosTokenId,
    endTokenIds: new Set([...endsByText, ...[eos, ...named].filter((id) => id !== undefined)]),
    specialTokenIds: special,
    chatTemplate: file.string("tokenizer.chat_template", longest.chatTemplate),
    templateTokens: {
      bos_token: text(bos),
      eos_token: text(eos),
      pad_token: text(file.tokenId("tokenizer.ggml.padding_token_id", tokens.length)),
      unk_token: text(file.tokenId("tokenizer.ggml.unknown_token_id", tokens.length)),
    },
    digest: createHash("sha256")
      .update(JSON.stringify([...digested, bosTokenId ?? null, ...(isPhi3 ? ["rstrip"] : [])]))
      .digest("hex"),
    warnings: [],
  };
}

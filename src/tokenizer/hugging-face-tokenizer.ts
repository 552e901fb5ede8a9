import { createHash } from "node:crypto";
import { quote } from "../files/quote.js";
import type { AddedToken } from "./added-tokens.js";
import { BpeModel, type FirstSymbols } from "./bpe-model.js";
import { byteAlphabet } from "./byte-level.js";
import { isIndex, JsonFields } from "./json-fields.js";
import { readNormalizer } from "./normalizer.js";
import { maxTokens, PairMerges } from "./pair-merges.js";
import { readPreTokenizer } from "./pre-tokenizer.js";
import { canCutBeforeSpaces, cutBeforeSpaces } from "./space-words.js";
import { TextTokenizer } from "./text-tokenizer.js";
import { readDecoder } from "./token-decoder.js";
import { longest, type Tokenizer } from "./tokenizer.js";

/** A JSON file, parsed, and its name for messages. */
export interface JsonFile {
  readonly name: string;
  readonly value: unknown;
}

/** The files of a Hugging Face folder that say how text becomes ids; all but the first may be missing. */
export interface HuggingFaceFiles {
  readonly tokenizer: JsonFile;
  readonly tokenizerConfig?: JsonFile | undefined;
  readonly specialTokensMap?: JsonFile | undefined;
  readonly generationConfig?: JsonFile | undefined;
  readonly config?: JsonFile | undefined;
  /** The text of chat_template.jinja. */
  readonly chatTemplate?: string | undefined;
  readonly chatTemplateJson?: JsonFile | undefined;
}

/**
 * The tokenizer of a Hugging Face folder: byte-pair encoding, over bytes or characters, with the ids that Python's tokenizers gives.
 *
 * `clean_up_tokenization_spaces` is not followed: it takes spaces out of answers (" ." becomes "."), damages code, and
 * cannot be done over a stream without taking text back; servers that stream leave it out too.
 *
 * @throws Error naming the file and the field that is wrong, missing or not supported.
 */
export function tokenizerFromHuggingFace(files: HuggingFaceFiles): Tokenizer {
  const file = fieldsOf(files.tokenizer);
  const config = optionalFieldsOf(files.tokenizerConfig);
  const named = new NamedTokens(config, optionalFieldsOf(files.specialTokensMap));
  const model = file.object("model");
  checkModel(model);
  const vocabulary = readVocabulary(model);
  const addedTokens = readAddedTokens(file, config, named, vocabulary);
  const tokens = tokensById(file, vocabulary, addedTokens);
  const idOf = new Map([...vocabulary, ...addedTokens.map((token) => [token.content, token.id] as const)]);

  const normalizerFields = file.optionalObject("normalizer");
  const normalize = readNormalizer(normalizerFields);
  const pre = readPreTokenizer(file.optionalObject("pre_tokenizer"));
  const control = new Set(addedTokens.filter((token) => token.control).map((token) => token.id));
  const merges = readMerges(model, vocabulary, control);
  // Without a pre-tokenizer every text is one word; SPM's can be cut before its spaces.
  const cuts = pre.steps.length === 0 && !pre.byteLevel && vocabulary.has("▁") && canCutBeforeSpaces(merges.products);
  const decoderFields = file.optionalObject("decoder") ?? file.fail("decoder is missing");
  const decoder = readDecoder(decoderFields);
  const { bosTokenId, warnings } = readBos(file, config, named, idOf);
  return new TextTokenizer({
    tokens,
    addedTokens,
    normalize,
    splitSteps: cuts ? [cutBeforeSpaces()] : pre.steps,
    model: readModel(model, vocabulary, merges.pairs, control, pre.byteLevel),
    decoder,
    addsDummySpace: decoder.filters.some((filter) => filter.kind === "drop-at-start"),
    bosTokenId,
    endTokenIds: readEnds(files, named, idOf),
    specialTokenIds: control,
    chatTemplate: readChatTemplate(files, config),
    templateTokens: {
      bos_token: named.text("bos_token") ?? "",
      eos_token: named.text("eos_token") ?? "",
      pad_token: named.text("pad_token") ?? "",
      unk_token: named.text("unk_token") ?? "",
    },
    digest: createHash("sha256")
      .update(JSON.stringify(["normalizer", "pre_tokenizer", "model", "decoder"].map((name) => file.get(name) ?? null)))
      .update(JSON.stringify([addedTokens, bosTokenId ?? null]))
      .digest("hex"),
    warnings,
  });
}

/** A tokenizer.json's tables, as another format wants them. */
export interface BpeTables {
  /** Texts by id; undefined where an id is not used. */
  readonly tokens: readonly (string | undefined)[];
  readonly addedTokens: readonly AddedToken[];
  /** Pairs of tokens, the first merged first. */
  readonly merges: readonly (readonly [left: string, right: string])[];
  /** Tokens are spelled in the byte alphabet; else in characters, with a mark for the space. */
  readonly isByteLevel: boolean;
  readonly unknownToken: string | undefined;
  /** The kind of normalizer, for instance "NFC". */
  readonly normalizer: string | undefined;
}

/** Reads the tables of a tokenizer that tokenizerFromHuggingFace() takes. @throws Error as it does. */
export function readBpeTables(files: HuggingFaceFiles): BpeTables {
  const file = fieldsOf(files.tokenizer);
  const config = optionalFieldsOf(files.tokenizerConfig);
  const named = new NamedTokens(config, optionalFieldsOf(files.specialTokensMap));
  const model = file.object("model");
  const vocabulary = readVocabulary(model);
  const addedTokens = readAddedTokens(file, config, named, vocabulary);
  return {
    tokens: tokensById(file, vocabulary, addedTokens),
    addedTokens,
    merges: model.array("merges").map((merge, rank) => readMerge(model, merge, rank)),
    isByteLevel: readPreTokenizer(file.optionalObject("pre_tokenizer")).byteLevel,
    unknownToken: model.optionalString("unk_token"),
    normalizer: file.optionalObject("normalizer")?.string("type"),
  };
}

function fieldsOf(file: JsonFile): JsonFields {
  return new JsonFields(quote(file.name), "", file.value);
}

function optionalFieldsOf(file: JsonFile | undefined): JsonFields {
  return file === undefined ? new JsonFields("a missing file", "", {}) : fieldsOf(file);
}

function checkModel(model: JsonFields): void {
  const type = model.optionalString("type");
  // Files of old versions name no type: BPE is the one with merges.
  if (type !== "BPE" && !(type === undefined && model.get("merges") !== undefined)) {
    model.fail(`the model type ${quote(type ?? "")} is not supported, only "BPE" is`);
  }
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if ((model.optionalString(name) ?? "") !== "") model.fail(`${name} is not supported`);
  }
  if ((model.get("dropout") ?? 0) !== 0) model.fail("dropout makes ids random, it must be null or 0");
}

function readVocabulary(model: JsonFields): Map<string, number> {
  const vocabulary = new Map<string, number>();
  const seen = new Map<number, string>();
  for (const [token, id] of model.object("vocab").entries()) {
    if (!isIndex(id) || id >= maxTokens)
      return model.fail(
        `token ${quote(token, 40)} has the id ${quote(String(id), 40)}, not an integer of 0 to ${maxTokens - 1}`,
      );
    if (token.length > longest.token)
      return model.fail(`token ${id} has ${token.length} UTF-16 units, not up to ${longest.token}`);
    const before = seen.get(id);
    if (before !== undefined)
      return model.fail(`tokens ${quote(before, 40)} and ${quote(token, 40)} both have the id ${id}`);
    seen.set(id, token);
    vocabulary.set(token, id);
  }
  if (vocabulary.size === 0) model.fail("vocab is empty");
  return vocabulary;
}

/**
 * tokenizer.json's added tokens, then tokenizer_config.json's where the first lacks them. A token that the config names
 * as beginning, end, padding or unknown is a control token, as in Transformers.
 */
function readAddedTokens(
  file: JsonFields,
  config: JsonFields,
  named: NamedTokens,
  vocabulary: ReadonlyMap<string, number>,
): AddedToken[] {
  const tokens = new Map<string, AddedToken>();
  const add = (fields: JsonFields, id: number) => {
    const content = fields.shortString("content", longest.addedToken);
    if (id >= maxTokens) fields.fail(`the id is ${id}, not below ${maxTokens}`);
    const known = vocabulary.get(content);
    if (known !== undefined && known !== id)
      fields.fail(`${quote(content, 40)} has the id ${id}, and ${known} in the vocabulary`);
    if (content === "" || tokens.has(content)) return;
    const control = fields.boolean("special", false);
    tokens.set(content, {
      id,
      content,
      control: control || named.has(content),
      lstrip: fields.boolean("lstrip", false),
      rstrip: fields.boolean("rstrip", false),
      singleWord: fields.boolean("single_word", false),
      normalized: fields.boolean("normalized", !control),
    });
  };
  for (const fields of file.objects("added_tokens")) add(fields, fields.integer("id"));
  const more = config.optionalObject("added_tokens_decoder");
  for (const [id] of more?.entries() ?? []) {
    if (!/^\d{1,9}$/.test(id)) more!.fail(`${quote(id, 40)} is no id`);
    add(more!.object(id), Number(id));
  }
  for (const content of named.texts()) {
    const id = vocabulary.get(content);
    if (id !== undefined && !tokens.has(content)) {
      tokens.set(content, {
        id,
        content,
        control: true,
        lstrip: false,
        rstrip: false,
        singleWord: false,
        normalized: false,
      });
    }
  }
  return [...tokens.values()];
}

function tokensById(
  file: JsonFields,
  vocabulary: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
): (string | undefined)[] {
  let largest = 0;
  for (const id of vocabulary.values()) largest = Math.max(largest, id);
  for (const { id } of added) largest = Math.max(largest, id);
  const tokens = new Array<string | undefined>(largest + 1).fill(undefined);
  for (const [token, id] of vocabulary) tokens[id] = token;
  for (const { content, id } of added) {
    const before = tokens[id];
    if (before !== undefined && before !== content) {
      file.fail(`tokens ${quote(before, 40)} and ${quote(content, 40)} both have the id ${id}`);
    }
    tokens[id] = content;
  }
  return tokens;
}

function readMerges(model: JsonFields, vocabulary: ReadonlyMap<string, number>, control: ReadonlySet<number>) {
  const written = model.array("merges");
  if (written.length > maxTokens) model.fail(`there are ${written.length} merges, not up to ${maxTokens}`);
  const pairs = new PairMerges(written.length);
  const products: string[] = [];
  for (const [rank, merge] of written.entries()) {
    const [left, right] = readMerge(model, merge, rank);
    const leftId = vocabulary.get(left);
    const rightId = vocabulary.get(right);
    const merged = vocabulary.get(left + right);
    if (leftId === undefined || rightId === undefined || merged === undefined) {
      model.fail(
        `merge ${rank} is of ${quote(left, 40)} and ${quote(right, 40)}, and the vocabulary lacks one of them or what they make`,
      );
    }
    // Text must not become a control token by itself.
    if (control.has(merged)) continue;
    pairs.set(leftId, rightId, rank, merged);
    products.push(left + right);
  }
  return { pairs, products };
}

function readMerge(model: JsonFields, merge: unknown, rank: number): readonly [string, string] {
  const parts = typeof merge === "string" ? merge.split(" ") : merge;
  if (Array.isArray(parts) && parts.length === 2 && typeof parts[0] === "string" && typeof parts[1] === "string") {
    return [parts[0], parts[1]];
  }
  return model.fail(`merge ${rank} is not two tokens`);
}

function readModel(
  model: JsonFields,
  vocabulary: ReadonlyMap<string, number>,
  merges: PairMerges,
  control: ReadonlySet<number>,
  byteLevel: boolean,
): BpeModel {
  const unknown = model.optionalString("unk_token");
  const unknownId = unknown === undefined ? undefined : vocabulary.get(unknown);
  if (unknown !== undefined && unknownId === undefined)
    model.fail(`unk_token ${quote(unknown, 40)} is not in the vocabulary`);
  const plain = new Map([...vocabulary].filter(([, id]) => !control.has(id)));
  const byteIds = Int32Array.from(
    { length: 256 },
    (_, byte) => vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`) ?? -1,
  );
  const alphabet = byteAlphabet();
  const first: FirstSymbols = byteLevel
    ? { kind: "bytes", alphabet, ids: Int32Array.from(alphabet, (character) => plain.get(character) ?? -1) }
    : { kind: "characters", ids: plain, byteIds: model.boolean("byte_fallback", false) ? byteIds : undefined };
  return new BpeModel({
    first,
    merges,
    unknownId,
    fuseUnknown: model.boolean("fuse_unk", false),
    wholeWords: model.boolean("ignore_merges", false) ? plain : undefined,
    expansions: new Map(),
  });
}

/** The tokens that tokenizer_config.json, or else special_tokens_map.json, names by role. */
class NamedTokens {
  readonly #texts = new Map<string, string>();

  constructor(config: JsonFields, map: JsonFields) {
    for (const role of ["bos_token", "eos_token", "pad_token", "unk_token"]) {
      const text = tokenText(config, role) ?? tokenText(map, role);
      if (text !== undefined && text !== "") this.#texts.set(role, text);
    }
  }

  text(role: string): string | undefined {
    return this.#texts.get(role);
  }

  texts(): Set<string> {
    return new Set(this.#texts.values());
  }

  has(text: string): boolean {
    return this.texts().has(text);
  }
}

/** A token is written as a string, or as an object with its content. */
function tokenText(fields: JsonFields, role: string): string | undefined {
  const value = fields.get(role);
  if (typeof value !== "object" || value === null) return fields.optionalShortString(role, longest.addedToken);
  return fields.object(role).shortString("content", longest.addedToken);
}

/**
 * BOS where the tokenizer would add it: `add_bos_token` decides, else a post-processor that puts a token first, else a
 * Llama class. The trainer has the same rule.
 */
function readBos(
  file: JsonFields,
  config: JsonFields,
  named: NamedTokens,
  idOf: ReadonlyMap<string, number>,
): { readonly bosTokenId: number | undefined; readonly warnings: readonly string[] } {
  const text = named.text("bos_token");
  const adds = config.optionalBoolean("add_bos_token");
  const first = firstOfTemplate(file.optionalObject("post_processor"));
  const isLlamaClass = /^(Code)?Llama(TokenizerFast|Tokenizer)$/.test(config.optionalString("tokenizer_class") ?? "");
  const bos = adds === false ? undefined : adds || (first === undefined && isLlamaClass) ? (text ?? first) : first;
  const bosTokenId =
    bos === undefined ? undefined : (idOf.get(bos) ?? config.fail(`the beginning token ${quote(bos, 40)} has no id`));
  if (adds === undefined || bos === first) return { bosTokenId, warnings: [] };
  const shown = (token: string | undefined) => (token === undefined ? "no token" : quote(token, 40));
  const warning = `${config.where} has "add_bos_token": ${adds}, but the post-processor of ${file.where} puts ${shown(first)} first: ${shown(bos)} is put before a prompt`;
  return { bosTokenId, warnings: [warning] };
}

/** The text of the token that a TemplateProcessing puts before a single text. */
function firstOfTemplate(fields: JsonFields | undefined): string | undefined {
  if (fields === undefined) return undefined;
  const type = fields.string("type");
  if (type === "Sequence") {
    return fields
      .objects("processors")
      .map(firstOfTemplate)
      .find((text) => text !== undefined);
  }
  return type === "TemplateProcessing"
    ? fields.objects("single")[0]?.optionalObject("SpecialToken")?.string("id")
    : undefined;
}

function readEnds(files: HuggingFaceFiles, named: NamedTokens, idOf: ReadonlyMap<string, number>): Set<number> {
  const ends = new Set<number>();
  for (const file of [files.generationConfig, files.config]) {
    const fields = optionalFieldsOf(file);
    const value = fields.get("eos_token_id");
    if (value === undefined) continue;
    for (const id of Array.isArray(value) ? value : [value]) {
      if (!isIndex(id) || id >= maxTokens) fields.fail(`eos_token_id is ${quote(String(id), 40)}, not an id`);
      // An id past the tokenizer's vocabulary cannot be decoded, but the model may give it.
      ends.add(id as number);
    }
  }
  const eos = named.text("eos_token");
  const id = eos === undefined ? undefined : idOf.get(eos);
  if (id !== undefined) ends.add(id);
  return ends;
}

function readChatTemplate(files: HuggingFaceFiles, config: JsonFields): string | undefined {
  if (files.chatTemplate !== undefined) return files.chatTemplate;
  return templateOf(optionalFieldsOf(files.chatTemplateJson)) ?? templateOf(config);
}

/** A template, or of several named ones "default", else the first. */
function templateOf(fields: JsonFields): string | undefined {
  const value = fields.get("chat_template");
  if (!Array.isArray(value)) return fields.optionalShortString("chat_template", longest.chatTemplate);
  const named = fields.objects("chat_template");
  const chosen = named.find((item) => item.optionalString("name") === "default") ?? named[0];
  return chosen?.shortString("template", longest.chatTemplate);
}

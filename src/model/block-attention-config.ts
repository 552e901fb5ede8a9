import { isJsonObject, type JsonValue } from "../files/bounded-json.js";
import { type Fields, objectFields, readInteger, readText, required, wrongValue } from "../files/fields.js";
import type { GgufMetadata } from "../files/gguf.js";
import { quote } from "../files/quote.js";

/** Block: local blocks see themselves alone. Full: plain causal attention. */
export const attentionModes = ["block", "full"] as const;
export type AttentionMode = (typeof attentionModes)[number];

/** The model's own word on how it was trained: config.json key `block_attention`, GGUF keys `block_attention.*`. */
export interface BlockAttentionConfig {
  readonly version: 1;
  /** Text put before block 0 in block mode, tokenized alone, for instance "[Block-Attention]". */
  readonly prefix: string;
  /** The modes that the model was trained in. */
  readonly modes: readonly AttentionMode[];
  /** What it was trained to have done before blocks, in the words of docs/reuse.md; absent: nothing. */
  readonly repair?: string;
  /** The texts of the RAG prompt that the model was trained on; what is absent is the default. */
  readonly ragPrompt?: RagPromptConfig;
}

/** config.json key `block_attention.rag_prompt`, GGUF keys `block_attention.rag_prompt.*`. */
export interface RagPromptConfig {
  readonly system?: string;
  readonly preamble?: string;
  readonly passage?: string;
  readonly final?: string;
}

/** The user's word against the model's own. */
export interface BlockAttentionOverride {
  readonly prefix?: string | undefined;
  readonly trainedModes?: readonly AttentionMode[] | undefined;
}

/**
 * Reads config.json's `block_attention`.
 *
 * @param where the file for errors, for instance its quoted path.
 * @returns undefined where `value` is absent or null.
 * @throws Error for another version, an unknown key or mode, or a value of the wrong type.
 * @example parseBlockAttentionConfig({ version: 1, prefix: "", modes: ["block"] }, "the test")
 */
export function parseBlockAttentionConfig(
  value: JsonValue | undefined,
  where: string,
): BlockAttentionConfig | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isJsonObject(value)) throw new Error(`Cannot read ${where}: "block_attention" is no object`);
  const fields = objectFields(`"block_attention" of ${where}`, value);
  const rag = fields.get("rag_prompt") as JsonValue | undefined;
  if (rag !== undefined && rag !== null && !isJsonObject(rag)) {
    throw new Error(`Cannot read ${fields.where}: "rag_prompt" is no object`);
  }
  const ragFields = rag ? objectFields(`"rag_prompt" in ${fields.where}`, rag) : undefined;
  // The version first: another one may have other keys.
  const version = readVersion(fields);
  refuseUnknownKeys(Object.keys(value), ["version", "prefix", "modes", "repair", "rag_prompt"], fields.where);
  refuseUnknownKeys(Object.keys(rag ?? {}), ragKeys, `"rag_prompt" in ${fields.where}`);
  return readConfig(version, fields, ragFields);
}

/**
 * Reads the GGUF keys `block_attention.*`.
 *
 * @returns undefined where there is none of them.
 * @throws Error as parseBlockAttentionConfig() does.
 */
export function readGgufBlockAttention(metadata: GgufMetadata, where: string): BlockAttentionConfig | undefined {
  const start = "block_attention.";
  const ragStart = `${start}rag_prompt.`;
  const keys = [...metadata.keys()].filter((key) => key.startsWith(start));
  if (keys.length === 0) return undefined;
  const fields: Fields = { where: `"${start}*" of ${where}`, get: (key) => metadata.get(start + key) };
  const ragFields: Fields = { where: `"${ragStart}*" of ${where}`, get: (key) => metadata.get(ragStart + key) };
  const version = readVersion(fields);
  const known = ["version", "prefix", "modes", "repair", ...ragKeys.map((key) => `rag_prompt.${key}`)];
  refuseUnknownKeys(
    keys.map((key) => key.slice(start.length)),
    known,
    fields.where,
  );
  return readConfig(version, fields, keys.some((key) => key.startsWith(ragStart)) ? ragFields : undefined);
}

/**
 * Puts the user's word over the model's own.
 *
 * A prefix alone on a model that says nothing of its training means a model trained in both modes, as the paper's public
 * checkpoints are: the prefix has no other use.
 *
 * @returns undefined where neither says anything.
 * @throws RangeError if no mode is left, or for a very long prefix.
 */
export function overrideBlockAttention(
  own: BlockAttentionConfig | undefined,
  { prefix, trainedModes }: BlockAttentionOverride,
): BlockAttentionConfig | undefined {
  if (prefix === undefined && trainedModes === undefined) return own;
  if (prefix !== undefined && prefix.length > longestText) {
    throw new RangeError(
      `Cannot override the prefix: it has ${prefix.length} UTF-16 units, at most ${longestText} are taken`,
    );
  }
  const modes = trainedModes ?? own?.modes ?? attentionModes;
  if (modes.length === 0) throw new RangeError("Cannot override the trained modes: none is given");
  return { ...own, version: 1, prefix: prefix ?? own?.prefix ?? "", modes };
}

const ragKeys = ["system", "preamble", "passage", "final"];

function readVersion(fields: Fields): 1 {
  const version = required(fields, "version", readInteger(fields, "version", 0));
  if (version !== 1) throw new Error(`Cannot read ${fields.where}: its version is ${version}, version 1 is read`);
  return version;
}

function readConfig(version: 1, fields: Fields, ragFields: Fields | undefined): BlockAttentionConfig {
  const prefix = required(fields, "prefix", readShortText(fields, "prefix"));
  const modes = readModes(fields);
  const repair = readShortText(fields, "repair");
  const own = { version, prefix, modes, ...(repair !== undefined && { repair }) };
  if (ragFields === undefined) return own;
  const texts = ragKeys.map((key) => [key, readShortText(ragFields, key)]).filter(([, text]) => text !== undefined);
  return { ...own, ragPrompt: Object.fromEntries(texts) };
}

/** In UTF-16 units: every prompt holds these texts. */
const longestText = 2 ** 14;

function readShortText(fields: Fields, key: string): string | undefined {
  const text = readText(fields, key);
  if (text === undefined || text.length <= longestText) return text;
  throw new Error(
    `Cannot read ${fields.where}: ${quote(key)} has ${text.length} UTF-16 units, at most ${longestText} are taken`,
  );
}

/** Of a model, or of a training sample: a list of modes, none of them twice. */
export function readModes(fields: Fields): AttentionMode[] {
  const value: unknown = required(fields, "modes", fields.get("modes") ?? undefined);
  const isMode = (mode: unknown): mode is AttentionMode => attentionModes.some((known) => known === mode);
  if (!Array.isArray(value) || value.length === 0 || !value.every(isMode) || new Set(value).size < value.length) {
    throw wrongValue(fields, "modes", 'a list of "block", "full" or both');
  }
  return value;
}

function refuseUnknownKeys(keys: readonly string[], known: readonly string[], where: string): void {
  const unknown = keys.find((key) => !known.includes(key));
  if (unknown !== undefined) {
    throw new Error(`Cannot read ${where}: ${quote(unknown)} is not known, the keys are ${known.join(", ")}`);
  }
}

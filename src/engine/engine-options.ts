import { z } from "zod";
import { type GivenRagTexts, ragTextFields } from "../blocks/rag-prompt.js";
import { KV_TYPES, type KVType, weightsConversions } from "../files/element-types.js";
import {
  aFunction,
  anyBoolean,
  anySignal,
  anyText,
  type FieldsOf,
  oneOfTexts,
  optionOf,
  optionsOf,
  wholeNumber,
} from "../files/options.js";
import { bytes, defaulted, listOf, numberOf, setting, someWords } from "../files/settings.js";
import { backendKinds } from "../ggml/library.js";
import { productKinds } from "../ggml/openvino/library.js";
import { storePlacesField } from "../kv/store-place.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";
import { type Constraint, constraintField } from "./constraint/constraint.js";
import type { DraftUse } from "./decode-steps.js";
import { maxDraftTokens } from "./drafts.js";
import type { ModelOptions } from "./model.js";
import { type SplitLong, splitLongField } from "./prompt.js";
import { repairField } from "./repair.js";
import type { EncodedPassage, Token } from "./results.js";
import { type SamplingInput, samplingFields } from "./sampling-options.js";

export interface EngineOptions extends Omit<ModelOptions, "model"> {
  /** A Hugging Face folder, a .gguf file, or an adapter's folder whose base `pull` has fetched by a name of its own. Default: `defaultModel()`. */
  readonly model?: string | undefined;
  /**
   * The element type of block KV. "q8_0" and "q4_0" take a half and a quarter of "f16"'s room, in memory and wherever else blocks rest; pages of
   * global text stay F16. On the CPU alone, of models whose heads are multiples of 32 elements. Default "f16".
   */
  readonly kvType?: KVType | undefined;
  /** The most bytes of blocks that are kept. Default: `memoryShare()`, a quarter of what the weights leave of memory. */
  readonly storeBytes?: number | undefined;
  /**
   * The most bytes of blocks that rest in the machine's memory, below those that the device keeps (`storeBytes`): what leaves the device
   * goes there, and is copied to the device again for a prompt that has it. Default 0: what leaves the device is encoded again.
   */
  readonly hostStoreBytes?: number | undefined;
  /**
   * Where blocks outlive the process, the nearest place first: a folder with the most bytes of all that it takes, "blocks?cap=20GB", of which
   * one process writes and others read; a server that many share, "redis://host" or "s3://bucket/prefix". Default: none; a folder's cap is a tenth of the file system.
   */
  readonly store?: string | readonly string[] | undefined;
  /** The most bytes of assembled contexts, all requests together. Default: `memoryShare()`, a quarter of what the weights leave of memory. */
  readonly contextBytes?: number | undefined;
  /** The most requests that run at the same time. Default 32. */
  readonly maxRunning?: number | undefined;
  /** The most requests that wait for their turn; more are turned away. Default 256. */
  readonly maxQueued?: number | undefined;
  /**
   * How long an answer waits for a reader who takes nothing while 32 events are unread, in ms; then it ends with an error.
   * Default 60,000.
   */
  readonly readerTimeoutMs?: number | undefined;
  /** The longest prompt, in tokens; also of a passage that is encoded. Default: as long as the model's context allows. */
  readonly maxPromptTokens?: number | undefined;
  /** The mode of requests that name none. Default: block where the model was trained for it, else full. */
  readonly mode?: AttentionMode | undefined;
  /**
   * What requests in block mode that name no repair do about what block mode loses: `none`, `auto`, or items as in docs/reuse.md.
   * Default: the model's own, else none.
   */
  readonly repair?: string | undefined;
  /** The RAG prompt's own words, in place of the model's. */
  readonly ragTexts?: GivenRagTexts | undefined;
  /**
   * Whether an answer's next tokens are guessed from the prompt's text and computed several at a time. Tokens are what they are without it, only
   * sooner. "auto": where it is expected to be faster, by how long graphs take and how often guesses are right; a number: so many tokens
   * wherever there is a guess. Default "auto" on the CPU; other devices compute none.
   */
  readonly drafts?: DraftUse | undefined;
  /** Whether requests keep what they compute for later ones, unless they say otherwise. Default true. */
  readonly keepPrefixes?: boolean | undefined;
  /** Told once what a user should know, for instance that the model was not trained for block attention, or that its files contradict themselves. */
  readonly onWarning?: ((warning: string) => void) | undefined;
}

export interface RequestOptions {
  readonly mode?: AttentionMode | undefined;
  /**
   * False, for experiments: non-final blocks keep the positions 0.. at which they were encoded, the final block has its
   * global ones. Default true.
   */
  readonly positionReencoding?: boolean | undefined;
  /** Keeps tenants apart: no two salts share a block. Default "". */
  readonly salt?: string | undefined;
  /** Whose share of the machine the request takes, where several salts are one user's. Default: the salt. */
  readonly payer?: string | undefined;
  /**
   * Whether the keys and values of the prompt's global text, and of the answer, are kept for prompts that begin as they do.
   * Local blocks are kept always. Default: the engine's.
   */
  readonly keepPrefixes?: boolean | undefined;
  /** What is done in block mode about what it loses, as in docs/reuse.md. Default: the engine's. Where it is neither "none" nor "auto", the mode is block unless `mode` is named. */
  readonly repair?: string | undefined;
  /** Says where reuse ended and why, in the result's `misses`. Default false. */
  readonly explain?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerateOptions extends SamplingInput {
  /** What each answer must be: JSON, JSON of a schema, what an expression or a grammar takes, or one of some texts. Default: anything. */
  readonly constraint?: Constraint | undefined;
  /** What the answer is likely to be, or to have parts of: tokens are guessed from it too. It changes no token. */
  readonly prediction?: string | undefined;
  /** How many answers: all of one prompt, which is tokenized once. With a seed, answer i has seed + i. Default 1. */
  readonly n?: number | undefined;
  /**
   * Gives the prompt's tokens, spelled, in `echo` events before the `prompt` event. With `logprobs` they come with how likely each was, and
   * `topLogprobs` of the likeliest in its place; local blocks are computed for it, hits too. Default false.
   */
  readonly echo?: boolean | undefined;
  /** Gives the answer's tokens with their own text and bytes, and the likeliest others with theirs. Default false. */
  readonly spell?: boolean | undefined;
  /**
   * The most log-probabilities of one answer: of its tokens, of an echo's, and of those in their places, together. What
   * could have more is refused before anything is computed. Default: as many as there are.
   */
  readonly maxLogprobs?: number | undefined;
}

export interface EncodeOptions extends Pick<RequestOptions, "repair" | "salt" | "payer" | "signal"> {
  /** The model's form of a passage in other words, as prompts will have it in `rag.texts`; the preamble's too with the repair `preamble`. */
  readonly texts?: Pick<GivenRagTexts, "passage" | "preamble"> | undefined;
  /** With the repair `preamble`: the system message of the prompts to come. Default: they have none, and begin with the RAG prompt's preamble. */
  readonly system?: string | undefined;
  readonly splitLong?: SplitLong | undefined;
  /** How many blocks passages may be split into, all together: one that has too many parts fails. Default: as many as there are. */
  readonly maxBlocks?: number | undefined;
  /** Called for each passage in order, as it is there; of one that is split, for each part. Encoding waits for what it returns. */
  readonly onBlock?: ((block: EncodedPassage) => unknown) | undefined;
}

export interface DocumentsOptions extends Pick<RequestOptions, "salt"> {
  /** The most, 1 to 1000. Default 100. */
  readonly limit?: number | undefined;
  /** The id of the last document of an earlier list: those after it. */
  readonly after?: string | undefined;
}

export interface TokenizeOptions {
  /** Whether text that spells a control token becomes it. Default false. */
  readonly special?: boolean | undefined;
  /** More tokens are an error. Default: as many as there are. */
  readonly maxTokens?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called with the tokens, spelled, some at a time, and how many there are in all; once where there are none. The next wait for what it returns. */
  readonly onTokens?: ((tokens: readonly Token[], numTokens: number) => unknown) | undefined;
}

export interface ScoreOptions extends RequestOptions {
  /** How many of the likeliest tokens are told at each step. Default 5. */
  readonly top?: number | undefined;
  /** Decodes the continuation token by token, as an answer is, where it is otherwise computed at once. */
  readonly stepwise?: boolean | undefined;
}

const shareOfMemory = "a quarter of what the weights leave of memory";

const adapterList = {
  schema: z
    .array(z.strictObject({ path: z.string().min(1), scale: z.number().optional() }))
    .max(100)
    .optional(),
  wanted: 'a list of adapters, each a {"path"} with or without a "scale"',
  fromText: (text: string) =>
    text.split(",").map((part) => {
      const [, path, scale] = /^(.+)=([^=]*)$/.exec(part.trim()) ?? [];
      return path === undefined ? { path: part.trim() } : { path, scale: numberOf(scale as string) };
    }),
  examples: "legal,polite.gguf=0.5",
};
const draftsField = {
  schema: z.union([z.enum(["off", "auto"]), z.int().min(1).max(maxDraftTokens)]).optional(),
  wanted: `off, auto, or a whole number from 1 to ${maxDraftTokens}`,
  fromText: numberOf,
};
const anyBooleanText = { ...anyBoolean, fromText: (text: string) => ({ true: true, false: false })[text] ?? text };

/**
 * The engine's options that flags of commands, and settings of the server, give too: their checks, names, defaults and words
 * stand here alone. `docs/server.md` is printed from them.
 */
export const engineSettings = {
  model: setting(
    someWords,
    "path",
    "a Hugging Face folder, a .gguf file, or hf:OWNER/REPO",
    "smollm2-rag where smollm2-135m is on the disk, else tiny-rag",
  ),
  weights: defaulted(
    oneOfTexts(weightsConversions),
    "type",
    `convert weights at load: ${weightsConversions.join(", ")}`,
    "keep",
  ),
  adapters: {
    ...setting(
      adapterList,
      "path",
      "a LoRA adapter, a folder of PEFT's, a .gguf file of llama.cpp's, or hf:OWNER/REPO, merged into the weights; may be given again",
      "none",
    ),
    option: "adapter",
  },
  threads: setting(
    wholeNumber(1, 512),
    "n",
    "CPU threads, 1 to 512",
    "all, fewer while other programs use the cores, where a number given here stays and is slow; 1 for a model below 64 MiB",
  ),
  mapWeights: setting(
    anyBooleanText,
    "true|false",
    "use weights where they lie in the model's file, where they need no other form: faster to load, shared between processes",
    "true; of the library false",
  ),
  backend: defaulted(oneOfTexts(backendKinds), "kind", `which build of ggml: ${backendKinds.join(", ")}`, "auto"),
  device: setting(
    someWords,
    "name",
    'the device as "doctor" lists it, for instance CUDA0',
    "the first GPU, else the CPU",
  ),
  products: defaulted(
    oneOfTexts(productKinds),
    "kind",
    `what multiplies prompts and blocks by quantized weights on the CPU: ${productKinds.join(", ")}; auto is OpenVINO where it is installed`,
    "auto",
  ),
  kvType: defaulted(oneOfTexts(KV_TYPES), "type", `the type of block KV: ${KV_TYPES.join(", ")}`, "f16"),
  storeBytes: setting(bytes(0), "n", "the most bytes of kept blocks, also as 512MiB or 2GB", shareOfMemory),
  hostStoreBytes: defaulted(
    bytes(0),
    "n",
    "the most bytes of blocks that leave the device's memory for the machine's, to be copied back, also as 8GB; with --store-bytes 0 all rest there",
    0,
  ),
  store: setting(
    storePlacesField,
    "place",
    "where blocks outlive the process: a folder with its cap, ./blocks?cap=20GB, without one a tenth of the file system; redis://host, or s3://bucket/prefix; may be given again, the nearest first",
    "none",
  ),
  contextBytes: setting(bytes(0), "n", "the most bytes of assembled contexts, also as 512MiB or 2GB", shareOfMemory),
  mode: setting(
    oneOfTexts(attentionModes),
    "mode",
    "the mode of prompts that name none: block or full",
    "block where the model was trained for it, else full",
  ),
  prefix: setting(
    anyText,
    "text",
    'text before the first block in block mode, for instance "[Block-Attention]"',
    "the model's own",
  ),
  trainedModes: setting(
    listOf(oneOfTexts(attentionModes), { words: 'a list of "block" and "full"' }),
    "modes",
    "the modes that the model was trained in: block, full, or block,full",
    "the model's own",
  ),
  repair: setting(
    repairField,
    "items",
    "what block mode does about what it loses: none, auto, or items such as lead",
    "the model's own, else none; of serve auto",
  ),
  maxPromptTokens: setting(wholeNumber(1), "n", "the longest prompt in tokens", "the model's context"),
  keepPrefixes: defaulted(
    anyBooleanText,
    "true|false",
    "keep the keys and values of prompts and answers for prompts that begin as they do",
    true,
  ),
  drafts: setting(
    draftsField,
    "off|auto|n",
    "guess an answer's next tokens from the prompt's text and compute several at a time: auto where that is faster, or n tokens always",
    "off",
  ),
  maxRunning: defaulted(wholeNumber(1, 100_000), "n", "requests that are worked on at the same time", 32),
  maxQueued: defaulted(
    wholeNumber(0, 1_000_000),
    "n",
    "requests that may wait for that; more are turned away, over HTTP with a 503",
    256,
  ),
};

/** The engine's options of flags or settings that hold others too. Commands and the server map weights unless told otherwise. */
export function engineSettingsOf(given: EngineSettings): EngineSettings {
  const names = Object.keys(engineSettings) as (keyof EngineSettings)[];
  return { ...Object.fromEntries(names.map((name) => [name, given[name]])), mapWeights: given.mapWeights ?? true };
}
export type EngineSettings = Pick<EngineOptions, keyof typeof engineSettings>;

/** The checks of the engine's options and of its calls' options. */
export const readEngineOptions = optionsOf({
  ...engineSettings,
  readerTimeoutMs: wholeNumber(1, 2 ** 31 - 1),
  signal: anySignal,
  onEstimate: aFunction<EngineOptions["onEstimate"]>(),
  onProgress: aFunction<EngineOptions["onProgress"]>(),
  ragTexts: optionOf<GivenRagTexts>(() => true, "an object"),
  onWarning: aFunction<EngineOptions["onWarning"]>(),
} satisfies FieldsOf<EngineOptions>);

const blockFields = { salt: anyText } satisfies FieldsOf<Pick<RequestOptions, "salt">>;
const requestFields = {
  mode: oneOfTexts(attentionModes),
  positionReencoding: anyBoolean,
  ...blockFields,
  payer: anyText,
  keepPrefixes: anyBoolean,
  repair: repairField,
  explain: anyBoolean,
  signal: anySignal,
} satisfies FieldsOf<RequestOptions>;

export const readGenerateOptions = optionsOf({
  ...requestFields,
  ...samplingFields,
  constraint: constraintField,
  prediction: anyText,
  n: wholeNumber(1, 1024),
  echo: anyBoolean,
  spell: anyBoolean,
  maxLogprobs: wholeNumber(0),
} satisfies FieldsOf<GenerateOptions & RequestOptions>);

export const readScoreOptions = optionsOf({
  ...requestFields,
  top: wholeNumber(0),
  stepwise: anyBoolean,
} satisfies FieldsOf<ScoreOptions>);

export const readEncodeOptions = optionsOf({
  ...blockFields,
  payer: anyText,
  repair: repairField,
  signal: anySignal,
  texts: optionOf<Pick<GivenRagTexts, "passage" | "preamble">>(() => true, "an object"),
  system: anyText,
  splitLong: splitLongField,
  maxBlocks: wholeNumber(1),
  onBlock: aFunction<EncodeOptions["onBlock"]>(),
} satisfies FieldsOf<EncodeOptions>);

export const readPassageTexts = optionsOf({ passage: ragTextFields.passage, preamble: ragTextFields.preamble });

export const readTokenizePromptOptions = optionsOf({ mode: oneOfTexts(attentionModes), signal: anySignal });

export const readTokenizeOptions = optionsOf({
  special: anyBoolean,
  maxTokens: wholeNumber(0),
  signal: anySignal,
  onTokens: aFunction<TokenizeOptions["onTokens"]>(),
} satisfies FieldsOf<TokenizeOptions>);

export const readBlockOptions = optionsOf(blockFields);

/** The most documents that are listed at a time. */
export const maxDocumentsListed = 1000;
export const readDocumentsOptions = optionsOf({
  ...blockFields,
  limit: wholeNumber(1, maxDocumentsListed),
  after: anyText,
} satisfies FieldsOf<DocumentsOptions>);

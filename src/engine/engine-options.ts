import { z } from "zod";
import { type GivenRagTexts, ragTextFields } from "../blocks/rag-prompt.js";
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
import { backendKinds } from "../ggml/library.js";
import { KV_TYPES } from "../kv/block-kv.js";
import { weightsConversions } from "../model/weights.js";
import type {
  EncodeOptions,
  EngineOptions,
  GenerateOptions,
  RequestOptions,
  ScoreOptions,
  TokenizeOptions,
} from "./engine.js";
import { splitLongField } from "./prompt.js";
import { samplingFields } from "./sampling-options.js";

const modes = ["block", "full"] as const;
const aByteNumber = { ...wholeNumber(0), wanted: "a whole number of bytes from 0 on" };

/** The checks of the engine's options and of its calls' options. */
export const readEngineOptions = optionsOf({
  model: anyText,
  weights: oneOfTexts(weightsConversions),
  threads: wholeNumber(1, 512),
  backend: oneOfTexts(backendKinds),
  device: anyText,
  prefix: anyText,
  trainedModes: { schema: z.array(z.enum(modes)).optional(), wanted: 'a list of "block" and "full"' },
  kvType: oneOfTexts(KV_TYPES),
  storeBytes: aByteNumber,
  contextBytes: aByteNumber,
  maxRunning: wholeNumber(1),
  maxQueued: wholeNumber(0),
  maxPromptTokens: wholeNumber(1),
  mode: oneOfTexts(modes),
  signal: anySignal,
  onEstimate: aFunction<EngineOptions["onEstimate"]>(),
  onProgress: aFunction<EngineOptions["onProgress"]>(),
  ragTexts: optionOf<GivenRagTexts>(() => true, "an object"),
  onWarning: aFunction<EngineOptions["onWarning"]>(),
} satisfies FieldsOf<EngineOptions>);

const blockFields = { salt: anyText } satisfies FieldsOf<Pick<RequestOptions, "salt">>;
const requestFields = {
  mode: oneOfTexts(modes),
  positionReencoding: anyBoolean,
  ...blockFields,
  signal: anySignal,
} satisfies FieldsOf<RequestOptions>;

export const readGenerateOptions = optionsOf({
  ...requestFields,
  ...samplingFields,
  promptLogprobs: wholeNumber(0, 20),
} satisfies FieldsOf<GenerateOptions & RequestOptions>);

export const readScoreOptions = optionsOf({
  ...requestFields,
  top: wholeNumber(0),
  stepwise: anyBoolean,
} satisfies FieldsOf<ScoreOptions>);

export const readEncodeOptions = optionsOf({
  ...blockFields,
  signal: anySignal,
  texts: optionOf<Pick<GivenRagTexts, "passage">>(() => true, "an object"),
  splitLong: splitLongField,
  maxBlocks: wholeNumber(1),
  onBlock: aFunction<EncodeOptions["onBlock"]>(),
} satisfies FieldsOf<EncodeOptions>);

export const readPassageTexts = optionsOf({ passage: ragTextFields.passage });

export const readTokenizePromptOptions = optionsOf({ mode: oneOfTexts(modes), signal: anySignal });

export const readTokenizeOptions = optionsOf({
  special: anyBoolean,
  maxTokens: wholeNumber(0),
  signal: anySignal,
} satisfies FieldsOf<TokenizeOptions>);

export const readBlockOptions = optionsOf(blockFields);

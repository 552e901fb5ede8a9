import { z } from "zod";
import { type EngineSettings, engineSettings } from "../engine/engine-options.js";
import { type SamplingInput, samplingFields, stopText } from "../engine/sampling-options.js";
import { aNumber, numberOf, readSetting, type Setting, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { storePlaceField } from "../kv/store-place.js";
import type { AdapterInput } from "../model/adapters.js";
import { type Flag, type FlagsOf, flag, repeated, settingFlag, toggle } from "./command.js";
import { adaptersOnDisk, modelOnDisk } from "./pull-model.js";

export function engineFlag<K extends keyof EngineSettings>(name: K): Flag<EngineSettings[K]> {
  const locate = name === "model" ? modelOnDisk : undefined;
  return { ...settingFlag(engineSettings[name] as Setting), ...(locate && { locate }) } as unknown as Flag<
    EngineSettings[K]
  >;
}

/** Of every command that writes files. */
export const forceFlag = toggle("write over what is there");

/** @throws UsageError for --force where nothing is written. */
export function refuseLoneForce({
  output,
  force,
}: FlagsOf<{ output: Flag<string | undefined>; force: typeof forceFlag }>) {
  if (force && output === undefined) throw new UsageError("Cannot use --force: --output is missing");
}

/** The user's word over the model's own. */
export const trainingFlags = { prefix: engineFlag("prefix"), trainedModes: engineFlag("trainedModes") };

export const modeFlags = {
  ...trainingFlags,
  mode: engineFlag("mode"),
  repair: engineFlag("repair"),
  positionReencoding: {
    about: "an experiment: blocks keep the positions at which they were encoded",
    isNegated: true,
  } as Flag<boolean>,
};

const adapterPath = { schema: z.string().min(1), wanted: "the path of an adapter, or hf:OWNER/REPO" };

export const adapterFlags = {
  adapters: {
    ...engineFlag("adapters"),
    option: "adapter",
    locate: adaptersOnDisk,
    read: (text, before = [], origin) => [...before, { path: readSetting(adapterPath, text, origin) }],
  } as Flag<EngineSettings["adapters"]>,
  adapterScale: {
    takes: "<n>",
    about: "what the --adapter before it is multiplied by; 0 leaves it out (default: 1)",
    changes: "adapters",
    read: (text, before: EngineSettings["adapters"], origin) => {
      const scale = readSetting(aNumber("a number", z.number()), text, origin);
      const last = before?.at(-1);
      if (last === undefined) throw new UsageError(`Cannot use ${origin}: no --adapter stands before it`);
      return [...(before as AdapterInput[]).slice(0, -1), { ...last, scale }];
    },
  } as Flag<unknown>,
};

/** Given again, it adds a place. */
export const storeFlag = {
  ...engineFlag("store"),
  read: (text, before = [], origin) => [...before, readSetting(storePlaceField, text, origin)],
} as Flag<readonly string[] | undefined>;

/** What loading an engine takes, but for the model. */
export const deviceFlags = {
  ...adapterFlags,
  weights: engineFlag("weights"),
  threads: engineFlag("threads"),
  mapWeights: engineFlag("mapWeights"),
  backend: engineFlag("backend"),
  device: engineFlag("device"),
  products: engineFlag("products"),
  kvType: engineFlag("kvType"),
  storeBytes: engineFlag("storeBytes"),
  contextBytes: engineFlag("contextBytes"),
};

/** What loading an engine takes. */
export const engineFlags = { model: engineFlag("model"), ...deviceFlags, store: storeFlag };

const { maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, topLogprobs } = samplingFields;

export const samplingFlags = {
  maxTokens: settingFlag(maxTokens),
  temperature: settingFlag(temperature),
  seed: settingFlag(seed),
  topK: settingFlag(topK),
  topP: settingFlag(topP),
  minP: settingFlag(minP),
  repetitionPenalty: settingFlag(repetitionPenalty),
  logprobs: flag("<n>", topLogprobs.about, topLogprobs),
  stop: repeated("<text>", "end the answer before this text", stopText),
  logitBias: {
    takes: "<id=value>",
    about: "add to a token's logit, -100 to 100; may be given again",
    read: (text, before, origin) => {
      const [id, value] = readSetting(biasOfToken, text, origin);
      return { ...before, [Number(id)]: value };
    },
  } as Flag<SamplingInput["logitBias"]>,
};

/** The engine's sampling options of a command's flags. */
export function samplingOptions(flags: FlagsOf<typeof samplingFlags>): SamplingInput {
  const { logprobs, maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, stop, logitBias } = flags;
  const given = { maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, stop, logitBias };
  return { ...given, logprobs: logprobs !== undefined, topLogprobs: logprobs };
}

export function linesFlag(line = "a prompt") {
  return flag("<file>", `JSON lines, ${line} each; - is standard input`, someWords);
}

/** The prompt, from lines of JSON or from the command itself. */
export const inputFlags = {
  input: linesFlag(),
  prompt: { takes: "<text>", about: "one prompt, cut at its passages in block mode" } as Flag<string | undefined>,
  question: { takes: "<text>", about: "one question over the passages of --documents" } as Flag<string | undefined>,
  documents: flag("<file>", 'passages as JSON lines {"title","text"} or {"text"}, best first', someWords),
};

const biasOfToken = {
  schema: z.tuple([z.string().regex(/^\d{1,10}$/), z.number().min(-100).max(100)]),
  wanted: "ID=VALUE with a value from -100 to 100, for instance 17=-100",
  fromText: (text: string) => text.split("=").map((part, i) => (i === 0 ? part : numberOf(part))),
};

/** Of commands that read prompts. */
export const inputHelp = `
A line of input is one of
  {"blocks": ["…", "…"], "num_local_attention_blocks"?: 1}    the last block is the final one
  {"messages": [{"role": "user", "name"?: "…", "content": "…" or ["…", "…"]}], "documents"?: […]}
  {"question": "…", "documents": [{"title": "…", "text": "…"}]}
  {"prompt": "…"}                                             cut at its passages in block mode
Lines of evaluations are prompts too: keys that no prompt is made of, as "id" and "answers", are passed over and told on standard
error; a key that is nearly one of these, or that is an option, is an error.
A line that cannot be used gives {"error": "…"} in its place, the others go on, and the exit code is 1. Lines of white
space alone are passed over.`;

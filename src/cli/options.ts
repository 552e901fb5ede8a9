import { type Command, Option } from "commander";
import { z } from "zod";
import { type EngineSettings, engineSettings } from "../engine/engine-options.js";
import { type SamplingInput, samplingFields, stopText } from "../engine/sampling-options.js";
import type { OptionField } from "../files/options.js";
import { flagOf, numberOf, readSetting, type Setting, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";

/** Options that name a model and say how it is read. */
export type ModelFlags = Pick<EngineSettings, "model" | "weights" | "prefix" | "trainedModes">;

export interface SamplingFlags extends Omit<SamplingInput, "logprobs" | "topLogprobs"> {
  readonly logprobs?: number;
}

/** The prompt, from lines of JSON or from the command itself. */
export interface InputFlags {
  readonly input?: string;
  readonly prompt?: string;
  readonly question?: string;
  readonly documents?: string;
}

/** An option whose value is checked: an error names the flag, the text and what was wanted. */
export function flag<T extends z.ZodType>(flags: string, about: string, field: OptionField<T>): Option {
  const [name = ""] = flags.split(" ");
  return new Option(flags, about).argParser((text) => readSetting(field, text, name));
}

/** An option that may be given again: what each adds, put together. */
export function repeatedFlag<T extends z.ZodType>(flags: string, about: string, field: OptionField<T>): Option {
  const [name = ""] = flags.split(" ");
  return new Option(flags, `${about}; may be given again`).argParser((text, before: readonly unknown[] | undefined) => [
    ...(before ?? []),
    readSetting(field, text, name),
  ]);
}

/** A setting as an option, in the table's own words. */
export function settingOption(name: string, setting: Setting): Option {
  return flag(`${flagOf(name)} <${setting.value}>`, `${setting.about} (default: ${setting.fallback})`, setting);
}

export function engineOption(name: keyof EngineSettings): Option {
  return settingOption(name, engineSettings[name]);
}

/** Of every command that writes files. */
export function forceOption(): Option {
  return new Option("--force", "write over what is there");
}

/** @throws UsageError for --force where nothing is written. */
export function refuseLoneForce({ output, force }: { readonly output?: string; readonly force?: boolean }): void {
  if (force && output === undefined) throw new UsageError("Cannot use --force: --output is missing");
}

export function jsonOption(what: string): Option {
  return new Option("--json", what);
}

function addAll(command: Command, options: readonly Option[]): Command {
  for (const option of options) command.addOption(option);
  return command;
}

/** Adds --prefix and --trained-modes: the user's word over the model's own. */
export function addTrainingOptions(command: Command): Command {
  return addAll(command, [engineOption("prefix"), engineOption("trainedModes")]);
}

/** Adds what loading an engine takes. */
export function addEngineOptions(command: Command): Command {
  const names = ["model", "weights", "threads", "backend", "device", "kvType", "storeBytes", "contextBytes"] as const;
  return addAll(command, names.map(engineOption));
}

/** Adds --mode, --prefix, --trained-modes and --no-position-reencoding. */
export function addModeOptions(command: Command): Command {
  return addTrainingOptions(command)
    .addOption(engineOption("mode"))
    .addOption(
      new Option("--no-position-reencoding", "an experiment: blocks keep the positions at which they were encoded"),
    );
}

export function addSamplingOptions(command: Command): Command {
  const { maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, topLogprobs } = samplingFields;
  const settings = { maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty };
  const options = Object.entries(settings).map(([name, setting]) => settingOption(name, setting));
  return addAll(command, options)
    .addOption(flag("--logprobs <n>", topLogprobs.about, topLogprobs))
    .addOption(repeatedFlag("--stop <text>", "end the answer before this text", stopText))
    .addOption(
      new Option("--logit-bias <id=value>", "add to a token's logit, -100 to 100; may be given again").argParser(
        (text: string, before: Readonly<Record<string, number>> | undefined) => {
          const [id, value] = readSetting(biasOfToken, text, "--logit-bias");
          return { ...before, [Number(id)]: value };
        },
      ),
    );
}

/** Adds --input, --prompt, --question and --documents. */
export function addInputOptions(command: Command): Command {
  return command
    .addOption(inputOption())
    .addOption(new Option("--prompt <text>", "one prompt, cut by rule in block mode"))
    .addOption(new Option("--question <text>", "one question over the passages of --documents"))
    .addOption(
      flag("--documents <file>", 'passages as JSON lines {"title","text"} or {"text"}, best first', someWords),
    );
}

export function inputOption(line = "a prompt"): Option {
  return flag("--input <file>", `JSON lines, ${line} each; - is standard input`, someWords);
}

/** The engine's sampling options of a command's flags. */
export function samplingOptions(flags: SamplingFlags): SamplingInput {
  const { logprobs, maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, stop, logitBias } = flags;
  const given = { maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, stop, logitBias };
  return { ...given, logprobs: logprobs !== undefined, topLogprobs: logprobs };
}

const biasOfToken = {
  schema: z.tuple([z.string().regex(/^\d{1,10}$/), z.number().min(-100).max(100)]),
  wanted: "ID=VALUE with a value from -100 to 100, for instance 17=-100",
  fromText: (text: string) => text.split("=").map((part, i) => (i === 0 ? part : numberOf(part))),
};

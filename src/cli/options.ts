import { type Command, Option } from "commander";
import type { EngineOptions, GenerateOptions } from "../engine/engine-options.js";
import { parseSamplingOptions, type SamplingInput } from "../engine/sampling-options.js";
import { KV_TYPES, type KVType, type WeightsConversion, weightsConversions } from "../files/element-types.js";
import { isInputError } from "../files/input-error.js";
import { parseBytes } from "../files/parse-bytes.js";
import { quote } from "../files/quote.js";
import { type BackendKind, backendKinds } from "../ggml/library.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";
import { UsageError } from "./usage-error.js";

/** Options that name a model and say how it is read. */
export interface ModelFlags {
  readonly model?: string;
  readonly weights?: WeightsConversion;
  readonly prefix?: string;
  readonly trainedModes?: readonly AttentionMode[];
}

export interface EngineFlags extends ModelFlags {
  readonly threads?: number;
  readonly backend?: BackendKind;
  readonly device?: string;
  readonly kvType?: KVType;
  readonly storeBytes?: number;
  readonly contextBytes?: number;
  readonly mode?: AttentionMode;
}

export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly seed?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly stop?: readonly string[];
  readonly logprobs?: number;
  readonly logitBias?: Readonly<Record<string, number>>;
}

/** The prompt, from lines of JSON or from the command itself. */
export interface InputFlags {
  readonly input?: string;
  readonly prompt?: string;
  readonly question?: string;
  readonly documents?: string;
}

export function modelOption(): Option {
  return new Option("--model <path>", "a Hugging Face folder or a .gguf file (default: the embedded model)").argParser(
    nonEmpty("--model"),
  );
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

export function weightsOption(): Option {
  const about = `convert weights at load: ${weightsConversions.join(", ")} (default: keep)`;
  return new Option("--weights <type>", about).argParser(oneOf("--weights", weightsConversions));
}

/** Adds --prefix and --trained-modes: the user's word over the model's own. */
export function addTrainingOptions(command: Command): Command {
  const about = "the modes that the model was trained in: block, full, or block,full";
  return command
    .addOption(prefixOption())
    .addOption(new Option("--trained-modes <modes>", about).argParser(parseModes));
}

export function prefixOption(): Option {
  return new Option("--prefix <text>", 'text before the first block in block mode, for instance "[Block-Attention]"');
}

/** Adds what loading an engine takes. */
export function addEngineOptions(command: Command): Command {
  return command
    .addOption(modelOption())
    .addOption(weightsOption())
    .addOption(
      new Option("--threads <n>", "CPU threads, 1 to 512 (default: all; 1 for a model below 64 MiB)").argParser(
        wholeNumber("--threads", 1, 512),
      ),
    )
    .addOption(
      new Option("--backend <kind>", `which build of ggml: ${backendKinds.join(", ")} (default: cpu)`).argParser(
        oneOf("--backend", backendKinds),
      ),
    )
    .addOption(
      new Option("--device <name>", 'the device as "doctor" lists it, for instance CUDA0').argParser(
        nonEmpty("--device"),
      ),
    )
    .addOption(
      new Option("--kv-type <type>", `the type of block KV: ${KV_TYPES.join(", ")} (default: f16)`).argParser(
        oneOf("--kv-type", KV_TYPES),
      ),
    )
    .addOption(
      new Option(
        "--store-bytes <n>",
        "the most bytes of kept blocks, also as 512MiB or 2GB (default: a quarter of what the weights leave of memory)",
      ).argParser(bytes("--store-bytes")),
    )
    .addOption(
      new Option(
        "--context-bytes <n>",
        "the most bytes of assembled contexts (default: a quarter of what the weights leave of memory)",
      ).argParser(bytes("--context-bytes")),
    );
}

/** Adds --mode, --prefix, --trained-modes and --no-position-reencoding. */
export function addModeOptions(command: Command): Command {
  return addTrainingOptions(command)
    .addOption(
      new Option(
        "--mode <mode>",
        "block or full (default: block where the model was trained for it, else full)",
      ).argParser(oneOf("--mode", attentionModes)),
    )
    .addOption(
      new Option("--no-position-reencoding", "an experiment: blocks keep the positions at which they were encoded"),
    );
}

export function addSamplingOptions(command: Command): Command {
  const number = (flag: string, field: keyof SamplingInput, about: string) =>
    new Option(`${flag} <n>`, about).argParser((text: string) => {
      const value = parseNumber(flag, text);
      checkSampling(flag, { [field]: value });
      return value;
    });
  return command
    .addOption(number("--max-tokens", "maxTokens", "the longest answer in tokens (default: 200)"))
    .addOption(number("--temperature", "temperature", "0 takes the likeliest token (default: 0)"))
    .addOption(number("--seed", "seed", "makes a drawn answer the same again (default: a new one)"))
    .addOption(number("--top-k", "topK", "draw among the k likeliest tokens; 0 is off (default: 0)"))
    .addOption(number("--top-p", "topP", "draw among the likeliest tokens that sum to p; 1 is off (default: 1)"))
    .addOption(number("--min-p", "minP", "draw among tokens at least p times as likely as the first (default: 0)"))
    .addOption(number("--repetition-penalty", "repetitionPenalty", "over 1 makes repeating unlikelier (default: 1)"))
    .addOption(number("--logprobs", "topLogprobs", "tell the n likeliest tokens at each step, 0 to 20"))
    .addOption(
      new Option("--stop <text>", "end the answer before this text; may be given again").argParser(
        (text: string, before: readonly string[] | undefined) => {
          const stop = [...(before ?? []), text];
          checkSampling("--stop", { stop });
          return stop;
        },
      ),
    )
    .addOption(
      new Option("--logit-bias <id=value>", "add to a token's logit, -100 to 100; may be given again").argParser(
        (text: string, before: Readonly<Record<string, number>> | undefined) => {
          const [, id, value] = /^(\d{1,10})=(.+)$/.exec(text) ?? [];
          if (id === undefined || value === undefined)
            throw wrong("--logit-bias", text, "ID=VALUE, for instance 17=-100");
          const logitBias = { ...before, [Number(id)]: parseNumber("--logit-bias", value) };
          checkSampling("--logit-bias", { logitBias });
          return logitBias;
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
      new Option("--documents <file>", 'passages as JSON lines {"title","text"} or {"text"}, best first').argParser(
        nonEmpty("--documents"),
      ),
    );
}

export function inputOption(line = "a prompt"): Option {
  return new Option("--input <file>", `JSON lines, ${line} each; - is standard input`).argParser(nonEmpty("--input"));
}

/** The engine's options of a command's flags. */
export function engineOptions(flags: EngineFlags): EngineOptions {
  const { model, weights, prefix, trainedModes, threads, backend, device, kvType, storeBytes, contextBytes, mode } =
    flags;
  return { model, weights, prefix, trainedModes, threads, backend, device, kvType, storeBytes, contextBytes, mode };
}

export function samplingOptions(flags: SamplingFlags): GenerateOptions {
  const { logprobs, maxTokens, temperature, seed, topK, topP, minP, repetitionPenalty, stop, logitBias } = flags;
  return definedOnly({
    maxTokens,
    temperature,
    seed,
    topK,
    topP,
    minP,
    repetitionPenalty,
    stop: stop === undefined ? undefined : [...stop],
    logitBias: logitBias === undefined ? undefined : { ...logitBias },
    logprobs: logprobs !== undefined,
    topLogprobs: logprobs,
  });
}

/** Parses whole numbers of a range. */
export function wholeNumber(flag: string, min: number, max: number): (text: string) => number {
  const wanted = max === Number.MAX_SAFE_INTEGER ? `from ${min} on` : `from ${min} to ${max}`;
  return (text) => {
    const value = /^[+-]?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      throw wrong(flag, text, `a whole number ${wanted}`);
    }
    return value;
  };
}

/** Parses lists such as 512,1024. */
export function wholeNumbers(flag: string, min: number): (text: string) => number[] {
  const parse = wholeNumber(flag, min, Number.MAX_SAFE_INTEGER);
  return (text) => text.split(",").map((part) => parse(part.trim()));
}

/** Parses bytes: a plain number, or one with a unit such as 512MiB or 2GB. */
export function bytes(flag: string): (text: string) => number {
  return (text) => {
    const value = parseBytes(text);
    if (value === undefined)
      throw wrong(flag, text, "a number of bytes from 0 on, for instance 1000000, 512MiB or 2GB");
    return value;
  };
}

export function nonEmpty(flag: string): (text: string) => string {
  return (text) => {
    if (text === "") throw wrong(flag, text, "some text");
    return text;
  };
}

export function oneOf<T extends string>(flag: string, known: readonly T[]): (text: string) => T {
  return (text) => {
    const found = known.find((value) => value === text);
    if (found === undefined) throw wrong(flag, text, known.join(", "));
    return found;
  };
}

function parseModes(text: string): AttentionMode[] {
  const parse = oneOf("--trained-modes", attentionModes);
  const parts = text.split(",").map((part) => part.trim());
  try {
    return [...new Set(parts.map(parse))];
  } catch {
    throw wrong("--trained-modes", text, "block, full, or block,full");
  }
}

function parseNumber(flag: string, text: string): number {
  const isNumber = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text.trim());
  if (!isNumber) throw wrong(flag, text, "a number");
  return Number(text);
}

/** The engine's own checks, told as the option's. */
function checkSampling(flag: string, input: SamplingInput): void {
  try {
    parseSamplingOptions(input);
  } catch (error) {
    if (!isInputError(error)) throw error;
    const reason = error.message.replace(/^Cannot sample: /, "");
    throw new UsageError(`Cannot use ${flag}: ${reason}`, { cause: error });
  }
}

function wrong(flag: string, text: string, wanted: string): UsageError {
  return new UsageError(`Cannot use ${flag}: it is ${quote(text, 80)}, wanted ${wanted}`);
}

function definedOnly<T extends object>(fields: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

import { z } from "zod";
import { ragTextFields } from "../blocks/rag-prompt.js";
import { isJsonObject, type JsonObject, readJson } from "../files/bounded-json.js";
import { KV_TYPES, weightsConversions } from "../files/element-types.js";
import { parseBytes } from "../files/parse-bytes.js";
import { quote } from "../files/quote.js";
import { backendKinds } from "../ggml/library.js";
import { attentionModes } from "../model/block-attention-config.js";

/** What one client may ask for, and how long the server waits. */
export interface ServerLimits {
  /** Of one request's body. */
  readonly maxBodyBytes: number;
  /** Of one request's line and headers together. */
  readonly maxHeaderBytes: number;
  /** How many arrays and objects may stand inside each other in a body. */
  readonly maxJsonDepth: number;
  /** Blocks, passages, documents or content parts of one request. */
  readonly maxBlocks: number;
  /** Of one prompt; undefined: what the model's context takes. */
  readonly maxPromptTokens?: number | undefined;
  /** Of a text whose tokens are asked for. */
  readonly maxTokenizeTokens: number;
  /** Of one request, in all its answers: of tokens told and echoed, and of the likeliest in their places. */
  readonly maxLogprobs: number;
  /** Of one answer: the most that `max_tokens` may ask for. */
  readonly maxTokens: number;
  /** Answers of one request: `n`, times the prompts of a batch. */
  readonly maxChoices: number;
  /** Requests that the engine works on at the same time. */
  readonly maxRunning: number;
  /** Requests that wait for that. */
  readonly maxQueued: number;
  /** The rate at which a client must send its request and take its answer. */
  readonly minBytesPerSecond: number;
  /** A client that falls so far behind that rate is let go. */
  readonly stallSeconds: number;
  /** The server waits so long, in all, for a request to come or for its answer to be taken. */
  readonly transferSeconds: number;
  /** Of requests that are coming and answers that are being taken: beyond it the slowest is let go. */
  readonly transferBytes: number;
  /** Once the server is told to end, running requests may go on for so long. */
  readonly drainSeconds: number;
}

const wanted = {
  text: "some text",
  bytes: "a number of bytes from 0 on, for instance 1000000, 512MiB or 2GB",
};

/** How a setting is told and written: the schema's own metadata. */
interface SettingMeta {
  /** One line. */
  readonly description: string;
  /** What it takes, as in --port <n>. */
  readonly value: string;
  /** What an error asks for. */
  readonly wanted: string;
  /** The default, where the schema has none. */
  readonly otherwise?: string;
}

const settingMeta = z.registry<SettingMeta>();

const text = z.string().min(1);

/** Options and environment variables are text, a file's values are JSON. */
function number(min: number, max: number) {
  return z
    .union([
      z.number(),
      z
        .string()
        .regex(/^\d{1,16}$/)
        .transform(Number),
    ])
    .pipe(z.int().min(min).max(max));
}

function bytes(min: number) {
  return z
    .union([z.number(), z.string().transform((value) => parseBytes(value))])
    .pipe(z.int().min(min).max(Number.MAX_SAFE_INTEGER));
}

/** A list, or text with commas between. */
function list<T extends z.ZodType<unknown, string>>(item: T) {
  const parts = z.string().transform((value) => value.split(",").map((part) => part.trim()));
  return z.union([parts, z.array(z.string())]).pipe(z.array(item).min(1).max(100));
}

const anyNumber = (min: number, max?: number): string =>
  max === undefined ? `a whole number from ${min} on` : `a whole number from ${min} to ${max}`;
const oneOf = (values: readonly string[]): string => values.join(", ");

const logLevels = ["error", "warn", "info", "debug"] as const;
const MiB = 2 ** 20;
/** About 24 days: what Node's timers take. */
const maxSeconds = 2_000_000;
const large = 1_000_000_000;

function setting<T extends z.ZodType>(schema: T, meta: SettingMeta): T {
  settingMeta.add(schema as z.ZodType, meta);
  return schema;
}

function whole(fallback: number, [min, max]: readonly [number, number], description: string) {
  return setting(number(min, max).default(fallback), { description, value: "n", wanted: anyNumber(min, max) });
}

/** Every setting of the server, in the order in which help tells them. Keys are names: storeBytes is --store-bytes. */
const settings = {
  host: setting(text.default("127.0.0.1"), {
    description: "the address to listen on; any but this machine's own needs --keys",
    value: "address",
    wanted: wanted.text,
  }),
  port: whole(8080, [0, 65_535], "the port to listen on; 0 takes a free one"),
  keys: setting(text.optional(), {
    description: 'a file of API keys: one a line, or JSON {"name": "key"}',
    value: "file",
    wanted: wanted.text,
    otherwise: "none: every request is served",
  }),
  corsOrigins: setting(list(z.union([z.literal("*"), text.regex(/^https?:\/\/[^/?#@\s]+$/)])).optional(), {
    description: "web origins whose pages may call the server, with commas between; * is any",
    value: "origins",
    wanted: 'origins such as "https://app.example.org", or "*"',
    otherwise: "none",
  }),
  allowedHosts: setting(list(text.regex(/^[A-Za-z0-9.:_[\]-]+$/)).optional(), {
    description: "names by which clients may call a server on this machine's own address, with commas between",
    value: "names",
    wanted: 'host names without port, such as "proxy.internal"',
    otherwise: "localhost, 127.0.0.1, [::1] and the host itself",
  }),
  logLevel: setting(z.enum(logLevels).default("info"), {
    description: `what is logged on standard error: ${oneOf(logLevels)}`,
    value: "level",
    wanted: oneOf(logLevels),
  }),
  model: setting(text.optional(), {
    description: "a Hugging Face folder or a .gguf file",
    value: "path",
    wanted: wanted.text,
    otherwise: "the embedded model",
  }),
  alias: setting(list(z.string().regex(/^[^\s\p{Cc}]{1,200}$/u)).optional(), {
    description: "names under which clients find the model, with commas between; answers have the first",
    value: "names",
    wanted: 'names without spaces, such as "gpt-4o-mini"',
    otherwise: "the model's file or folder name",
  }),
  weights: setting(z.enum(weightsConversions).default("keep"), {
    description: `convert weights at load: ${oneOf(weightsConversions)}`,
    value: "type",
    wanted: oneOf(weightsConversions),
  }),
  threads: setting(number(1, 512).optional(), {
    description: "CPU threads, 1 to 512",
    value: "n",
    wanted: anyNumber(1, 512),
    otherwise: "all; 1 for a model below 64 MiB",
  }),
  backend: setting(z.enum(backendKinds).default("cpu"), {
    description: `which build of ggml: ${oneOf(backendKinds)}`,
    value: "kind",
    wanted: oneOf(backendKinds),
  }),
  device: setting(text.optional(), {
    description: 'the device as "doctor" lists it, for instance CUDA0',
    value: "name",
    wanted: wanted.text,
    otherwise: "the first",
  }),
  kvType: setting(z.enum(KV_TYPES).default("f16"), {
    description: `the type of block KV: ${oneOf(KV_TYPES)}`,
    value: "type",
    wanted: oneOf(KV_TYPES),
  }),
  storeBytes: setting(bytes(0).optional(), {
    description: "the most bytes of kept blocks, also as 512MiB or 2GB",
    value: "n",
    wanted: wanted.bytes,
    otherwise: "a quarter of what the weights leave of memory",
  }),
  contextBytes: setting(bytes(0).optional(), {
    description: "the most bytes of assembled contexts, also as 512MiB or 2GB",
    value: "n",
    wanted: wanted.bytes,
    otherwise: "a quarter of what the weights leave of memory",
  }),
  mode: setting(z.enum(attentionModes).optional(), {
    description: "the mode of requests that name none: block or full",
    value: "mode",
    wanted: "block or full",
    otherwise: "block where the model was trained for it, else full",
  }),
  prefix: setting(z.string().optional(), {
    description: 'text before the first block in block mode, for instance "[Block-Attention]"',
    value: "text",
    wanted: "text",
    otherwise: "the model's own",
  }),
  ragPreamble: setting(ragTextFields.preamble.schema, {
    description: "the RAG prompt's text before the passages",
    value: "text",
    wanted: ragTextFields.preamble.wanted,
    otherwise: "the model's own",
  }),
  ragPassage: setting(ragTextFields.passage.schema, {
    description: "the RAG prompt's form of a passage, with {title} and {text}",
    value: "text",
    wanted: ragTextFields.passage.wanted,
    otherwise: "the model's own",
  }),
  ragFinal: setting(ragTextFields.final.schema, {
    description: "the RAG prompt's task sentence, with {question}",
    value: "text",
    wanted: ragTextFields.final.wanted,
    otherwise: "the model's own",
  }),
  trainedModes: setting(list(z.enum(attentionModes)).optional(), {
    description: "the modes that the model was trained in: block, full, or block,full",
    value: "modes",
    wanted: "block, full, or block,full",
    otherwise: "the model's own",
  }),
  maxBodyBytes: setting(bytes(1024).default(4 * MiB), {
    description: "the largest body of a request",
    value: "n",
    wanted: wanted.bytes.replace("0 on", "1024 on"),
  }),
  maxHeaderBytes: setting(bytes(1024).default(16_384), {
    description: "the largest head of a request",
    value: "n",
    wanted: wanted.bytes.replace("0 on", "1024 on"),
  }),
  maxJsonDepth: whole(32, [4, 1000], "how deep a body's JSON may be nested"),
  maxBlocks: whole(1024, [1, large], "the most blocks, passages, documents or content parts of a request"),
  maxPromptTokens: setting(number(1, large).optional(), {
    description: "the longest prompt in tokens",
    value: "n",
    wanted: anyNumber(1, large),
    otherwise: "the model's context",
  }),
  maxTokenizeTokens: whole(131_072, [1, large], "the most tokens of a text at /v1/tokenize"),
  maxLogprobs: whole(
    131_072,
    [1, large],
    "the most log-probabilities of a request: of its answers' and echoed tokens, and of the likeliest in their places",
  ),
  maxTokens: whole(4096, [1, large], "the longest answer in tokens that a request may ask for"),
  maxChoices: whole(64, [1, 1024], "the most answers of one request: n times its prompts"),
  maxRunning: whole(32, [1, 1024], "requests that are worked on at the same time"),
  maxQueued: whole(256, [0, 1_000_000], "requests that may wait for that; more get a 503"),
  minBytesPerSecond: whole(512, [1, large], "the rate at which clients must send requests and take answers"),
  stallSeconds: whole(
    60,
    [1, maxSeconds],
    "how far a client may fall behind that rate before its connection is closed",
  ),
  transferSeconds: whole(
    600,
    [1, maxSeconds],
    "how long the server waits, in all, for one request or for its answer's reader",
  ),
  transferBytes: setting(bytes(0).default(256 * MiB), {
    description:
      "the most bytes of requests that are coming and answers that are being taken: beyond it the slowest is closed; and of requests that are worked on: more get a 503",
    value: "n",
    wanted: wanted.bytes,
  }),
  drainSeconds: whole(30, [0, maxSeconds], "how long running requests may go on once the server is told to end"),
} as const;

const schema = z.strictObject(settings);

/** The server's settings, complete. */
export type ServerConfig = z.output<typeof schema>;

type SettingName = keyof typeof settings;

/** A setting as help and docs tell it. */
export interface SettingHelp {
  /** For instance "storeBytes". */
  readonly name: string;
  /** For instance "--store-bytes". */
  readonly flag: string;
  /** For instance "BLOCK_ATTENTION_STORE_BYTES". */
  readonly variable: string;
  /** For instance "store_bytes". */
  readonly key: string;
  readonly value: string;
  readonly description: string;
  readonly fallback: string;
}

/** All settings in order, from the schema itself. */
export function settingsHelp(): SettingHelp[] {
  return (Object.keys(settings) as SettingName[]).map((name) => {
    const { description, value, otherwise } = metaOf(name);
    const fallback = otherwise ?? String(settings[name].parse(undefined));
    const key = snakeCase(name);
    return { name, flag: flagOf(name), variable: variableOf(name), key, value, description, fallback };
  });
}

/** Settings that cannot be used: who started the server must change them. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

export interface ConfigSources {
  /** Options of the command by their name ("storeBytes"), values as text. */
  readonly options: Readonly<Record<string, string>>;
  /** process.env: every variable that starts with BLOCK_ATTENTION_ must be one of ours. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A file's path; default: BLOCK_ATTENTION_CONFIG. */
  readonly file?: string | undefined;
}

/**
 * The server's settings: an option wins over the environment, that over the file, that over the default.
 *
 * @throws ConfigError that names the source, the setting, its value and what was wanted; for a name that is none, too.
 * @example { options: { port: "x" }, env: {} }: 'Cannot use --port: it is "x", wanted a whole number from 0 to 65535'
 */
export async function loadConfig({ options, env, file }: ConfigSources): Promise<ServerConfig> {
  const path = file ?? (env.BLOCK_ATTENTION_CONFIG || undefined);
  const values: Partial<Record<SettingName, unknown>> = {
    ...(path !== undefined && fromFile(await readConfigFile(path), path)),
    ...fromEnvironment(env),
  };
  for (const [name, value] of Object.entries(options)) {
    if (!isSetting(name)) throw new ConfigError(`Cannot use the options: there is no ${flagOf(name)}`);
    values[name] = check(name, value, flagOf(name));
  }
  return schema.parse(values);
}

async function readConfigFile(path: string): Promise<JsonObject> {
  let value: unknown;
  try {
    value = await readJson(path, { maxBytes: MiB, maxDepth: 8, uniqueKeys: true });
  } catch (error) {
    throw new ConfigError(`Cannot use the config file: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  if (!isJsonObject(value as JsonObject)) {
    throw new ConfigError(`Cannot use the config file ${quote(path)}: it holds no JSON object`);
  }
  return value as JsonObject;
}

function fromFile(object: JsonObject, path: string): Partial<Record<SettingName, unknown>> {
  const byKey = new Map((Object.keys(settings) as SettingName[]).map((name) => [snakeCase(name), name]));
  return Object.fromEntries(
    Object.entries(object).map(([key, value]) => {
      const name = byKey.get(key);
      if (name === undefined) {
        throw new ConfigError(`Cannot use the config file ${quote(path)}: there is no setting ${quote(key, 80)}`);
      }
      return [name, check(name, value, `${quote(key)} of the config file ${quote(path)}`)];
    }),
  );
}

const prefix = "BLOCK_ATTENTION_";
/** Variables that other parts of the project read. */
const otherVariables: ReadonlySet<string> = new Set(["BLOCK_ATTENTION_CONFIG", "BLOCK_ATTENTION_GGML"]);
/** What Kubernetes sets in every container beside a service named block-attention. */
const kubernetesVariable = /^BLOCK_ATTENTION_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)$/;

function fromEnvironment(env: ConfigSources["env"]): Partial<Record<SettingName, unknown>> {
  const byVariable = new Map((Object.keys(settings) as SettingName[]).map((name) => [variableOf(name), name]));
  const values: Partial<Record<SettingName, unknown>> = {};
  for (const [variable, value] of Object.entries(env)) {
    // An empty variable is as good as none, as usual.
    if (!variable.startsWith(prefix) || value === undefined || value === "") continue;
    if (otherVariables.has(variable) || kubernetesVariable.test(variable)) continue;
    if (variable === "BLOCK_ATTENTION_PORT" && /^(tcp|udp):\/\//.test(value)) continue;
    const name = byVariable.get(variable);
    if (name === undefined) {
      throw new ConfigError(`Cannot use the environment: there is no setting ${quote(variable, 80)}`);
    }
    values[name] = check(name, value, variable);
  }
  return values;
}

/** @param origin how the user wrote the setting. */
function check(name: SettingName, value: unknown, origin: string): unknown {
  const result = settings[name].safeParse(value);
  // A null in the file, or an undefined, is no value: only what is not there has a default.
  if (result.success && value !== undefined) return result.data;
  const shown = typeof value === "string" ? quote(value, 80) : (JSON.stringify(value)?.slice(0, 80) ?? "nothing");
  throw new ConfigError(`Cannot use ${origin}: it is ${shown}, wanted ${metaOf(name).wanted}`);
}

function isSetting(name: string): name is SettingName {
  return Object.hasOwn(settings, name);
}

function metaOf(name: SettingName): SettingMeta {
  const meta = settingMeta.get(settings[name]);
  if (meta === undefined) throw new Error(`Cannot describe the setting "${name}": it has no description`);
  return meta;
}

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const flagOf = (name: string): string => `--${snakeCase(name).replaceAll("_", "-")}`;
const variableOf = (name: string): string => prefix + snakeCase(name).toUpperCase();

import { z } from "zod";
import { ragTextFields } from "../blocks/rag-prompt.js";
import { engineSettings } from "../engine/engine-options.js";
import { isJsonObject, type JsonValue, readJson } from "../files/bounded-json.js";
import { oneOfTexts, schemaOf, wholeNumber } from "../files/options.js";
import { quote } from "../files/quote.js";
import {
  bytes,
  defaulted,
  flagOf,
  listOf,
  readSetting,
  type Setting,
  setting,
  snakeCase,
  someWords,
} from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";

const MiB = 2 ** 20;
/** About 24 days: what Node's timers take. */
const maxSeconds = 2_000_000;
const large = 1_000_000_000;
const logLevels = ["error", "warn", "info", "debug"] as const;
const own = "the model's own";

function textOf(pattern: RegExp, wanted: string) {
  return { schema: z.string().regex(pattern).optional(), wanted };
}

function whole(fallback: number, [min, max]: readonly [number, number], about: string) {
  return defaulted(wholeNumber(min, max), "n", about, fallback);
}

/** Every setting of the server, in the order in which help tells them. Keys are names: storeBytes is --store-bytes. */
const settings = {
  host: defaulted(
    someWords,
    "address",
    "the address to listen on; any but this machine's own needs --keys",
    "127.0.0.1",
  ),
  port: whole(8080, [0, 65_535], "the port to listen on; 0 takes a free one"),
  keys: setting(
    someWords,
    "file",
    'a file of API keys: one a line, or JSON {"name": "key"}, with quotas {"name": {"key": "…", "requests": 4}}',
    "none: every request is served",
  ),
  keyTokensPerMinute: setting(
    wholeNumber(1),
    "n",
    "the quota of a key that --keys gives none: tokens that are computed for it a minute",
    "none",
  ),
  keyRequests: setting(wholeNumber(1), "n", "the same: its requests at once", "none"),
  corsOrigins: setting(
    listOf(textOf(/^(\*|https?:\/\/[^/?#@\s]+)$/, ""), { words: 'origins such as "https://app.example.org", or "*"' }),
    "origins",
    "web origins whose pages may call the server, with commas between; * is any",
    "none",
  ),
  allowedHosts: setting(
    listOf(textOf(/^[A-Za-z0-9.:_[\]-]+$/, ""), { words: 'host names without port, such as "proxy.internal"' }),
    "names",
    "names by which clients may call a server on this machine's own address, with commas between",
    "localhost, 127.0.0.1, [::1] and the host itself",
  ),
  logLevel: defaulted(
    oneOfTexts(logLevels),
    "level",
    `what is logged on standard error: ${logLevels.join(", ")}`,
    "info",
  ),
  alias: setting(
    listOf(textOf(/^[^\s\p{Cc}]{1,200}$/u, ""), { words: 'names without spaces, such as "gpt-4o-mini"' }),
    "names",
    "names under which clients find the model, with commas between; answers have the first",
    "the model's file or folder name",
  ),
  engine: setting(
    textOf(
      /^vllm=https?:\/\/[^\s,]+(,https?:\/\/[^\s,]+)*$/,
      'vllm= and URLs with commas between: "vllm=http://10.0.0.2:8000"',
    ),
    "vllm=URLs",
    "answers with vLLM servers instead, docs/distributed.md; their key is VLLM_API_KEY of the environment",
    "this process's own",
  ),
  embeddingModel: setting(
    someWords,
    "folder",
    "an ONNX encoder such as MiniLM or BGE, for /v1/embeddings; wants the package onnxruntime-node",
    "none",
  ),
  ...engineSettings,
  ragSystem: setting(ragTextFields.system, "text", "the system message of RAG prompts that have none", own),
  ragPreamble: setting(ragTextFields.preamble, "text", "the RAG prompt's text before the passages", own),
  ragPassage: setting(
    ragTextFields.passage,
    "text",
    "the RAG prompt's form of a passage, with {title} and {text}",
    own,
  ),
  ragFinal: setting(ragTextFields.final, "text", "the RAG prompt's task sentence, with {question}", own),
  maxBodyBytes: defaulted(bytes(1024), "n", "the largest body of a request", 4 * MiB),
  maxHeaderBytes: defaulted(bytes(1024), "n", "the largest head of a request", 16_384),
  maxJsonDepth: whole(32, [4, 1000], "how deep a body's JSON may be nested"),
  maxBlocks: whole(1024, [1, large], "the most blocks, passages, documents or content parts of a request"),
  maxTokenizeTokens: whole(131_072, [1, large], "the most tokens of a text at /v1/tokenize"),
  maxLogprobs: whole(
    131_072,
    [1, large],
    "the most log-probabilities of a request: of its answers' and echoed tokens, and of the likeliest in their places",
  ),
  maxTokens: whole(4096, [1, large], "the longest answer in tokens that a request may ask for"),
  maxChoices: whole(64, [1, 1024], "the most answers of one request: n times its prompts"),
  responseBytes: defaulted(
    bytes(0),
    "n",
    "the most bytes of responses of /v1/responses that are kept for requests that go on from them",
    64 * MiB,
  ),
  responseSeconds: whole(86_400, [1, maxSeconds], "how long a response is kept that no request uses"),
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
  transferBytes: defaulted(
    bytes(0),
    "n",
    "the most bytes of requests that are coming and answers that are being taken: beyond it the slowest is closed; and of requests that are worked on: more get a 503",
    256 * MiB,
  ),
  drainSeconds: whole(30, [0, maxSeconds], "how long running requests may go on once the server is told to end"),
};

const schema = schemaOf(settings);

/** The server's settings, complete. */
export type ServerConfig = z.output<typeof schema>;

/** What one client may ask for, and how long the server waits. */
export type ServerLimits = Pick<
  ServerConfig,
  | "maxBodyBytes"
  | "maxHeaderBytes"
  | "maxJsonDepth"
  | "maxBlocks"
  | "maxPromptTokens"
  | "maxTokenizeTokens"
  | "maxLogprobs"
  | "maxTokens"
  | "maxChoices"
  | "responseBytes"
  | "responseSeconds"
  | "maxRunning"
  | "maxQueued"
  | "minBytesPerSecond"
  | "stallSeconds"
  | "transferSeconds"
  | "transferBytes"
  | "drainSeconds"
>;

/** A setting with its names. */
export interface NamedSetting {
  /** For instance "storeBytes". */
  readonly name: string;
  /** For instance "--store-bytes". */
  readonly flag: string;
  /** For instance "BLOCK_ATTENTION_STORE_BYTES". */
  readonly variable: string;
  /** For instance "store_bytes". */
  readonly key: string;
  readonly setting: Setting;
}

const prefix = "BLOCK_ATTENTION_";

/** In the order in which help tells them. */
export const serverSettings: readonly NamedSetting[] = Object.entries<Setting>(settings).map(([name, one]) => {
  const key = snakeCase(name);
  return { name, flag: flagOf(one.option ?? name), variable: prefix + key.toUpperCase(), key, setting: one };
});

export interface ConfigSources {
  /** Options of the command by their name ("storeBytes"), values as text or as the config file has them. */
  readonly options: Readonly<Record<string, unknown>>;
  /** process.env: every variable that starts with BLOCK_ATTENTION_ must be one of ours. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A file's path; default: BLOCK_ATTENTION_CONFIG. */
  readonly file?: string | undefined;
}

/**
 * The server's settings: an option wins over the environment, that over the file, that over the default.
 *
 * @throws UsageError that names the source, the setting, its value and what was wanted; for a name that is none, too.
 * @example { options: { port: "x" }, env: {} }: 'Cannot use --port: it is "x", wanted a whole number from 0 to 65535'
 */
export async function loadConfig({ options, env, file }: ConfigSources): Promise<ServerConfig> {
  const path = file ?? (env.BLOCK_ATTENTION_CONFIG || undefined);
  const given = {
    ...(path !== undefined && (await readConfigFile(path))),
    ...readAll(Object.entries(env).filter(isOurs), "variable", "the environment", (variable) => variable),
    ...readAll(Object.entries(options), "name", "the options", flagOf),
  };
  return schema.parse(given);
}

async function readConfigFile(path: string): Promise<Readonly<Record<string, unknown>>> {
  let value: JsonValue;
  try {
    value = await readJson(path, { maxBytes: MiB, maxDepth: 8, uniqueKeys: true });
  } catch (error) {
    throw new UsageError(`Cannot use the config file: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  const file = `the config file ${quote(path)}`;
  if (!isJsonObject(value)) throw new UsageError(`Cannot use ${file}: it holds no JSON object`);
  return readAll(Object.entries(value), "key", file, (key) => `${quote(key)} of ${file}`);
}

/** What stands under settings' names of one sort, checked, by their own names. @param originOf what an error calls one. */
function readAll(
  given: readonly (readonly [name: string, value: unknown])[],
  sort: "name" | "variable" | "key",
  source: string,
  originOf: (name: string) => string,
): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    given.map(([name, value]) => {
      const known = serverSettings.find((one) => one[sort] === name);
      if (known === undefined) throw new UsageError(`Cannot use ${source}: there is no setting ${quote(name, 80)}`);
      return [known.name, readSetting(known.setting, value, originOf(name))];
    }),
  );
}

/** Variables that other parts of the project read. */
const otherVariables: ReadonlySet<string> = new Set([
  "BLOCK_ATTENTION_CONFIG",
  "BLOCK_ATTENTION_GGML",
  "BLOCK_ATTENTION_OPENVINO",
  "BLOCK_ATTENTION_PYTHON",
]);
/** What Kubernetes sets in every container beside a service named block-attention. */
const kubernetesVariable = /^BLOCK_ATTENTION_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)$/;

/** Whether a variable is meant for the server. An empty one is as good as none, as usual. */
function isOurs([variable, value = ""]: readonly [string, string | undefined]): boolean {
  if (!variable.startsWith(prefix) || value === "") return false;
  if (otherVariables.has(variable) || kubernetesVariable.test(variable)) return false;
  return variable !== "BLOCK_ATTENTION_PORT" || !/^(tcp|udp):\/\//.test(value);
}

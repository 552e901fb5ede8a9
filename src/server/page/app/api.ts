import { readEventStream } from "../../../files/event-stream.js";
import type { Mode } from "./draft.js";
import { isRecord } from "./draft.js";

/** Where the server is asked, and as whom. */
export interface Api {
  readonly fetch: typeof fetch;
  /** Sent as a bearer token where there is one. */
  readonly key: string | undefined;
}

/** What the server refused, in its own words. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  constructor(
    /** The HTTP status; undefined for a failure after the answer had begun. */
    readonly status: number | undefined,
    message: string,
  ) {
    super(message);
  }
}

export interface Question {
  readonly question: string;
  readonly documents: readonly { readonly title: string; readonly text: string }[];
  /** Undefined leaves it to the server. */
  readonly mode: Mode | undefined;
  readonly model: string;
  readonly maxTokens: number;
  /** Keeps nothing of the prompt but its blocks, so that the next one like it is computed again. */
  readonly isMeasured?: boolean;
}

/** The model that the server has loaded. */
export interface ServedModel {
  readonly id: string;
  /** The mode of requests that name none. */
  readonly defaultMode: Mode | undefined;
  /** What to know of reuse where it was not trained for block attention. */
  readonly note: string | undefined;
}

export interface ServedBlock {
  readonly id: string;
  readonly tokens: number;
  /** Whether it was taken from the store. */
  readonly hit: boolean;
}

/** Where reuse ended. */
export interface Miss {
  /** As "block" or "conversation". */
  readonly kind: string;
  readonly asked: string;
  readonly stored: string;
  readonly reason: string;
}

export interface Answer {
  readonly finishReason: string | undefined;
  readonly mode: Mode;
  /** In tokens. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** Of those from the store, by what they were part of. */
  readonly reused: { readonly blocks: number; readonly prefix: number; readonly conversation: number };
  readonly misses: readonly Miss[];
  readonly completionTokens: number;
  /** From the server's taking the request to the first token, in milliseconds. */
  readonly ttftMs: number | undefined;
  /** The blocks before the final one; none in full mode. */
  readonly blocks: readonly ServedBlock[];
  /** For instance that the chat template leaves a message out. */
  readonly warnings: readonly string[];
}

export type AnswerEvent =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "done"; readonly answer: Answer };

/**
 * Asks a question over documents and yields the answer as it comes; the last event is `done`.
 *
 * @throws ApiError for what the server refuses, before the answer or in its middle, and for an answer that breaks off;
 *   the signal's reason.
 */
export async function* ask(api: Api, question: Question, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
  const response = await call(api, "POST", "/v1/chat/completions", signal, {
    model: question.model,
    messages: [{ role: "user", content: question.question }],
    // Without passages this is a plain question.
    ...(question.documents.length > 0 ? { documents: question.documents } : {}),
    block_attention: {
      ...(question.mode === undefined ? {} : { mode: question.mode }),
      ...(question.isMeasured ? { keep_prefixes: false } : { explain: true }),
    },
    temperature: 0,
    max_tokens: question.maxTokens,
    stream: true,
    stream_options: { include_usage: true },
  });
  if (response.body === null) throw new ApiError(undefined, "Cannot read the answer: it has no body");
  let finishReason: string | undefined;
  let last: Record<string, unknown> | undefined;
  try {
    for await (const data of readEventStream(response.body)) {
      if (data === "[DONE]") {
        if (last === undefined) throw new ApiError(undefined, "Cannot read the answer: it ended without its usage");
        yield { kind: "done", answer: readAnswer(last, question.mode, finishReason) };
        return;
      }
      const chunk = readJson(data);
      if (chunk.error !== undefined) throw new ApiError(undefined, errorMessage(chunk) ?? "The server failed");
      if (isRecord(chunk.usage)) last = chunk;
      const choice = Array.isArray(chunk.choices) ? chunk.choices[0] : undefined;
      if (!isRecord(choice)) continue;
      if (typeof choice.finish_reason === "string") finishReason = choice.finish_reason;
      const text = isRecord(choice.delta) ? choice.delta.content : undefined;
      if (typeof text === "string" && text !== "") yield { kind: "text", text };
    }
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof ApiError) throw error;
    throw new ApiError(undefined, "The answer was cut off: the connection to the server broke");
  }
  throw new ApiError(undefined, "The answer was cut off: the server ended it before it was complete");
}

/** What the server says of its model. @throws ApiError; the signal's reason. */
export async function loadedModel(api: Api, signal: AbortSignal): Promise<ServedModel> {
  const list = readJson(await (await call(api, "GET", "/v1/models", signal)).text());
  const first = Array.isArray(list.data) ? list.data[0] : undefined;
  if (!isRecord(first) || typeof first.id !== "string") {
    throw new ApiError(undefined, "Cannot read the list of models: it names none");
  }
  const { default_mode: defaultMode, note } = record(first.block_attention);
  return {
    id: first.id,
    defaultMode: isMode(defaultMode) ? defaultMode : undefined,
    note: typeof note === "string" ? note : undefined,
  };
}

/** Takes a block out of the store; one that is not there is no error. @throws ApiError; the signal's reason. */
export async function forgetBlock(api: Api, id: string, signal: AbortSignal): Promise<void> {
  try {
    await call(api, "DELETE", `/v1/blocks/${encodeURIComponent(id)}`, signal);
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) throw error;
  }
}

/** The server's metrics in Prometheus' text form. @throws ApiError; the signal's reason. */
export async function metricsText(api: Api, signal: AbortSignal): Promise<string> {
  return (await call(api, "GET", "/metrics", signal)).text();
}

async function call(api: Api, method: string, path: string, signal: AbortSignal, body?: object): Promise<Response> {
  const headers = new Headers();
  if (api.key !== undefined) {
    // A header takes no other character; the browser's own error says nothing of keys.
    if (!/^[!-~]+$/.test(api.key)) throw new ApiError(401, "Cannot use the key: it holds characters that no key has");
    headers.set("authorization", `Bearer ${api.key}`);
  }
  if (body !== undefined) headers.set("content-type", "application/json");
  let response: Response;
  try {
    const init = { method, headers, signal, cache: "no-store" } as const;
    response = await api.fetch(path, body === undefined ? init : { ...init, body: JSON.stringify(body) });
  } catch {
    signal.throwIfAborted();
    throw new ApiError(undefined, "Cannot reach the server: is it still running?");
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  throw new ApiError(response.status, refusal(response, text));
}

function refusal({ status, statusText }: Response, text: string): string {
  try {
    const message = errorMessage(readJson(text));
    if (message !== undefined) return message;
  } catch {
    // A proxy's page, for instance: the status says more.
  }
  return `The server answered with status ${status} ${statusText}`.trim();
}

/** The message of OpenAI's error form. */
function errorMessage(value: Record<string, unknown>): string | undefined {
  const error = value.error;
  const message = isRecord(error) ? error.message : error;
  return typeof message === "string" && message !== "" ? message : undefined;
}

function readJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (!isRecord(value))
    throw new ApiError(undefined, "Cannot read the server's answer: a part of it is no JSON object");
  return value;
}

function readAnswer(chunk: Record<string, unknown>, asked: Mode | undefined, finishReason?: string): Answer {
  const usage = record(chunk.usage);
  const served = record(chunk.block_attention);
  const ttftMs = record(chunk.timings).ttft_ms;
  const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
  const reused = record(served.reused);
  return {
    finishReason,
    mode: isMode(served.mode) ? served.mode : (asked ?? "block"),
    promptTokens: count(usage.prompt_tokens),
    cachedTokens: count(record(usage.prompt_tokens_details).cached_tokens),
    reused: {
      blocks: count(reused.blocks),
      prefix: count(reused.prefix),
      conversation: count(reused.conversation),
    },
    misses: list(served.misses).map((value) => {
      const { kind, asked, stored, reason } = record(value);
      return { kind: String(kind), asked: String(asked), stored: String(stored), reason: String(reason) };
    }),
    completionTokens: count(usage.completion_tokens),
    ttftMs: typeof ttftMs === "number" ? ttftMs : undefined,
    blocks: list(served.blocks).map((value) => {
      const block = record(value);
      return { id: String(block.id), tokens: count(block.tokens), hit: block.hit === true };
    }),
    warnings: list(served.warnings).map(String),
  };
}

function record(value: unknown): Record<string, unknown> {
  return isRecord(value) ? value : {};
}

function isMode(value: unknown): value is Mode {
  return value === "full" || value === "block";
}

function count(value: unknown): number {
  return typeof value === "number" && value >= 0 ? value : 0;
}

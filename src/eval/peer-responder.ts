import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { joinTextBlocks } from "../blocks/block.js";
import { type RagPromptOptions, ragPrompt } from "../blocks/rag-prompt.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../files/bounded-json.js";
import { readEventStream } from "../files/event-stream.js";
import { networkFailure, retryAfterMs } from "../files/http-failures.js";
import { InputRangeError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import type { RagLine } from "./rag-line.js";
import type { Reply, Responder } from "./responder.js";

/** How a server is given question and passages. "text": the RAG prompt as one message, which any server takes. "documents": apart, as servers of this project take them. */
export const PEER_PROMPTS = ["text", "documents"] as const;
export type PeerPrompt = (typeof PEER_PROMPTS)[number];

export interface PeerOptions {
  /** As reports call it. */
  readonly name: string;
  /** The API's base, for instance "http://127.0.0.1:8080/v1". */
  readonly url: string;
  /** What the server calls its model. */
  readonly model: string;
  /** Sent as a bearer token; it stands in no file and no message. */
  readonly apiKey?: string | undefined;
  /** Default "text". */
  readonly prompt?: PeerPrompt | undefined;
  /** Of the RAG prompt. Default: the project's. */
  readonly texts?: RagPromptOptions["texts"];
  /** How many of a line's documents are used, the best ones. Default all. */
  readonly maxDocuments?: number | undefined;
  /** For one request, in milliseconds. Default five minutes; a server that is silent for so long is given up in any case. */
  readonly timeoutMs?: number | undefined;
  /** How often a request is sent again that met a full or a failing server. Default 5. */
  readonly retries?: number | undefined;
  /** Before the first of them; each next one waits twice as long, at most half a minute. Default 500 ms. */
  readonly retryDelayMs?: number | undefined;
}

/** What one request came to. */
type Outcome = Reply | { readonly kind: "again"; readonly reason: string; readonly afterMs: number | undefined };

const formatVersion = 1;
const maxRetryDelayMs = 30_000;
/** A server that asks for longer is not waited for so long. */
const maxRetryAfterMs = 120_000;
const maxErrorBytes = 65_536;
/** For the end of an answer's connection, after its last event. */
const lingerMs = 500;
/** Statuses that a question itself may be the reason of. */
const refusals: ReadonlySet<number> = new Set([400, 413, 422]);

/**
 * A server that speaks OpenAI's protocol, asked over POST /chat/completions, greedily and streamed: its time to the first token
 * ends with the first piece of text. A full or failing server (408, 409, 429, 5xx, a broken connection) is asked again after
 * a while. What it refuses with 400, 413 or 422 is refused; a first short question finds out whether it refuses everything.
 *
 * @throws RangeError for a URL that is none of HTTP or has a password in it, and for a key that cannot be sent.
 */
export function peerResponder(options: PeerOptions): Responder {
  const { name, url, model, apiKey, prompt = "text", texts, maxDocuments, retries = 5, retryDelayMs = 500 } = options;
  const endpoint = endpointOf(url);
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
    throw new InputRangeError(
      `Cannot ask the peer ${quote(name)}: its key is empty, or holds characters that no key has`,
    );
  }
  const clean = (text: string) => (apiKey === undefined ? text : text.replaceAll(apiKey, "…"));
  const cannot = (why: string) => new Error(clean(`Cannot ask the peer ${quote(name)}: ${why}`));
  let ready: Promise<void> | undefined;

  const once = async (content: JsonObject, maxTokens: number, caller: AbortSignal): Promise<Outcome> => {
    const timeoutMs = options.timeoutMs ?? 300_000;
    const ended = new AbortController();
    const signal = AbortSignal.any([caller, ended.signal, AbortSignal.timeout(timeoutMs)]);
    const startedAt = performance.now();
    try {
      const response = await fetch(endpoint, {
        method: "POST",
        // A key must not go where a server sends it on to.
        redirect: "manual",
        headers: {
          "content-type": "application/json",
          ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
        },
        body: JSON.stringify({
          model,
          ...content,
          max_tokens: maxTokens,
          temperature: 0,
          stream: true,
          stream_options: { include_usage: true },
        }),
        signal,
      });
      if (!response.ok) return refusalOf(response.status, response.headers, await startOf(response.body), cannot);
      if (!/^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "")) {
        await response.body?.cancel();
        throw cannot(
          `its answer is ${quote(response.headers.get("content-type") ?? "")}, wanted a stream, text/event-stream`,
        );
      }
      if (response.body === null) return { kind: "again", reason: "the answer is empty", afterMs: undefined };
      return await readAnswer(response.body, startedAt);
    } catch (error) {
      caller.throwIfAborted();
      if (signal.aborted) return { kind: "again", reason: `no answer came in ${timeoutMs} ms`, afterMs: undefined };
      // What fetch throws of itself; its cause has the words.
      if (!(error instanceof TypeError)) throw error;
      return { kind: "again", reason: networkFailure(error).reason, afterMs: undefined };
    } finally {
      // What of the connection is still open is not waited for.
      ended.abort();
    }
  };

  const request = async (content: JsonObject, maxTokens: number, signal: AbortSignal): Promise<Reply> => {
    for (let attempt = 0; ; attempt++) {
      const outcome = await once(content, maxTokens, signal);
      if (outcome.kind !== "again") {
        return outcome.kind === "refused" ? { ...outcome, message: clean(outcome.message) } : outcome;
      }
      if (attempt >= retries) throw cannot(`${outcome.reason}, ${attempt + 1} times in turn`);
      const delayMs = outcome.afterMs ?? Math.min(maxRetryDelayMs, retryDelayMs * 2 ** attempt);
      await sleep(delayMs, undefined, { signal }).catch(() => undefined);
      signal.throwIfAborted();
    }
  };

  const checkFirst = async (signal: AbortSignal): Promise<void> => {
    const reply = await request({ messages: [{ role: "user", content: "Hello" }] }, 1, signal);
    if (reply.kind === "refused") throw cannot(`it refuses a first short question too: ${reply.message}`);
  };

  return {
    // It may be; what it says of the second asking tells.
    keepsPassages: true,
    settings: async () => ({
      version: formatVersion,
      peer: endpoint,
      peer_model: model,
      prompt,
      prompt_texts: createHash("sha256")
        .update(JSON.stringify(texts ?? null))
        .digest("hex"),
      max_documents: maxDocuments ?? null,
    }),
    async ask(line, maxTokens, signal): Promise<Reply> {
      ready ??= checkFirst(signal);
      await ready;
      return request(contentOf(line, prompt, texts, maxDocuments), maxTokens, signal);
    },
  };
}

/** @throws RangeError as peerResponder(). */
function endpointOf(base: string): string {
  const url = URL.canParse(base) ? new URL(base) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    throw new InputRangeError(`Cannot ask a peer at ${quote(base)}: it is no URL of http or https`);
  }
  if (url.username !== "" || url.password !== "") {
    throw new InputRangeError(
      "Cannot ask a peer: its URL has a name or password in it; name a variable with the key instead",
    );
  }
  if (url.search !== "" || url.hash !== "") {
    throw new InputRangeError(`Cannot ask a peer at ${quote(base)}: the base of an API has no "?" and no "#"`);
  }
  return `${url.href.replace(/\/+$/, "")}/chat/completions`;
}

function contentOf(
  { question, documents }: RagLine,
  prompt: PeerPrompt,
  texts: RagPromptOptions["texts"],
  maxDocuments = Number.POSITIVE_INFINITY,
): JsonObject {
  if (prompt === "documents") {
    const used = documents.slice(0, maxDocuments).map((one) => (typeof one === "string" ? one : { ...one }));
    return { messages: [{ role: "user", content: question }], documents: used };
  }
  const { blocks } = ragPrompt({ question, documents }, { texts, maxDocuments });
  return { messages: [{ role: "user", content: joinTextBlocks(blocks).text }] };
}

/** What a status other than 200 means. @throws Error where no other question would fare better. */
function refusalOf(status: number, headers: Headers, body: string, cannot: (why: string) => Error): Outcome {
  const { message, code } = errorOf(body);
  const reason = `status ${status}${message === "" ? "" : `, ${message}`}`;
  if (status === 408 || status === 409 || status === 429 || status >= 500) {
    return { kind: "again", reason, afterMs: retryAfterMs(headers.get("retry-after"), Date.now(), maxRetryAfterMs) };
  }
  if (!refusals.has(status)) {
    const hint = status === 404 ? "; the base of an API mostly ends in /v1" : "";
    throw cannot(`it answers with ${reason}${hint}`);
  }
  const isTooLong = status === 413 || saysTooLong(message, code);
  return {
    kind: "refused",
    code: isTooLong ? "too_long" : (code ?? "refused"),
    message: `the peer refused it: ${reason}`,
  };
}

/** Whether a server's words mean that the prompt does not fit its model: each server has its own. */
function saysTooLong(message: string, code: string | undefined): boolean {
  const words =
    /context (length|window|size)|maximum (context|model|input|prompt)|max_model_len|too long|too many (input )?tokens/i;
  return code === "context_length_exceeded" || words.test(message);
}

/** The words and the code of an error's body, OpenAI's or another's. */
function errorOf(body: string): { message: string; code: string | undefined } {
  const oneLine = (text: string) => text.replace(/\s+/g, " ").trim().slice(0, 300);
  let value: JsonValue;
  try {
    value = parseJson(body, "an error");
  } catch {
    return { message: oneLine(body), code: undefined };
  }
  const error = isJsonObject(value) && isJsonObject(value.error) ? value.error : isJsonObject(value) ? value : {};
  const text = [error.message, error.detail, isJsonObject(value) ? value.error : undefined].find(
    (one) => typeof one === "string",
  );
  return {
    message: oneLine((text as string | undefined) ?? body),
    code: typeof error.code === "string" ? error.code : undefined,
  };
}

/** The start of a body as text: an error's is short. */
async function startOf(body: AsyncIterable<Uint8Array> | null): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of body ?? []) {
    parts.push(part);
    size += part.byteLength;
    if (size >= maxErrorBytes) break;
  }
  return Buffer.concat(parts).subarray(0, maxErrorBytes).toString("utf8");
}

/** Reads a streamed answer to its end. @param startedAt when the request was sent, as performance.now() has it. */
async function readAnswer(body: NonNullable<Response["body"]>, startedAt: number): Promise<Outcome> {
  let text = "";
  let ttftMs: number | undefined;
  let finishReason: string | undefined;
  let usage: JsonObject = {};
  let totalMs = 0;
  const events = readEventStream(body);
  for (let next = await events.next(); next.done !== true; next = await events.next()) {
    totalMs = performance.now() - startedAt;
    if (next.value === "[DONE]") {
      // The connection serves the next question too, if the answer's end is read; some servers leave it open.
      await Promise.race([events.next(), sleep(lingerMs, undefined, { ref: false })]);
      break;
    }
    let chunk: JsonValue;
    try {
      chunk = parseJson(next.value, "a piece of the answer");
    } catch (error) {
      return { kind: "again", reason: (error as Error).message, afterMs: undefined };
    }
    if (!isJsonObject(chunk)) continue;
    if (isJsonObject(chunk.error)) {
      const { message, code } = errorOf(next.value);
      if (saysTooLong(message, code))
        return { kind: "refused", code: "too_long", message: `the peer refused it: ${message}` };
      return { kind: "again", reason: message, afterMs: undefined };
    }
    if (isJsonObject(chunk.usage)) usage = chunk.usage;
    const choice = Array.isArray(chunk.choices) ? (chunk.choices as readonly JsonValue[])[0] : undefined;
    if (!isJsonObject(choice)) continue;
    const delta = isJsonObject(choice.delta) ? choice.delta : {};
    // Thinking is no part of the answer, but its first token is the first.
    const pieces = [delta.content, delta.reasoning_content, delta.reasoning];
    const ends = typeof choice.finish_reason === "string";
    if (ends || pieces.some((piece) => typeof piece === "string" && piece !== "")) ttftMs ??= totalMs;
    if (typeof delta.content === "string") text += delta.content;
    if (ends) finishReason = choice.finish_reason as string;
  }
  if (finishReason === undefined) return { kind: "again", reason: "the answer broke off", afterMs: undefined };
  const count = (value: JsonValue | undefined) => (Number.isSafeInteger(value) ? (value as number) : undefined);
  const details = isJsonObject(usage.prompt_tokens_details) ? usage.prompt_tokens_details : {};
  return {
    kind: "answered",
    text,
    finishReason,
    promptTokens: count(usage.prompt_tokens),
    completionTokens: count(usage.completion_tokens),
    cachedTokens: count(details.cached_tokens),
    start: undefined,
    ttftMs,
    times: { total_ms: totalMs },
  };
}

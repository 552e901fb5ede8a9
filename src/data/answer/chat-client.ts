import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../../files/bounded-json.js";
import { networkFailure, retryAfterMs } from "../../files/http-failures.js";
import { quote } from "../../files/quote.js";

/** What a server is asked with. */
export interface ChatSettings {
  /** The API's root, for instance http://127.0.0.1:8000/v1. */
  readonly baseUrl: URL;
  readonly model: string;
  /** Sent as a bearer token, and taken out of all that is told; undefined: none. */
  readonly apiKey: string | undefined;
  /** The longest answer, in tokens. */
  readonly maxTokens: number;
  /** Fields of the request over ours; null takes one out. */
  readonly extraBody: JsonObject;
  /** How often a request is tried again. */
  readonly retries: number;
  /** How long one try may take. */
  readonly timeoutMs: number;
}

/** What the client touches of the world. */
export interface ChatClientDependencies {
  readonly fetch: typeof fetch;
  /** @throws the signal's reason. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  /** From 0, less than 1. */
  readonly random: () => number;
  /** In milliseconds since 1970, for a Retry-After that is a date. */
  readonly now: () => number;
}

export type ChatOutcome =
  | { readonly kind: "answered"; readonly text: string; readonly finishReason: string | undefined }
  /** The server does not answer this question, and tells why. */
  | { readonly kind: "refused"; readonly status: number; readonly error: string };

const firstWaitMs = 500;
const longestWaitMs = 60_000;
const maxAnswerBytes = 2 ** 24;

/** Asks one question after another of a server that speaks OpenAI's chat completions. Several may be under way. */
export class ChatClient {
  readonly #url: string;
  readonly #headers: Readonly<Record<string, string>>;

  /** @throws RangeError for an address or a key that cannot be sent; the key stands in no message. */
  constructor(
    private readonly settings: ChatSettings,
    private readonly dependencies: ChatClientDependencies,
  ) {
    const { baseUrl, apiKey } = settings;
    if (!/^https?:$/.test(baseUrl.protocol) || baseUrl.username !== "" || baseUrl.password !== "") {
      throw new RangeError(
        `Cannot ask ${quote(publicAddress(baseUrl))}: wanted an http or https address without a name and a password`,
      );
    }
    if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
      throw new RangeError("Cannot use the key: it is empty, or holds characters that no key has");
    }
    const url = new URL(baseUrl);
    url.pathname = `${url.pathname.replace(/\/+$/, "")}/chat/completions`;
    this.#url = url.href;
    this.#headers = {
      "content-type": "application/json",
      accept: "application/json",
      ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
    };
  }

  /**
   * The answer to one user message. 429, 5xx and broken connections are tried again, after a time that doubles or that the
   * server asks for.
   *
   * @throws Error if the server cannot be reached or still answers 429 after all tries; the signal's reason.
   */
  async ask(content: string, signal: AbortSignal): Promise<ChatOutcome> {
    const { model, maxTokens, extraBody, retries } = this.settings;
    const fields = {
      model,
      messages: [{ role: "user", content }],
      max_tokens: maxTokens,
      temperature: 0,
      ...extraBody,
    };
    const body = JSON.stringify(Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null)));
    for (let tried = 0; ; tried++) {
      signal.throwIfAborted();
      const attempt = await this.#try(body, signal);
      if (attempt.kind === "done") return attempt.outcome;
      if (tried >= retries) return this.#giveUp(attempt, tried + 1);
      await this.dependencies.sleep(attempt.waitMs ?? this.#backOff(tried), signal);
    }
  }

  /** The address without what may be secret. */
  get address(): string {
    return publicAddress(new URL(this.#url));
  }

  #giveUp({ status, error }: FailedTry, tries: number): ChatOutcome {
    const told = `after ${tries} ${tries === 1 ? "try" : "tries"}: ${error}`;
    if (status !== undefined && status !== 429) return { kind: "refused", status, error: told };
    throw new Error(`Cannot ask ${quote(this.address)}: no answer ${told}`);
  }

  /** Half of it by chance, so that those who failed together do not come together again. */
  #backOff(tried: number): number {
    return Math.min(longestWaitMs, firstWaitMs * 2 ** tried) * (0.5 + this.dependencies.random() / 2);
  }

  async #try(body: string, signal: AbortSignal): Promise<{ kind: "done"; outcome: ChatOutcome } | FailedTry> {
    const ending = new AbortController();
    const stop = () => ending.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    const timer = setTimeout(() => ending.abort(timedOut), this.settings.timeoutMs);
    try {
      const response = await this.dependencies.fetch(this.#url, {
        method: "POST",
        headers: this.#headers,
        body,
        redirect: "manual",
        signal: ending.signal,
      });
      const text = await readText(response);
      if (text === undefined) {
        const error = `the server's answer has more than ${maxAnswerBytes} bytes`;
        return { kind: "done", outcome: { kind: "refused", status: response.status, error } };
      }
      if (response.ok) return { kind: "done", outcome: readAnswer(text, (error) => this.#tell(error)) };
      const error = this.#tell(`the server answers ${response.status}: ${serversWords(text)}`);
      if (response.status === 429 || response.status >= 500) {
        const waitMs = retryAfterMs(response.headers.get("retry-after"), this.dependencies.now());
        return { kind: "failed", status: response.status, error, waitMs };
      }
      return { kind: "done", outcome: { kind: "refused", status: response.status, error } };
    } catch (error) {
      signal.throwIfAborted();
      const seconds = this.settings.timeoutMs / 1000;
      const why =
        ending.signal.reason === timedOut ? `there is none within ${seconds} s` : networkFailure(error).reason;
      return { kind: "failed", status: undefined, error: this.#tell(why), waitMs: undefined };
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    }
  }

  /** A text from outside as one line without the key. */
  #tell(text: string): string {
    const { apiKey } = this.settings;
    const line = text.replace(/[\p{Cc}\p{Zl}\p{Zp}\s]+/gu, " ").trim();
    return (apiKey === undefined ? line : line.replaceAll(apiKey, "…")).slice(0, 500);
  }
}

/** A try that may be made again; `status` is undefined where there was no answer. */
interface FailedTry {
  readonly kind: "failed";
  readonly status: number | undefined;
  readonly error: string;
  /** What the server asked for. */
  readonly waitMs: number | undefined;
}

const timedOut = new Error("timed out");

/** An address without its query, which may hold a key. */
export function publicAddress(url: URL): string {
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
}

/** @returns undefined for one that is too long to be an answer. */
async function readText(response: Response): Promise<string | undefined> {
  const parts: Uint8Array[] = [];
  let size = 0;
  // Leaving the loop closes the connection.
  for await (const part of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    size += part.byteLength;
    if (size > maxAnswerBytes) return undefined;
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function readAnswer(text: string, tell: (error: string) => string): ChatOutcome {
  let answer: JsonValue;
  try {
    answer = parseJson(text, "the server's answer");
  } catch (error) {
    return { kind: "refused", status: 200, error: tell((error as Error).message) };
  }
  const choices = isJsonObject(answer) && Array.isArray(answer.choices) ? answer.choices : [];
  const [choice] = choices as readonly JsonValue[];
  const message = isJsonObject(choice) ? choice.message : undefined;
  const content = isJsonObject(message) ? message.content : undefined;
  if (typeof content !== "string" || content.trim() === "" || !content.isWellFormed()) {
    return { kind: "refused", status: 200, error: "the server's answer holds no text" };
  }
  const reason = isJsonObject(choice) ? choice.finish_reason : undefined;
  return { kind: "answered", text: content, finishReason: typeof reason === "string" ? reason : undefined };
}

/** `error.message` of OpenAI's form, else the text itself. */
function serversWords(text: string): string {
  try {
    const value = parseJson(text, "the answer");
    const error = isJsonObject(value) ? (value.error ?? value.message ?? value.detail) : undefined;
    const message = isJsonObject(error) ? error.message : error;
    if (typeof message === "string" && message.trim() !== "") return message;
  } catch {
    // Then it is told as it is.
  }
  return text.trim() === "" ? "it says nothing" : text;
}

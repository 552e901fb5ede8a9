import { Agent, type IncomingHttpHeaders, request } from "node:http";
import { bearer } from "./server-under-test.js";

/** One request, as a client sends it. */
export interface Question {
  /** Default: POST where there is a body, else GET. */
  readonly method?: string;
  readonly path: string;
  /** Text and bytes are sent as they are, all else as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** The client goes away after that time, from the moment of sending, in ms. */
  readonly leaveAfterMs?: number;
  /** The client goes away once it has read that many characters of the answer. */
  readonly leaveAfterCharacters?: number;
  /** The client waits so long after each piece of the answer before it reads on, in ms. */
  readonly readPauseMs?: number;
  /** The client sends so many bytes of the body, then goes away. */
  readonly cutBodyAt?: number;
}

export interface Answer {
  readonly kind: "answer";
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** From sending to the body's first byte, in ms. */
  readonly firstByteMs: number;
  /** From sending to the body's end, in ms. */
  readonly totalMs: number;
}

/** How a request ended, as its client saw it. */
export type Outcome =
  | Answer
  /** The client itself went away. */
  | { readonly kind: "left" }
  /** The connection ended before a whole answer had come. */
  | { readonly kind: "broken"; readonly message: string }
  /** Nothing had come to an end within the limit. */
  | { readonly kind: "late" };

/** A client with a key of its own, or none, that keeps its connections. */
export class HttpClient implements Disposable {
  readonly #agent = new Agent({ keepAlive: true });

  constructor(
    readonly server: { readonly port: number },
    readonly key?: string,
    /** A request that takes longer is late, in ms. */
    readonly limitMs = 60_000,
  ) {}

  /** Never rejects: whatever happens is an outcome. */
  send(question: Question): Promise<Outcome> {
    const { body } = question;
    const isRaw = typeof body === "string" || body instanceof Uint8Array;
    const payload = body === undefined ? undefined : Buffer.from(isRaw ? body : JSON.stringify(body));
    const headers = {
      ...(this.key === undefined ? {} : bearer(this.key)),
      ...(payload === undefined ? {} : { "content-type": "application/json", "content-length": payload.length }),
      ...question.headers,
    };
    const method = question.method ?? (payload === undefined ? "GET" : "POST");
    return new Promise((resolve) => {
      const sentAt = performance.now();
      const timers: NodeJS.Timeout[] = [];
      let firstByteMs: number | undefined;
      let text = "";
      const end = (outcome: Outcome) => {
        for (const timer of timers) clearTimeout(timer);
        resolve(outcome);
        if (outcome.kind !== "answer") outgoing.destroy();
      };
      const outgoing = request(
        { host: "127.0.0.1", port: this.server.port, path: question.path, method, headers, agent: this.#agent },
        (incoming) => {
          incoming.setEncoding("utf8");
          incoming.on("data", (piece: string) => {
            firstByteMs ??= performance.now() - sentAt;
            text += piece;
            if (text.length >= (question.leaveAfterCharacters ?? Number.POSITIVE_INFINITY)) end({ kind: "left" });
            if (question.readPauseMs === undefined) return;
            incoming.pause();
            timers.push(setTimeout(() => incoming.resume(), question.readPauseMs));
          });
          incoming.on("end", () => {
            const totalMs = performance.now() - sentAt;
            const { statusCode, headers } = incoming;
            end({
              kind: "answer",
              status: statusCode ?? 0,
              headers,
              text,
              firstByteMs: firstByteMs ?? totalMs,
              totalMs,
            });
          });
          incoming.on("error", (error) => end({ kind: "broken", message: error.message }));
        },
      );
      outgoing.on("error", (error) => end({ kind: "broken", message: error.message }));
      timers.push(setTimeout(() => end({ kind: "late" }), this.limitMs));
      if (question.leaveAfterMs !== undefined) {
        timers.push(setTimeout(() => end({ kind: "left" }), question.leaveAfterMs));
      }
      if (payload !== undefined && question.cutBodyAt !== undefined) {
        outgoing.write(payload.subarray(0, question.cutBodyAt), () => end({ kind: "left" }));
        return;
      }
      outgoing.end(payload);
    });
  }

  /** @throws Error for whatever is no whole answer. */
  async ask(question: Question): Promise<Answer> {
    const outcome = await this.send(question);
    if (outcome.kind === "answer") return outcome;
    const why = outcome.kind === "broken" ? outcome.message : `the request ended "${outcome.kind}"`;
    throw new Error(`Cannot get an answer from ${question.path}: ${why}`);
  }

  /** The answer's JSON. @throws Error for a status that is not 200, with the answer's text. */
  async json<T>(question: Question): Promise<T> {
    const { status, text } = await this.ask(question);
    if (status !== 200) throw new Error(`Cannot use the answer of ${question.path}: status ${status}: ${text}`);
    return JSON.parse(text) as T;
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

/** OpenAI's form of an error. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** What is wrong with an error's body; undefined where it is in OpenAI's form with a clear message. */
export function errorFault(text: string): string | undefined {
  let body: Partial<ErrorBody>;
  try {
    body = JSON.parse(text) as ErrorBody;
  } catch {
    return `the body is no JSON: ${text.slice(0, 200)}`;
  }
  const { error } = body;
  if (typeof error !== "object" || error === null) return `there is no "error" in ${text.slice(0, 200)}`;
  if (Object.keys(body).length !== 1) return `there is more than "error" in ${text.slice(0, 200)}`;
  const names = Object.keys(error).sort().join();
  if (names !== "code,message,param,type") return `the error's fields are ${names}`;
  if (typeof error.type !== "string" || error.type === "") return "the error has no type";
  if (error.param !== null && typeof error.param !== "string") return "the error's param is no string";
  if (error.code !== null && typeof error.code !== "string") return "the error's code is no string";
  const { message } = error;
  if (typeof message !== "string" || message.length < 12 || message.length > 1000) return `the message is ${message}`;
  if (!/^Cannot [^\n]*[^.\n]$/.test(message)) return `the message is not in our form: ${message}`;
  if (/[\n\r]|\s{4}at |\bnode_modules\b|\.[jt]s:\d|\[object |\bundefined is not\b|is not a function/.test(message)) {
    return `the message shows the program's inside: ${message}`;
  }
  return undefined;
}

/** The data of each server-sent event; comments are left out. */
export function eventData(text: string): string[] {
  return text.split("\n").flatMap((line) => (line.startsWith("data: ") ? [line.slice("data: ".length)] : []));
}

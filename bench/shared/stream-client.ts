import { type Agent, type IncomingMessage, request } from "node:http";

/** A streamed answer, as its client saw it. */
export interface StreamedAnswer {
  /** From the request to the first event of the answer, in ms; one that opens a chat's answer with its role is none. */
  readonly ttftMs: number;
  readonly totalMs: number;
  /** The events' JSON in order, without `[DONE]`. */
  readonly events: readonly Record<string, unknown>[];
}

/** A server that sends nothing for so long has failed, in ms. */
const silenceLimitMs = 600_000;

const answerEvent = /^data: \{(?!.*"role":)/m;

/**
 * Asks a server for an event stream. It shares the cores with the server, so it does little: it notes when the first event
 * comes, and reads events only once all are there.
 *
 * @param agent whose connections are used. Default: each request opens a connection of its own, since llama-server closes
 * it after every streamed answer.
 * @throws Error where the answer is no complete event stream.
 */
export async function postStream(url: string, body: unknown, agent: Agent | false = false): Promise<StreamedAnswer> {
  const payload = Buffer.from(JSON.stringify(body));
  const startedMs = performance.now();
  let ttftMs: number | undefined;
  const chunks: Buffer[] = [];
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const headers = { "content-type": "application/json", "content-length": payload.length };
    const sent = request(url, { method: "POST", agent, headers, timeout: silenceLimitMs }, resolve);
    sent.on("error", reject).on("timeout", () => sent.destroy(new Error("it stays silent")));
    sent.end(payload);
  });
  for await (const chunk of response as AsyncIterable<Buffer>) {
    // Neither a comment line while waiting nor the role, which comes before the prompt is computed, is a token.
    if (ttftMs === undefined && answerEvent.test(chunk.toString("latin1"))) ttftMs = performance.now() - startedMs;
    chunks.push(chunk);
  }
  const totalMs = performance.now() - startedMs;
  const text = Buffer.concat(chunks).toString("utf8");
  if (response.statusCode !== 200 || ttftMs === undefined) {
    throw new Error(`Cannot use the answer of "${url}": status ${response.statusCode}: ${text.slice(0, 500)}`);
  }
  const events = text
    .split("\n")
    .flatMap((line) => (line.startsWith("data: {") ? [JSON.parse(line.slice("data: ".length))] : []));
  return { ttftMs, totalMs, events };
}

/** Lets `numClients` clients take the items in order, each the next one as soon as it is done with the last. */
export async function runClients<T>(
  items: readonly T[],
  numClients: number,
  use: (item: T, index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const client = async (): Promise<void> => {
    while (next < items.length) {
      const index = next++;
      await use(items[index] as T, index);
    }
  };
  await Promise.all(Array.from({ length: numClients }, client));
}

/** @param body left out for a GET. @throws Error unless the status is 2xx. */
export async function fetchText(url: string, body?: unknown): Promise<string> {
  const headers = { "content-type": "application/json" };
  const init = body === undefined ? {} : { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(url, init);
  const text = await answer.text();
  if (!answer.ok) throw new Error(`Cannot use the answer of "${url}": status ${answer.status}: ${text.slice(0, 500)}`);
  return text;
}

import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A request as a fake server got it. */
export interface PeerRequest {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it at will
  readonly body: any;
}

export interface FakePeer extends AsyncDisposable {
  /** The API's base. */
  readonly url: string;
  /** In the order in which they came. */
  readonly requests: readonly PeerRequest[];
}

/** A server on a free port of the loopback address. It is closed with all its connections. */
export async function startFakePeer(
  handle: (request: PeerRequest, response: ServerResponse, number: number) => unknown,
): Promise<FakePeer> {
  const requests: PeerRequest[] = [];
  const server = createServer(async (incoming, response) => {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const text = Buffer.concat(parts).toString("utf8");
    const request = {
      path: incoming.url ?? "",
      headers: incoming.headers,
      body: text === "" ? undefined : JSON.parse(text),
    };
    requests.push(request);
    await handle(request, response, requests.length - 1);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

export interface FakeAnswer {
  readonly pieces: readonly string[];
  readonly promptTokens?: number;
  /** Undefined: the server does not tell. */
  readonly cachedTokens?: number | undefined;
  /** Before the first piece. */
  readonly delayMs?: number;
}

/** Streams an answer as OpenAI does, the role first and the usage last. */
export async function streamAnswer(response: ServerResponse, answer: FakeAnswer): Promise<void> {
  const { pieces, promptTokens = 100, cachedTokens, delayMs = 0 } = answer;
  const send = (value: unknown) => response.write(`data: ${JSON.stringify(value)}\n\n`);
  const choice = (delta: unknown, finish_reason: string | null = null) =>
    send({ object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason }], usage: null });
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
  choice({ role: "assistant", content: "" });
  if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
  for (const content of pieces) choice({ content });
  choice({}, "stop");
  const details = cachedTokens === undefined ? {} : { prompt_tokens_details: { cached_tokens: cachedTokens } };
  send({ choices: [], usage: { prompt_tokens: promptTokens, completion_tokens: pieces.length, ...details } });
  response.end("data: [DONE]\n\n");
}

/** Answers with an error in OpenAI's form. */
export function sendError(
  response: ServerResponse,
  status: number,
  error: { readonly message: string; readonly code?: string },
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify({ error: { type: "invalid_request_error", param: null, code: null, ...error } }));
}

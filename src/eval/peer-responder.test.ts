import { expect, test } from "vitest";
import { DEFAULT_RAG_PROMPT_TEXTS } from "../blocks/rag-prompt.js";
import { type PeerRequest, sendError, startFakePeer, streamAnswer } from "./fake-peer.suite.js";
import { type PeerOptions, peerResponder } from "./peer-responder.js";
import type { RagLine } from "./rag-line.js";

const line: RagLine = {
  id: "1",
  kind: undefined,
  question: "Who directed it?",
  answers: ["Ann Lee"],
  documents: [{ title: "It", text: " It was directed by Ann Lee. " }, "A text\n"],
};

const { signal } = new AbortController();
const isHello = ({ body }: PeerRequest) => body.messages[0].content === "Hello";

function peer(url: string, more: Partial<PeerOptions> = {}) {
  return peerResponder({ name: "peer", url, model: "m", retryDelayMs: 1, ...more });
}

test("peerResponder(): an answer in pieces, its time to the first of them, and what the server tells", async () => {
  await using server = await startFakePeer((request, response) =>
    streamAnswer(response, {
      pieces: isHello(request) ? ["Hi"] : ["Ann", " Łee"],
      promptTokens: 70,
      cachedTokens: 60,
      delayMs: isHello(request) ? 0 : 60,
    }),
  );
  const reply = await peer(server.url).ask(line, 40, signal);
  expect(reply).toMatchObject({
    kind: "answered",
    text: "Ann Łee",
    finishReason: "stop",
    promptTokens: 70,
    completionTokens: 2,
    cachedTokens: 60,
    start: undefined,
  });
  // The role's chunk came at once and is no token.
  if (reply.kind === "answered") expect(reply.ttftMs).toBeGreaterThan(50);
  const [hello, asked] = server.requests as [PeerRequest, PeerRequest];
  expect(hello.body.max_tokens).toBe(1);
  expect(asked.path).toBe("/v1/chat/completions");
  expect(asked.headers.authorization).toBeUndefined();
  expect(asked.body).toEqual({
    model: "m",
    messages: [
      {
        role: "user",
        content: `${DEFAULT_RAG_PROMPT_TEXTS.preamble}- Title: It\nIt was directed by Ann Lee.\nA text\n${DEFAULT_RAG_PROMPT_TEXTS.final.replace("{question}", line.question)}`,
      },
    ],
    max_tokens: 40,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
});

test("peerResponder(): a server that tells no cached tokens, and passages sent apart", async () => {
  await using server = await startFakePeer((_, response) => streamAnswer(response, { pieces: ["yes"] }));
  const responder = peer(server.url, { prompt: "documents", maxDocuments: 1, apiKey: "secret-key" });
  expect(await responder.ask(line, 5, signal)).toMatchObject({ text: "yes", cachedTokens: undefined });
  expect(server.requests[1]?.body).toMatchObject({
    messages: [{ role: "user", content: line.question }],
    documents: [line.documents[0]],
  });
  expect(server.requests[1]?.headers.authorization).toBe("Bearer secret-key");
  expect(JSON.stringify(await responder.settings())).not.toContain("secret-key");
});

test("peerResponder(): thinking is no answer, but its first token is the first", async () => {
  await using server = await startFakePeer(async (_, response) => {
    const send = (delta: unknown, finish_reason: string | null = null) =>
      response.write(`data: ${JSON.stringify({ choices: [{ delta, finish_reason }] })}\n\n`);
    response.writeHead(200, { "content-type": "text/event-stream" });
    send({ reasoning_content: "Let me see" });
    await new Promise((resolve) => setTimeout(resolve, 60));
    send({ content: "yes" });
    send({}, "length");
    response.end();
  });
  const reply = await peer(server.url).ask(line, 5, signal);
  expect(reply).toMatchObject({ text: "yes", finishReason: "length", promptTokens: undefined });
  if (reply.kind === "answered") expect(reply.ttftMs).toBeLessThan(reply.times.total_ms as number);
});

test.each([
  [{ message: "This model's maximum context length is 4096 tokens" }, 400, "too_long"],
  [{ message: "no", code: "context_length_exceeded" }, 400, "too_long"],
  [{ message: "payload" }, 413, "too_long"],
  [{ message: "not allowed", code: "content_filter" }, 400, "content_filter"],
  [{ message: "cannot be used" }, 422, "refused"],
])("peerResponder(): %j with status %i is refused as %s", async (error, status, code) => {
  await using server = await startFakePeer((request, response) =>
    isHello(request) ? streamAnswer(response, { pieces: ["Hi"] }) : sendError(response, status, error),
  );
  expect(await peer(server.url).ask(line, 5, signal)).toEqual({
    kind: "refused",
    code,
    message: `the peer refused it: status ${status}, ${error.message}`,
  });
});

test("peerResponder(): a server that refuses everything is told, not counted as wrong answers", async () => {
  await using server = await startFakePeer((_, response) =>
    sendError(response, 400, { message: "unknown parameter temperature" }),
  );
  await expect(peer(server.url).ask(line, 5, signal)).rejects.toThrow(
    'Cannot ask the peer "peer": it refuses a first short question too: the peer refused it: status 400, unknown parameter temperature',
  );
});

test("peerResponder(): a full server, a failing one and answers that break off are asked again", async () => {
  await using server = await startFakePeer((_, response, number) => {
    if (number === 0) return streamAnswer(response, { pieces: ["Hi"] });
    if (number === 1) return sendError(response, 429, { message: "slow down" }, { "retry-after": "0" });
    if (number === 2) return sendError(response, 503, { message: "busy" });
    if (number === 3) return response.socket?.destroy();
    if (number === 4) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      return response.end('data: {"choices":[{"delta":{"content":"An"},"finish_reason":null}]}\n\n');
    }
    if (number === 5) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      return response.end("data: {no json\n\n");
    }
    return streamAnswer(response, { pieces: ["Ann"] });
  });
  expect(await peer(server.url).ask(line, 5, signal)).toMatchObject({ text: "Ann" });
  expect(server.requests.length).toBe(7);
});

test("peerResponder(): a server that stays full ends the run, after the retries", async () => {
  await using server = await startFakePeer((_, response) => sendError(response, 500, { message: "out\nof order" }));
  await expect(peer(server.url, { retries: 2 }).ask(line, 5, signal)).rejects.toThrow(
    'Cannot ask the peer "peer": status 500, out of order, 3 times in turn',
  );
  expect(server.requests.length).toBe(3);
});

test("peerResponder(): a wrong key ends the run at once, and is in no message", async () => {
  await using server = await startFakePeer(({ headers }, response) =>
    sendError(response, 401, { message: `no such key: ${headers.authorization}` }),
  );
  const asking = peer(server.url, { apiKey: "secret-key" }).ask(line, 5, signal);
  await expect(asking).rejects.toThrow('Cannot ask the peer "peer": it answers with status 401, no such key: Bearer …');
  expect(server.requests.length).toBe(1);
});

test("peerResponder(): what is no stream, what leads elsewhere, and what is not there", async () => {
  await using server = await startFakePeer((_, response, number) => {
    if (number === 0) {
      response.writeHead(200, { "content-type": "application/json" });
      return response.end("{}");
    }
    if (number === 1) {
      response.writeHead(307, { location: "http://127.0.0.1:1/v1" });
      return response.end();
    }
    return sendError(response, 404, { message: "no route" });
  });
  const asked = () => peer(server.url, { retries: 0 }).ask(line, 5, signal);
  await expect(asked()).rejects.toThrow('its answer is "application/json", wanted a stream, text/event-stream');
  await expect(asked()).rejects.toThrow("it answers with status 307");
  await expect(asked()).rejects.toThrow("status 404, no route; the base of an API mostly ends in /v1");
});

test("peerResponder(): a server that hangs is given up, and a signal ends waiting at once", async () => {
  await using server = await startFakePeer(() => undefined);
  await expect(peer(server.url, { timeoutMs: 40, retries: 1 }).ask(line, 5, signal)).rejects.toThrow(
    "no answer came in 40 ms, 2 times in turn",
  );
  const controller = new AbortController();
  const asking = peer(server.url).ask(line, 5, controller.signal);
  setTimeout(() => controller.abort(new Error("stopped by the test")), 30);
  const startedAt = performance.now();
  await expect(asking).rejects.toThrow("stopped by the test");
  expect(performance.now() - startedAt).toBeLessThan(2000);
});

test("peerResponder(): a server that is not there", async () => {
  const server = await startFakePeer(() => undefined);
  await server[Symbol.asyncDispose]();
  await expect(peer(server.url, { retries: 1 }).ask(line, 5, signal)).rejects.toThrow(/ECONNREFUSED.*2 times in turn/);
});

test("peerResponder(): a key that no header takes is told without it", () => {
  const make = () => peer("http://127.0.0.1/v1", { apiKey: "secret\nkey" });
  expect(make).toThrow("its key is empty, or holds characters that no key has");
  expect(make).not.toThrow("secret");
});

test.each([
  ["no URL", "localhost", "it is no URL of http or https"],
  ["another protocol", "ftp://127.0.0.1/v1", "it is no URL of http or https"],
  ["a password", "http://user:secret@127.0.0.1/v1", "name a variable with the key instead"],
  ["a query", "http://127.0.0.1/v1?key=1", 'has no "?" and no "#"'],
])("peerResponder(): %s", (_, url, message) => {
  expect(() => peer(url)).toThrow(message);
  expect(() => peer(url)).not.toThrow("secret");
});

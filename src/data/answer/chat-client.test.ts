import { expect, test } from "vitest";
import { ChatClient, type ChatClientDependencies, type ChatSettings, publicAddress } from "./chat-client.js";
import { chatBody, type FakeReply, type FakeRequest, fakeAnswer, fakeChatServer } from "./fake-chat-server.suite.js";

const signal = new AbortController().signal;

/** A client of a server, whose waits are noted and not waited. */
function client(baseUrl: URL, more: Partial<ChatSettings> = {}) {
  const waits: number[] = [];
  const dependencies: ChatClientDependencies = {
    fetch: globalThis.fetch,
    sleep: async (ms, sleepSignal) => {
      sleepSignal.throwIfAborted();
      waits.push(ms);
    },
    random: () => 0,
    now: () => Date.parse("2026-01-01T00:00:00Z"),
  };
  const settings: ChatSettings = {
    baseUrl,
    model: "m",
    apiKey: undefined,
    maxTokens: 200,
    extraBody: {},
    retries: 5,
    timeoutMs: 5_000,
    ...more,
  };
  return { chat: new ChatClient(settings, dependencies), waits };
}

test("ChatClient.ask(): sends one user message, greedily, with the key as a bearer token", async () => {
  await using server = await fakeChatServer();
  const { chat } = client(new URL(`${server.baseUrl.href}/`), { apiKey: "sk-secret", extraBody: { seed: 1 } });
  expect(await chat.ask("Wer?\n東京", signal)).toEqual({
    kind: "answered",
    text: fakeAnswer("Wer?\n東京"),
    finishReason: "stop",
  });
  const [request] = server.requests;
  expect(request?.path).toBe("/v1/chat/completions");
  expect(request?.headers.authorization).toBe("Bearer sk-secret");
  expect(request?.body).toEqual({
    model: "m",
    messages: [{ role: "user", content: "Wer?\n東京" }],
    max_tokens: 200,
    temperature: 0,
    seed: 1,
  });
});

test("ChatClient.ask(): fields may be taken out, and no key is sent where there is none", async () => {
  await using server = await fakeChatServer();
  const extraBody = { max_tokens: null, max_completion_tokens: 9, temperature: null };
  await client(server.baseUrl, { extraBody }).chat.ask("a", signal);
  expect(Object.keys(server.requests[0]?.body ?? {})).toEqual(["model", "messages", "max_completion_tokens"]);
  expect(server.requests[0]?.headers.authorization).toBeUndefined();
});

const failing = (replies: readonly FakeReply[]) => (request: FakeRequest) => replies[request.before];

test("ChatClient.ask(): 429, 5xx and broken connections are tried again, longer each time, or as long as is asked", async () => {
  const replies: FakeReply[] = [
    { status: 503 },
    "break",
    { status: 429, headers: { "retry-after": "7" } },
    { status: 429, headers: { "retry-after": "Thu, 01 Jan 2026 00:00:03 GMT" } },
    { status: 500, headers: { "retry-after": "soon" } },
  ];
  await using server = await fakeChatServer(failing(replies));
  const { chat, waits } = client(server.baseUrl);
  expect(await chat.ask("a", signal)).toMatchObject({ kind: "answered" });
  // Half of 0.5, 1 and 8 s, for what is drawn is 0.
  expect(waits).toEqual([250, 500, 7000, 3000, 4000]);
  expect(server.requests.length).toBe(6);
});

test("ChatClient.ask(): after all tries 5xx is the question's, 429 and silence are everybody's", async () => {
  await using server = await fakeChatServer((request) =>
    request.prompt === "break"
      ? "break"
      : { status: Number(request.prompt), body: '{"error":{"message":"too\\nmuch"}}' },
  );
  const { chat } = client(server.baseUrl, { retries: 2 });
  expect(await chat.ask("500", signal)).toEqual({
    kind: "refused",
    status: 500,
    error: "after 3 tries: the server answers 500: too much",
  });
  await expect(chat.ask("429", signal)).rejects.toThrow(
    /^Cannot ask "http:\/\/127\.0\.0\.1:\d+\/v1\/chat\/completions": no answer after 3 tries: the server answers 429: too much$/,
  );
  await expect(chat.ask("break", signal)).rejects.toThrow(/no answer after 3 tries: /);
  expect(server.requests.length).toBe(9);
  const { chat: nobody } = client(new URL("http://127.0.0.1:1/v1"), { retries: 0 });
  await expect(nobody.ask("a", signal)).rejects.toThrow(/no answer after 1 try: .*/);
});

test.each<[FakeReply, number, string]>([
  [{ status: 400, body: '{"error":{"message":"too long"}}' }, 400, "the server answers 400: too long"],
  [{ status: 422, body: '{"detail":"no such field"}' }, 422, "the server answers 422: no such field"],
  [{ status: 404, body: "<h1>Not\u0007 found</h1>" }, 404, "the server answers 404: <h1>Not found</h1>"],
  [{ status: 307, headers: { location: "http://127.0.0.1:1/" } }, 307, "the server answers 307: it says nothing"],
  [{ status: 200, body: "{" }, 200, "Cannot read the server's answer: it is no JSON"],
  [{ status: 200, body: '{"choices":[]}' }, 200, "the server's answer holds no text"],
  [{ status: 200, body: chatBody(null) }, 200, "the server's answer holds no text"],
  [{ status: 200, body: chatBody(" ") }, 200, "the server's answer holds no text"],
])("ChatClient.ask(): %j is told and not tried again", async (reply, status, error) => {
  await using server = await fakeChatServer(() => reply);
  const { chat } = client(server.baseUrl);
  expect(await chat.ask("a", signal)).toEqual({ kind: "refused", status, error: expect.stringContaining(error) });
  expect(server.requests.length).toBe(1);
});

test("ChatClient: the key stands in nothing that is told", async () => {
  const body = '{"error":{"message":"wrong key: sk-secret, sk-secret"}}';
  await using server = await fakeChatServer(({ prompt }) => ({ status: Number(prompt), body }));
  const { chat } = client(server.baseUrl, { apiKey: "sk-secret", retries: 0 });
  expect(await chat.ask("401", signal)).toMatchObject({ error: "the server answers 401: wrong key: …, …" });
  await expect(chat.ask("429", signal)).rejects.toThrow(/wrong key: …, …$/);
  for (const apiKey of ["sk-secret\n", "sk-secret é", ""]) {
    expect(() => client(server.baseUrl, { apiKey })).toThrow(/^Cannot use the key: it is empty, or holds characters/);
  }
  expect(() => client(new URL("http://user:sk-secret@127.0.0.1/v1"))).toThrow(
    /^Cannot ask "http:\/\/127\.0\.0\.1\/v1"/,
  );
  expect(publicAddress(new URL("https://a.example/v1/?key=sk-secret"))).toBe("https://a.example/v1");
});

test("ChatClient.ask(): a stop ends what is under way, and a try that takes too long fails", async () => {
  await using server = await fakeChatServer(undefined, () => 2_000);
  const ending = new AbortController();
  const asked = client(server.baseUrl).chat.ask("a", ending.signal);
  setTimeout(() => ending.abort(new Error("Cancelled")), 20);
  await expect(asked).rejects.toThrow("Cancelled");
  const { chat } = client(server.baseUrl, { timeoutMs: 50, retries: 1 });
  await expect(chat.ask("b", signal)).rejects.toThrow("no answer after 2 tries: there is none within 0.05 s");
});

test("ChatClient.ask(): an answer without end is cut off", async () => {
  const body = chatBody("x".repeat(2 ** 24));
  await using server = await fakeChatServer(() => ({ status: 200, body }));
  const error = "the server's answer has more than 16777216 bytes";
  expect(await client(server.baseUrl).chat.ask("a", signal)).toEqual({ kind: "refused", status: 200, error });
  expect(server.requests.length).toBe(1);
});

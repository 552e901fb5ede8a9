import { createConnection } from "node:net";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { errorFault, HttpClient } from "./http-client.js";
import { mutatedBody, withRepeatedKeys } from "./mutations.js";
import { expectCleanLog, expectSettled, readAccounts } from "./server-laws.js";
import { ServerUnderTest } from "./server-under-test.js";

/** A valid body of each route that takes one; answers are short. */
const routes: Readonly<Record<string, readonly unknown[]>> = {
  "/v1/chat/completions": [
    {
      model: "any",
      messages: [
        { role: "system", content: "Be short." },
        {
          role: "user",
          content: [
            { type: "text", text: "One." },
            { type: "text", text: "Two?" },
          ],
        },
      ],
      documents: [{ title: "T", text: "x" }],
      max_tokens: 1,
      temperature: 0.5,
      top_p: 0.9,
      n: 1,
      seed: 1,
      stop: ["x"],
      logprobs: true,
      top_logprobs: 2,
      logit_bias: { "5": 1 },
      stream: false,
      presence_penalty: 0,
      block_attention: { mode: "block", num_local_attention_blocks: 2, segment: "parts" },
    },
    {
      messages: [{ role: "user", content: "One?" }],
      max_completion_tokens: 1,
      stream: true,
      stream_options: { include_usage: true },
    },
  ],
  "/v1/responses": [
    {
      input: [
        { role: "user", content: [{ type: "input_text", text: "One." }] },
        { type: "function_call", call_id: "a", name: "b", arguments: "{}" },
        { type: "function_call_output", call_id: "a", output: "One." },
        { type: "message", role: "user", content: "Two?" },
      ],
      instructions: "Be short.",
      tools: [{ type: "function", name: "b", parameters: { type: "object" } }],
      tool_choice: "none",
      text: { format: { type: "json_schema", name: "a", schema: { type: "string", maxLength: 1 } } },
      metadata: { a: "b" },
      max_output_tokens: 1,
    },
    { input: "One?", stream: true, store: false, max_output_tokens: 1, previous_response_id: null },
  ],
  "/v1/completions": [
    { prompt: "One", max_tokens: 1, logprobs: 1, echo: true, temperature: 0, stop: "x", user: "u" },
    { prompt: [[5, 6], [7]], max_tokens: 1, n: 1 },
    { block_attention: { blocks: ["One", "Two"], mode: "block" }, max_tokens: 1 },
  ],
  "/generate": [
    { blocks: ["One", "Two"], num_local_attention_blocks: 1 },
    { prompt: "One", stream: true },
  ],
  "/v1/blocks": [{ passages: ["One", { title: "T", text: "Two" }], stream: false }],
  // Without an embedding model each is a 400.
  "/v1/embeddings": [{ input: ["One", "Two"], encoding_format: "float", user: "u" }],
  "/v1/tokenize": [{ text: "One" }],
};

/** A request as it goes over the socket. */
interface Attack {
  readonly path: string;
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
}

const attack: fc.Arbitrary<Attack> = fc
  .constantFrom(...Object.entries(routes).flatMap(([path, bodies]) => bodies.map((valid) => ({ path, valid }))))
  .chain(({ path, valid }) =>
    fc.record({
      path: fc.constant(path),
      body: mutatedBody(valid),
      headers: fc.oneof(
        { arbitrary: fc.constant({}), weight: 8 },
        {
          arbitrary: fc.constantFrom<Record<string, string>>(
            { "content-type": "text/plain" },
            { "content-type": "application/x-www-form-urlencoded" },
            { "content-type": "application/json; charset=utf-16" },
            { "content-type": "" },
            { "content-type": "multipart/form-data" },
            { "content-type": "\u00ff/\u00ff" },
            { "content-encoding": "gzip" },
            { "transfer-encoding": "chunked" },
            { expect: "100-continue" },
            { accept: "image/png" },
            { "x-long": "x".repeat(8000) },
          ),
          weight: 2,
        },
      ),
    }),
  );

/** Bytes on a connection that are no HTTP, or hardly. Each must get a 4xx or a closed connection, soon. */
const oddities: readonly (readonly [name: string, bytes: string | Buffer, status: RegExp])[] = [
  ["no HTTP", "hello\r\n\r\n", /^400$/],
  ["random bytes", Buffer.from(Array.from({ length: 300 }, (_, i) => (i * 197 + 13) % 256)), /^400$/],
  ["HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", /^(400|4\d\d|5\d\d)$/],
  ["no Host header", "GET /health HTTP/1.1\r\n\r\n", /^400$/],
  ["two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{} "), /^400$/],
  ["length and chunks", post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"), /^400$/],
  ["a length below 0", post("Content-Length: -1\r\n", "{}"), /^400$/],
  ["a length that is no number", post("Content-Length: x\r\n", "{}"), /^400$/],
  ["a huge length", post("Content-Length: 99999999999\r\n", "{}"), /^413$/],
  ["a bad chunk size", post("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"), /^400$/],
  ["a chunk longer than told", post("Transfer-Encoding: chunked\r\n", "1\r\n{}{}{}\r\n0\r\n\r\n"), /^400$/],
  ["single bytes as chunks", post("Transfer-Encoding: chunked\r\n", "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), /^400$/],
  ["an unknown encoding", post("Transfer-Encoding: rot13\r\n", "{}"), /^(400|501)$/],
  ["a long line", `GET /${"x".repeat(100_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, /^(414|431|400)$/],
  ["long headers", `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(100_000)}\r\n\r\n`, /^431$/],
  ["a broken escape", "GET /v1/blocks/%ff%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", /^(400|404)$/],
  ["dots", "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", /^(400|404)$/],
  [
    "a full address",
    "GET http://example.org/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    /^(200|4\d\d)$/,
  ],
  ["another host", "GET /v1/models HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n", /^4\d\d$/],
  ["CONNECT", "CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\n\r\n", /^(closed|4\d\d)$/],
  [
    "an upgrade",
    "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    /^(200|4\d\d)$/,
  ],
  [
    "two Host headers",
    "GET /health HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\nhost: localhost\r\n\r\n",
    /^400$/,
  ],
  [
    "two Authorization headers",
    "GET /health HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    /^400$/,
  ],
  ["two Content-Type headers", post("Content-Type: text/plain\r\nContent-Length: 2\r\n", "{}"), /^400$/],
  ["a doubled /v1", "GET /v1/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", /^404$/],
  ["a slash at the end", "GET /v1/models/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", /^404$/],
  ["a null byte in a header", "GET /health HTTP/1.1\r\nHost: local\0host\r\n\r\n", /^400$/],
];

function post(headers: string, body: string): string {
  return (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" +
    `Content-Type: application/json\r\n${headers}\r\n${body}`
  );
}

/** Broken requests at every route: each a 4xx in OpenAI's form, or an answer where it happens to be valid. */
export function malformedSuite(numRuns: number): void {
  let server: ServerUnderTest;
  let client: HttpClient;
  beforeAll(async () => {
    server = await ServerUnderTest.start({ args: ["--store-bytes", "8MiB", "--max-body-bytes", "1MiB"] });
    client = new HttpClient(server, undefined, 20_000);
  });
  afterAll(async () => {
    client[Symbol.dispose]();
    await server[Symbol.asyncDispose]();
  });
  /** The server lives, its engine was not started again, and nobody's request is left. */
  afterEach(async () => {
    const { status } = await client.ask({ path: "/generate", body: { blocks: ["One", "Two"] } });
    expect(status).toBe(200);
    expect(readAccounts(await server.metrics()).restarts).toBe(0);
    await expectSettled(server);
    expectCleanLog(server.stderr);
  });

  test("serve: valid bodies are what the mutations start from", async () => {
    for (const [path, bodies] of Object.entries(routes)) {
      for (const body of bodies) {
        const { status, text } = await client.ask({ path, body });
        if (path === "/v1/embeddings")
          expect([status, text]).toEqual([400, expect.stringContaining("no_embedding_model")]);
        else expect(`${status} ${status === 200 ? "" : text}`).toBe("200 ");
      }
    }
  });

  test("serve: malformed bodies", { timeout: 30_000 + numRuns * 100 }, async () => {
    const statuses = new Map<number, number>();
    await fc.assert(
      fc.asyncProperty(attack, async ({ path, body, headers }) => {
        const { status, text } = await client.ask({ path, body, headers });
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        if (status === 200) return;
        expect(status).toBeGreaterThanOrEqual(400);
        expect(status).toBeLessThan(500);
        expect(errorFault(text)).toBeUndefined();
      }),
      { numRuns, seed: 10_000, verbose: 0 },
    );
    console.log(`malformed bodies: ${[...statuses].map(([status, count]) => `${status}: ${count}`).join(", ")}`);
    const numRefused = [...statuses].reduce((sum, [status, count]) => (status === 200 ? sum : sum + count), 0);
    expect(numRefused).toBeGreaterThan(numRuns / 2);
  });

  test("serve: a key twice, in any object of any body", async () => {
    const bodies = Object.entries(routes).flatMap(([path, valid]) =>
      valid.flatMap((body) => withRepeatedKeys(body).map((text) => ({ path, text }))),
    );
    for (const { path, text: body } of bodies) {
      const { status, text } = await client.ask({ path, body });
      expect(status, body).toBe(400);
      expect(text).toMatch(/stands twice/);
      expect(errorFault(text)).toBeUndefined();
    }
    console.log(`bodies with a key twice: ${bodies.length}, all refused`);
  });

  test("serve: fields that cannot change an answer are named in its warnings, on other routes and unknown ones refused", async () => {
    const harmless: Readonly<Record<string, unknown>> = {
      cache_prompt: false,
      keep_alive: -1,
      cache_control: { type: "ephemeral" },
      metadata: { a: { b: [1, null] } },
      session_id: "",
      litellm_metadata: {},
    };
    for (const [path, bodies] of Object.entries(routes)) {
      for (const body of bodies as object[]) {
        for (const [name, value] of Object.entries(harmless)) {
          // A response has metadata of its own: texts alone.
          const isOpenAi = path.endsWith("completions") || (path === "/v1/responses" && name !== "metadata");
          const { status, text } = await client.ask({ path, body: { ...body, [name]: value } });
          expect(status, text).toBe(isOpenAi ? 200 : 400);
          expect(text).toContain(isOpenAi ? JSON.stringify(`"${name}" is passed over`).slice(1, -1) : name);
        }
        for (const name of ["cache_promt", "cachePrompt", "n_predict", "extra_body", "Metadata", "metadata "]) {
          const { status, text } = await client.ask({ path, body: { ...body, [name]: null } });
          expect(status, `${path} ${name}`).toBe(400);
          expect(errorFault(text)).toBeUndefined();
        }
      }
    }
  });

  test("serve: bodies over a limit", async () => {
    for (const path of Object.keys(routes)) {
      const large = await client.send({ path, body: `{"prompt":"${"x".repeat(2_000_000)}"}` });
      // The server may close before the client has sent all; then the client sees that.
      if (large.kind === "answer") {
        expect(large.status).toBe(413);
        expect(errorFault(large.text)).toBeUndefined();
      } else expect(large.kind).toBe("broken");
      const deep = await client.ask({ path, body: `${"[".repeat(20_000)}${"]".repeat(20_000)}` });
      expect(deep.status).toBe(400);
      expect(errorFault(deep.text)).toBeUndefined();
      const poisoned = await client.ask({ path, body: '{"messages":[],"constructor":{"prototype":{"x":1}}}' });
      expect(poisoned.status).toBe(400);
    }
  });

  test("serve: a prompt longer than the model's context", async () => {
    const text = "word ".repeat(10_000);
    const bodies: readonly (readonly [path: string, body: unknown])[] = [
      ["/v1/chat/completions", { messages: [{ role: "user", content: text }] }],
      ["/v1/responses", { input: text }],
      ["/v1/completions", { prompt: text }],
      ["/v1/completions", { prompt: Array.from({ length: 5000 }, () => 7) }],
      ["/v1/completions", { prompt: [1_000_000_000] }],
      ["/generate", { blocks: [text, "What?"] }],
      ["/generate", { prompt: text }],
    ];
    for (const [path, body] of bodies) {
      const answer = await client.ask({ path, body });
      expect(answer.status, `${path}: ${answer.text.slice(0, 200)}`).toBe(400);
      expect(errorFault(answer.text)).toBeUndefined();
    }
    // At the index one passage that is too long leaves the others as they are.
    const passages = await client.ask({ path: "/v1/blocks", body: { passages: ["One", text, "Two"] } });
    expect(passages.status).toBe(200);
    const { blocks, failed } = JSON.parse(passages.text) as { blocks: { error?: { code: string } }[]; failed: number };
    expect([failed, blocks.map(({ error }) => error?.code)]).toEqual([
      1,
      [undefined, "context_length_exceeded", undefined],
    ]);
  });

  test("serve: bytes that are hardly HTTP", async () => {
    for (const [name, bytes, wanted] of oddities) {
      const text = await sendBytes(server.port, bytes);
      const status = /^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? (text === "" ? "closed" : text.slice(0, 100));
      expect(status, name).toMatch(wanted);
      const body = text.slice(text.indexOf("\r\n\r\n") + 4);
      if (/^4/.test(status) && body !== "") expect(errorFault(body), name).toBeUndefined();
    }
  });

  test("serve: pipelined requests are answered in their order", async () => {
    const one = (body: string, close: boolean) =>
      "POST /v1/tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
      `${close ? "Connection: close\r\n" : ""}Content-Length: ${body.length}\r\n\r\n${body}`;
    // What is no JSON ends the connection: nobody knows whether more of it comes.
    const bodies = ['{"text":"a"}', "[]", '{"text":"a b c d e f g"}', '{"text":1}', '{"text":"a"}', '{"text":'];
    const text = await sendBytes(server.port, bodies.map((body, i) => one(body, i === bodies.length - 1)).join(""));
    const statuses = [...text.matchAll(/HTTP\/1\.1 (\d+) /g)].map(([, status]) => status);
    expect(statuses).toEqual(["200", "400", "200", "400", "200", "400"]);
  });
}

/** Everything that comes back on a connection until the other side closes it, or nothing came for 2 s. */
function sendBytes(port: number, bytes: string | Buffer): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const socket = createConnection({ host: "127.0.0.1", port }, () => socket.write(bytes));
    socket.setEncoding("utf8").setTimeout(2000, () => socket.destroy());
    socket.on("data", (piece: string) => {
      text += piece;
    });
    socket.on("error", () => undefined);
    socket.on("close", () => resolve(text));
  });
}

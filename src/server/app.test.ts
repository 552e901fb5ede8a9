import { once } from "node:events";
import { Agent, get } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import fastify, { type FastifyInstance } from "fastify";
import { expect, test } from "vitest";
import { EngineError } from "../engine/engine-error.js";
import type { BlockId } from "../kv/block-id.js";
import { ApiKeys } from "./api-keys.js";
import { type AppOptions, createApp } from "./app.js";
import { FakeEngine, type FakeEngineOptions } from "./fake-engine.suite.js";
import { readJsonBodies } from "./json-body.js";
import { loadConfig } from "./server-config.js";
import { serverLogger } from "./server-logger.js";

const alice = "sk-alice-0123456789";
const bob = "sk-bob-0123456789";

interface Setup extends Omit<AppOptions, "engine" | "config"> {
  readonly settings?: Record<string, string>;
  readonly fake?: FakeEngineOptions;
}

async function setUp({ settings = {}, fake = {}, ...options }: Setup = {}): Promise<{
  readonly app: FastifyInstance;
  readonly engine: FakeEngine;
}> {
  const engine = new FakeEngine(fake);
  const config = await loadConfig({ options: settings, env: {} });
  return { app: await createApp({ ...options, engine, config }), engine };
}

function twoKeys(): ApiKeys {
  return new ApiKeys(
    new Map([
      ["alice", alice],
      ["bob", bob],
    ]),
  );
}

/** Whether an answer is OpenAI's form of an error, of one line, without a stack. */
function expectError(
  answer: { readonly statusCode: number; readonly body: string },
  status: number,
  code?: string,
): void {
  expect(answer.statusCode, answer.body).toBe(status);
  const { error } = JSON.parse(answer.body) as { error: Record<string, string | null> };
  expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
  expect(error.message).toMatch(/^(Cannot|Cancelled)[^\r\n]*[^.]$/);
  expect(answer.body).not.toMatch(/\bat .*:\d+:\d+/);
  expect(error.type).toBe(status >= 500 ? "server_error" : "invalid_request_error");
  if (code !== undefined) expect(error.code).toBe(code);
}

async function listening(app: FastifyInstance): Promise<number> {
  await app.listen({ host: "127.0.0.1", port: 0 });
  return (app.server.address() as AddressInfo).port;
}

/** Sends bytes over a socket and reads until the server closes it, or the pattern is there. */
async function raw(port: number, text: string, until?: RegExp): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  let answer = "";
  socket.on("error", () => undefined);
  socket.write(text);
  try {
    for await (const chunk of socket) {
      answer += String(chunk);
      if (until?.test(answer)) break;
    }
  } finally {
    socket.destroy();
  }
  return answer;
}

test("POST /generate: blocks as the reference answers them, and taken from the store the second time", async () => {
  const { app, engine } = await setUp();
  const payload = { blocks: ["a passage", "Question: who?"] };
  const answer = await app.inject({ method: "POST", url: "/generate", payload });
  expect(answer.json()).toEqual({ ret: 0, generated: "The answer is 42.", message: "" });
  expect(engine.asked[0]).toMatchObject({
    options: { mode: "block", temperature: 0, maxTokens: 200 },
    prompt: { blocks: payload.blocks },
  });
  expect(engine.asked[0]?.options.stop).toContain("Question:");
  await app.inject({ method: "POST", url: "/generate", payload });
  const metrics = (await app.inject("/metrics")).body;
  expect(metrics).toMatch(/prompt_tokens_total\{mode="block",source="blocks"\} 2\n/);
  expect(metrics).toMatch(/generated_tokens_total\{mode="block"\} 8\n/);
});

test("POST /generate: num_local_attention_blocks 0 is full attention, null is as if it were not there", async () => {
  const { app, engine } = await setUp();
  for (const n of [0, 1, null]) {
    const payload = { blocks: ["a", "b", "c"], num_local_attention_blocks: n };
    expect((await app.inject({ method: "POST", url: "/generate", payload })).statusCode).toBe(200);
  }
  expect(engine.asked.map(({ options }) => options.mode)).toEqual(["full", "block", "block"]);
  expect(engine.asked.map(({ prompt }) => "blocks" in prompt && prompt.numLocalAttentionBlocks)).toEqual([
    0,
    1,
    undefined,
  ]);
});

test("POST /generate: a prompt is answered in full mode, whole or as a line of JSON for each token", async () => {
  const { app, engine } = await setUp();
  const whole = await app.inject({ method: "POST", url: "/generate", payload: { prompt: "Why?" } });
  expect(whole.json()).toEqual({ text: "Why?The answer is 42.", generated: "The answer is 42." });
  expect(engine.asked[0]?.options.mode).toBe("full");
  const lines = await app.inject({ method: "POST", url: "/generate", payload: { prompt: "Why?", stream: true } });
  expect(lines.headers["content-type"]).toBe("application/x-ndjson");
  expect(lines.body).toBe(
    ["The", "The answer", "The answer is", "The answer is 42."]
      .map((text) => `${JSON.stringify({ text: [`Why?${text}`] })}\n`)
      .join(""),
  );
});

test("POST /generate: a failure before the first token is a plain error, one after it is the last line", async () => {
  const error = new EngineError("died", "Cannot go on: the engine's process died");
  const payload = { prompt: "Why?", stream: true };
  const early = await setUp({ fake: { failAfter: { tokens: 0, error } } });
  expectError(await early.app.inject({ method: "POST", url: "/generate", payload }), 500, "engine_died");
  const late = await setUp({ fake: { failAfter: { tokens: 2, error } } });
  const answer = await late.app.inject({ method: "POST", url: "/generate", payload });
  const lines = answer.body.trim().split("\n");
  expect(lines.length).toBe(3);
  expectError({ statusCode: 500, body: lines[2] ?? "" }, 500, "engine_died");
});

test("POST /v1/blocks: lists blocks in order, or a line for each; GET and DELETE know what was encoded", async () => {
  const { app } = await setUp();
  const passages = ["one two", { title: "T", text: "three" }];
  const first = await app.inject({ method: "POST", url: "/v1/blocks", payload: { passages } });
  const { blocks } = first.json() as { blocks: { id: string; tokens: number; hit: boolean }[] };
  expect(blocks.map(({ tokens, hit }) => [tokens, hit])).toEqual([
    [2, false],
    [5, false],
  ]);
  const again = await app.inject({ method: "POST", url: "/v1/blocks", payload: { passages, stream: true } });
  expect(
    again.body
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line)),
  ).toEqual([
    { ...blocks[0], hit: true },
    { ...blocks[1], hit: true },
    { done: true, blocks: 2, failed: 0, tokens: 7, hits: 2 },
  ]);
  const url = `/v1/blocks/${blocks[0]?.id}`;
  expect((await app.inject(url)).json()).toEqual({ id: blocks[0]?.id, tokens: 2, bytes: 128, in_use: false });
  expect((await app.inject({ method: "DELETE", url })).json()).toEqual({ id: blocks[0]?.id, deleted: true });
  expectError(await app.inject(url), 404, "block_not_found");
  expectError(await app.inject({ method: "DELETE", url }), 404, "block_not_found");
});

test("POST /v1/blocks: what a passage carries goes to the engine with its id alone, and comes once for a passage that was split", async () => {
  const { app, engine } = await setUp();
  const asked: unknown[] = [];
  engine.encode = async (...request) => {
    asked.push(...request);
    const labels = [{ index: 0, part: 0, text: "x" }, { index: 0, part: 1, text: "x" }, { index: 1 }];
    const blocks = labels.map((passage) => ({ id: "b" as BlockId, tokens: 1, hit: false, passage }));
    return { blocks, failed: 0 };
  };
  const carried = { id: 7, metadata: { title: "T", n: [1] }, score: 0.5 };
  const passages = [
    { pageContent: "xx", ...carried },
    { text: "y", ...carried },
  ];
  const payload = { passages, split_long: 16 };
  const answer = (await app.inject({ method: "POST", url: "/v1/blocks", payload })).json();
  expect(answer.blocks.map(({ passage }: { passage: object }) => passage)).toEqual([
    { ...carried, part: 0, text: "x" },
    { part: 1, text: "x", id: 7 },
    carried,
  ]);
  const { id, metadata } = carried;
  expect(asked[0]).toEqual([
    { title: "T", text: "xx", id, metadata },
    { text: "y", id, metadata },
  ]);
  expect(asked[1]).toMatchObject({ splitLong: 16, maxBlocks: 1024 });
});

test("GET and DELETE /v1/documents: passages' ids, with their metadata and blocks, some at a time", async () => {
  const { app } = await setUp();
  const ids = ["a/b c", "é", 7];
  const passages = ids.map((id) => ({ text: `The text of ${id}.`, id, metadata: { of: id } }));
  const { blocks } = (await app.inject({ method: "POST", url: "/v1/blocks", payload: { passages } })).json();
  const list = async (query = "") => (await app.inject(`/v1/documents${query}`)).json();
  const all = await list();
  expect(all.has_more).toBe(false);
  expect(all.documents).toHaveLength(3);
  for (const [i, id] of ids.entries()) {
    const { id: block, tokens } = blocks[i];
    expect(all.documents).toContainEqual({ id, metadata: { of: id }, blocks: [{ id: block, tokens }] });
  }
  const first = await list("?limit=2");
  expect(first).toEqual({ documents: all.documents.slice(0, 2), has_more: true });
  const after = encodeURIComponent(first.documents[1].id);
  expect(await list(`?limit=2&after=${after}`)).toEqual({ documents: all.documents.slice(2), has_more: false });
  const url = `/v1/documents/${encodeURIComponent("a/b c")}`;
  // As some clients send it: a type, and no body.
  const headers = { "content-type": "application/json" };
  expect((await app.inject({ method: "DELETE", url, headers })).json()).toEqual({ id: "a/b c", deleted: true });
  expectError(await app.inject({ method: "DELETE", url }), 404, "document_not_found");
  expectError(await app.inject(`/v1/blocks/${blocks[0].id}`), 404, "block_not_found");
  expect((await app.inject({ method: "DELETE", url: "/v1/documents/7" })).statusCode).toBe(200);
  expect((await list()).documents).toHaveLength(1);
  expectError(await app.inject("/v1/documents?limit=0"), 400);
});

test("POST /v1/blocks: a passage that fails has its error in its place, and is counted", async () => {
  const { app } = await setUp();
  const passages = [
    "one two",
    { id: "doc-7", text: " ", metadata: { page: 3 } },
    { id: 8, metadata: { title: "T", n: 1 }, pageContent: "x" },
  ];
  const entries = [
    { index: 0, id: expect.any(String), tokens: 2 },
    {
      index: 1,
      passage: { id: "doc-7", metadata: { page: 3 } },
      error: { code: "invalid_value", message: "Cannot encode passage 2: it is empty" },
    },
    { index: 2, id: expect.any(String), tokens: 5, passage: { id: 8, metadata: { title: "T", n: 1 } } },
  ];
  const withHit = (hit: boolean) => entries.map((entry) => ("error" in entry ? entry : { ...entry, hit }));
  const plain = await app.inject({ method: "POST", url: "/v1/blocks", payload: { passages } });
  expect(plain.statusCode).toBe(200);
  expect(plain.json()).toEqual({ blocks: withHit(false), failed: 1 });
  const streamed = await app.inject({ method: "POST", url: "/v1/blocks", payload: { passages, stream: true } });
  expect(
    streamed.body
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line)),
  ).toEqual([...withHit(true), { done: true, blocks: 2, failed: 1, tokens: 7, hits: 2 }]);
  for (const [passage, param] of [
    [{ text: "x", url: "y" }, "passages[1].url"],
    [{ title: "x" }, "passages[1].text"],
    [{ text: "x", id: {} }, "passages[1].id"],
    [7, "passages[1]"],
  ] as const) {
    const answer = await app.inject({ method: "POST", url: "/v1/blocks", payload: { passages: ["a", passage] } });
    expect(answer.statusCode).toBe(400);
    expect(answer.json().error).toMatchObject({ param });
  }
});

test("POST /v1/tokenize: ids, spellings and bytes", async () => {
  const { app } = await setUp();
  const answer = await app.inject({ method: "POST", url: "/v1/tokenize", payload: { text: "a b" } });
  const { count, tokens } = answer.json() as { count: number; tokens: { text: string; bytes: number[] }[] };
  expect([count, tokens[1]?.text, tokens[1]?.bytes]).toEqual([2, " b", [32, 98]]);
});

test("createApp(): with keys, only health, readiness, the page and the reference need none", async () => {
  const { app, engine } = await setUp({ keys: twoKeys(), settings: { host: "0.0.0.0" } });
  for (const url of ["/health", "/ready", "/docs", "/docs/style.css"]) {
    expect((await app.inject(url)).statusCode, url).toBe(200);
  }
  const page = await app.inject("/");
  expect([200, 503]).toContain(page.statusCode);
  for (const url of ["/metrics", "/openapi.json", "/v1/models", "/v1/blocks/x", "/nothing/there"]) {
    const answer = await app.inject(url);
    expectError(answer, 401, "missing_api_key");
    expect(answer.headers["www-authenticate"]).toMatch(/^Bearer /);
  }
  for (const key of ["x", alice.slice(0, -1), `${alice}x`, "y".repeat(10_000)]) {
    const answer = await app.inject({ url: "/v1/models", headers: { authorization: `Bearer ${key}` } });
    expectError(answer, 401, "invalid_api_key");
    expect(answer.body).not.toContain(key.slice(0, 8));
  }
  expect((await app.inject({ url: "/metrics", headers: { authorization: `Bearer ${alice}` } })).statusCode).toBe(200);
  expect(engine.asked).toEqual([]);
});

test("createApp(): a request keeps the id that it comes with where that is one, in answers, errors and the log", async () => {
  let log = "";
  const logger = serverLogger("info", {
    write: (line) => {
      log += line;
    },
  });
  const { app } = await setUp({ logger });
  const idOf = async (url: string, id?: string | string[]) =>
    (await app.inject({ url, ...(id && { headers: { "x-request-id": id } }) })).headers["x-request-id"];
  for (const url of ["/v1/models", "/v1/none", "/v1/blocks/%E0%A4%A"]) {
    expect(await idOf(url, "trace-0123.4567:89_ab")).toBe("trace-0123.4567:89_ab");
    for (const odd of [undefined, "short", "two words", "x".repeat(65), "a\tb-0123456", ["trace-01", "trace-02"]]) {
      expect(await idOf(url, odd)).toMatch(/^req_[0-9a-f]{32}$/);
    }
  }
  expect(log.match(/"reqId":"trace-0123\.4567:89_ab"/g)?.length).toBeGreaterThanOrEqual(2);
  expect(log).not.toMatch(/two words|short/);
});

test("createApp(): end users of one key have salts of their own, and the key's share of the machine", async () => {
  const { app, engine } = await setUp({ keys: twoKeys() });
  const asked: { salt?: string | undefined; payer?: string | undefined }[] = [];
  const generate = engine.generate.bind(engine);
  engine.generate = (prompt, options) => {
    asked.push(options ?? {});
    return generate(prompt, options);
  };
  const ask = (key: string, salt: unknown) => {
    const payload = { prompt: "a b", max_tokens: 1, block_attention: { salt } };
    return app.inject({ method: "POST", url: "/v1/completions", headers: { authorization: `Bearer ${key}` }, payload });
  };
  for (const [key, salt] of [
    [alice, null],
    [alice, "ann"],
    [alice, "ben"],
    [bob, "ann"],
    [alice, "ann"],
  ] as const) {
    expect((await ask(key, salt)).statusCode).toBe(200);
  }
  const [plain, ann, ben, other, again] = asked as [Options, Options, Options, Options, Options];
  expect(new Set([plain.salt, ann.salt, ben.salt, other.salt]).size).toBe(4);
  expect([again.salt, ann.payer, ben.payer, plain.payer]).toEqual([ann.salt, plain.salt, plain.salt, undefined]);
  expect(other.payer).not.toBe(plain.salt);
  for (const odd of ["", "x".repeat(257), 7]) expectError(await ask(alice, odd), 400);
});

type Options = { readonly salt?: string; readonly payer?: string };

test("createApp(): without a key no body is read", async () => {
  const { app } = await setUp({ keys: twoKeys() });
  try {
    const port = await listening(app);
    const head =
      "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
    expect(await raw(port, head, /\r\n\r\n.*\}\}$/s)).toMatch(/^HTTP\/1.1 401 /);
  } finally {
    await app.close();
  }
});

test("createApp(): tenants hit, see and delete their own blocks alone", async () => {
  const { app, engine } = await setUp({ keys: twoKeys() });
  const as = (key: string) => ({ authorization: `Bearer ${key}` });
  const encode = async (key: string): Promise<{ id: string; hit: boolean }> => {
    const payload = { passages: ["a shared passage"] };
    const answer = await app.inject({ method: "POST", url: "/v1/blocks", payload, headers: as(key) });
    return (answer.json() as { blocks: [{ id: string; hit: boolean }] }).blocks[0];
  };
  const ours = await encode(alice);
  expect(await encode(bob)).toMatchObject({ hit: false });
  expect((await encode(bob)).id).not.toBe(ours.id);
  const url = `/v1/blocks/${ours.id}`;
  expectError(await app.inject({ url, headers: as(bob) }), 404);
  expectError(await app.inject({ method: "DELETE", url, headers: as(bob) }), 404);
  expect((await app.inject({ url, headers: as(alice) })).statusCode).toBe(200);
  await app.inject({ method: "POST", url: "/generate", payload: { blocks: ["a"] }, headers: as(alice) });
  expect(engine.asked[0]?.options.salt).toMatch(/^[0-9a-f]{64}$/);
});

test("createApp(): a public address without keys is refused", async () => {
  await expect(setUp({ settings: { host: "0.0.0.0" } })).rejects.toThrow(/^Cannot serve on "0.0.0.0": .* no keys/);
  await expect(setUp({ settings: { host: "::" } })).rejects.toThrow(/no keys/);
});

test("createApp(): on this machine's own address, requests under another name are refused", async () => {
  const { app } = await setUp({ settings: { allowedHosts: "proxy.internal" } });
  expectError(await app.inject({ url: "/ready", headers: { host: "evil.example:8080" } }), 403, "unknown_host");
  expect((await app.inject({ url: "/ready", headers: { host: "proxy.internal" } })).statusCode).toBe(200);
});

test("createApp(): other origins are closed out unless they are named", async () => {
  const asked = { origin: "https://app.example", "access-control-request-method": "POST" };
  const closed = await setUp();
  const refused = await closed.app.inject({ method: "OPTIONS", url: "/generate", headers: asked });
  expectError(refused, 405);
  expect(refused.headers["access-control-allow-origin"]).toBeUndefined();
  const open = await setUp({ settings: { corsOrigins: "https://app.example" }, keys: twoKeys() });
  const allowed = await open.app.inject({ method: "OPTIONS", url: "/generate", headers: asked });
  expect([allowed.statusCode, allowed.headers["access-control-allow-origin"]]).toEqual([204, "https://app.example"]);
  const stream = await open.app.inject({
    method: "POST",
    url: "/generate",
    headers: { origin: "https://app.example", authorization: `Bearer ${alice}` },
    payload: { prompt: "a", stream: true },
  });
  expect(stream.headers["access-control-allow-origin"]).toBe("https://app.example");
  expect(stream.headers.vary).toBe("Origin");
  const bearer = { authorization: `Bearer ${alice}` };
  for (const origin of ["https://other.example", "https://app.example.evil", "http://app.example", "null", ""]) {
    const preflight = await open.app.inject({
      method: "OPTIONS",
      url: "/generate",
      headers: { ...asked, ...bearer, origin },
    });
    expectError(preflight, 405, "method_not_allowed");
    const other = await open.app.inject({ url: "/health", headers: { ...bearer, origin } });
    for (const { headers } of [preflight, other]) {
      expect(Object.keys(headers).filter((name) => name.startsWith("access-control"))).toEqual([]);
      expect(headers.vary).toBe("Origin");
    }
  }
});

test("createApp(): a named origin, or any, gets every header that it asks for, and no credentials", async () => {
  const names = "authorization, content-type, x-stainless-lang, x-stainless-retry-count, traceparent, baggage, x-own";
  for (const [corsOrigins, told] of [
    ["https://app.example,http://localhost:3000", "http://localhost:3000"],
    ["*", "*"],
  ] as const) {
    const { app } = await setUp({ settings: { corsOrigins }, keys: twoKeys() });
    const headers = {
      origin: "http://localhost:3000",
      "access-control-request-method": "POST",
      "access-control-request-headers": names,
    };
    const answer = await app.inject({ method: "OPTIONS", url: "/v1/chat/completions", headers });
    expect(answer.statusCode).toBe(204);
    expect(answer.headers).toMatchObject({
      "access-control-allow-origin": told,
      "access-control-allow-headers": names,
      "access-control-allow-methods": "GET, POST, DELETE",
      vary: "Origin, Access-Control-Request-Headers",
    });
    expect(answer.headers["access-control-allow-credentials"]).toBeUndefined();
    // An error can be read by the page too.
    const refused = await app.inject({ url: "/v1/models", headers: { origin: headers.origin } });
    expectError(refused, 401);
    expect(refused.headers["access-control-allow-origin"]).toBe(told);
  }
});

test("createApp(): headers that have one value are refused where there are several", async () => {
  const { app } = await setUp({ keys: twoKeys() });
  try {
    const port = await listening(app);
    const send = async (lines: readonly string[], method = "GET"): Promise<{ statusCode: number; body: string }> => {
      const body = method === "POST" ? '{"prompt": "a"}' : "";
      const length = method === "POST" ? [`Content-Length: ${body.length}`] : [];
      const path = method === "POST" ? "/generate" : "/v1/models";
      const head = [`${method} ${path} HTTP/1.1`, ...lines, ...length, "Connection: close"].join("\r\n");
      const answer = await raw(port, `${head}\r\n\r\n${body}`);
      return { statusCode: Number(answer.slice(9, 12)), body: answer.slice(answer.indexOf("\r\n\r\n") + 4) };
    };
    const host = "Host: localhost";
    const key = `Authorization: Bearer ${alice}`;
    const json = "Content-Type: application/json";
    expect((await send([host, key])).statusCode).toBe(200);
    expect((await send([host, key, json], "POST")).statusCode).toBe(200);
    // What Node drops or joins, whatever its value: the same again, another name's, none.
    for (const lines of [
      [host, host, key],
      [host, "hOST: evil.example", key],
      [host, key, key],
      [host, key, `authorization: Bearer ${bob}`],
      [host, key, "Authorization:"],
      // Behind more headers than Node keeps by itself.
      [host, key, ...Array.from({ length: 2_500 }, () => "a:b"), `Authorization: Bearer ${bob}`],
    ]) {
      expectError(await send(lines), 400, "repeated_header");
    }
    expectError(await send([host, key, json, "Content-Type: text/plain"], "POST"), 400, "repeated_header");
    // Others may come as often as they like.
    expect((await send([host, key, "Accept: a/b", "Accept: c/d", "Baggage: a=1", "Baggage: b=2"])).statusCode).toBe(
      200,
    );
  } finally {
    await app.close();
  }
});

test("createApp(): unknown paths are 404, other methods 405 with those that there are", async () => {
  const { app } = await setUp();
  const nothing = await app.inject("/nothing");
  expectError(nothing, 404, "route_not_found");
  expect(nothing.json()).toMatchObject({
    error: { message: 'Cannot find the route: there is none at "/nothing", wanted one that GET /docs lists' },
  });
  for (const [wrong, right] of [
    ["/v1/chat/completions/", "/v1/chat/completions"],
    ["/v1/v1/chat/completions", "/v1/chat/completions"],
    ["/v1/v1/chat/completions/?x=1", "/v1/chat/completions"],
    ["/v1//chat/completions", "/v1/chat/completions"],
    ["//v1/models", "/v1/models"],
    ["/chat/completions", "/v1/chat/completions"],
    ["/completions", "/v1/completions"],
    ["/models/fake-model", "/v1/models/fake-model"],
    ["/api/v1/models", "/v1/models"],
    ["/v1/generate", "/generate"],
    ["/v1/health/", "/health"],
    ["/docs/", "/docs"],
  ] as const) {
    const answer = await app.inject({ method: "POST", url: wrong });
    expectError(answer, 404, "route_not_found");
    const { error } = answer.json() as { error: { message: string } };
    expect(error.message, wrong).toMatch(new RegExp(`, wanted ${JSON.stringify(right)}$`));
  }
  const long = await app.inject(`/${"a/".repeat(4_000)}`);
  expectError(long, 404, "route_not_found");
  expect(long.body.length).toBeLessThan(400);
  for (const [method, url, allow] of [
    ["GET", "/generate", "POST"],
    ["PUT", "/v1/blocks/x", "DELETE, GET, HEAD"],
    ["TRACE", "/health", "GET, HEAD"],
  ] as const) {
    const answer = await app.inject({ method: method as "GET", url });
    expectError(answer, 405, "method_not_allowed");
    expect(answer.headers.allow).toBe(allow);
  }
});

test("GET /ready: 503 with the reason until the model is loaded, while restarting and while draining", async () => {
  const stopping = new AbortController();
  const { app, engine } = await setUp({ fake: { state: "loading" }, stopping: stopping.signal });
  expectError(await app.inject("/ready"), 503, "loading");
  const refused = await app.inject({ method: "POST", url: "/generate", payload: { prompt: "a" } });
  expectError(refused, 503, "unavailable");
  expect(refused.headers["retry-after"]).toMatch(/^\d+$/);
  engine.setStatus({ state: "ready", restarts: 0 });
  expect((await app.inject("/ready")).json()).toEqual({ status: "ready" });
  engine.setStatus({ state: "restarting", restarts: 1, lastError: 'Cannot read "/models/secret"' });
  const restarting = await app.inject("/ready");
  expectError(restarting, 503, "restarting");
  // Clients have no business with the server's files.
  expect(restarting.body).not.toContain("secret");
  expect((await app.inject("/metrics")).body).toMatch(/engine_up 0\n/);
  engine.setStatus({ state: "ready", restarts: 1 });
  stopping.abort();
  expectError(await app.inject("/ready"), 503, "draining");
  expectError(await app.inject({ method: "POST", url: "/generate", payload: { prompt: "a" } }), 503, "draining");
  expect((await app.inject("/health")).json()).toEqual({ status: "ok" });
});

test("createApp(): bodies that are too large, no JSON, too deep, poisoned, no UTF-8 or of another type are refused", async () => {
  const { app } = await setUp({ settings: { maxBodyBytes: "100000", maxJsonDepth: "8", maxBlocks: "1" } });
  const send = (payload: string | Buffer, type = "application/json", more: Record<string, string> = {}) =>
    app.inject({ method: "POST", url: "/generate", payload, headers: { "content-type": type, ...more } });
  expectError(await send(JSON.stringify({ prompt: "x".repeat(100_000) })), 413, "body_too_large");
  const many = await send(`[${"{},".repeat(10_000)}1]`);
  expectError(many, 400, "invalid_json");
  expect(many.body).toMatch(/it holds over 5128 keys, lists and objects/);
  for (const text of ["{", "", " ", "nul", '{"prompt": "a"} x', `${"[".repeat(20)}${"]".repeat(20)}`]) {
    expectError(await send(text), 400, "invalid_json");
  }
  for (const text of [
    '{"prompt": "a", "prompt": "a"}',
    '{"prompt": "a", "stream": true, "\\u0070rompt": "b"}',
    '{"prompt": {"b": [{"a": 1, "a" : 2}]}}',
    '{"blocks": ["a"], "blocks": [',
  ]) {
    const answer = await send(text);
    expectError(answer, 400, "invalid_json");
    expect(answer.body).toMatch(/the key .{3,10} stands twice in one object"/);
  }
  for (const text of ['{"__proto__": {}}', '{"a": {"\\u005f_proto__": 1}}', '{"constructor": {"prototype": {}}}']) {
    const answer = await send(text);
    expectError(answer, 400, "invalid_json");
    expect(answer.body).toContain("prototype");
  }
  expectError(await send(Buffer.from([0x22, 0xff, 0x22])), 400, "invalid_json");
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]) {
    expectError(await send('{"prompt": "a"}', type), 415);
  }
  expectError(await send("x", "application/json", { "content-encoding": "gzip" }), 415);
  expect((await send('\ufeff{"prompt": "a"}', "application/json; charset=utf-8")).statusCode).toBe(200);
});

test("createApp(): a field that is wrong is named, with what was wanted", async () => {
  const { app } = await setUp({ settings: { maxBlocks: "2" } });
  const send = async (payload: object): Promise<{ message: string; param: string | null }> => {
    const answer = await app.inject({ method: "POST", url: "/generate", payload });
    expectError(answer, 400);
    return (answer.json() as { error: { message: string; param: string | null } }).error;
  };
  expect(await send({ prompt: 1 })).toMatchObject({
    param: "prompt",
    message: 'Cannot use "prompt": it is 1, wanted text',
  });
  expect(await send({ blocks: ["a", 1] })).toMatchObject({ param: "blocks[1]" });
  expect(await send({ blocks: ["a", "b", "c"] })).toMatchObject({ param: "blocks" });
  expect(await send({ blocks: ["a"], num_local_attention_blocks: -1 })).toMatchObject({
    param: "num_local_attention_blocks",
  });
  expect(await send({ prompt: "a", temprature: 1 })).toMatchObject({ param: "temprature" });
  expect(await send({})).toMatchObject({ message: expect.stringMatching(/"blocks".*"prompt"/) });
  expect(await send({ prompt: "x ".repeat(3_000) })).toMatchObject({
    message: expect.stringMatching(/has 300[01] tokens, the context takes/),
  });
});

test("createApp(): a text over the limit of /v1/tokenize is refused, one within it comes in several events", async () => {
  const { app } = await setUp({ settings: { maxTokenizeTokens: "4" } });
  const ask = (text: string) => app.inject({ method: "POST", url: "/v1/tokenize", payload: { text } });
  expectError(await ask("a b c d e"), 400, "context_length_exceeded");
  const answer = (await ask("a b c d")).json();
  expect(answer.tokens.map(({ text }: { text: string }) => text)).toEqual(["a", " b", " c", " d"]);
  expect((await ask("")).json()).toEqual({ count: 0, tokens: [] });
});

test("createApp(): a full queue is a 503 with Retry-After", async () => {
  const error = new EngineError("queue_full", "Cannot take the request: 256 wait already");
  const { app } = await setUp({ fake: { failAfter: { tokens: 0, error } } });
  const answer = await app.inject({ method: "POST", url: "/generate", payload: { prompt: "a" } });
  expectError(answer, 503, "queue_full");
  expect(answer.headers["retry-after"]).toMatch(/^\d+$/);
});

test("createApp(): what is our fault says no more than that, and the log says what", async () => {
  const lines: string[] = [];
  const logger = serverLogger("info", { write: (line) => lines.push(line) });
  const { app, engine } = await setUp({ logger });
  engine.tokenize = () => Promise.reject(new Error("secret details"));
  const answer = await app.inject({ method: "POST", url: "/v1/tokenize", payload: { text: "a" } });
  expectError(answer, 500, "internal_error");
  expect(answer.body).not.toContain("secret");
  expect(lines.join("")).toContain("secret details");
});

test("createApp(): the log has one line a request, with neither prompts, answers nor keys", async () => {
  const lines: string[] = [];
  const { app } = await setUp({ keys: twoKeys(), logger: serverLogger("info", { write: (line) => lines.push(line) }) });
  const headers = { authorization: `Bearer ${alice}` };
  await app.inject({
    method: "POST",
    url: "/generate?q=hidden",
    payload: { blocks: ["a passage", "Who knows?"] },
    headers,
  });
  await app.inject({ method: "POST", url: "/generate", payload: { prompt: 5, secret: "passage" }, headers });
  await app.inject({ url: "/v1/models", headers: { authorization: `Bearer ${bob}x` } });
  await app.inject("/health");
  expect(lines.length).toBe(3);
  expect(lines.join("")).not.toMatch(/passage|knows|answer is|hidden|sk-/);
  expect(JSON.parse(lines[0] ?? "")).toMatchObject({
    method: "POST",
    route: "/generate",
    status: 200,
    tenant: "alice",
    promptTokens: 4,
    completionTokens: 4,
  });
});

test("createApp(): a client that leaves frees its place, streaming or waiting", async () => {
  const { app, engine } = await setUp({ fake: { tokenMs: 20, endless: true } });
  try {
    const port = await listening(app);
    for (const stream of [true, false]) {
      const body = JSON.stringify({ prompt: "a", stream });
      const socket = connect(port, "127.0.0.1");
      socket.write(
        `POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      );
      if (stream) await once(socket, "data");
      while (engine.running === 0) await sleep(5);
      socket.destroy();
      const leftAt = performance.now();
      while (engine.running > 0) await sleep(5);
      expect(performance.now() - leftAt).toBeLessThan(1_000);
    }
    await app.whenIdle();
    expect(engine.cancelled).toBe(2);
    expect((await app.inject("/metrics")).body).toMatch(/requests_cancelled_total 2\n/);
  } finally {
    await app.close();
  }
});

test("createApp(): connections are kept, and answer again after an error", async () => {
  const { app } = await setUp();
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  try {
    const port = await listening(app);
    const ports = new Set<number | undefined>();
    for (const path of ["/health", "/nothing", "/v1/blocks/x", "/health"]) {
      const request = get({ port, host: "127.0.0.1", path, agent });
      const [response] = (await once(request, "response")) as [import("node:http").IncomingMessage];
      ports.add(response.socket.localPort);
      response.resume();
      await once(response, "end");
    }
    expect(ports.size).toBe(1);
  } finally {
    agent.destroy();
    await app.close();
  }
});

test("createApp(): what is no HTTP, too large a head or too slow is answered in the same form", async () => {
  const { app } = await setUp({ settings: { stallSeconds: "1", maxHeaderBytes: "2048" } });
  try {
    const port = await listening(app);
    const bodyOf = (answer: string): string => answer.slice(answer.indexOf("\r\n\r\n") + 4);
    const noHttp = await raw(port, "hello\r\n\r\n");
    expectError({ statusCode: Number(noHttp.slice(9, 12)), body: bodyOf(noHttp) }, 400, "invalid_http");
    const large = await raw(port, `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(5_000)}\r\n\r\n`);
    expectError({ statusCode: Number(large.slice(9, 12)), body: bodyOf(large) }, 431, "head_too_large");
    const slow = await raw(
      port,
      "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
    );
    expectError({ statusCode: Number(slow.slice(9, 12)), body: bodyOf(slow) }, 408, "request_too_slow");
  } finally {
    await app.close();
  }
});

test("createApp(): an answer may take longer than its request", async () => {
  const { app } = await setUp({ settings: { stallSeconds: "1", transferSeconds: "1" }, fake: { tokenMs: 300 } });
  try {
    const port = await listening(app);
    const answer = await fetch(`http://127.0.0.1:${port}/generate`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: '{"prompt": "a"}',
    });
    expect(await answer.json()).toMatchObject({ generated: "The answer is 42." });
  } finally {
    await app.close();
  }
});

test("createApp(): a large answer comes whole and with its length", async () => {
  const generated = "é".repeat(200_000);
  const { app } = await setUp({ fake: { answer: generated } });
  const answer = await app.inject({ method: "POST", url: "/generate", payload: { blocks: ["a"] } });
  expect(answer.json()).toMatchObject({ generated });
  expect(answer.headers["content-length"]).toBe(String(Buffer.byteLength(answer.body)));
  expect(answer.headers["transfer-encoding"]).toBeUndefined();
  const { "content-length": length } = (await app.inject("/openapi.json")).headers;
  expect(Number(length)).toBeGreaterThan(65_536);
  expect((await app.inject({ method: "HEAD", url: "/openapi.json" })).headers["content-length"]).toBe(length);
});

test("createApp(): of large bodies that have come one is read in a turn of the event loop", async () => {
  const { app, engine } = await setUp();
  let turn = 0;
  const turns: number[] = [];
  const nextTurn = (): void => {
    turn += 1;
    if (turns.length < 8) setImmediate(nextTurn);
  };
  const tokenize = engine.tokenize.bind(engine);
  engine.tokenize = (...asked) => {
    turns.push(turn);
    return tokenize(...asked);
  };
  await app.ready();
  nextTurn();
  const payload = { text: " ".repeat(70_000) };
  const answers = Array.from({ length: 8 }, () => app.inject({ method: "POST", url: "/v1/tokenize", payload }));
  for (const answer of await Promise.all(answers)) expect(answer.statusCode).toBe(200);
  expect(new Set(turns).size).toBe(8);
});

test("createApp(): large bodies that are worked on have so many bytes in all, and room again once they are answered", async () => {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const { app, engine } = await setUp({ settings: { transferBytes: "150000" }, fake: { opened } });
  const ask = (length = 70_000) =>
    app.inject({ method: "POST", url: "/generate", payload: { prompt: "a".repeat(length) } });
  const first = [ask(), ask()];
  await expect.poll(() => engine.asked.length).toBe(2);
  expectError(await ask(), 503, "queue_full");
  // Small ones have room all the same.
  const small = [ask(60_000), ask(60_000)];
  await expect.poll(() => engine.asked.length).toBe(4);
  open();
  for (const answer of await Promise.all([...first, ...small])) expect(answer.statusCode).toBe(200);
  // One alone may be as large as any body.
  for (let i = 0; i < 2; i++) expect((await ask(200_000)).statusCode).toBe(200);
});

test("createApp(): requests beyond what runs and waits are refused before their body is read", async () => {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const { app, engine } = await setUp({ settings: { maxRunning: "1", maxQueued: "0" }, fake: { opened } });
  try {
    const port = await listening(app);
    const statuses: number[] = [];
    const ask = async (): Promise<void> => {
      const { status } = await fetch(`http://127.0.0.1:${port}/generate`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: '{"prompt": "a"}',
      });
      statuses.push(status);
    };
    const asked = Promise.all(Array.from({ length: 80 }, ask));
    // Nothing is answered before all have come.
    await expect.poll(() => engine.asked.length + statuses.length).toBe(80);
    open();
    await asked;
    expect(statuses.filter((status) => status === 503).length).toBe(80 - 65);
    expect(statuses.filter((status) => status === 200).length).toBe(65);
    expect(engine.running).toBe(0);
  } finally {
    // Else closing waits for what was never let through.
    open();
    await app.close();
  }
});

test("GET /openapi.json: every route, its answers to every status, and a page of it without scripts", async () => {
  const { app } = await setUp();
  const document = (await app.inject("/openapi.json")).json() as {
    openapi: string;
    paths: Record<string, Record<string, { responses: Record<string, unknown>; summary?: string }>>;
  };
  expect(document.openapi).toBe("3.1.0");
  expect(Object.keys(document.paths)).toEqual(
    expect.arrayContaining([
      "/generate",
      "/v1/blocks",
      "/v1/blocks/{id}",
      "/v1/tokenize",
      "/v1/chat/completions",
      "/v1/completions",
      "/v1/models",
      "/health",
      "/ready",
      "/metrics",
    ]),
  );
  for (const [path, item] of Object.entries(document.paths)) {
    for (const [method, { responses, summary }] of Object.entries(item)) {
      expect(summary, `${method} ${path}`).toMatch(/\w/);
      expect(Object.keys(responses), `${method} ${path}`).toEqual(expect.arrayContaining(["200", "403", "500"]));
    }
  }
  const page = await app.inject("/docs");
  expect(page.headers["content-security-policy"]).toMatch(/^default-src 'none'; style-src 'self'/);
  expect(page.body).toContain("num_local_attention_blocks");
  expect(page.body).not.toMatch(/<script|style=|https?:\/\//);
});

test("createApp(): malformed bodies of any kind are a 4xx with a clear message", async () => {
  const { app } = await setUp();
  const texts = ["/generate", "/v1/blocks", "/v1/tokenize", "/v1/completions", "/v1/chat/completions"];
  const valid = fc.constantFrom<object>(
    { blocks: ["a", "b"], num_local_attention_blocks: 1 },
    { prompt: "a", stream: false },
    { passages: ["a", { title: "t", text: "x" }] },
    { text: "a", special: true },
    { messages: [{ role: "user", content: [{ type: "text", text: "a" }] }], n: 1 },
  );
  const json = fc.oneof(
    valid,
    fc.jsonValue({ maxDepth: 3 }),
    fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 })),
  );
  const body = fc.oneof(
    json.map((value) => JSON.stringify(value)),
    // Cut anywhere, or with something else in the middle.
    fc.tuple(json, fc.nat(), fc.string({ unit: "binary", maxLength: 4 })).map(([value, at, piece]) => {
      const text = JSON.stringify(value);
      return text.slice(0, at % (text.length + 1)) + piece;
    }),
    fc.string({ unit: "binary" }),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...texts), body, async (url, payload) => {
      const headers = { "content-type": "application/json" };
      const answer = await app.inject({ method: "POST", url, payload, headers });
      if (answer.statusCode !== 200) expectError(answer, 400);
    }),
    { numRuns: 250 },
  );
});

test("readJsonBodies(): a fault of ours while a body is read is no 400", async () => {
  const app = fastify();
  const broken: { maxDepth: number; maxKeys: number } = {
    maxKeys: 9,
    get maxDepth() {
      return Number(BigInt(64) + (1 as unknown as bigint));
    },
  };
  readJsonBodies(app, broken);
  app.post("/", async () => "");
  expect((await app.inject({ method: "POST", url: "/", payload: { a: 1 } })).statusCode).toBe(500);
});

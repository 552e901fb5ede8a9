import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectRoot } from "../build-dist.js";
import { HttpClient, type Question } from "./http-client.js";
import { killProcess, ServerUnderTest, sleep, until } from "./server-under-test.js";

// Each stands where a log must not take it from; no other word of the test holds them.
const secrets = { prompt: "Quetzalcoatlus", key: "sk-Xylophagous-0123456789", path: "Zwischenablage" };
const wrongKey = "sk-Xylophagous-of-another";
const folder = mkdtempSync(join(tmpdir(), "block-attention-log-"));
const home = join(folder, secrets.path);
const model = join(home, "tiny");
mkdirSync(home);
cpSync(join(projectRoot, "models", "tiny-rag"), model, { recursive: true });
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const env = { HOME: home, USERPROFILE: home };
const text = `Where does ${secrets.prompt} live?`;
const messages = [{ role: "user", content: text }];
const chat = "/v1/chat/completions";

/** Requests that are answered and requests that are refused, on every route, each with what is secret in it. */
const questions: readonly Question[] = [
  { path: chat, body: { messages, documents: [{ title: text, text }], max_tokens: 4 } },
  { path: chat, body: { messages, stream: true, max_tokens: 4, user: text, metadata: { a: text } } },
  { path: chat, body: { messages: [{ role: "user", content: text, name: text }], stop: [text], max_tokens: 2 } },
  { path: "/v1/completions", body: { prompt: text, max_tokens: 2, echo: true, logprobs: 1 } },
  { path: "/v1/responses", body: { input: text, instructions: text, metadata: { a: text }, max_output_tokens: 2 } },
  { path: "/v1/responses", body: { input: text, previous_response_id: text } },
  { path: "/v1/embeddings", body: { input: text, encoding_format: text } },
  { path: "/generate", body: { blocks: [text, text], max_tokens: 2 } },
  { path: "/v1/blocks", body: { passages: [{ title: text, text }] } },
  { path: "/v1/blocks", body: { passages: [text.repeat(5000), text] } },
  { path: "/v1/tokenize", body: { text } },
  { path: "/v1/models" },
  { path: `/v1/models/${secrets.prompt}` },
  // Refused: the key, the body, its fields, its size.
  { path: chat, body: { messages }, headers: { authorization: `Bearer ${wrongKey}` } },
  { path: chat, body: { messages }, headers: { authorization: `Basic ${wrongKey}` } },
  { path: chat, body: `{"messages": "${text}` },
  { path: chat, body: `"${text}"` },
  { path: chat, body: `{"${text}": 1, "${text}": 2}` },
  { path: chat, body: { messages, [text]: text } },
  { path: chat, body: { messages, model: text } },
  { path: chat, body: { messages: text } },
  { path: chat, body: { messages: [{ role: text, content: text }] } },
  { path: chat, body: { messages, temperature: text } },
  { path: chat, body: { messages, tools: [{ type: "function", function: { name: text } }] } },
  { path: chat, body: { messages, response_format: { type: text } } },
  { path: chat, body: { messages, logit_bias: { [text]: 1 } } },
  { path: "/v1/completions", body: { prompt: text.repeat(20_000) } },
  { path: chat, body: { messages: [{ role: "user", content: text.repeat(20_000) }] } },
  { path: "/v1/tokenize", body: { text: text.repeat(200_000) } },
  { path: chat, body: text, headers: { "content-type": "text/plain" } },
  { path: chat, body: text, headers: { "content-type": text } },
  {
    path: chat,
    body: { messages },
    headers: { "x-request-id": text, cookie: text, referer: text, "user-agent": text },
  },
  { path: chat, body: { messages }, headers: { host: secrets.prompt } },
  { path: chat, body: { messages }, headers: { "x-long": text.repeat(10_000) } },
  // Refused: the path, the query, the method.
  { path: `/${secrets.prompt}?key=${secrets.key}` },
  { path: `/v1/${secrets.prompt}/../${secrets.key}?q=${secrets.prompt}`, body: { messages } },
  { path: `${chat}?api_key=${secrets.key}&q=${secrets.prompt}`, body: { messages, max_tokens: 1 } },
  { path: `/v1/blocks/%E0%A4%A${secrets.prompt}` },
  { path: `/v1/blocks/${secrets.prompt}`, method: "DELETE" },
  { path: `/${secrets.prompt}`, method: "PUT", body: { messages } },
  { path: `/docs/${secrets.prompt}` },
  { path: `${chat}?q=${secrets.prompt}`, method: "DELETE" },
  // Clients that leave: in the body, before the answer, within it.
  { path: chat, body: { messages }, cutBodyAt: 30 },
  { path: chat, body: { messages, max_tokens: 400 }, leaveAfterMs: 50 },
  { path: chat, body: { messages, max_tokens: 400, stream: true }, leaveAfterCharacters: 300 },
];

/** Lines that hold a secret, shortened. */
function leaks(output: string): string[] {
  const found = [...Object.values(secrets), wrongKey];
  // Of a prompt, parts too.
  const pattern = new RegExp([...found, secrets.prompt.slice(0, 8), "Xylophagous"].join("|"), "i");
  return output.split("\n").flatMap((line) => {
    const { index } = pattern.exec(line) ?? {};
    return index === undefined ? [] : [`${line.slice(Math.max(0, index - 160), index + 80)}`];
  });
}

/** Sends bytes that are no HTTP, and waits for the end of the connection. */
function sendRaw(port: number, bytes: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.end(bytes));
    socket.on("error", () => undefined).resume();
    socket.on("close", () => resolve());
  });
}

test("serve: the log holds no prompt, no key and no path of a user, whatever comes and however it ends", {
  timeout: 120_000,
}, async () => {
  await using server = await ServerUnderTest.start({
    args: ["--model", model, "--max-body-bytes", "2MB", "--max-prompt-tokens", "2000"],
    keys: [secrets.key],
    env,
  });
  using client = new HttpClient(server, secrets.key);
  const statuses = new Map<number, number>();
  for (const question of questions) {
    // A connection of its own: some are closed by the server, which the next request on them would meet.
    using client = new HttpClient(server, secrets.key);
    const outcome = await client.send(question);
    const status = outcome.kind === "answer" ? outcome.status : 0;
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
  }
  await sendRaw(server.port, `GET /${secrets.prompt} HTTP/9.9\r\n\r\n`);
  await sendRaw(server.port, `POST ${chat} HTTP/1.1\r\nHost: a\r\nContent-Length: x${secrets.prompt}\r\n\r\n`);
  await sendRaw(server.port, `${secrets.prompt} ${secrets.key}\r\n\r\n`);
  // The engine dies under an answer, and one that loads anew finds no model.
  const dies = Promise.all(
    [true, false].map((stream) => client.send({ path: chat, body: { messages, max_tokens: 400, stream } })),
  );
  await sleep(100);
  rmSync(join(model, "config.json"));
  const engine = server.engineProcess();
  if (engine === undefined) throw new Error("Cannot kill the engine: there is none");
  killProcess(engine.pid);
  await dies;
  await until("the engine finds no model", 20_000, () => server.stderr.includes("no such file"));
  await client.send({ path: chat, body: { messages } });
  await server.stop().catch(() => undefined);
  expect([...statuses.keys()]).toEqual(expect.arrayContaining([200, 400, 401, 403, 404, 405, 415]));
  expect(server.stderr).toContain('"msg":"answered"');
  expect(server.stderr).toContain("the engine is not there");
  expect(leaks(server.stderr.replaceAll(/^Cannot .*$/gm, "")), server.stderr.slice(-1500)).toEqual([]);
  expect(leaks(server.stdout)).toEqual([]);
});

test("serve: of a model that cannot be loaded the last line names the path, to whoever started it; the log does not", async () => {
  const broken = join(home, "broken");
  mkdirSync(broken);
  writeFileSync(join(broken, "config.json"), `{"${secrets.prompt}": `);
  for (const path of [broken, join(home, "none")]) {
    await using server = await ServerUnderTest.start({
      args: ["--model", path],
      keys: [secrets.key],
      env,
      waitReady: false,
    });
    expect((await server.exited).code).toBe(1);
    const lines = server.stderr.trimEnd().split("\n");
    expect(lines.at(-1)).toMatch(/^Cannot .*Zwischenablage/);
    expect(leaks(lines.slice(0, -1).join("\n"))).toEqual([]);
  }
});

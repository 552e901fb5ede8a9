import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { errorFault, HttpClient } from "./http-client.js";
import { expectCleanLog, expectSettled, readAccounts } from "./server-laws.js";
import { refusedStart, ServerUnderTest, until, withLimit } from "./server-under-test.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-config-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs to the end of the model's context, unless its client goes away. */
const longAnswer = {
  path: "/v1/completions",
  body: { prompt: "Once", max_tokens: 1900, temperature: 0, logit_bias: { "1": -100 }, stream: true },
};

test("serve: a full queue is a 503 that says when to come again", async () => {
  await using server = await ServerUnderTest.start({ args: ["--max-running", "1", "--max-queued", "2"] });
  using client = new HttpClient(server);
  const running = Array.from({ length: 3 }, () => client.send({ ...longAnswer, leaveAfterMs: 4000 }));
  await until("one runs and two wait", 3000, async () => {
    const { running, queued } = readAccounts(await server.metrics());
    return running === 1 && queued === 2;
  });
  for (const path of ["/v1/completions", "/generate"]) {
    const refused = await client.ask({ path, body: { prompt: "Once" } });
    expect(refused.status).toBe(503);
    expect(Number(refused.headers["retry-after"])).toBeGreaterThan(0);
    expect(errorFault(refused.text)).toBeUndefined();
    expect(refused.totalMs).toBeLessThan(1000);
  }
  // What needs no place is answered all the same.
  for (const path of ["/health", "/ready", "/v1/models", "/metrics"]) {
    expect((await client.ask({ path })).status).toBe(200);
  }
  await Promise.all(running);
  await expectSettled(server);
  expect((await client.ask({ path: "/generate", body: { blocks: ["Once"] } })).status).toBe(200);
  expectCleanLog(server.stderr);
});

/** One line that says why, no stack, nothing on standard output, exit 1 or 2. */
async function expectRefusedStart(args: readonly string[], why: RegExp, env: Record<string, string> = {}) {
  const { code, signal, stdout, stderr } = await refusedStart({ args, env });
  expect(signal).toBeNull();
  expect(code === 1 || code === 2).toBe(true);
  expect(stdout).toBe("");
  const lines = stderr.trim().split("\n");
  expect(lines.at(-1)).toMatch(why);
  expect(stderr).not.toMatch(/^\s+at /m);
  expect(lines.length).toBeLessThanOrEqual(3);
}

test("serve: a public address without keys is refused at start", async () => {
  await expectRefusedStart(["--host", "0.0.0.0"], /keys/);
  await expectRefusedStart(["--host", "::"], /keys/);
});

test("serve: a port in use is refused at start", async () => {
  await using server = await ServerUnderTest.start({ waitReady: false });
  await expectRefusedStart(["--port", String(server.port)], new RegExp(`${server.port}`));
});

test("serve: settings that cannot be used are refused at start", async () => {
  const file = (name: string, text: string) => {
    const path = join(folder, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  await expectRefusedStart(["--config", file("unknown.json", '{"prot": 1}')], /prot/);
  await expectRefusedStart(["--keys", file("empty", "")], /keys|empty/);
  await expectRefusedStart(["--no-such-option"], /no-such-option/);
  await expectRefusedStart([], /BLOCK_ATTENTION_PROT/, { BLOCK_ATTENTION_PROT: "1" });
});

test("serve: a model that cannot be loaded ends the server, which listened meanwhile", async () => {
  await using server = await ServerUnderTest.start({ args: ["--model", join(folder, "nothing")], waitReady: false });
  expect(await withLimit("the server's end", 10_000, server.exited)).toEqual({ code: 1, signal: null });
  expect(server.stderr.trim().split("\n").at(-1)).toMatch(/^Cannot read ".*nothing": no such file or folder$/);
});

test("serve --wait-ready: the line comes once the model is loaded, and never where it cannot be", async () => {
  await using server = await ServerUnderTest.start({ args: ["--wait-ready", "--alias", "m"], waitReady: false });
  expect((await fetch(`${server.url}/ready`)).status).toBe(200);
  expect(server.stdout).toBe(`Listening on ${server.url}\n`);
  expect(await (await fetch(`${server.url}/v1/models`)).json()).toMatchObject({ data: [{ id: "m" }] });
  await expectRefusedStart(["--wait-ready", "--model", join(folder, "nothing")], /^Cannot read ".*nothing": no such/);
});

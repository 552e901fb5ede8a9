import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UsageError } from "../files/usage-error.js";
import { loadConfig, serverSettings } from "./server-config.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "server-config-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(text: string): string {
  const path = join(folder, `${Math.random()}.json`);
  writeFileSync(path, text);
  return path;
}

test("loadConfig(): an option wins over the environment, that over the file, that over the default", async () => {
  const path = file('{"port": 1, "max_tokens": 1, "max_blocks": 1, "store_bytes": "2KiB"}');
  const env = { BLOCK_ATTENTION_PORT: "2", BLOCK_ATTENTION_MAX_TOKENS: "2", BLOCK_ATTENTION_CONFIG: path, HOME: "/" };
  const config = await loadConfig({ options: { port: "3" }, env });
  expect(config).toMatchObject({ port: 3, maxTokens: 2, maxBlocks: 1, storeBytes: 2048, host: "127.0.0.1" });
  expect((await loadConfig({ options: {}, env, file: file("{}") })).maxBlocks).toBe(1024);
});

test("loadConfig(): adapters from the options, the environment and the file", async () => {
  const both = [{ path: "a" }, { path: "b.gguf", scale: -0.5 }];
  const env = { BLOCK_ATTENTION_ADAPTERS: "a, b.gguf=-0.5" };
  expect((await loadConfig({ options: {}, env })).adapters).toEqual(both);
  expect((await loadConfig({ options: { adapters: [{ path: "c=1" }] }, env })).adapters).toEqual([{ path: "c=1" }]);
  expect((await loadConfig({ options: {}, env: {}, file: file(JSON.stringify({ adapters: both })) })).adapters).toEqual(
    both,
  );
  const bad = loadConfig({ options: {}, env: { BLOCK_ATTENTION_ADAPTERS: "a=x" } });
  await expect(bad).rejects.toThrow(/^Cannot use BLOCK_ATTENTION_ADAPTERS: it is "a=x", wanted a list of adapters/);
});

test("loadConfig(): names the source, the setting, its value and what was wanted", async () => {
  const bad = (options: Record<string, string>, env: Record<string, string> = {}, text?: string): Promise<string> =>
    loadConfig({ options, env, file: text === undefined ? undefined : file(text) }).then(
      () => "nothing is wrong",
      (error: unknown) => (error instanceof UsageError ? error.message.replaceAll(folder, "…") : String(error)),
    );
  expect(await bad({ port: "x" })).toBe('Cannot use --port: it is "x", wanted a whole number from 0 to 65535');
  expect(await bad({ port: "65536" })).toMatch(/^Cannot use --port/);
  expect(await bad({ maxQueued: "-1" })).toMatch(/^Cannot use --max-queued: it is "-1"/);
  expect(await bad({ nothing: "1" })).toBe('Cannot use the options: there is no setting "nothing"');
  expect(await bad({}, { BLOCK_ATTENTION_KV_TYPE: "q9" })).toBe(
    'Cannot use BLOCK_ATTENTION_KV_TYPE: it is "q9", wanted "f16", "f32", "bf16", "q8_0" or "q4_0"',
  );
  expect(await bad({}, { BLOCK_ATTENTION_PROT: "1" })).toMatch(/there is no setting "BLOCK_ATTENTION_PROT"/);
  expect(await bad({}, {}, '{"prot": 1}')).toMatch(/there is no setting "prot"/);
  expect(await bad({}, {}, '{"port": null}')).toMatch(/^Cannot use "port" of the config file .*: it is null, wanted/);
  expect(await bad({}, {}, '{"port": 1.5}')).toMatch(/it is 1.5, wanted a whole number/);
  expect(await bad({}, {}, '{"port": 1, "port": 2}')).toMatch(/"port" stands twice/);
  expect(await bad({}, {}, '{"__proto__": 1}')).toMatch(/there is no setting "__proto__"/);
  expect(await bad({}, {}, "[]")).toMatch(/holds no JSON object/);
  expect(await bad({}, {}, '{"port": ')).toMatch(/^Cannot use the config file: Cannot read .*: it is no JSON/);
  expect(await bad({ alias: "two words" })).toBe(
    'Cannot use --alias: it is "two words", wanted names without spaces, such as "gpt-4o-mini"',
  );
  expect(await bad({ ragFinal: "why?" })).toBe(
    'Cannot use --rag-final: it is "why?", wanted up to 20000 characters with "{question}" once',
  );
  expect(await bad({ corsOrigins: "https://a.org/path" })).toMatch(/wanted origins such as/);
});

test("loadConfig(): passes over what Kubernetes sets for a service of our name, and what other commands read", async () => {
  const env = {
    BLOCK_ATTENTION_PORT: "tcp://10.0.0.1:8080",
    BLOCK_ATTENTION_SERVICE_HOST: "10.0.0.1",
    BLOCK_ATTENTION_PORT_8080_TCP_ADDR: "10.0.0.1",
    BLOCK_ATTENTION_GGML: "/opt/ggml",
    BLOCK_ATTENTION_PYTHON: "/opt/venv/bin/python",
  };
  expect((await loadConfig({ options: {}, env })).port).toBe(8080);
});

test("loadConfig(): takes lists, sizes with units, and empty variables as none", async () => {
  const options = {
    alias: "gpt-4o-mini, org/m",
    trainedModes: "block, full",
    corsOrigins: "https://a.org,*",
    maxBodyBytes: "1MiB",
  };
  const config = await loadConfig({ options, env: { BLOCK_ATTENTION_PORT: "" } });
  expect(config).toMatchObject({
    alias: ["gpt-4o-mini", "org/m"],
    trainedModes: ["block", "full"],
    corsOrigins: ["https://a.org", "*"],
    maxBodyBytes: 2 ** 20,
    port: 8080,
  });
});

test("loadConfig(): whatever a setting's text, there is a config or a UsageError of one line", async () => {
  const names = serverSettings.map(({ name }) => name);
  const values = fc.oneof(
    fc.string(),
    fc.integer().map(String),
    fc.constantFrom("", "1e9", "0x10", "null", "∞", "a\nb"),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...names), values, async (name, value) => {
      await loadConfig({ options: { [name]: value }, env: {} }).catch((error: unknown) => {
        expect(error).toBeInstanceOf(UsageError);
        expect((error as Error).message).not.toMatch(/[\r\n]/);
      });
    }),
    { numRuns: 300 },
  );
});

test("serverSettings: every setting has its three names, words and a default", () => {
  expect(serverSettings.find(({ name }) => name === "storeBytes")).toMatchObject({
    flag: "--store-bytes",
    variable: "BLOCK_ATTENTION_STORE_BYTES",
    key: "store_bytes",
    setting: { fallback: "a quarter of what the weights leave of memory" },
  });
  for (const { setting } of serverSettings) {
    expect(setting.about).toMatch(/^\S.{8,}[^.]$/);
    expect(setting.fallback).not.toBe("undefined");
    expect(setting.value).not.toBe("");
  }
});

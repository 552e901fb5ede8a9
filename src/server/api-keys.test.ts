import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UsageError } from "../files/usage-error.js";
import { ApiKeys, readApiKeys } from "./api-keys.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "api-keys-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(text: string | Uint8Array, mode = 0o600): string {
  const path = join(folder, String(Math.random()));
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

async function read(text: string | Uint8Array, mode?: number): Promise<{ keys: ApiKeys; warnings: string[] }> {
  const warnings: string[] = [];
  return { keys: await readApiKeys(file(text, mode), (warning) => warnings.push(warning)), warnings };
}

const alice = "sk-alice-0123456789";
const bob = "sk-bob-0123456789";

test("readApiKeys(): a key a line, or names and keys as JSON", async () => {
  const lines = await read(`# ours\n\n${alice}\r\n  ${bob}\n`);
  expect(lines.keys.tenantOf(`Bearer ${bob}`)?.name).toBe("key-2");
  const json = await read(JSON.stringify({ alice, bob }));
  expect(json.keys.tenantOf(`Bearer ${alice}`)?.name).toBe("alice");
  expect([...lines.warnings, ...json.warnings]).toEqual([]);
  const limited = JSON.stringify({ alice: { key: alice, tokens_per_minute: 5000, requests: null }, bob });
  const { keys } = await read(limited);
  expect(keys.tenantOf(`Bearer ${alice}`)?.quota).toEqual({ tokensPerMinute: 5000, requests: undefined });
  expect(keys.tenantOf(`Bearer ${bob}`)?.quota).toEqual({});
});

test("ApiKeys.tenantOf(): salts differ by key, are the same for the same key, and are no key", () => {
  const keys = new ApiKeys(
    new Map([
      ["a", alice],
      ["b", bob],
    ]),
  );
  const salts = [alice, bob].map((key) => keys.tenantOf(`Bearer ${key}`)?.salt);
  expect(new Set(salts).size).toBe(2);
  expect(new ApiKeys(new Map([["other", alice]])).tenantOf(`Bearer ${alice}`)?.salt).toBe(salts[0]);
  expect(salts.join()).toMatch(/^[0-9a-f]{64},[0-9a-f]{64}$/);
});

test("ApiKeys.replaceWith(): exactly the newer keys are known, and who is gone is told by name", () => {
  const keys = new ApiKeys(new Map([["alice", alice]]));
  expect(keys.replaceWith(new ApiKeys(new Map([["bob", bob]])))).toEqual(["alice"]);
  expect([alice, bob].map((key) => keys.tenantOf(`Bearer ${key}`)?.name)).toEqual([undefined, "bob"]);
  expect(keys.replaceWith(new ApiKeys(new Map([["renamed", bob]])))).toEqual([]);
});

test("ApiKeys.tenantOf(): nobody's for other keys of any length, other schemes and odd headers", () => {
  const keys = new ApiKeys(new Map([["a", alice]]));
  const none = [undefined, "", "Bearer", "Bearer ", alice, `Basic ${alice}`, `Bearer ${alice}x`, "Bearer x"];
  for (const header of [
    ...none,
    `Bearer ${alice.slice(0, -1)}`,
    `Bearer ${"x".repeat(100_000)}`,
    `Bearer ${alice} x`,
  ]) {
    expect(keys.tenantOf(header)).toBeUndefined();
  }
  expect(keys.tenantOf(`bearer  ${alice} `)?.name).toBe("a");
});

test("readApiKeys(): a file that cannot be used is a UsageError of one line that quotes no key", async () => {
  const bad: [string | Uint8Array, RegExp][] = [
    ["", /holds no key/],
    ["# nothing\n", /holds no key/],
    ["{}", /holds no key/],
    [`{"a": "${alice}"`, /starts as JSON and is none/],
    [`{"a": "${alice}", "a": "${bob}"}`, /names a key twice/],
    [`{"a": 7}`, /the key "a" is no string and no object/],
    [`{"a": {"requests": 1}}`, /the key "a" has no "key"/],
    [`{"a": {"key": "${alice}", "${alice}": 1}}`, /has a field that is none of "key", "tokens_per_minute", "requests"/],
    [`{"a": {"key": "${alice}", "requests": "${alice}"}}`, /has a "requests" that is no whole number from 1 on/],
    [`{"a": {"key": "${alice}", "tokens_per_minute": 0}}`, /has a "tokens_per_minute" that is no whole number/],
    [`{"a": {"key": "${alice}", "__proto__": 1}}`, /has a field that is none of/],
    [`{"a b": "${alice}"}`, /a name is "a b"/],
    [`${alice}\n${alice}\n`, /"key-1" and "key-2" are the same/],
    [`${alice} x\n`, /line 1 is not one key/],
    [`{"a": "${alice} x"}`, /the key "a" is not/],
    [Uint8Array.of(0xff, 0xfe), /./],
  ];
  for (const [text, wanted] of bad) {
    const error: unknown = await read(text).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message).toMatch(wanted);
    expect((error as Error).message).not.toContain(alice);
    expect((error as Error).message).not.toMatch(/[\r\n]/);
  }
  await expect(readApiKeys(join(folder, "none"), () => undefined)).rejects.toThrow(/no such file/);
  await expect(readApiKeys(folder, () => undefined)).rejects.toThrow(/it is a folder/);
});

test.skipIf(process.platform === "win32")(
  "readApiKeys(): warns of a file that others may read, and of short keys",
  async () => {
    expect((await read(alice, 0o644)).warnings.join()).toMatch(/can be read by other users/);
    expect((await read("short")).warnings.join()).toMatch(/it can be guessed/);
  },
);

import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { isJsonObjectBytes, type JsonLimits, parseJson, readJson } from "./bounded-json.js";
import { expectError, temporaryFolder } from "./test-files.suite.js";

const parsing = (source: string | Uint8Array, limits?: JsonLimits) =>
  expectError(Promise.resolve().then(() => parseJson(source, '"a.json"', limits)));

test("parseJson(): gives what JSON.parse gives, keys checked or not", () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.boolean(), (value, uniqueKeys) => {
      const text = JSON.stringify(value);
      expect(parseJson(text, "t", { uniqueKeys })).toEqual(JSON.parse(text));
      expect(parseJson(`\ufeff${text}`, "t")).toEqual(JSON.parse(text));
      expect(parseJson(Buffer.from(`\ufeff${text}`), "t")).toEqual(JSON.parse(text));
    }),
    { numRuns: 200 },
  );
});

test("parseJson(): an error quotes control characters escaped", () => {
  expect(() => parseJson("\u001b[31mX\u007f\u009b {", "a")).toThrow(
    /^Cannot read a: it is no JSON, \P{Cc}*\\u001b\[31m\P{Cc}*$/u,
  );
});

test("parseJson(): refuses what is no JSON, whatever it is, in one line", async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: "binary" }), async (text) => {
      try {
        JSON.parse(text);
      } catch {
        expect(await parsing(text)).toMatch(/it is no JSON/);
      }
    }),
    { numRuns: 100 },
  );
  await parsing("");
  await parsing("{\n\n");
  await parsing('"\\');
  await parsing('{"a":NaN}');
});

test("parseJson(): refuses depth, size, bytes that are no UTF-8", async () => {
  expect(await parsing("[".repeat(1_000_000))).toMatch(/nested more than 64 deep/);
  expect(await parsing('{"a":'.repeat(65))).toMatch(/nested/);
  expect(parseJson(`${"[".repeat(64)}${"]".repeat(64)}`, "t")).toBeDefined();
  expect(parseJson(JSON.stringify({ a: "[[[[", b: '\\"[[' }), "t", { maxDepth: 1 })).toBeDefined();
  expect(await parsing('[{"a":1,"b":[{}]}]', { maxKeys: 5 })).toMatch(/it holds over 5 keys, lists and objects/);
  expect(parseJson('[{"a":1,"b":["x","y",1]}]', "t", { maxKeys: 5 })).toBeDefined();
  expect(await parsing("[1,2,3]", { maxBytes: 6 })).toMatch(/it has 7 bytes, at most 6 are read/);
  expect(await parsing(Uint8Array.of(0x22, 0xff, 0x22))).toMatch(/it is not UTF-8/);
});

test("parseJson(): keys may be anything, and stand once where that is asked for", async () => {
  const parsed = parseJson('{"__proto__":{"polluted":1},"constructor":2}', "t", { uniqueKeys: true });
  expect(Object.keys(parsed as object)).toEqual(["__proto__", "constructor"]);
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  expect(await parsing('{"a":1,"b":{"a":1}, "a" :2}', { uniqueKeys: true })).toMatch(/the key "a" stands twice/);
  expect(await parsing('{"a":1,"\\u0061":2}', { uniqueKeys: true })).toMatch(/the key "a" stands twice/);
  expect(parseJson('[{"a":"a"},{"a":["a","a"]}]', "t", { uniqueKeys: true })).toBeDefined();
});

test("isJsonObjectBytes(): says what parseJson() says, errors too, of any bytes", () => {
  const said = (call: () => unknown): unknown => {
    try {
      return call();
    } catch (error) {
      return (error as Error).message;
    }
  };
  const limits = { uniqueKeys: true, maxDepth: 5, maxBytes: 400 };
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  const check = (bytes: Uint8Array) =>
    expect(said(() => isJsonObjectBytes(bytes, "t", limits))).toEqual(
      said(() => isObject(parseJson(bytes, "t", limits))),
    );
  const keys = fc.constantFrom("a", "é", "\\u00e9", "東", '\\"', "\\\\", "\\u0061");
  const value = fc.oneof(fc.json({ maxDepth: 4 }), fc.constantFrom("1e999", "[[[[[[]]]]]]", '"\\ud800"', "01", '"\\'));
  const object = fc
    .array(fc.tuple(keys, value), { maxLength: 4 })
    .map((entries) => `{${entries.map(([key, value]) => `"${key}":${value}`).join(",")}}`);
  fc.assert(
    fc.property(fc.oneof(object, value), fc.option(fc.tuple(fc.nat(), fc.nat(255))), (text, change) => {
      const bytes = Buffer.from(text);
      if (change && bytes.length > 0) bytes[change[0] % bytes.length] = change[1];
      check(bytes);
    }),
    { numRuns: 3000 },
  );
  check(Buffer.from('\ufeff{"é":1,"\\u00e9":2}'));
  check(Buffer.from('{"東京":1,"東京":2}'));
});

test("readJson(): a missing file, a folder, a loop of links, a file too large: one line each", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  await mkdir(at("folder"));
  await symlink(at("loop"), at("loop"));
  await writeFile(at("large"), "[1,2,3]");
  await symlink(at("large"), at("link"));
  expect(await readJson(at("link"))).toEqual([1, 2, 3]);
  await expectError(readJson(at("missing")), "no such file");
  await expectError(readJson(at("folder")), "it is a folder");
  await expectError(readJson(at("loop")), "form a loop");
  await expectError(readJson(at("large"), { maxBytes: 3 }), "it has 7 bytes");
  await expectError(readJson("a\0b"), "not valid");
  await expectError(readJson("/dev/null"), "no regular file");
});

import { createHash } from "node:crypto";
import { appendFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type DigestedFiles, rememberedDigest } from "./digest-memory.js";
import { fileState, hashFile } from "./file-digest.js";
import { hashFields } from "./hash-fields.js";

const HOUR_MS = 3_600_000;
let folder: string;
let cacheDir: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "block-attention-"));
  cacheDir = path.join(folder, "cache");
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const filePath = path.join(folder, name);
  await mkdir(path.dirname(filePath), { recursive: true });
  await writeFile(filePath, content);
  return filePath;
}

/** The digest an hour from now, when files have been quiet, and whether it was computed. */
async function digest(files: readonly string[], options: Partial<DigestedFiles> = {}) {
  let isComputed = false;
  const value = await rememberedDigest({
    of: of("all"),
    files,
    cacheDir,
    compute: async () => {
      isComputed = true;
      return of(...(await Promise.all(files.map((filePath) => readFile(filePath, "utf8")))));
    },
    now: () => Date.now() + HOUR_MS,
    ...options,
  });
  return { value, isComputed };
}

function of(...texts: readonly string[]): string {
  return hashFields("test", texts);
}

test("hashFile(): is the file's SHA-256, whatever its size", async () => {
  for (const size of [0, 1, 2 ** 20 - 1, 2 ** 20, 2 ** 20 + 1, 3 * 2 ** 20 + 5]) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => (i * 7919) >> 5);
    const filePath = await file("x", bytes);
    const expected = createHash("sha256").update(bytes).digest("hex");
    expect(await hashFile(filePath, await fileState(filePath))).toBe(expected);
  }
});

test("hashFile(): a file that changes while it is read is an error", async () => {
  const filePath = await file("x", new Uint8Array(3 << 20));
  const state = await fileState(filePath);
  const onBytes = (): void => appendFileSync(filePath, "more");
  await expect(hashFile(filePath, state, { onBytes })).rejects.toThrow("it changed while it was read");

  const replaced = await file("y", "old");
  const before = await fileState(replaced);
  await rename(await file("z", "new"), replaced);
  await expect(hashFile(replaced, before)).rejects.toThrow("it changed while it was read");
});

test("rememberedDigest(): is computed once, and again when a file or what is read changed", async () => {
  const [a, b] = [await file("a", "one"), await file("b", "three")];
  const first = await digest([a, b]);
  expect(first).toEqual({ value: of("one", "three"), isComputed: true });
  expect(await digest([a, b])).toEqual({ ...first, isComputed: false });
  await symlink(b, path.join(folder, "link"));
  expect(await digest([a, path.join(folder, "link")])).toEqual({ ...first, isComputed: false });
  for (const others of [[b, a], [a], [a, b, b]]) expect((await digest(others)).isComputed).toBe(true);
  expect((await digest([a, b], { of: of("otherwise") })).isComputed).toBe(true);
  expect(await digest([a, b])).toEqual({ ...first, isComputed: false });
  // Same size and same modification time: the change time gives it away.
  const { mtimeNs } = await fileState(b);
  await file("b", "eight");
  await utimes(b, Number(mtimeNs) / 1e9, Number(mtimeNs) / 1e9);
  expect(await digest([a, b])).toEqual({ value: of("one", "eight"), isComputed: true });
});

test("rememberedDigest(): does not remember a file that was touched just now", async () => {
  const a = await file("a", "one");
  await digest([a], { now: Date.now });
  expect((await digest([a])).isComputed).toBe(true);
});

test("rememberedDigest(): a file that changes while it is read is an error, and not remembered", async () => {
  const a = await file("a", "one");
  const compute = async (): Promise<string> => {
    await file("a", "other");
    return of("one");
  };
  await expect(digest([a], { compute })).rejects.toThrow("it changed while it was read");
  expect(await digest([a])).toEqual({ value: of("other"), isComputed: true });
});

test.each(["", "{", "null", '{"version":2,"digests":[{"of":1}]}', '{"version":1,"files":[]}', "\0".repeat(5 << 20)])(
  "rememberedDigest(): a damaged or older cache file is ignored and replaced (%#)",
  async (damaged) => {
    const a = await file("a", "one");
    await file("cache/file-digests.json", damaged);
    expect(await digest([a])).toEqual({ value: of("one"), isComputed: true });
    expect(await digest([a])).toEqual({ value: of("one"), isComputed: false });
  },
);

test("rememberedDigest(): a cache folder that cannot be written is ignored", async () => {
  const a = await file("a", "one");
  const computed = { value: of("one"), isComputed: true };
  expect(await digest([a], { cacheDir: path.join(a, "inside-a-file") })).toEqual(computed);
  await mkdir(path.join(cacheDir, "file-digests.json"), { recursive: true });
  expect(await digest([a])).toEqual(computed);
  expect(await readdir(cacheDir)).toEqual(["file-digests.json"]);
});

test("rememberedDigest(): what a killed process left half written goes, what another writes now stays", async () => {
  const names = ["file-digests.json.old.tmp", "file-digests.json.new.tmp", "another.tmp"];
  for (const name of names) await file(`cache/${name}`, "half");
  const anHourAgo = Date.now() / 1000 - 3600;
  for (const name of [names[0], names[2]]) await utimes(path.join(cacheDir, name as string), anHourAgo, anHourAgo);
  await digest([await file("a", "one")]);
  expect((await readdir(cacheDir)).sort()).toEqual(["another.tmp", "file-digests.json", "file-digests.json.new.tmp"]);
});

test("rememberedDigest(): many at once leave one whole cache file and nothing else", async () => {
  const files = await Promise.all(Array.from({ length: 20 }, (_, i) => file(`f${i}`, `content ${i}`)));
  await Promise.all(files.map((filePath) => digest([filePath])));
  expect(await readdir(cacheDir)).toEqual(["file-digests.json"]);
  const remembered = JSON.parse(await readFile(path.join(cacheDir, "file-digests.json"), "utf8"));
  expect(remembered.digests.length).toBeGreaterThan(0);
});

test("rememberedDigest(): missing files and folders are errors", async () => {
  await expect(digest([path.join(folder, "none")])).rejects.toThrow(/^Cannot hash ".*none": no such file or folder/);
  await expect(digest([folder])).rejects.toThrow("it is not a regular file");
});

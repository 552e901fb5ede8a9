import { createHash } from "node:crypto";
import { appendFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { fileState, hashFile } from "./file-digest.js";
import { type FingerprintOptions, type HashProgress, modelFingerprint } from "./fingerprint.js";

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

/** The fingerprint an hour from now, when files have been quiet, and the bytes hashed for it. */
async function fingerprint(files: readonly string[], options: Partial<FingerprintOptions> = {}) {
  const progress: HashProgress[] = [];
  const value = await modelFingerprint({
    files,
    weights: "keep",
    extra: [],
    cacheDir,
    onProgress: (step) => progress.push(step),
    now: () => Date.now() + HOUR_MS,
    ...options,
  });
  expect(value).toMatch(/^[0-9a-f]{64}$/);
  return { value, numHashed: progress.at(-1)?.bytesDone ?? 0, progress };
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

test("modelFingerprint(): content, conversion and extras count; order, names and places do not", async () => {
  const [a, b, c] = [await file("a", "one"), await file("b", "two"), await file("elsewhere/c", "two")];
  const { value } = await fingerprint([a, b]);
  expect((await fingerprint([b, a])).value).toBe(value);
  expect((await fingerprint([a, c])).value).toBe(value);
  const others = [
    await fingerprint([a]),
    await fingerprint([a, b, c]),
    await fingerprint([a, a]),
    await fingerprint([a, b], { weights: "q8_0" }),
    await fingerprint([a, b], { extra: ["x"] }),
    await fingerprint([a, b], { extra: ["x", "y"] }),
    await fingerprint([a, b], { extra: ["y", "x"] }),
    await fingerprint([a, b], { extra: ["xy"] }),
  ];
  expect(new Set([value, ...others.map((other) => other.value)]).size).toBe(others.length + 1);
});

test("modelFingerprint(): hashes a file once, and again when it changed", async () => {
  const [a, b] = [await file("a", "one"), await file("b", "three")];
  const first = await fingerprint([a, b]);
  expect(first.numHashed).toBe(8);
  expect(first.progress.at(-1)).toEqual({ path: b, bytesDone: 8, bytesTotal: 8 });
  const second = await fingerprint([a, b]);
  expect(second).toMatchObject({ value: first.value, numHashed: 0 });
  await symlink(b, path.join(folder, "link"));
  expect(await fingerprint([a, path.join(folder, "link")])).toMatchObject({ value: first.value, numHashed: 0 });
  // Same size and same modification time: the change time gives it away.
  const { mtimeNs } = await fileState(b);
  await file("b", "eight");
  await utimes(b, Number(mtimeNs) / 1e9, Number(mtimeNs) / 1e9);
  const third = await fingerprint([a, b]);
  expect(third.numHashed).toBe(5);
  expect(third.value).not.toBe(first.value);
});

test("modelFingerprint(): does not remember a file that was touched just now", async () => {
  const a = await file("a", "one");
  await fingerprint([a], { now: Date.now });
  expect((await fingerprint([a])).numHashed).toBe(3);
});

test.each(["", "{", "null", '{"version":1,"files":[{"path":1}]}', '{"version":2,"files":[]}', "\0".repeat(5 << 20)])(
  "modelFingerprint(): a damaged cache file is ignored and replaced (%#)",
  async (damaged) => {
    const a = await file("a", "one");
    const { value } = await fingerprint([a], { cacheDir: undefined });
    await file("cache/file-digests.json", damaged);
    expect(await fingerprint([a])).toMatchObject({ value, numHashed: 3 });
    expect(await fingerprint([a])).toMatchObject({ value, numHashed: 0 });
  },
);

test("modelFingerprint(): a cache folder that cannot be written is ignored", async () => {
  const a = await file("a", "one");
  const { value } = await fingerprint([a], { cacheDir: undefined });
  expect(await fingerprint([a], { cacheDir: path.join(a, "inside-a-file") })).toMatchObject({ value, numHashed: 3 });
  await mkdir(path.join(cacheDir, "file-digests.json"), { recursive: true });
  expect(await fingerprint([a])).toMatchObject({ value, numHashed: 3 });
  expect(await readdir(cacheDir)).toEqual(["file-digests.json"]);
});

test("modelFingerprint(): what a killed process left half written goes, what another writes now stays", async () => {
  const names = ["file-digests.json.old.tmp", "file-digests.json.new.tmp", "another.tmp"];
  for (const name of names) await file(`cache/${name}`, "half");
  const anHourAgo = Date.now() / 1000 - 3600;
  for (const name of [names[0], names[2]]) await utimes(path.join(cacheDir, name as string), anHourAgo, anHourAgo);
  await fingerprint([await file("a", "one")]);
  expect((await readdir(cacheDir)).sort()).toEqual(["another.tmp", "file-digests.json", "file-digests.json.new.tmp"]);
});

test("modelFingerprint(): many at once leave one whole cache file and nothing else", async () => {
  const files = await Promise.all(Array.from({ length: 20 }, (_, i) => file(`f${i}`, `content ${i}`)));
  await Promise.all(files.map((filePath) => fingerprint([filePath])));
  expect(await readdir(cacheDir)).toEqual(["file-digests.json"]);
  const remembered = JSON.parse(await readFile(path.join(cacheDir, "file-digests.json"), "utf8"));
  expect(remembered.files.length).toBeGreaterThan(0);
});

test("modelFingerprint(): missing files, folders and cancelled runs are errors", async () => {
  const a = await file("a", new Uint8Array(4 << 20));
  await expect(fingerprint([path.join(folder, "none")])).rejects.toThrow(
    /^Cannot hash ".*none": no such file or folder/,
  );
  await expect(fingerprint([folder])).rejects.toThrow("it is not a regular file");
  await expect(fingerprint([a], { signal: AbortSignal.abort(new Error("gone")) })).rejects.toThrow("gone");
  const cancel = new AbortController();
  const onProgress = (): void => cancel.abort(new Error("cancelled"));
  await expect(fingerprint([a], { signal: cancel.signal, onProgress })).rejects.toThrow("cancelled");
});

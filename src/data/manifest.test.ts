import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { digestInputs, manifestPath, writeManifest } from "./manifest.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-manifest-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

test("writeManifest(): tells inputs, options, counts, reasons in their own order and the output, and no times", async () => {
  const [input, output] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
  writeFileSync(input, "{}\n");
  writeFileSync(output, "[]\n");
  const fields = {
    command: "data test",
    options: { seed: "42", limit: null },
    inputs: await digestInputs([input, "-"]),
    tokenizerDigest: "abc",
    counts: { rows: 3, written: 1 },
    dropped: { "too long": 1, empty: 1 },
  };
  await writeManifest(output, fields);
  const first = readFileSync(manifestPath(output), "utf8");
  expect(JSON.parse(first)).toEqual({
    format_version: 1,
    command: "data test",
    options: { seed: "42", limit: null },
    inputs: [
      { path: input, bytes: 3, sha256: sha256("{}\n") },
      { path: "-", bytes: null, sha256: null },
    ],
    tokenizer_digest: "abc",
    counts: { rows: 3, written: 1 },
    dropped: { empty: 1, "too long": 1 },
    output: { path: "out.jsonl", bytes: 3, sha256: sha256("[]\n") },
  });
  expect(Object.keys(JSON.parse(first).dropped)).toEqual(["empty", "too long"]);
  await writeManifest(output, { ...fields, dropped: { empty: 1, "too long": 1 } });
  expect(readFileSync(manifestPath(output), "utf8")).toBe(first);
});

test("digestInputs(): a file that is missing, or is a folder, is told", async () => {
  await expect(digestInputs([join(folder, "none")])).rejects.toThrow(/Cannot read ".*none": no such file/);
  await expect(digestInputs([folder])).rejects.toThrow(/not a regular file/);
});

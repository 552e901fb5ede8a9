import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { trainerPython } from "../src/train/python-environment.js";
import { runCli } from "./run-cli.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-train-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (...parts: string[]) => join(folder, ...parts);

for (const name of [
  "model",
  "empty",
  "no-weights",
  "no-tokenizer",
  "runs/done/checkpoint-8",
  "checkpoint",
  "adapter",
]) {
  mkdirSync(at(...name.split("/")), { recursive: true });
}
const files: Readonly<Record<string, unknown>> = {
  "model/config.json": {},
  "model/model.safetensors": {},
  "model/tokenizer.json": {},
  "no-weights/config.json": {},
  "no-tokenizer/config.json": {},
  "no-tokenizer/model.safetensors": {},
  "list.json": [],
  "raw.jsonl": {
    messages: [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
    ],
  },
  "checkpoint/config.json": { block_attention: {} },
  "adapter/adapter_config.json": {},
  "runs/done/checkpoint-8/plan.json": {
    seed: 42,
    rows_per_step: 4,
    tokens_per_row: null,
    open_rows: 16,
    shuffled_row_groups: 8,
  },
  "settings.json": {
    output_folder: at("runs"),
    run_name: "new",
    model: { path: at("model") },
    data: { train: [at("a.parquet")] },
    optimizer: { learning_rate: 1e-3 },
    training: { steps: 1, rows_per_step: 4 },
  },
  "tokenizer.json": {
    output_folder: at("runs"),
    run_name: "new",
    model: { architecture: { model_type: "llama" } },
    tokenizer: { text: [at("text.txt")] },
    data: { text: [at("text.txt")] },
    optimizer: { learning_rate: 1e-3 },
    training: { steps: 1, rows_per_step: 4 },
  },
};
for (const [name, value] of Object.entries(files)) writeFileSync(at(...name.split("/")), JSON.stringify(value));
const packed = await runCli([
  "data",
  "pack",
  "--input",
  at("raw.jsonl"),
  "--output",
  at("a.parquet"),
  "--workers",
  "0",
]);
if (packed.error !== undefined) throw packed.error;
writeFileSync(at("cut.parquet"), readFileSync(at("a.parquet")).subarray(0, -9));
const otherColumns = join(import.meta.dirname, "fixtures", "raw", "2wiki", "dev.parquet");
writeFileSync(at("text.txt"), "text");
mkdirSync(at("runs", "given", "export"), { recursive: true });
copyFileSync(at("a.parquet"), at("runs", "given", "export", "a.parquet"));

/** Whatever gets through the checks looks for a Python, and there is none. */
const noPython = { PATH: at("empty"), HOME: folder, XDG_CACHE_HOME: at("cache") };
const reached = 'Cannot make the Python environment: there is neither "python3" nor "python"';

const train = ["train", "--config", at("settings.json")];
const set = (...overrides: string[]) => overrides.flatMap((each) => ["--set", each]);
const path = (...parts: string[]) => JSON.stringify(at(...parts));

test.each<[args: readonly string[], says: string]>([
  [train, reached],
  [["train", "--config", at("none.json")], `Cannot read ${path("none.json")}: no such file`],
  [
    [...train, ...set("training.rows_per_step=0")],
    `Cannot use ${path("settings.json")}: "training.rows_per_step" is 0`,
  ],
  [[...train, ...set("training.row=1")], `Cannot use ${path("settings.json")}: there is no setting "training.row"`],
  [[...train, "--processes", "3"], 'Cannot share "training.rows_per_step" among processes: 4 rows, 3 processes'],
  [[...train, ...set(`model.path=${at("none")}`)], `Cannot load a model from ${path("none")}: no such file or folder`],
  [
    [...train, ...set(`model.path=${at("empty")}`)],
    `Cannot load a model from ${path("empty")}: it has no "config.json"`,
  ],
  [[...train, ...set(`model.path=${at("text.txt")}`)], `Cannot load a model from ${path("text.txt")}: it is no folder`],
  [[...train, ...set("model.path=some-owner/some-model")], reached],
  [[...train, ...set('model.path=""')], 'Cannot load a model from "": no such file or folder'],
  [
    [...train, ...set(`model.path=${at("no-weights")}`)],
    `Cannot load a model from ${path("no-weights")}: it has no weights, a .safetensors or .bin file`,
  ],
  [
    [...train, ...set(`model.path=${at("no-tokenizer")}`)],
    `Cannot load a tokenizer from ${path("no-tokenizer")}: it has no tokenizer`,
  ],
  [
    [...train, ...set(`lora={"adapter": "${at("empty")}"}`)],
    `Cannot load an adapter from ${path("empty")}: it has no "adapter_config.json"`,
  ],
  [[...train, ...set(`model.tokenizer=${at("empty")}`)], `Cannot load a tokenizer from ${path("empty")}: it has no`],
  [
    [...train, ...set("training.distributed=deepspeed", `training.deepspeed_config=${at("list.json")}`)],
    `Cannot read ${path("list.json")}: it is no JSON object`,
  ],
  [
    [...train, ...set("model.tokenizer=hf:o/n")],
    'Cannot load a tokenizer from "hf:o/n": wanted a folder, or OWNER/REPO',
  ],
  [[...train, ...set(`model.tokenizer=${at("none")}`)], `Cannot load a tokenizer from ${path("none")}: no such file`],
  [[...train, ...set(`data.train=[${path("none.parquet")}]`)], `Cannot read ${path("none.parquet")}: no such file`],
  [[...train, ...set(`data.train=[${path("empty")}]`)], `Cannot read ${path("empty")}: it is a folder`],
  [[...train, ...set(`data.train=[${path("text.txt")}]`)], `Cannot read ${path("text.txt")}: it is no Parquet file`],
  [
    [...train, ...set(`data.train=[${path("cut.parquet")}]`)],
    `Cannot read ${path("cut.parquet")}: it is no Parquet file`,
  ],
  [
    [...train, ...set(`data.train=[${JSON.stringify(otherColumns)}]`)],
    `Cannot read ${JSON.stringify(otherColumns)}: it has no column "input_ids"`,
  ],
  [
    [...train, ...set("run_name=given", `data.train=[${path("runs", "given", "export", "a.parquet")}]`)],
    `Cannot write ${path("runs", "given", "export")}: ${path("runs", "given", "export", "a.parquet")}, which is read, lies in it`,
  ],
  [
    [...train, ...set(`data.evaluation=[${path("text.txt")}]`)],
    `Cannot read ${path("text.txt")}: it is no Parquet file`,
  ],
  [[...train, ...set(`output_folder=${at("text.txt")}`)], `Cannot write into ${path("text.txt")}: it is no folder`],
  [[...train, ...set("run_name=done")], reached],
  [[...train, ...set("run_name=done"), "--new"], `Cannot start anew: ${path("runs", "done")} has checkpoints`],
  [
    [...train, ...set("run_name=done", "training.seed=1")],
    `Cannot go on from ${path("runs", "done", "checkpoint-8")}: "seed" was 42, now it is 1`,
  ],
  [[...train, ...set("logging.wandb=true")], "Cannot make the Python environment: the settings need wandb"],
  [["train-tokenizer", "--config", at("tokenizer.json")], reached],
  [["train-tokenizer", "--config", at("settings.json")], `${path("settings.json")} has no "tokenizer"`],
  [
    ["train-tokenizer", "--config", at("tokenizer.json"), ...set(`tokenizer.text=[${path("none.txt")}]`)],
    `Cannot read ${path("none.txt")}: no such file`,
  ],
  [
    ["train-tokenizer", "--config", at("tokenizer.json"), "--output", at("text.txt", "out")],
    `Cannot write into ${path("text.txt")}: it is no folder`,
  ],
  [["export", "--checkpoint", at("checkpoint"), "--output", at("out")], reached],
  [["export", "--checkpoint", at("adapter"), "--output", at("out")], reached],
  [["export", "--checkpoint", at("none"), "--output", at("out")], `Cannot export ${path("none")}: no such file`],
  [["export", "--checkpoint", at("model"), "--output", at("out")], 'its config.json has no "block_attention"'],
  [["export", "--checkpoint", at("empty"), "--output", at("out")], 'it is no checkpoint, it has no "config.json"'],
  [["export", "--checkpoint", at("checkpoint"), "--output", at("out"), "--dtype", "int8"], "Cannot use --dtype"],
  [
    [
      ...["data", "retrieve", "--method", "dense", "--embedding-model", at("none")],
      ...["--input", at("text.txt"), "--output", at("out.jsonl")],
    ],
    `Cannot load a model from ${path("none")}: no such file`,
  ],
])("%j is judged before there is a Python environment", async (args, says) => {
  const { error, stdout } = await runCli(args, noPython);
  expect(error?.message).toContain(says);
  expect(error?.message).not.toContain("\n");
  expect(stdout).toBe("");
});

test("trainerPython(): one that cannot be started leaves no timer behind, which would hold the process for a minute", async () => {
  const numTimers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  const before = numTimers();
  const { error } = await runCli([...train, "--python", at("none")], noPython);
  expect(error?.message).toContain(`Cannot use Python ${path("none")} of --python: no such program`);
  expect(numTimers()).toBeLessThanOrEqual(before);
});

test.skipIf(process.platform === "win32")(
  "trainerPython(): tells how far the installation is, and pip's warnings",
  async () => {
    const python = at("bin", "python3");
    mkdirSync(dirname(python));
    const told = [
      { say: "Making it" },
      { progress: { stage: "downloading", packages: 3, of: 70, bytes: 1024 } },
      { progress: { stage: "installing", packages: 70, of: 70, bytes: 4096 } },
      { python: "made" },
    ];
    writeFileSync(
      python,
      `#!/usr/bin/env node
if (process.argv[2] === "-c") console.log(JSON.stringify({ version: [3, 12], missing: [] }));
else {
  console.error("WARNING: slow");
  for (const line of ${JSON.stringify(told)}) console.log(JSON.stringify(line));
}
`,
    );
    chmodSync(python, 0o755);
    const said: string[] = [];
    const made = await trainerPython({
      named: undefined,
      extraPackages: [],
      cacheDir: at("cache"),
      pythonFolder: at("empty"),
      env: { PATH: [dirname(python), dirname(process.execPath), process.env.PATH].join(delimiter) },
      say: (line) => said.push(line),
      onProgress: ({ stage, packages, of, bytes }) => said.push(`${stage} ${packages}/${of} ${bytes}`),
      signal: new AbortController().signal,
    });
    expect(made).toBe("made");
    expect(said.toSorted()).toEqual(["Making it", "WARNING: slow", "downloading 3/70 1024", "installing 70/70 4096"]);
  },
);

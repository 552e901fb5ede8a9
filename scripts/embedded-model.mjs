// The embedded model from nothing, step by step: `npm run embedded-model -- data`, then `train`, then `table`. Each step goes
// on where it was interrupted. With --small everything is made in a small size, in a folder of its own: minutes on two cores,
// for seeing that it works. docs/embedded-model.md tells what the steps are and what came out.
import { spawnSync } from "node:child_process";
import { createReadStream, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));

/** Models of the table, in the order in which they are trained; the last three go on from the first. */
const stages = ["full", "block", "full-longer", "no-reencoding"];
const sizes = {
  whole: { contexts: 60_000, passages: "2-10", heldOut: [], steps: undefined },
  small: {
    contexts: 1500,
    passages: "2-4",
    heldOut: ["--questions", "40", "--passages", "4"],
    steps: { full: 120, block: 60, "full-longer": 60, "no-reencoding": 60 },
  },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    small: { type: "boolean", default: false },
    stage: { type: "string" },
    noise: { type: "string" },
    questions: { type: "string" },
    concurrency: { type: "string", default: "1" },
  },
});
const [step] = positionals;
const size = values.small ? sizes.small : sizes.whole;
const folder = values.small ? "runs/embedded-model-small" : "runs/embedded-model";
const recipe = "recipes/embedded-model";

const steps = { data, train, table };
if (!Object.hasOwn(steps, step ?? "") || positionals.length > 1) {
  fail(`Cannot run: the step is "${positionals.join(" ")}", wanted ${Object.keys(steps).join(", ")}`, 2);
}
if (values.stage !== undefined && !stages.includes(values.stage)) {
  fail(`Cannot train: the stage is "${values.stage}", wanted ${stages.join(", ")}`, 2);
}
await steps[step]();

function fail(message, code = 1) {
  console.error(message);
  process.exit(code);
}

/** Runs one of our commands; ends with its exit code if it fails. */
function command(...args) {
  console.log(`\n$ block-attention ${args.join(" ")}`);
  const { status, signal } = spawnSync(process.execPath, [join("dist", "cli", "main.js"), ...args], {
    stdio: "inherit",
  });
  if (status !== 0) fail(`Ended with ${signal ?? status}`, status ?? 1);
}

/** A file that is there is done: each is written whole or not at all. */
function unlessThere(file, make) {
  if (existsSync(file)) console.log(`There already: ${file}`);
  else return make();
}

async function data() {
  const noise = values.noise === undefined ? [] : ["--noise", values.noise];
  const made = ["--passages", size.passages, "--questions", "7", ...noise];
  const text = join(folder, "text.txt");
  const tokenizer = join(folder, "tokenizer");
  await unlessThere(text, async () => {
    // The tokenizer learns from other contexts of the same worlds.
    const source = join(folder, "text.jsonl");
    command(
      "data",
      "synth",
      "--split",
      "train",
      "--contexts",
      "2000",
      "--seed",
      "tokenizer",
      ...made,
      "--output",
      source,
    );
    await writeText(source, text);
  });
  unlessThere(join(tokenizer, "tokenizer.json"), () => {
    const set = ["--set", `tokenizer.text=${JSON.stringify([text])}`];
    command("train-tokenizer", "--config", join(recipe, "tokenizer.json"), ...set, "--output", tokenizer);
  });
  for (const [split, contexts] of [
    ["train", size.contexts],
    ["dev", 100],
  ]) {
    const packed = join(folder, `${split}.parquet`);
    unlessThere(packed, () => {
      const lines = join(folder, `${split}.jsonl`);
      const cut = ["--format", "train", "--model", tokenizer, "--output", lines];
      command("data", "synth", "--split", split, "--contexts", String(contexts), ...made, ...cut);
      command("data", "pack", "--model", tokenizer, "--input", lines, "--max-tokens", "1600", "--output", packed);
    });
  }
}

/** The passages, questions and answers of a set as plain text. */
async function writeText(source, output) {
  const parts = [];
  const seen = new Set();
  for await (const line of createInterface({ input: createReadStream(source) })) {
    const { group, documents, question, generated } = JSON.parse(line);
    if (!seen.has(group)) for (const { title, text } of documents) parts.push(`- Title: ${title}\n${text}\n`);
    seen.add(group);
    parts.push(`Question: ${question}\n${generated}\n`);
  }
  mkdirSync(dirname(output), { recursive: true });
  writeFileSync(`${output}.partial`, parts.join(""));
  renameSync(`${output}.partial`, output);
}

function train() {
  for (const stage of values.stage === undefined ? stages : [values.stage]) {
    unlessThere(join(folder, stage, "export", "config.json"), () => {
      const base = stage === "full" ? [] : [`model.path=${folder}/full/export`];
      const set = [
        `output_folder=${folder}`,
        `data.train=${JSON.stringify([`${folder}/train.parquet`])}`,
        `data.evaluation=${JSON.stringify([`${folder}/dev.parquet`])}`,
        ...(stage === "full" ? [`model.tokenizer=${folder}/tokenizer`] : base),
        ...(size.steps === undefined ? [] : [`training.steps=${size.steps[stage]}`]),
      ];
      command("train", "--config", join(recipe, `${stage}.json`), ...set.flatMap((one) => ["--set", one]));
    });
  }
}

function table() {
  const rows = join(folder, "rows.json");
  const model = (stage) => join("..", "..", folder, stage, "export");
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    rows,
    `${JSON.stringify(
      [
        { name: "full fine-tune", model: model("full"), mode: "full", paper: "full" },
        { name: "full fine-tune, block mode", model: model("full"), mode: "block", paper: "full_in_block" },
        { name: "block fine-tune, block mode", model: model("block"), mode: "block", paper: "block" },
        {
          name: "block fine-tune, full mode",
          model: model("block"),
          mode: "full",
          paper: "block_in_full",
          against: "block fine-tune, block mode",
        },
        {
          name: "block fine-tune, no position re-encoding",
          model: model("block"),
          mode: "block",
          positionReencoding: false,
          against: "block fine-tune, block mode",
        },
        {
          name: "trained and evaluated without re-encoding",
          model: model("no-reencoding"),
          mode: "block",
          positionReencoding: false,
          paper: "no_reencoding",
          against: "block fine-tune, block mode",
        },
        {
          name: "full fine-tune continued as long",
          model: model("full-longer"),
          mode: "full",
          against: "block fine-tune, block mode",
        },
      ],
      null,
      2,
    )}\n`,
  );
  const questions = values.questions === undefined ? [] : ["--questions", values.questions];
  const hotpot = join("..", "shared", "data", "hotpot_dev_distractor_sample.json");
  command(
    ...["eval", "table", "--rows", rows, "--output", join(folder, "accuracy"), "--threads", "1"],
    ...["--concurrency", values.concurrency, ...size.heldOut, ...questions],
    ...(existsSync(hotpot) ? ["--hotpot", hotpot] : []),
  );
}

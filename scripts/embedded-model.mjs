// The embedded model from nothing, step by step: `npm run embedded-model -- data`, then `train`, then `table`. Each step goes
// on where it was interrupted. With --small everything is made in a small size, in a folder of its own: minutes on two cores,
// for seeing that it works. docs/embedded-model.md tells what the steps are and what came out.
import { spawnSync } from "node:child_process";
import { createReadStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));

/**
 * Models in the order in which they are trained. "base" learns plain text, "reading" and "full" go on with answers, and the next
 * three go on from "full": they and "full" are the models of the table. The last seven go on from "block", one from another, and
 * "tiny-rag" is what is shipped. Their recipes say what each goes on from.
 */
const stages = [
  "base",
  "reading",
  "full",
  "block",
  "full-longer",
  "no-reencoding",
  "spelling",
  "spelling-2",
  "names",
  "kin",
  "kin-2",
  "mixed",
  "tiny-rag",
];
const sizes = {
  whole: { contexts: 8000, texts: 8000, reading: 1000, share: 1, held: 100, passages: "2-10", heldOut: [] },
  small: {
    contexts: 500,
    texts: 800,
    reading: 50,
    share: 0.02,
    held: 20,
    passages: "2-4",
    heldOut: ["--questions", "40", "--passages", "4"],
    steps: {
      ...{ base: 50, reading: 30, full: 15, block: 15, "full-longer": 15, "no-reencoding": 15 },
      ...{ spelling: 10, "spelling-2": 10, names: 10, kin: 10, "kin-2": 10, mixed: 10, "tiny-rag": 10 },
    },
  },
};

/**
 * What the stages from "spelling" on learn: contexts from number `first` on as prompts of one question, and the same numbers as
 * contexts with all their questions and answers in one text, of two to five passages where nothing else is said. `respell` is
 * the share of words in smaller tokens; `real` sets have people and works named after real passages, which stand among the
 * passages of prompts.
 */
const furtherSets = {
  respelled: { first: 40_000, prompts: 1500, reading: 1500, readingPassages: "2-10", respell: 0.4 },
  "spelling-2": { first: 60_000, prompts: 2500, reading: 3500, respell: 0.5 },
  names: { first: 70_000, prompts: 2500, reading: 3500, respell: 0.3, real: true },
  kin: { first: 80_000, prompts: 2500, reading: 3500, respell: 0.3, real: true },
  "own-names": { first: 90_000, prompts: 4000, reading: 1600, respell: 0 },
  "real-names": { first: 95_000, prompts: 3000, reading: 1500, respell: 0.3, real: true },
};

const sharedPassages = join("..", "shared", "data", "2wiki_passages.jsonl");

/** What a recipe takes from the folder and writes to it. */
const paths = [
  ["output_folder"],
  ["model", "path"],
  ["model", "mean_with", "path"],
  ["export", "mean_with", "path"],
  ["model", "tokenizer"],
  ["data", "text"],
  ["data", "train"],
  ["data", "evaluation"],
];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    small: { type: "boolean", default: false },
    stage: { type: "string" },
    names: { type: "string" },
    questions: { type: "string" },
    concurrency: { type: "string", default: "1" },
  },
});
const [step] = positionals;
const size = values.small ? sizes.small : sizes.whole;
const folder = values.small ? "runs/embedded-model-small" : "runs/embedded-model";
const recipe = "recipes/embedded-model";

const steps = { data, train, curves, table };
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
  const real = values.names ?? (existsSync(sharedPassages) ? sharedPassages : undefined);
  if (real === undefined)
    console.log("Without real passages, whose names the last stages learn: --names FILE gives some");
  const text = join(folder, "text.txt");
  const tokenizer = join(folder, "tokenizer");
  await unlessThere(text, async () => {
    const source = join(folder, "text.jsonl");
    const made = ["--split", "train", "--seed", "text", "--passages", "2-4", "--questions", "10"];
    const shape = ["--format", "reading", "--contexts", String(size.texts)];
    command("data", "synth", ...made, ...shape, "--output", source, "--force");
    await writeText(source, text);
    rmSync(source);
  });
  unlessThere(join(tokenizer, "tokenizer.json"), () => {
    const set = ["--set", `tokenizer.text=${JSON.stringify([text])}`];
    command("train-tokenizer", "--config", join(recipe, "tokenizer.json"), ...set, "--output", tokenizer);
  });
  const { reading, held } = size;
  const read = (name, contexts, first, passages, questions) =>
    pack(name, tokenizer, "train", "reading", contexts, [
      ...["--seed", "reading", "--first", String(first), "--passages", passages, "--questions", questions],
    ]);
  read("reading-2", reading * 4, 0, "2", "10");
  read("reading-5", reading * 3, 10_000, "3-6", "12");
  read("reading-10", reading * 3, 20_000, "6-10", "20");
  pack("dev-short", tokenizer, "dev", "train", held, ["--seed", "short", "--passages", "2-3", "--questions", "7"]);
  const long = ["--passages", size.passages, "--questions", "12"];
  pack("dev", tokenizer, "dev", "train", held, long);
  pack("train", tokenizer, "train", "train", size.contexts, long);
  const names = real === undefined ? [] : ["--names", real];
  const noise = real === undefined ? [] : ["--noise", real];
  for (const [name, set] of Object.entries(furtherSets)) {
    const all = ["--first", String(set.first), "--questions", "12", ...(set.real ? names : [])];
    const further = (ending, format, contexts, passages, more) => {
      const made = [...all, "--passages", passages, ...more];
      pack(`${name}${ending}`, tokenizer, "train", format, Math.ceil(contexts * size.share), made, set.respell);
    };
    further("", "train", set.prompts, size.passages, set.real ? noise : []);
    further("-reading", "reading", set.reading, values.small ? size.passages : (set.readingPassages ?? "2-5"), []);
  }
  pack("dev-names", tokenizer, "dev", "train", held, [...long, ...names]);
  pack("dev-respelled", tokenizer, "dev", "train", held, long, 0.5);
}

/** Questions made, cut into blocks and tokenized. */
function pack(name, tokenizer, split, format, contexts, more, respell = 0) {
  const packed = join(folder, `${name}.parquet`);
  unlessThere(packed, () => {
    const lines = join(folder, `${name}.jsonl`);
    const made = ["--split", split, "--format", format, "--contexts", String(contexts), ...more];
    command("data", "synth", ...made, "--model", tokenizer, "--output", lines, "--force");
    const cut = ["--max-tokens", "1900", "--respell", String(respell)];
    command("data", "pack", "--model", tokenizer, "--input", lines, ...cut, "--output", packed);
    rmSync(lines);
  });
}

/** The passages, questions and answers of a set as plain text. */
async function writeText(source, output) {
  const parts = [];
  for await (const line of createInterface({ input: createReadStream(source) })) {
    const { blocks, response } = JSON.parse(line);
    parts.push(...blocks.slice(0, -1), response);
  }
  mkdirSync(dirname(output), { recursive: true });
  writeFileSync(`${output}.partial`, parts.join(""));
  renameSync(`${output}.partial`, output);
}

function train() {
  for (const stage of values.stage === undefined ? stages : [values.stage]) {
    unlessThere(join(folder, stage, "export", "config.json"), () => {
      const config = join(recipe, `${stage}.json`);
      const settings = JSON.parse(readFileSync(config, "utf8"));
      const set = paths.flatMap((path) => {
        const value = path.reduce((section, key) => section?.[key], settings);
        if (value === undefined) return [];
        return [`${path.join(".")}=${JSON.stringify(value).replaceAll("runs/embedded-model", folder)}`];
      });
      if (values.small) set.push(`training.steps=${size.steps[stage]}`, "evaluation.max_samples=40");
      command("train", "--config", config, ...set.flatMap((one) => ["--set", one]));
    });
  }
}

/** One picture of the stages one after another. */
async function curves() {
  const { curvesPicture, readCurve } = await import("../dist/train/curves.js");
  const trained = stages.filter(
    (stage) =>
      !["full-longer", "no-reencoding"].includes(stage) && existsSync(join(folder, stage, "export", "config.json")),
  );
  const runs = await Promise.all(trained.map((stage) => readCurve(join(folder, stage), stage)));
  writeFileSync(join(folder, "curves.svg"), curvesPicture("Embedded model", runs));
  console.log(`Drawn: ${join(folder, "curves.svg")}`);
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
        { name: "what is shipped, block mode", model: model("tiny-rag"), mode: "block" },
        {
          name: "what is shipped, full mode",
          model: model("tiny-rag"),
          mode: "full",
          against: "what is shipped, block mode",
        },
        {
          name: "what is shipped, no position re-encoding",
          model: model("tiny-rag"),
          mode: "block",
          positionReencoding: false,
          against: "what is shipped, block mode",
        },
        { name: "mixed, block mode", model: model("mixed"), mode: "block" },
        { name: "mixed, full mode", model: model("mixed"), mode: "full", against: "mixed, block mode" },
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
    ...(existsSync(hotpot) && !values.small ? ["--hotpot", hotpot] : []),
  );
}

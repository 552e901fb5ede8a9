// A recipe from raw files to tables: `npm run recipe -- --small`, or `npm run recipe -- --file recipes/rag/paper.json`. Steps are
// commands of block-attention, run in their order; a step whose files are there is done, so the same command goes on where it
// was interrupted. --input NAME=PATH and --set NAME=VALUE name a recipe's inputs and variables; --dry-run prints the commands;
// --from FILE removes what the step that makes this file, and those after it, have made.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));
const main = join("dist", "cli", "main.js");

const { values } = parseArgs({
  options: {
    small: { type: "boolean", default: false },
    file: { type: "string" },
    input: { type: "string", multiple: true, default: [] },
    set: { type: "string", multiple: true, default: [] },
    from: { type: "string" },
    "dry-run": { type: "boolean", default: false },
  },
});
if (values.small === (values.file !== undefined)) {
  fail("Cannot run a recipe: wanted either --small or --file RECIPE", 2);
}
const path = values.file ?? join("recipes", "rag", "small.json");
const recipe = read(path);
const { folder } = recipe;
const places = { folder, ...variables(), ...inputs() };
if (values.from !== undefined) forget(values.from);

const startedMs = Date.now();
for (const [i, step] of recipe.steps.entries()) {
  if (step.about) console.log(`\n# ${step.about}`);
  const made = step.makes.map((file) => join(folder, file));
  if (made.every((file) => existsSync(file))) console.log(`There already: ${made.join(", ")}`);
  else await run(step, `step ${i + 1} of ${recipe.steps.length}`);
}
if (!values["dry-run"]) {
  const results = recipe.results.map((file) => join(folder, file)).filter((file) => existsSync(file));
  for (const file of results.filter((file) => file.endsWith(".md"))) console.log(`\n${readFileSync(file, "utf8")}`);
  console.log(`\nDone in ${Math.round((Date.now() - startedMs) / 1000)} s: ${results.join(", ")}`);
}

function fail(message, code = 1) {
  console.error(message);
  process.exit(code);
}

function read(file) {
  try {
    const value = JSON.parse(readFileSync(file, "utf8"));
    if (typeof value.folder === "string" && Array.isArray(value.steps) && Array.isArray(value.results)) return value;
  } catch (error) {
    fail(`Cannot read the recipe "${file}": ${error.message}`, 2);
  }
  fail(`Cannot read the recipe "${file}": wanted "folder", "inputs", "steps" and "results"`, 2);
}

/** The recipe's variables; --set NAME=VALUE puts another value. */
function variables() {
  return { ...recipe.variables, ...pairs("--set", values.set, "variables") };
}

function pairs(flag, texts, what) {
  return Object.fromEntries(
    texts.map((text) => {
      const [, name, value] = /^([^=]+)=(.+)$/.exec(text) ?? fail(`Cannot use ${flag} "${text}": wanted NAME=VALUE`, 2);
      if (!Object.hasOwn(recipe[what] ?? {}, name)) {
        fail(`Cannot use ${flag} "${text}": the recipe's ${what} are ${Object.keys(recipe[what] ?? {}).join(", ")}`, 2);
      }
      return [name, value];
    }),
  );
}

/** Of each input, the place that --input NAME=PATH names, or else the first of the recipe's that is there. */
function inputs() {
  const named = pairs("--input", values.input, "inputs");
  return Object.fromEntries(
    Object.entries(recipe.inputs).map(([name, candidates]) => {
      const tried = named[name] === undefined ? candidates : [named[name]];
      const found = tried.find((place) => existsSync(place));
      if (found === undefined && !values["dry-run"]) {
        fail(
          `Cannot run the recipe: there is no input "${name}", looked for ${tried.map((place) => `"${place}"`).join(", ")}; docs/datasets.md tells where it comes from`,
        );
      }
      return [name, found ?? tried[0]];
    }),
  );
}

/** Removes what a step and those after it have made. The step is named by a file that it makes. */
function forget(file) {
  const first = recipe.steps.findIndex(({ makes }) => makes.includes(file));
  if (first < 0) fail(`Cannot begin from "${file}": no step makes that`, 2);
  for (const { makes } of recipe.steps.slice(first)) {
    for (const made of makes) rmSync(join(folder, made.split("/")[0]), { recursive: true, force: true });
  }
}

function filled(args, more = {}) {
  return args.map((arg) => arg.replace(/\{(\w+)\}/g, (whole, name) => ({ ...places, ...more })[name] ?? whole));
}

/** One step; with "server", while that command of ours listens; with "mayLeaveOut", rows or questions that cannot be used do not stop it. */
async function run(step, what) {
  if (values["dry-run"]) {
    if (step.server) console.log(`$ block-attention ${filled(step.server).join(" ")} &`);
    console.log(`$ block-attention ${filled(step.run).join(" ")}`);
    return;
  }
  const server = step.server === undefined ? undefined : await listen(filled(step.server));
  // What an interrupted step has left is written over.
  const isBegun = step.makes.some((file) => existsSync(join(folder, file)));
  const args = [
    ...filled(step.run, { server: server?.url }),
    ...(isBegun && step.run[0] !== "train" ? ["--force"] : []),
  ];
  console.log(`$ block-attention ${args.join(" ")}`);
  const { status, signal } = spawnSync(process.execPath, [main, ...args], { stdio: "inherit" });
  server?.process.kill("SIGTERM");
  const isMade = step.makes.every((file) => existsSync(join(folder, file)));
  // Our commands end with 1 where some rows or questions could not be used, and have written the others.
  if (status === 1 && step.mayLeaveOut && isMade) return;
  if (status !== 0) fail(`The recipe stopped: ${what} ended with ${signal ?? status}; the same command goes on there`);
}

async function listen(args) {
  console.log(`$ block-attention ${args.join(" ")} &`);
  const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "ignore"] });
  for await (const line of createInterface({ input: child.stdout })) {
    const [, url] = /^Listening on (\S+)$/.exec(line) ?? [];
    if (url) return { process: child, url };
  }
  fail("The recipe stopped: its server ended before it listened");
}

// What to run before a commit, in under a minute: `npm run check:fast`. Types, format and lint, import directions, and the
// tests that import what changed, nearest first, as many as the minute holds. What they leave to `npm test` is named.
// `npm run check:fast -- REF` compares with another commit than the one where this branch left main.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkImports } from "./check-imports.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
/** When no more tests are begun, and how many are begun together. */
const enoughMs = 35_000;
const batchSize = 8;
/** Whole-program tests that take up to minutes. */
const long = /^tests\/(laws|llama-cpp|real-models|server|server-laws)\/|^tests\/(oracles|llama-cpp)\.test\.ts$/;
const needsDist = "tests/build-dist.ts";

const failed = [];
const vitest = [process.execPath, "node_modules/vitest/vitest.mjs", "run"];

function run(name, [file, ...args]) {
  console.log(`\n=== ${name}`);
  const { status } = spawnSync(file, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) failed.push(name);
}

/** Lines that git prints; undefined where it fails. */
function git(...args) {
  const { status, stdout } = spawnSync("git", args, { cwd: root, encoding: "utf8" });
  return status === 0 ? stdout.split("\n").filter((line) => line !== "") : undefined;
}

/** Where this branch left main; on main itself, or without one, the last commit. */
function baseOf(asked) {
  for (const ref of asked === undefined ? ["main", "origin/main", "HEAD"] : [asked]) {
    const [base] = git("merge-base", ref, "HEAD") ?? [];
    if (base !== undefined) return base;
  }
  throw new Error(`Cannot compare with "${asked}": git knows no such commit`);
}

/** All that import one of these files, themselves included, nearest first. */
function reachedFrom(files, importers) {
  const reached = new Set(files);
  // What is added while it runs is visited too.
  for (const file of reached) for (const importer of importers.get(file) ?? []) reached.add(importer);
  return [...reached];
}

const base = baseOf(process.argv[2]);
const changed = [
  ...new Set([...git("diff", "--name-only", base), ...git("ls-files", "--others", "--exclude-standard")]),
].sort();
console.log(`${changed.length} files have changed since ${base.slice(0, 10)}`);

const startedMs = performance.now();
run("types", [process.execPath, "node_modules/typescript/bin/tsc", "--noEmit"]);
run("types of the page", [process.execPath, "node_modules/typescript/bin/tsc", "-p", "src/server/page/app"]);
run("format and lint", [process.execPath, "node_modules/@biomejs/biome/bin/biome", "check", "--error-on-warnings"]);
console.log("\n=== import directions");
const { wrong, importers, summary } = await checkImports();
for (const line of wrong) console.error(line);
console.log(summary);
if (wrong.length > 0) failed.push("import directions");

const isTest = (file) => file.endsWith(".test.ts") && !file.endsWith(".soak.test.ts") && existsSync(join(root, file));
const tests = reachedFrom(changed, importers).filter(isTest);
const ofDist = new Set(reachedFrom([needsDist], importers));
const leftOut = { "they need dist/": [], "they take long": [], "the minute is over": [] };
const toRun = [];
for (const test of tests) {
  if (ofDist.has(test)) leftOut["they need dist/"].push(test);
  else if (long.test(test)) leftOut["they take long"].push(test);
  else toRun.push(test);
}
let numRun = 0;
while (numRun < toRun.length && performance.now() - startedMs < enoughMs) {
  const batch = toRun.slice(numRun, numRun + batchSize);
  run(`tests of what changed: ${batch.join(" ")}`, [...vitest, ...batch]);
  numRun += batch.length;
}
leftOut["the minute is over"].push(...toRun.slice(numRun));

const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
console.log(
  `\n=== Checked in ${seconds} s: types, format and lint, import directions, ${numRun} of ${tests.length} files of tests`,
);
for (const [reason, left] of Object.entries(leftOut)) {
  if (left.length > 0) console.log(`Left to npm test, as ${reason}: ${left.join(" ")}`);
}
if (failed.length > 0) {
  console.log(`The check FAILED: ${failed.join("; ")}`);
  process.exitCode = 1;
} else {
  console.log("The check passed.");
}

// Checks the trainer under python/: formatting, lint, types, tests. It makes the Python environment for that where there is
// none yet (once, some GB; in the user's cache folder). With --if-there it makes none: exit code 3 says that there is none.
// --tests-only leaves out all but the tests.
import { spawnSync } from "node:child_process";
import { cacheFolder, pythonFolder as folder, pythonEnvironment } from "./python-environment.mjs";

const ifThere = process.argv.includes("--if-there");
const testsOnly = process.argv.includes("--tests-only");

if (!ifThere)
  console.log(
    `Looking for the trainer's Python environment in ${cacheFolder}; it is made where there is none (6 GB, 9 GB meanwhile)`,
  );
const made = await pythonEnvironment("trainer-dev", "requirements-dev.txt", { ifThere });
if (made === undefined) process.exit(ifThere ? 3 : 1);
const failed = [];
// Tests against the harnesses themselves, and against vLLM, are passed over here: docs/benchmark-harnesses.md, check-vllm.mjs.
const tests = [
  ["pytest", "--durations=5"],
  ["pytest", "plugins"],
  ["pytest", "vllm_block_attention"],
];
const checks = [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"], ...tests];
for (const [name, ...args] of testsOnly ? tests : checks) {
  const what = [name, ...args].join(" ");
  console.log(`\n--- ${what}`);
  const { status } = spawnSync(made, ["-m", name, ...args], { cwd: folder, stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) failed.push(what);
}
if (failed.length > 0) {
  console.error(`The trainer's check failed: ${failed.join("; ")}`);
  process.exitCode = 1;
}

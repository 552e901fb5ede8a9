// Checks the trainer under python/: formatting, lint, types, tests. It makes the Python environment for that where there is
// none yet (once, some GB; in the user's cache folder). With --if-there it makes none: exit code 3 says that there is none.
// --tests-only leaves out all but the tests.
import { spawn, spawnSync } from "node:child_process";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { userCacheDir } from "../dist/files/user-cache-dir.js";

const folder = join(dirname(dirname(fileURLToPath(import.meta.url))), "python");
const ifThere = process.argv.includes("--if-there");
const testsOnly = process.argv.includes("--tests-only");
const cache = join(userCacheDir({ platform: process.platform, env: process.env, homeDir: homedir() }), "python");

const python = ["python3", "python"].find((name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0);
if (python === undefined) {
  console.error('Cannot check the trainer: there is neither "python3" nor "python"');
  process.exit(ifThere ? 3 : 1);
}

/** The interpreter of the environment that checks the trainer. */
async function environment() {
  const requirements = join(folder, "requirements-dev.txt");
  const args = ["--cache", cache, "--name", "trainer-dev", "--requirements", requirements];
  const { stdout } = spawn(python, [join(folder, "make_environment.py"), ...args, ...(ifThere ? ["--if-there"] : [])], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let made;
  let toldMs = Date.now();
  for await (const line of createInterface({ input: stdout })) {
    const { say, progress, error, python: path } = JSON.parse(line);
    if (say ?? error) console.error(say ?? error);
    if (progress && Date.now() - toldMs > 20_000) {
      toldMs = Date.now();
      const { stage, packages, of, bytes } = progress;
      console.error(`${stage}: ${packages} of ${of} packages, ${(bytes / 1e9).toFixed(1)} GB on disk`);
    }
    made ??= path;
  }
  if (made === undefined) process.exit(ifThere ? 3 : 1);
  return made;
}

if (!ifThere)
  console.log(
    `Looking for the trainer's Python environment in ${cache}; it is made where there is none (6 GB, 9 GB meanwhile)`,
  );
const made = await environment();
const failed = [];
// The plug-ins' tests against the harnesses themselves are passed over here: docs/benchmark-harnesses.md runs them.
const tests = [
  ["pytest", "--durations=5"],
  ["pytest", "plugins"],
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

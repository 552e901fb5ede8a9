// What `npm test` runs: all tests of TypeScript, then the trainer's where its Python environment is there; where it is not,
// it says how to make it. Arguments are vitest's, and then vitest alone runs: `npm test -- src/kv`.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const args = process.argv.slice(2);

function run(...command) {
  const { status, signal } = spawnSync(process.execPath, command, { cwd: root, stdio: "inherit" });
  return signal === null ? (status ?? 1) : 1;
}

const ofTypeScript = run(join("node_modules", "vitest", "vitest.mjs"), "run", ...args);
// The tests above have compiled src/ to dist/, which the check reads.
const ofTrainer = args.length > 0 ? 0 : run(join("scripts", "check-trainer.mjs"), "--if-there", "--tests-only");
if (ofTrainer === 3) {
  console.log(
    "The trainer's tests were skipped: its Python environment is not there. `npm run check` makes it (up to 6 GB), and runs them.",
  );
}
process.exitCode = ofTypeScript || (ofTrainer === 3 ? 0 : ofTrainer);

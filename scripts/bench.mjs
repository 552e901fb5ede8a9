// Runs the benchmarks of bench/: `npm run bench` all of them, one after another, `npm run bench -- ttft` one. What follows
// the name is for the benchmark itself: `npm run bench -- ttft 135m 4096`. `--compile` in place of a name runs none.
// A bench file is TypeScript with top-level code; all are compiled to dist-bench/ first, since Node 20 runs JavaScript only.
import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [name, ...benchArgs] = process.argv.slice(2);

// A benchmark is bench/NAME.ts; what several share stands in bench/shared.
const known = readdirSync(join(root, "bench"))
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.slice(0, -".ts".length))
  .sort();
if (name !== undefined && name !== "--compile" && !known.includes(name)) {
  console.error(`Cannot run the benchmark "${name}": there is none of that name, only ${known.join(", ")}`);
  process.exit(2);
}

/** Runs Node on a file in the project's folder; true if it ended well. */
function runNode(file, ...fileArgs) {
  const { status, signal, error } = spawnSync(process.execPath, ["--enable-source-maps", file, ...fileArgs], {
    cwd: root,
    stdio: "inherit",
  });
  if (status === 0) return true;
  console.error(`Cannot finish "${file}": it ended with ${error?.message ?? signal ?? status}`);
  return false;
}

rmSync(join(root, "dist-bench"), { recursive: true, force: true });
if (!runNode(join("node_modules", "typescript", "bin", "tsc"), "-p", "tsconfig.bench.json")) process.exit(1);
// What the compiled files look for beside themselves: the embedded model, and the scripts and fixtures of the tests.
symlinkSync(join(root, "models"), join(root, "dist-bench", "models"), "junction");
cpSync(join(root, "tests"), join(root, "dist-bench", "tests"), {
  recursive: true,
  filter: (path) => !path.endsWith(".ts"),
});
const failed = [];
for (const one of name === undefined ? known : name === "--compile" ? [] : [name]) {
  console.log(`\n## ${one}\n`);
  if (!runNode(join("dist-bench", "bench", `${one}.js`), ...benchArgs)) failed.push(one);
}
if (failed.length > 0) {
  console.error(`\nFailed: ${failed.join(", ")}`);
  process.exit(1);
}

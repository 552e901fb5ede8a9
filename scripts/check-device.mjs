// Runs the laws and oracles on another device than the CPU: `node scripts/check-device.mjs`, on Mesa's software Vulkan device, or
// `node scripts/check-device.mjs CUDA0`, on a device of the GPU package that is installed or of BLOCK_ATTENTION_GGML's folder. Other
// words choose test files: `node scripts/check-device.mjs oracles`. What passed in an earlier run is not run again, unless --fresh
// forgets it all.
// --rounding leaves the software device's products as ggml makes them, rounded to 16 bit, which is exact else.
// --short runs for two minutes at most: a software device compiles kernels for as long, and keeps them for the next run.
// --print runs nothing, and prints docs/devices.md's table of all devices that were tried here.
//
// Mesa before 24 is passed over: its device touches buffers that were freed, and with them other memory of the process.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "block-attention", "devices");
const results = join(cache, "results");
const icds = "usr/share/vulkan/icd.d";
/** What `npm run check` has time for: whole prompts and single tokens, misses and hits, spans, both modes, and every fault. */
const short = [
  "tests/laws/one-pass.test.ts",
  "-t",
  "Engine.score\\(\\) of llama equals one pass with the block mask, KV f32",
];
const shortMs = 120_000;
/** How this ends where the time is over before the tests are. */
export const timeIsOver = 3;

function run(file, args, options = {}) {
  const { status, stdout, error } = spawnSync(file, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    ...options,
  });
  if (status === 0) return stdout;
  throw new Error(`"${file} ${args[0]}" ended with ${error?.message ?? status}`);
}

/** The file that tells Vulkan's loader where Mesa's software device is, the system's or one unpacked beside it, and its version. */
function findDriver() {
  if (process.env.VK_DRIVER_FILES) return { file: process.env.VK_DRIVER_FILES };
  const inFolder = (folder) => readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name));
  const system = existsSync(join("/", icds)) ? inFolder(join("/", icds)) : undefined;
  const versionOf = () => /^Version: (.*)$/m.exec(run("dpkg-query", ["-s", "mesa-vulkan-drivers"]))?.[1];
  const version = system && versionOf();
  if (Number.parseInt(version, 10) >= 24) return { file: join("/", icds, system), version };
  const folder = join(cache, "mesa");
  const file = join(folder, "lvp.json");
  if (!existsSync(file)) {
    unpackFromBackports(folder);
    const library = join(folder, run("find", [".", "-name", "libvulkan_lvp.so"], { cwd: folder }).trim());
    const icd = JSON.parse(readFileSync(join(folder, icds, inFolder(join(folder, icds))), "utf8"));
    writeFileSync(file, JSON.stringify({ ...icd, ICD: { ...icd.ICD, library_path: library } }));
  }
  return { file, version: /_([^_]*)_[^_]*\.deb$/.exec(packageIn(folder))[1] };
}

/** Debian's newer Mesa, unpacked into a folder; the system stays as it is. */
function unpackFromBackports(folder) {
  const [, codename] = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync("/etc/os-release", "utf8")) ?? [];
  const key = "/usr/share/keyrings/debian-archive-keyring.gpg";
  if (!existsSync(key))
    throw new Error("Mesa is older than 24 or not installed, and this is no Debian that has a newer one");
  for (const sub of ["lists/partial", "cache/archives/partial"]) mkdirSync(join(folder, sub), { recursive: true });
  const source = `deb [signed-by=${key}] http://deb.debian.org/debian ${codename}-backports main\n`;
  writeFileSync(join(folder, "sources.list"), source);
  const places = { "Etc::sourcelist": "sources.list", State: ".", "State::lists": "lists", Cache: "cache" };
  const options = Object.entries(places).flatMap(([name, path]) => ["-o", `Dir::${name}=${join(folder, path)}`]);
  const apt = (...args) =>
    run(
      "apt-get",
      [...options, "-o", "Dir::Etc::sourceparts=-", "-o", "Dir::State::status=/var/lib/dpkg/status", ...args],
      {
        cwd: folder,
        timeout: 60_000,
      },
    );
  apt("update");
  apt("download", `mesa-vulkan-drivers/${codename}-backports`);
  run("dpkg-deb", ["-x", packageIn(folder), "."], { cwd: folder });
}

function packageIn(folder) {
  return readdirSync(folder).find((name) => name.endsWith(".deb"));
}

/** The folder of ggml's libraries with Vulkan: of the package, kept in the user's cache. */
function findPackage() {
  if (process.env.BLOCK_ATTENTION_GGML) return process.env.BLOCK_ATTENTION_GGML;
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const version = manifest.optionalDependencies["@node-llama-cpp/linux-x64"];
  const folder = join(cache, `vulkan-${version}`);
  if (!existsSync(join(folder, "package"))) {
    mkdirSync(folder, { recursive: true });
    const name = `@node-llama-cpp/linux-${process.arch}-vulkan@${version}`;
    const file = run("npm", ["pack", name, "--silent"], { cwd: folder, timeout: 60_000 }).trim();
    run("tar", ["-xzf", file], { cwd: folder });
    rmSync(join(folder, file));
  }
  const bins = join(folder, "package", "bins");
  return join(bins, readdirSync(bins)[0]);
}

/** Vulkan's loader is the system's: without it, or what the driver is linked to, ggml's library finds no device. */
function requireDevice(env) {
  const library = JSON.stringify(pathToFileURL(join(root, "dist", "ggml", "library.js")).href);
  const list = `const { loadGgml } = await import(${library}); for (const { name } of loadGgml(process.env.BLOCK_ATTENTION_GGML).devices) console.log(name);`;
  const names = run(process.execPath, ["--input-type=module", "-e", list], { env: { ...process.env, ...env } });
  const wanted = env.BLOCK_ATTENTION_TEST_DEVICE;
  if (names.split("\n").includes(wanted)) return;
  throw new Error(`ggml finds no device "${wanted}" (Debian's package libvulkan1 has Vulkan's loader)`);
}

/** What the tests run with, or why they cannot. */
export function softwareDevice() {
  if (process.platform !== "linux" || process.arch !== "x64")
    return { reason: "Mesa's software device is tried on Linux on x64" };
  try {
    const { file, version } = findDriver();
    const env = {
      VK_DRIVER_FILES: file,
      BLOCK_ATTENTION_GGML: findPackage(),
      GGML_VK_VISIBLE_DEVICES: "0",
      // Products that round nothing.
      GGML_VK_DISABLE_F16: "1",
      BLOCK_ATTENTION_TEST_DEVICE: "Vulkan0",
    };
    requireDevice(env);
    return { env: version ? { ...env, BLOCK_ATTENTION_TEST_DRIVER: `Mesa ${version.split("~")[0]}` } : env };
  } catch (error) {
    return { reason: `Mesa's software device or ggml's package for it cannot be had: ${error.message}` };
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [flags, words] = [true, false].map((isFlag) =>
    process.argv.slice(2).filter((arg) => arg.startsWith("--") === isFlag),
  );
  if (flags.includes("--print")) printTable();
  else process.exitCode = await check(new Set(flags), words);
}

/** @returns the exit code. */
async function check(flags, words) {
  const device = words.find((word) => /^[A-Z]+[0-9]+$/i.test(word));
  const { env: found, reason } = device ? { env: { BLOCK_ATTENTION_TEST_DEVICE: device } } : softwareDevice();
  if (found === undefined) {
    console.error(`Cannot try a device: ${reason}`);
    return 1;
  }
  const env = { ...process.env, ...found };
  if (flags.has("--rounding")) delete env.GGML_VK_DISABLE_F16;
  const name = `${env.BLOCK_ATTENTION_TEST_DEVICE}, ${env.GGML_VK_DISABLE_F16 === undefined ? "rounding" : "exact"}`;
  const args = ["run", "--config", "vitest.device.config.ts"];
  if (flags.has("--short")) args.push(...short);
  else {
    const lines = join(results, `${name}.jsonl`);
    if (flags.has("--fresh")) rmSync(lines, { force: true });
    mkdirSync(results, { recursive: true });
    appendFileSync(lines, `${JSON.stringify({ cpu: cpus()[0]?.model, driver: env.BLOCK_ATTENTION_TEST_DRIVER })}\n`);
    env.BLOCK_ATTENTION_TEST_RESULTS = lines;
    const passed = [...readResults(lines).files.values()].flatMap(({ tests }) =>
      [...tests].filter(([, state]) => state === "passed").map(([test]) => test.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")),
    );
    if (passed.length > 0) args.push("-t", `^(?!(?:${passed.join("|")})$)`);
    args.push("--passWithNoTests", ...words.filter((word) => word !== device));
  }
  // A group of its own: a worker that compiles a kernel would outlive the tests.
  const options = { cwd: root, stdio: "inherit", env, detached: true };
  const child = spawn(process.execPath, ["node_modules/vitest/vitest.mjs", ...args], options);
  const end = () => process.kill(-child.pid, "SIGKILL");
  let isOver = false;
  const timer = setTimeout(
    () => {
      isOver = true;
      end();
    },
    flags.has("--short") ? shortMs : 2 ** 31 - 1,
  );
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, end);
  const [code] = await once(child, "close");
  clearTimeout(timer);
  return isOver ? timeIsOver : (code ?? 1);
}

/** What became of each test on a device: the last time that it ran counts. */
function readResults(path) {
  const about = {};
  const files = new Map();
  for (const line of readFileSync(path, "utf8").trim().split("\n")) {
    const { file, test, state, numTests, date, ...of } = JSON.parse(line);
    Object.assign(about, of);
    if (file === undefined) continue;
    if (!files.has(file)) files.set(file, { tests: new Map() });
    const found = files.get(file);
    if (numTests !== undefined) found.numTests = numTests;
    else {
      found.tests.set(test, state);
      about.from ??= date;
      about.to = date;
    }
  }
  return { about, files };
}

function printTable() {
  const found = existsSync(results) ? readdirSync(results).filter((name) => name.endsWith(".jsonl")) : [];
  const columns = found.sort().map((name) => ({ name: name.slice(0, -6), ...readResults(join(results, name)) }));
  const listed = run(
    process.execPath,
    ["node_modules/vitest/vitest.mjs", "list", "--filesOnly", "--config", "vitest.device.config.ts"],
    { cwd: root },
  );
  console.log(
    `| Tests that passed | ${columns.map(({ name }) => name).join(" | ")} |\n|---|${"---|".repeat(columns.length)}`,
  );
  for (const file of listed.trim().split("\n").sort()) {
    const cells = columns.map(({ files }) => {
      const { tests = new Map(), numTests } = files.get(file) ?? {};
      if (tests.size === 0) return "not run";
      const passed = [...tests.values()].filter((state) => state === "passed").length;
      const notRun = numTests - tests.size;
      return `${passed} of ${tests.size}${notRun > 0 ? `, ${notRun} not run` : ""}`;
    });
    console.log(`| \`${file}\` | ${cells.join(" | ")} |`);
  }
  for (const { name, about, files } of columns) {
    const { device, driver, ggml, cpu, from, to } = about;
    const when = [...new Set([from, to].map((date) => date?.slice(0, 10)))].join(" to ");
    console.log(`\n${name}: ${[device, driver, ggml && `ggml ${ggml}`, cpu, when].filter(Boolean).join(", ")}.`);
    const failed = [...files.values()].flatMap(({ tests }) => [...tests].filter(([, state]) => state === "failed"));
    for (const [test] of failed) console.log(`- failed: ${test}`);
  }
}

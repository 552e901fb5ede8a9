// Runs the laws and oracles on another device than the CPU: `node scripts/check-device.mjs`, on Mesa's software Vulkan device, or
// `node scripts/check-device.mjs CUDA0`, on a device of the GPU package that is installed or of BLOCK_ATTENTION_GGML's folder.
// --short runs for two minutes at most: a software device compiles kernels for as long, and keeps them for the next run. --print prints
// docs/devices.md's table.
//
// Mesa before 24 is passed over: its device touches buffers that were freed, and with them other memory of the process.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "block-attention", "devices");
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

/** The file that tells Vulkan's loader where Mesa's software device is: the system's, or one unpacked beside it. */
function findDriver() {
  if (process.env.VK_DRIVER_FILES) return process.env.VK_DRIVER_FILES;
  const inFolder = (folder) => readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name));
  const system = existsSync(join("/", icds)) ? inFolder(join("/", icds)) : undefined;
  const versionOf = () => /^Version: (.*)$/m.exec(run("dpkg-query", ["-s", "mesa-vulkan-drivers"]))?.[1];
  if (system !== undefined && Number.parseInt(versionOf(), 10) >= 24) return join("/", icds, system);
  const folder = join(cache, "mesa");
  const file = join(folder, "lvp.json");
  if (existsSync(file)) return file;
  const made = unpackFromBackports(folder);
  const library = join(folder, run("find", [".", "-name", "libvulkan_lvp.so"], { cwd: folder }).trim());
  const icd = JSON.parse(readFileSync(join(made, icds, inFolder(join(made, icds))), "utf8"));
  writeFileSync(file, JSON.stringify({ ...icd, ICD: { ...icd.ICD, library_path: library } }));
  return file;
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
  run("dpkg-deb", ["-x", readdirSync(folder).find((name) => name.endsWith(".deb")), "."], { cwd: folder });
  return folder;
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

/** What the tests run with, or why they cannot. */
export function softwareDevice() {
  if (process.platform !== "linux" || process.arch !== "x64")
    return { reason: "Mesa's software device is tried on Linux on x64" };
  try {
    const found = { VK_DRIVER_FILES: findDriver(), BLOCK_ATTENTION_GGML: findPackage() };
    // Exact products, and so the CPU's bounds.
    return {
      env: { ...found, GGML_VK_VISIBLE_DEVICES: "0", GGML_VK_DISABLE_F16: "1", BLOCK_ATTENTION_TEST_DEVICE: "Vulkan0" },
    };
  } catch (error) {
    return { reason: `Mesa's software device or ggml's package for it cannot be had: ${error.message}` };
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const flags = new Set(process.argv.slice(2).filter((arg) => arg.startsWith("--")));
  const [device] = process.argv.slice(2).filter((arg) => !arg.startsWith("--"));
  const { env, reason } = device ? { env: { BLOCK_ATTENTION_TEST_DEVICE: device } } : softwareDevice();
  if (env === undefined) {
    console.error(`Cannot try a device: ${reason}`);
    process.exit(1);
  }
  const out = join(mkdtempSync(join(tmpdir(), "block-attention-device-")), "report.json");
  const args = ["node_modules/vitest/vitest.mjs", "run", "--config", "vitest.device.config.ts", "--reporter=default"];
  const isShort = flags.has("--short");
  if (isShort) args.push(...short);
  args.push("--reporter=json", `--outputFile.json=${out}`);
  const { status, error } = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
    timeout: isShort ? shortMs : undefined,
  });
  if (flags.has("--print")) printTable(out, env.BLOCK_ATTENTION_TEST_DEVICE);
  process.exitCode = error?.code === "ETIMEDOUT" ? timeIsOver : (status ?? 1);
}

function printTable(report, device) {
  const { testResults } = JSON.parse(readFileSync(report, "utf8"));
  console.log(`\n| Tests | ${device} |\n|---|---|`);
  for (const { name, assertionResults } of testResults) {
    const ran = assertionResults.filter(({ status }) => status === "passed" || status === "failed");
    const passed = ran.filter(({ status }) => status === "passed").length;
    if (ran.length > 0) console.log(`| \`${name.slice(root.length + 1)}\` | ${passed} of ${ran.length} passed |`);
  }
}

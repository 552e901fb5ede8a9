// Builds llama.cpp's llama-server, the peer of the bench/serve-* benchmarks, and llama-quantize in the user's cache folder:
//   node bench/build-llama-server.mjs [SOURCE] [--jobs N]
// SOURCE is a folder of llama.cpp's source, a folder of llama-cpp-python's source, or its sdist (.tar.gz). Without it,
// pip downloads the sdist. Wanted: cmake, a C++ compiler, and, for the sdist, tar and Python's pip.
// The benchmarks find the program there; LLAMA_SERVER_PATH names another one.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { availableParallelism, homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sdist = "llama-cpp-python==0.3.36";

/** Options of the peer's build: as fast as this machine allows, without what the benchmarks do not use. */
const options = {
  CMAKE_BUILD_TYPE: "Release",
  BUILD_SHARED_LIBS: "OFF",
  GGML_NATIVE: "ON",
  LLAMA_CURL: "OFF",
  LLAMA_BUILD_UI: "OFF",
  LLAMA_OPENSSL: "OFF",
  LLAMA_BUILD_TESTS: "OFF",
  LLAMA_BUILD_EXAMPLES: "OFF",
};

function fail(message) {
  console.error(message);
  process.exit(1);
}

function run(what, file, args, { env = process.env } = {}) {
  console.log(`> ${file} ${args.join(" ")}`);
  const { status, signal, error } = spawnSync(file, args, { stdio: ["ignore", "inherit", "inherit"], env });
  if (status !== 0) fail(`Cannot ${what}: "${file}" ended with ${error?.message ?? signal ?? status}`);
}

function readArgs() {
  try {
    const { values, positionals } = parseArgs({ options: { jobs: { type: "string" } }, allowPositionals: true });
    const jobs = values.jobs === undefined ? availableParallelism() : Number(values.jobs);
    if (!Number.isInteger(jobs) || jobs < 1) throw new RangeError(`--jobs is "${values.jobs}", 1 or more is wanted`);
    if (positionals.length > 1) throw new RangeError(`${positionals.length} sources were given, one is wanted`);
    return { source: positionals[0], jobs };
  } catch (error) {
    fail(`Cannot read the arguments: ${error.message}`);
  }
}

/** The folder with llama.cpp's own CMakeLists.txt: the one given, or the one inside llama-cpp-python's source. */
function llamaCppFolder(folder) {
  return [folder, join(folder, "vendor", "llama.cpp")].find((place) =>
    existsSync(join(place, "tools", "server", "CMakeLists.txt")),
  );
}

function unpack(archive, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  run("unpack the source", "tar", ["-xzf", archive, "-C", folder, "--strip-components=1"]);
  return folder;
}

function download(folder) {
  const python = ["python3", "python"].find(
    (name) => spawnSync(name, ["-m", "pip", "--version"], { stdio: "ignore" }).status === 0,
  );
  if (python === undefined) fail(`Cannot download "${sdist}": there is no Python with pip; give a source folder`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  // pip asks the package for its name and version, for which its build tool alone is needed.
  const args = ["download", "--no-deps", "--no-binary", sdist.split("==")[0], "--dest", folder, sdist];
  run(`download "${sdist}"`, python, ["-m", "pip", ...args]);
  const archive = readdirSync(folder).find((name) => name.endsWith(".tar.gz"));
  if (archive === undefined) fail(`Cannot download "${sdist}": pip left no .tar.gz in "${folder}"`);
  return join(folder, archive);
}

const { source, jobs } = readArgs();
// The cache folder is where the program itself keeps its own: one rule, in one place.
const userCacheFile = join(root, "dist", "files", "user-cache-dir.js");
if (!existsSync(userCacheFile)) run("compile", process.execPath, [join(root, "scripts", "setup.mjs"), "--build"]);
const { userCacheDir } = await import(pathToFileURL(userCacheFile).href);
const cache = join(userCacheDir({ platform: process.platform, env: process.env, homeDir: homedir() }), "llama-server");
const build = join(cache, "build");

let given = source === undefined ? download(join(cache, "download")) : resolve(source);
if (!existsSync(given)) fail(`Cannot build llama-server: there is no "${given}"`);
if (!statSync(given).isDirectory()) given = unpack(given, join(cache, "source"));
const llamaCpp = llamaCppFolder(given);
if (llamaCpp === undefined) {
  fail(`Cannot build llama-server: "${given}" holds neither llama.cpp's source nor llama-cpp-python's`);
}

// cmake refuses a build folder of another source.
const configured = join(build, "CMakeCache.txt");
if (
  existsSync(configured) &&
  !readFileSync(configured, "utf8").includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${llamaCpp}\n`)
) {
  rmSync(build, { recursive: true });
}
console.log(`Building llama-server of "${llamaCpp}" in "${build}", ${jobs} at a time …`);
const defines = Object.entries(options).map(([name, value]) => `-D${name}=${value}`);
run("configure llama-server", "cmake", ["-S", llamaCpp, "-B", build, ...defines]);
run("build llama-server", "cmake", [
  "--build",
  build,
  "--config",
  "Release",
  "--target",
  "llama-server",
  "llama-quantize",
  "--parallel",
  String(jobs),
]);
const program = [["bin"], ["bin", "Release"]]
  .map((place) => join(build, ...place, process.platform === "win32" ? "llama-server.exe" : "llama-server"))
  .find((path) => existsSync(path));
if (program === undefined) fail(`Cannot find llama-server: cmake left none in "${join(build, "bin")}"`);
run("start llama-server", program, ["--version"]);
console.log(`Built "${program}"`);

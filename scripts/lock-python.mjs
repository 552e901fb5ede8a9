// Makes each requirements*.txt from the requirements*.in beside it: every package that is needed, for every platform, at one
// version with the digests of its files, so that pip takes nothing else. Needs uv (PyPI's package "uv"), or a Python that
// has it, and the network. Versions that a .txt has stay, unless a .in asks for others; --upgrade takes the newest.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** What the others include stands first. */
const files = [
  "python/requirements",
  "python/requirements-dev",
  "python/benchmarks/requirements",
  "python/plugins/requirements-lm-eval",
  "python/plugins/requirements-opencompass",
  "tests/laws/requirements",
  "python/vllm_block_attention/requirements",
  "tests/server-laws/requirements",
];

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));
const uv = [["uv"], ["python3", "-m", "uv"], ["python", "-m", "uv"]].find(
  ([file, ...args]) => spawnSync(file, [...args, "--version"], { stdio: "ignore" }).status === 0,
);
if (uv === undefined) fail('there is no uv; "pip install uv" gives it');

for (const file of files) {
  const source = readFileSync(`${file}.in`, "utf8");
  const included = [...source.matchAll(/^-r (.+)\.in$/gm)].map(([, path]) => path);
  // With digests pip takes "typepy[datetime]" where that is asked for, and no "typepy".
  const compile = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-strip-extras"];
  const options = [...compile, "--no-header", "--no-annotate"];
  const upgrade = process.argv.includes("--upgrade") ? ["--upgrade"] : [];
  // Where a file includes another, both are installed into one environment: of one version.
  const constraints = included.flatMap((path) => ["--constraints", `${join(dirname(file), path)}.txt`]);
  // What a package asks for and no index has.
  const overrides = existsSync(`${file}.overrides`) ? ["--override", `${file}.overrides`] : [];
  const how = [...options, ...upgrade, ...constraints, ...overrides];
  const args = ["pip", "compile", "--quiet", ...how, `${file}.in`, "-o", `${file}.txt`];
  const { status, signal, error } = spawnSync(uv[0], [...uv.slice(1), ...args], { stdio: "inherit" });
  if (status !== 0) fail(`uv ended with ${error?.message ?? signal ?? status} for "${file}.in"`);
  const there = new Map(included.flatMap((path) => packagesOf(`${join(dirname(file), path)}.txt`)));
  const packages = packagesOf(`${file}.txt`).filter(([key, text]) => there.get(key) !== text);
  const twice = packages.find(([key]) => there.has(key));
  if (twice !== undefined) fail(`"${twice[0]}" of "${file}.in" stands otherwise in a file that it includes`);
  const head = `# Made from ${file.split("/").at(-1)}.in by scripts/lock-python.mjs: not to be edited.\n`;
  writeFileSync(
    `${file}.txt`,
    head + included.map((path) => `-r ${path}.txt\n`).join("") + packages.map(([, text]) => text).join(""),
  );
  console.log(`${file}.txt: ${packages.length} packages`);
}

/** Each package and version, and its lines with the digests, as uv writes them. */
function packagesOf(path) {
  return [...readFileSync(path, "utf8").matchAll(/^([A-Za-z0-9]\S*).*(?:\n {4}--hash=.*)*\n/gm)].map(([text, key]) => [
    key,
    text,
  ]);
}

function fail(reason) {
  console.error(`Cannot lock the Python packages: ${reason}`);
  process.exit(1);
}

// Sets the project up where that is still to do: installs the packages that package-lock.json names, and with --build
// compiles src/ to dist/ and bundles the server's page. It says what it does and is quick when there is nothing to do.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  fail(`Cannot set up: Node.js is ${process.versions.node}, 20.19 or newer is wanted`);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}

/** Runs a program in the project's folder; ends this process with its message if it fails. */
function run(what, file, args, advice) {
  // npm is a script on Windows, which only a shell can start. The arguments are ours and need no quoting.
  const shell = process.platform === "win32" && file === "npm";
  const { status, signal, error } = spawnSync(file, args, {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    shell,
  });
  if (status === 0) return;
  fail(`Cannot ${what}: "${file} ${args.join(" ")}" ended with ${error?.message ?? signal ?? status}${advice}`);
}

/** npm writes this file last, so an install that was cut short is done again. */
function isInstalled() {
  const written = join(root, "node_modules", ".package-lock.json");
  const lock = join(root, "package-lock.json");
  if (!existsSync(written) || statSync(written).mtimeMs < statSync(lock).mtimeMs) return false;
  // An install without development packages cannot compile or test.
  return ["typescript", "vitest"].every((name) => existsSync(join(root, "node_modules", name, "package.json")));
}

if (!isInstalled()) {
  console.error("Installing the packages of package-lock.json (once, about 300 MB) …");
  run(
    "install the packages",
    "npm",
    ["ci", "--include=dev", "--include=optional", "--no-audit", "--no-fund", "--loglevel=error"],
    "; it needs the network and a folder that may be written to, and can be run again",
  );
}
if (process.argv.includes("--build")) {
  const startedMs = Date.now();
  const dist = join(root, "dist");
  const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
  run("compile", process.execPath, [compiler, "-p", "tsconfig.build.json"], "");
  run("bundle the page", process.execPath, [join(root, "scripts", "build-page.mjs")], "");
  // Both write every file anew: what is older has no source any more. Nothing is missing meanwhile.
  for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    // Two seconds: the coarsest clock of a file system in use.
    if (entry.isFile() && statSync(path).mtimeMs < startedMs - 2_000) rmSync(path);
  }
}

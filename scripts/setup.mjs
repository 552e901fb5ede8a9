// Sets the project up where that is still to do: installs the packages that package-lock.json names, and with
// --build compiles src/ to dist/. It says what it does and is quick when there is nothing to do.
import { execFileSync } from "node:child_process";
import { existsSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Cannot set up: Node.js is ${process.versions.node}, 20.19 or newer is wanted`);
  process.exit(1);
}

/** Runs a program in the project's folder; ends this process with its exit code if it fails. */
function run(what, file, args) {
  try {
    execFileSync(file, args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" });
  } catch (error) {
    console.error(`Cannot ${what}: "${[file, ...args].join(" ")}" ended with ${error.status ?? error.message}`);
    process.exit(1);
  }
}

const lock = join(root, "package-lock.json");
const installed = join(root, "node_modules", ".package-lock.json");
if (!existsSync(installed) || statSync(installed).mtimeMs < statSync(lock).mtimeMs) {
  console.error("Installing the packages of package-lock.json (once, about 300 MB) …");
  run("install the packages", "npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
}
if (process.argv.includes("--build")) {
  rmSync(join(root, "dist"), { recursive: true, force: true });
  run("compile", process.execPath, [join(root, "node_modules", "typescript", "bin", "tsc"), "-p", "tsconfig.build.json"]);
}

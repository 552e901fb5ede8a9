import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, rmdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const projectRoot = fileURLToPath(new URL("..", import.meta.url));

const entry = join(projectRoot, "dist", "cli", "main.js");
const lock = join(projectRoot, "node_modules", ".build-dist-lock");
/** A lock older than this was left behind: compiling takes seconds. */
const staleLockMs = 120_000;

/** Compiles src/ to dist/, the server's page too, where that is older, once even if several test files ask at the same time. */
export async function buildDist(): Promise<void> {
  for (;;) {
    if (isFresh()) return;
    if (takeLock()) break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  try {
    const compiler = join(projectRoot, "node_modules", "typescript", "bin", "tsc");
    if (!isFresh()) {
      execFileSync(process.execPath, [compiler, "-p", "tsconfig.build.json"], { cwd: projectRoot, stdio: "pipe" });
      execFileSync(process.execPath, [join("scripts", "build-page.mjs")], { cwd: projectRoot, stdio: "pipe" });
    }
  } finally {
    rmdirSync(lock);
  }
}

function takeLock(): boolean {
  try {
    mkdirSync(lock);
    return true;
  } catch {
    const heldSince = modifiedAt(lock);
    if (heldSince !== undefined && Date.now() - heldSince > staleLockMs) rmdirSync(lock);
    return false;
  }
}

/** Whether dist/ was compiled after the last change of src/, and nobody is compiling it. */
function isFresh(): boolean {
  const builtAt = modifiedAt(entry);
  if (builtAt === undefined) return false;
  const src = join(projectRoot, "src");
  const sources = readdirSync(src, { recursive: true, encoding: "utf8" });
  return sources.every((name) => {
    const isOfPage = name.startsWith(join("server", "page", "app"));
    // Declarations have no output: with them nothing would ever be fresh, and every test file would compile under the others.
    if (/\.(test|suite|d)\.ts$/.test(name) || !(isOfPage ? /\.\w+$/ : /\.ts$/).test(name)) return true;
    const product = isOfPage ? join("server", "page", "assets", "index.html") : name.replace(/\.ts$/, ".js");
    const output = modifiedAt(join(projectRoot, "dist", product));
    return output !== undefined && output >= (modifiedAt(join(src, name)) ?? 0);
  });
}

function modifiedAt(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs;
}

// Checks that whatever is installed is what was pinned: each entry of package-lock.json has a digest, or stands here with the
// reason; each Python package is of one version and has digests. No file names a registry, so that any mirror serves it.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

const unpublished =
  "the registry that wrote the lock lists no such version of this platform; npm takes it by its exact version where there is one";
/** Entries without a digest, each with the reason. `node scripts/complete-lock.mjs` asks for them again. */
const withoutDigest = new Map([
  ["node_modules/@node-llama-cpp/linux-riscv64", unpublished],
  ["node_modules/@node-llama-cpp/mac-arm64-metal", unpublished],
  ["node_modules/@node-llama-cpp/mac-x64", unpublished],
  ["node_modules/@node-llama-cpp/win-x64", unpublished],
]);

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));
const wrong = [];
let numEntries = 0;
const readLock = (file) => JSON.parse(readFileSync(file, "utf8")).packages;
const packages = readLock("package-lock.json");
for (const file of ["package-lock.json", "scripts/api-docs/package-lock.json"]) {
  for (const [path, { integrity, resolved, link }] of Object.entries(readLock(file))) {
    if (path === "") continue;
    numEntries++;
    const isListed = withoutDigest.has(path);
    if (resolved !== undefined) wrong.push(`${file}: "${path}" has an address, wanted none`);
    if (link !== undefined) wrong.push(`${file}: "${path}" is a link, wanted a package`);
    if (integrity !== undefined && isListed)
      wrong.push(`"${path}" has a digest by now: scripts/check-locks.mjs need not name it`);
    if (!isListed && !/^sha512-[\w+/]{86}==$/.test(integrity ?? "")) wrong.push(`${file}: "${path}" has no digest`);
  }
}
for (const path of withoutDigest.keys()) {
  if (packages[path] === undefined)
    wrong.push(`scripts/check-locks.mjs names "${path}", which is not in package-lock.json`);
}

const tracked = execFileSync("git", ["ls-files", "*requirements*.txt", "*requirements*.in"], { encoding: "utf8" });
const files = tracked.trim().split("\n");
let numPinned = 0;
for (const file of files.filter((name) => name.endsWith(".txt"))) {
  if (!files.includes(file.replace(/txt$/, "in"))) wrong.push(`${file}: there is no .in that it is made from`);
  // What a backslash continues is one line.
  const lines = readFileSync(file, "utf8")
    .replaceAll(/\\\r?\n/g, " ")
    .split(/\r?\n/);
  for (const line of lines.filter((text) => text !== "" && !text.startsWith("#"))) {
    if (/^-r [\w./-]+\.txt$/.test(line)) continue;
    numPinned++;
    if (!/^[\w.-]+(?:\[[\w., -]+\])?==[\w.!+]+(?: ; [^#]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+$/.test(line)) {
      wrong.push(`${file}: "${line.slice(0, 80)}" is not pinned with digests`);
    }
  }
}

for (const line of wrong) console.error(line);
console.log(
  `${numEntries} npm packages, ${withoutDigest.size} of them listed without a digest; ${numPinned} Python packages; ${wrong.length} wrong`,
);
if (wrong.length > 0) process.exitCode = 1;

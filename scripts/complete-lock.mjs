// Adds to package-lock.json the optional packages of other platforms that a registry mirror did not list when the
// lock file was written, so that `npm ci` works on every platform, and the digests that entries lack. Run it after every
// `npm install`; it asks the registry.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const systems = {
  darwin: "darwin",
  mac: "darwin",
  win: "win32",
  win32: "win32",
  linux: "linux",
  android: "android",
  freebsd: "freebsd",
  openharmony: "openharmony",
  openbsd: "openbsd",
  aix: "aix",
  netbsd: "netbsd",
  sunos: "sunos",
  wasm32: "wasi",
  wasm: "wasi",
  fsevents: "darwin",
  lightningcss: undefined,
  musl: "linux",
};
const cpus = [
  "x64",
  "arm64",
  "ia32",
  "arm",
  "armv7l",
  "riscv64",
  "ppc64",
  "s390x",
  "loong64",
  "mips64el",
  "wasm32",
  "armv6",
];
const lockPath = new URL("../package-lock.json", import.meta.url);
const lock = JSON.parse(readFileSync(lockPath, "utf8"));

/** The platform that a package is for, from the words of its name. */
function platformOf(name) {
  const words = name.split("/").at(-1).split(/[-_]/);
  const os = words.map((word) => systems[word]).find(Boolean);
  const cpu = words
    .map((word) => (word.startsWith("loong") ? "loong64" : word === "ppc64le" ? "ppc64" : word))
    .find((word) => cpus.includes(word));
  const libc = words.some((word) => word.startsWith("musl"))
    ? "musl"
    : words.some((word) => word.startsWith("gnu"))
      ? "glibc"
      : undefined;
  return { ...(os && { os: [os] }), ...(cpu && { cpu: [cpu] }), ...(libc && os === "linux" && { libc: [libc] }) };
}

const added = [];
for (const [path, entry] of Object.entries(lock.packages)) {
  for (const [name, range] of Object.entries(entry.optionalDependencies ?? {})) {
    const target = `node_modules/${name}`;
    if (lock.packages[target] || lock.packages[`${path}/${target}`]) continue;
    const platform = platformOf(name);
    if (!platform.os) throw new Error(`Cannot tell the platform of the optional package "${name}"`);
    const dev = path !== "" && entry.dev ? { dev: true } : {};
    lock.packages[target] = { version: String(range).replace(/^[~^]/, ""), ...dev, optional: true, ...platform };
    added.push(target);
  }
}
/** What the registry says is the digest of a package; undefined where it has none of this version. */
function digestOf(name, version) {
  // npm is a script on Windows, which only a shell can start. The names are those of the lock file.
  const shell = process.platform === "win32";
  const args = ["view", `${name}@${version}`, "dist.integrity", "--json"];
  const { stdout } = spawnSync("npm", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], shell });
  try {
    const answer = JSON.parse(stdout);
    return typeof answer === "string" ? answer : undefined;
  } catch {
    return undefined;
  }
}

const without = [];
for (const [path, entry] of Object.entries(lock.packages)) {
  if (path === "" || entry.integrity) continue;
  const integrity = digestOf(entry.name ?? path.split("node_modules/").at(-1), entry.version);
  if (integrity === undefined) {
    without.push(path);
    continue;
  }
  const { version, ...rest } = entry;
  lock.packages[path] = { version, integrity, ...rest };
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
writeFileSync(lockPath, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`package-lock.json: ${added.length} optional packages of other platforms added`);
// scripts/check-locks.mjs lists those that are let pass, with the reason.
for (const path of without) console.log(`The registry has no digest for "${path}"`);

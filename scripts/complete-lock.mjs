// Adds to package-lock.json the optional packages of other platforms that a registry mirror did not list when the
// lock file was written, so that `npm ci` works on every platform. Run it after every `npm install`.
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
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
writeFileSync(lockPath, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`package-lock.json: ${added.length} optional packages of other platforms added`);

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, posix } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildDist, projectRoot } from "./build-dist.js";

/** As `npm pack --json` tells it. Sizes in bytes. */
interface Packed {
  readonly filename: string;
  readonly size: number;
  readonly unpackedSize: number;
  readonly files: readonly { readonly path: string }[];
}

const folder = mkdtempSync(join(tmpdir(), "block-attention-package-"));
const installed = join(folder, "node_modules", "block-attention");
let packed: Packed;
let paths: readonly string[];

beforeAll(async () => {
  await buildDist();
  // npm is a script on Windows, which only a shell can start.
  const shell = process.platform === "win32";
  const json = execFileSync("npm", ["pack", "--json", "--pack-destination", shell ? `"${folder}"` : folder], {
    cwd: projectRoot,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    shell,
  });
  packed = (JSON.parse(json) as [Packed])[0];
  paths = packed.files.map(({ path }) => path);
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", packed.filename, "-C", installed, "--strip-components", "1"], { cwd: folder });
  symlinkSync(join(projectRoot, "node_modules"), join(installed, "node_modules"), "junction");
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the package: its documents link to files that it holds", () => {
  const held = new Set(paths);
  for (const path of paths) for (let at = posix.dirname(path); at !== "."; at = posix.dirname(at)) held.add(at);
  const documents = paths.filter((path) => path.endsWith(".md"));
  const broken = documents.flatMap((document) =>
    [...readFileSync(join(installed, document), "utf8").matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = ""]) => {
      const [path = ""] = target.split("#");
      if (path === "" || /^[a-z]+:/.test(path)) return [];
      return held.has(posix.join(posix.dirname(document), path).replace(/\/$/, "")) ? [] : [`${document}: ${target}`];
    }),
  );
  expect(documents.length).toBeGreaterThan(20);
  expect(broken).toEqual([]);
});

test("the package: holds what runs and no more, in under 32 MB", () => {
  expect(paths).toEqual(
    expect.arrayContaining([
      ...["dist/index.js", "dist/index.d.ts", "dist/cli/main.js", "dist/server/page/assets/index.html"],
      ...[
        "models/tiny-rag/config.json",
        "models/smollm2-rag/adapter_config.json",
        "python/make_environment.py",
        "python/requirements.txt",
        "LICENSE",
      ],
    ]),
  );
  const unwanted = /\.map$|\.(test|suite)\.|(^|\/)(tests?|__pycache__|node_modules)\/|(^|\/)test_|\.tsbuildinfo$/;
  expect(paths.filter((path) => unwanted.test(path))).toEqual([]);
  const scripts = paths.filter((path) => path.endsWith(".js"));
  const mapped = scripts.filter((path) => readFileSync(join(installed, path), "utf8").includes("sourceMappingURL="));
  expect(mapped).toEqual([]);
  expect(packed.size).toBeLessThan(32e6);
  expect(packed.unpackedSize).toBeLessThan(42e6);
});

test("the package: its command answers from the default model where it is installed", () => {
  const run = (...args: string[]) =>
    execFileSync(process.execPath, [join(installed, "dist", "cli", "main.js"), ...args], {
      cwd: folder,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  expect(run("--help")).toContain("Usage: block-attention");
  expect(run("generate", "--prompt", "Who?", "--max-tokens", "1", "--threads", "1", "--json")).toContain(
    '"token_ids":[',
  );
});

test("the package: importing the library loads no server, metrics, logger or database", () => {
  const hooks = `export async function resolve(name, context, next) {
  if (/^(fastify|@fastify\\/.*|fastify-.*|prom-client|pino|@duckdb\\/.*|commander)$/.test(name)) throw new Error(name + " is loaded");
  return next(name, context);
}`;
  const program = join(folder, "import.mjs");
  writeFileSync(
    program,
    `import { register } from "node:module";
register("data:text/javascript," + encodeURIComponent(${JSON.stringify(hooks)}));
for (const name of process.argv.slice(2)) {
  try {
    console.log(Object.keys(await import(name)).length > 0 ? "loaded" : "empty");
  } catch (error) {
    console.log(error.message);
  }
}
`,
  );
  const server = pathToFileURL(join(installed, "dist", "server", "app.js"));
  const told = execFileSync(process.execPath, [program, "block-attention", server.href], { encoding: "utf8" });
  // The second shows that the hook sees what it looks for.
  expect(told.trim().split("\n")).toEqual(["loaded", expect.stringMatching(/ is loaded$/)]);
});

test("the package: no override reaches what it installs, so that others get what is locked here", () => {
  // npm passes over the overrides of what it installs. That is why light-my-request stands among the dependencies, which no
  // code imports: fastify alone would bring a newer one, whose own dependency asks for a newer Node than this package.
  const read = (name: string) => JSON.parse(readFileSync(join(projectRoot, name), "utf8"));
  const { packages } = read("package-lock.json") as { packages: Record<string, { dev?: boolean } | undefined> };
  for (const name of Object.keys(read("package.json").overrides)) {
    expect(packages[`node_modules/${name}`]?.dev, name).toBe(true);
  }
});

// Bundles the server's page, src/server/page/app, to dist/server/page/assets, or to the folder that --out names.
// The files' names hold a hash of what is in them, so that a browser may keep them for good.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** The script, in bytes before compression, of which the examples are a quarter: a page that is there at once. */
const maxScriptBytes = 75_000;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "src", "server", "page", "app");
const out = process.argv.indexOf("--out");
const folder = out < 0 ? join(root, "dist", "server", "page", "assets") : resolve(process.argv[out + 1]);

const { outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: ["main.tsx", "style.css", "icon.svg"].map((name) => join(source, name)),
  tsconfig: join(source, "tsconfig.json"),
  bundle: true,
  minify: true,
  write: false,
  format: "esm",
  target: ["es2022", "chrome108", "firefox109", "safari16"],
  loader: { ".jsonl": "text", ".svg": "copy" },
  entryNames: "[name]-[hash]",
  legalComments: "none",
  outdir: folder,
  logLevel: "warning",
});

/** The path in the page of what an entry point became. */
function pathOf(entry, ending) {
  const file = outputFiles.find(({ path }) => basename(path).startsWith(`${entry}-`) && path.endsWith(ending));
  if (file === undefined) throw new Error(`Cannot build the page: esbuild wrote no "${entry}-*${ending}"`);
  return `/assets/${basename(file.path)}`;
}

const script = outputFiles.find(({ path }) => path.endsWith(".js"));
if (script !== undefined && script.contents.length > maxScriptBytes) {
  throw new Error(
    `Cannot build the page: its script has ${script.contents.length} bytes, ${maxScriptBytes} are allowed`,
  );
}
const html = readFileSync(join(source, "index.html"), "utf8")
  .replace("{icon}", pathOf("icon", ".svg"))
  .replace("{style}", pathOf("style", ".css"))
  .replace("{script}", pathOf("main", ".js"));
mkdirSync(folder, { recursive: true });
for (const { path, contents } of outputFiles) writeFileSync(path, contents);
// Last, and in one step: what it names is there.
writeFileSync(join(folder, "index.html.new"), html);
renameSync(join(folder, "index.html.new"), join(folder, "index.html"));

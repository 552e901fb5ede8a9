// Checks what documents say: relative links lead somewhere, names in code spans are there, and in the file said, the README's library call is
// examples/library.mjs, its tree names every folder of the project and of src/, and what is supported and the server's settings are
// those of src/.
//
// Names: files, functions, classes, fields, options and scripts, of the documents that tell how things are. What tells how things
// were is left out: docs/log.md, CHANGELOG.md, and a decision's "Context". Names of other projects stand in a document's
// comment, <!-- names of others: `a`, `b` -->.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const read = (path) => readFileSync(join(root, path), "utf8").replaceAll("\r\n", "\n");
const files = execFileSync("git", ["ls-files"], { cwd: root, encoding: "utf8" }).trim().split("\n");
const wrong = [];

const documents = files.filter((path) => path.endsWith(".md"));
for (const document of documents) {
  for (const [, target] of read(document).matchAll(/\]\(([^)\s]+)\)/g)) {
    const path = target.split("#")[0];
    if (path === "" || /^[a-z]+:/.test(path)) continue;
    if (!existsSync(join(root, dirname(document), path)))
      wrong.push(`${document} links to "${target}", which is not there`);
  }
}

const readme = read("README.md");
const shown = /<!-- examples\/library\.mjs -->\n```js\n([\s\S]*?)```/.exec(readme)?.[1];
if (shown !== read("examples/library.mjs"))
  wrong.push("README.md shows a library call that is not examples/library.mjs");

const tree = /## The tree\n\n```\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
const inTree = new Set(
  [...tree.matchAll(/^( *)([\w-]+)\/(?: |$)/gm)].map(([, indent, name]) => (indent === "" ? name : `src/${name}`)),
);
const folders = files.map((path) => path.split("/")).filter((parts) => parts.length > 1 && !parts[0].startsWith("."));
const present = new Set(folders.map(([top]) => top));
for (const [top, sub] of folders.filter((parts) => parts.length > 2)) if (top === "src") present.add(`src/${sub}`);
for (const name of present) if (!inTree.has(name)) wrong.push(`README.md's tree lacks "${name}"`);
for (const name of inTree) if (!present.has(name)) wrong.push(`README.md's tree names "${name}", which is not there`);

/** The names in the files that declare a class, an interface or a type, by its name. */
const membersOf = new Map();
const words = wordsOfSources();
const { scripts } = JSON.parse(read("package.json"));
const paths = new Set(files.flatMap((path) => path.split("/").map((_, i, parts) => parts.slice(0, i + 1).join("/"))));
const fileNames = new Set(files.map((path) => basename(path)));
const today = /^(docs\/(?!log\.md).*|README|GLOSSARY|CONTRIBUTING)\.?\w*$/;
let numSpans = 0;
// docs/api is made from docstrings: scripts/api-docs.mjs holds it to them.
for (const document of documents.filter((path) => today.test(path) && !path.startsWith("docs/api/"))) {
  const text = read(document);
  const others = new Set(spansOf(/<!-- names of others: (.*?) -->/s.exec(text)?.[1] ?? ""));
  const told = document.startsWith("docs/decisions/") ? text.replace(/^## Context\n[\s\S]*?(?=^## )/m, "") : text;
  const spans = spansOf(told.replace(/<!--[\s\S]*?-->|^```[\s\S]*?^```/gm, ""));
  const commands = [...told.matchAll(/^(?:npx )?block-attention (?:[^\n|]*\\\n)*[^\n|]*/gm)].map(
    ([command]) => command,
  );
  for (const span of new Set([...spans, ...commands])) {
    const lost = others.has(span) ? undefined : lostName(span);
    if (lost !== undefined) wrong.push(`${document} names "${lost}" in \`${span}\`, which is not there`);
  }
  for (const [, name, place] of told.matchAll(/`([^`\n]+)`\s(?:in\s|\()`([\w./-]+\.(?:tsx?|mjs|py))`/g)) {
    const [word] = /[\w$]+(?=(?:\(.*\))?$)/.exec(name) ?? [];
    const holders = files.filter((path) => path === place || path.endsWith(`/${place}`));
    if (word === undefined || holders.some((path) => new RegExp(`\\b${word}\\b`).test(read(path)))) continue;
    wrong.push(`${document} says that "${name}" is in ${place}, which does not name it`);
  }
  for (const other of others) {
    if (!spans.includes(other)) wrong.push(`${document} calls "${other}" a name of others, and does not name it`);
  }
  numSpans += spans.length;
}

// What comments cite: a document, and its headings.
for (const path of files.filter((name) => /\.(tsx?|mjs|py)$/.test(name))) {
  for (const [, cited] of read(path).matchAll(/(?:@see|[^\w`'"]) ?(docs\/[\w./-]+\.md(?:,? "[^"\n]+")+)/g)) {
    const [document] = /^[\w./-]+/.exec(cited);
    const headings = existsSync(join(root, document)) ? read(document).matchAll(/^#+ (.*)$/gm) : [];
    const there = new Set([...headings].map(([, heading]) => heading.replaceAll("`", "")));
    for (const [, heading] of cited.matchAll(/"([^"]+)"/g)) {
      if (!there.has(heading)) wrong.push(`${path} cites "${heading}" of ${document}, which is not there`);
    }
  }
}

/** Texts between single backticks. */
function spansOf(text) {
  return [...text.matchAll(/`([^`\n]+)`/g)].map(([, span]) => span);
}

/** Every name in code, without what comments say, and the flag that each may be. */
function wordsOfSources() {
  const isCode =
    /\.(tsx?|mjs|cjs|py|ya?ml|toml|service|css)$|Dockerfile$|^[^/]*\.json$|^python\/[^/]*\.json$|^deploy\//;
  const found = new Set();
  for (const path of files.filter((name) => isCode.test(name) && name !== "package-lock.json")) {
    const code = read(path)
      .replace(/\/\*[\s\S]*?\*\//g, "")
      .replace(/(^|\s)(\/\/|# ).*$/gm, "");
    const own = code.match(/--[a-z][a-z0-9-]*|[\w$]+/g) ?? [];
    for (const word of own) found.add(word);
    for (const [, type] of code.matchAll(/\b(?:class|interface|type) ([A-Z]\w*)/g)) {
      membersOf.set(type, new Set([...(membersOf.get(type) ?? []), ...own]));
    }
  }
  for (const word of [...found]) {
    if (/^[a-z]\w*$/.test(word)) found.add(`--${word.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
  }
  return found;
}

/** What a code span names and is not there; undefined for spans of which that cannot be told. */
function lostName(span) {
  if (/^(src|tests|scripts|docs|bench|python|examples|deploy|models|recipes)\/[\w./-]+$/.test(span)) {
    return paths.has(span.replace(/\/$/, "")) ? undefined : span;
  }
  // x.test.ts is any of them.
  if (/^[\w-]+(\.[\w-]+)*\.(tsx?|mjs|cjs|py)$/.test(span)) {
    return fileNames.has(span) || span.startsWith("x.") ? undefined : span;
  }
  const called = /^(?:await |new )*([\w.#$]+)\(.*\)$/.exec(span)?.[1];
  const dotted = called ?? /^[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*$/.exec(span)?.[0];
  if (dotted !== undefined) {
    const isName = (word) => called !== undefined || /[a-z][A-Z]|_|^[A-Z][a-z]/.test(word);
    const isThere = (word) => words.has(word) || words.has(word.replace(/^block_attention_/, ""));
    const [type, ...members] = dotted.split(/[.#]+/);
    const own = membersOf.get(type);
    return (
      [type, ...members].find((word) => word !== "" && isName(word) && !isThere(word)) ??
      members.find((member) => own !== undefined && !own.has(member))
    );
  }
  const script = /^npm run ([\w:-]+)/.exec(span)?.[1];
  if (script !== undefined) return script in scripts ? undefined : script;
  if (!/^(--|(npx )?block-attention )/.test(span)) return undefined;
  const [command] = /(?<=block-attention )[a-z]\w*/.exec(span) ?? [];
  if (command !== undefined && !words.has(command)) return command;
  return [...span.matchAll(/(?<![\w-])--[a-z][a-z0-9-]*/g)].map(([flag]) => flag).find((flag) => !words.has(flag));
}

// The settings, and what is supported, as the tables in src/ have them: --write prints them anew.
const bundle = join(root, "tmp", "tables.mjs");
try {
  const contents = `
export { serverSettings } from "./src/server/server-config.ts";
export { architectures } from "./src/model/architectures/registry.ts";
export { ropeTypes } from "./src/model/hugging-face-rope.ts";
export { preTokenizers } from "./src/tokenizer/ggml-pre-tokenizers.ts";
export { elementTypes, KV_TYPES, tensorTypes, weightsConversions } from "./src/files/element-types.ts";`;
  await build({
    stdin: { contents, resolveDir: root },
    outfile: bundle,
    bundle: true,
    platform: "node",
    target: "node20",
    format: "esm",
    packages: "external",
  });
  const { serverSettings, architectures, ropeTypes, preTokenizers, ...types } = await import(
    pathToFileURL(bundle).href
  );
  const cell = (text) => text.replaceAll("|", "\\|");
  const rows = serverSettings.map(
    ({ flag, setting: { value, about, fallback } }) =>
      `| \`${flag} <${value}>\` | ${cell(about)} | ${cell(fallback)} |`,
  );
  const settings = ["| Setting | What it is | Default |", "|---|---|---|", ...rows, ""].join("\n");
  const having = (trait) => architectures.filter((one) => one[trait] !== undefined).map(({ name }) => name);
  const unquantized = types.tensorTypes.filter((type) => types.elementTypes[type].blockSize === 1);
  const supported = {
    Architectures: architectures.map(({ name }) => name),
    "Hugging Face": [...unquantized, "in safetensors, one file or shards"],
    GGUF: [...types.tensorTypes, "mixed, one file or parts"],
    "`--weights`": types.weightsConversions,
    "`--kv-type`": types.KV_TYPES,
    RoPE: [
      ...ropeTypes,
      `of part of a head (${having("hasPartialRope").join(", ")})`,
      `another one in sliding layers (${having("localTheta").join(", ")})`,
    ],
    Tokenizers: [`\`tokenizer.json\`; GGUF: SPM, and byte-level BPE cut as ${preTokenizers.join(", ")}`],
  };
  const ofReadme = Object.entries(supported).reduce(
    (text, [name, all]) => text.replace(new RegExp(`^\\| ${name} \\|.*`, "m"), `| ${name} | ${all.join(", ")} |`),
    readme,
  );
  const ofServer = read("docs/server.md").replace(/^\| Setting \|.*\n(\|.*\n)*/m, () => settings);
  for (const [path, current] of [
    ["README.md", ofReadme],
    ["docs/server.md", ofServer],
  ]) {
    if (process.argv.includes("--write")) writeFileSync(join(root, path), current);
    else if (current !== read(path)) {
      wrong.push(`${path} has another table than src/: node scripts/check-docs.mjs --write prints it`);
    }
  }
} finally {
  rmSync(bundle, { force: true });
}

for (const line of wrong) console.error(line);
console.log(`${documents.length} documents, ${numSpans} code spans, ${wrong.length} wrong statements`);
// A check that finds no spans must not look like documents without mistakes.
if (numSpans < 500) throw new Error("Cannot check documents: too few code spans were found");
if (wrong.length > 0) process.exitCode = 1;

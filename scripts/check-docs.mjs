// Checks what documents say about files: relative links lead somewhere, the README's library call is
// examples/library.mjs, and its tree names every folder of the project and of src/.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

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

for (const line of wrong) console.error(line);
console.log(`${documents.length} documents, ${wrong.length} wrong statements`);
if (wrong.length > 0) process.exitCode = 1;

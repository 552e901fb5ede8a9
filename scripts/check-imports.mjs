// Checks the import directions of .dependency-cruiser.cjs, type imports among them, and that no file of the product is too long
// to be read at once; tells which file imports which.
// dependency-cruiser reads no TypeScript where TypeScript is version 7, which has no JavaScript API that it knows.
// So it is given dist-imports/: each file's imports alone, as JavaScript, as a parser of TypeScript sees them.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { cruise } from "dependency-cruiser";
import { parseAst } from "vitest/node";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, "dist-imports");
const tops = ["src", "tests", "bench"];
/** Of a file of the product. */
const maxLines = 450;

/** What a syntax tree imports from: statements, import(), and types written as import("…"). */
function importsOf(node, found = new Set()) {
  if (node === null || typeof node !== "object") return found;
  if (/^(Import|Export)/.test(node.type ?? "") || node.type === "TSImportType") {
    const source = node.source ?? node.argument;
    const text = source?.value ?? source?.literal?.value;
    if (typeof text === "string") found.add(text);
  }
  for (const part of Object.values(node)) importsOf(part, found);
  return found;
}

/**
 * @returns wrong: a line for each import against the rules, and each file that is too long; importers: who imports a file, by its path from the root;
 * summary: what was looked at.
 */
export async function checkImports() {
  rmSync(folder, { recursive: true, force: true });
  let numFiles = 0;
  const long = [];
  try {
    for (const top of tops) {
      for (const entry of readdirSync(join(root, top), { recursive: true, withFileTypes: true })) {
        const isSource = entry.isFile() && /\.(ts|mjs)$/.test(entry.name) && !entry.name.endsWith(".d.ts");
        if (!isSource) continue;
        const source = join(entry.parentPath, entry.name);
        const code = readFileSync(source, "utf8");
        const numLines = code.split("\n").length - 1;
        if (top === "src" && numLines > maxLines && !/\.(test|suite)\.ts$/.test(entry.name)) {
          long.push(`${source.slice(root.length + 1)} has ${numLines} lines, at most ${maxLines} are wanted`);
        }
        const found = importsOf(parseAst(code, { lang: "ts" }));
        const imports = [...found].map((text) => `import ${JSON.stringify(text)};`);
        const target = join(folder, source.slice(root.length)).replace(/\.ts$/, ".js");
        mkdirSync(dirname(target), { recursive: true });
        writeFileSync(target, imports.join("\n"));
        numFiles++;
      }
    }
    // The manifest tells packages for development from those that ship.
    writeFileSync(join(folder, "package.json"), readFileSync(join(root, "package.json")));
    const { forbidden, options } = createRequire(import.meta.url)("../.dependency-cruiser.cjs");
    const { output } = await cruise(
      tops,
      { ...options, baseDir: folder, validate: true, ruleSet: { forbidden } },
      { extensions: [".js", ".mjs"], conditionNames: ["node", "import", "require"], exportsFields: ["exports"] },
    );
    const { violations, totalDependenciesCruised } = output.summary;
    // A parser that no longer sees imports must not look like a clean project.
    if (totalDependenciesCruised < numFiles) throw new Error("Cannot check imports: too few were found");
    const wrong = violations.map(({ from, to, rule, cycle }) => {
      const comment = forbidden.find(({ name }) => name === rule.name)?.comment ?? "";
      const path = [from, ...(cycle?.map((step) => step.name) ?? [to])].map(asSource).join(" imports ");
      return `${path}: ${rule.name} (${comment})`;
    });
    const importers = new Map(
      output.modules.map(({ source, dependents }) => [asSource(source), dependents.map(asSource)]),
    );
    const summary = `${numFiles} files, ${totalDependenciesCruised} imports, ${wrong.length} against the rules`;
    return { wrong: [...wrong, ...long], importers, summary };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function asSource(path) {
  return path.replace(/\.js$/, ".ts");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { wrong, summary } = await checkImports();
  for (const line of wrong) console.error(line);
  console.log(summary);
  if (wrong.length > 0) process.exitCode = 1;
}

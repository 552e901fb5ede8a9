// Checks the import directions of .dependency-cruiser.cjs, type imports among them.
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

rmSync(folder, { recursive: true, force: true });
let numFiles = 0;
try {
  for (const top of tops) {
    for (const entry of readdirSync(join(root, top), { recursive: true, withFileTypes: true })) {
      const isSource = entry.isFile() && /\.(ts|mjs)$/.test(entry.name) && !entry.name.endsWith(".d.ts");
      if (!isSource) continue;
      const source = join(entry.parentPath, entry.name);
      const found = importsOf(parseAst(readFileSync(source, "utf8"), { lang: "ts" }));
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
  for (const { from, to, rule, cycle } of violations) {
    const comment = forbidden.find(({ name }) => name === rule.name)?.comment ?? "";
    const path = [from, ...(cycle?.map((step) => step.name) ?? [to])].join(" imports ").replaceAll(/\.js\b/g, ".ts");
    console.error(`${path}: ${rule.name} (${comment})`);
  }
  console.log(`${numFiles} files, ${totalDependenciesCruised} imports, ${violations.length} against the rules`);
  // A parser that no longer sees imports must not look like a clean project.
  if (totalDependenciesCruised < numFiles) throw new Error("Cannot check imports: too few were found");
  if (violations.length > 0) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

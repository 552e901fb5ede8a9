import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { transform } from "esbuild";
import { beforeAll, expect, test } from "vitest";
import { temporaryFolder } from "../src/files/test-files.suite.js";
import { buildDist, projectRoot } from "./build-dist.js";

const run = promisify(execFile);
const page = readFileSync(join(projectRoot, "docs/api/README.md"), "utf8").replaceAll("\r\n", "\n");
const sections = page.split(/^### (?=\S)/m).slice(1);
const callable = [...page.matchAll(/^## (Classes|Functions)\n[\s\S]*?(?=^## |$(?![\s\S]))/gm)].flatMap(([text]) =>
  [...text.matchAll(/^### (\S+?)(?:\(\))?$/gm)].map(([, name]) => name as string),
);
const examples = sections.flatMap((section) => {
  const [name = ""] = section.split("\n", 1);
  const [, code] = /#### Example\n\n```ts\n([\s\S]*?)\n```/.exec(section) ?? [];
  return code === undefined ? [] : [[name, code] as const];
});

beforeAll(buildDist, 120_000);

test("docs/api: every function and class has an example", () => {
  expect(callable.length).toBeGreaterThan(10);
  const lacking = callable.filter((name) => !examples.some(([of]) => of.replace("()", "") === name));
  expect(lacking).toEqual([]);
});

test.for(examples)("docs/api: the example of %s runs, and gives what it says", async ([name, code], { skip }) => {
  if (name === "pull()") skip("it needs a network");
  const exported = join(projectRoot, "dist/index.js");
  let numValues = 0;
  const checked = code.replace(/^(?!\s)(.+); \/\/ (.+)$/gm, (line, expression: string, told: string) => {
    if (!isJson(told)) return line;
    numValues += 1;
    return `assert.deepEqual(${expression}, ${told});`;
  });
  if (/; \/\/ ["[{\d]/.test(code)) expect(numValues).toBeGreaterThan(0);
  const path = join(await temporaryFolder(), "example.mjs");
  const head = `import assert from "node:assert";\nimport * as exported from ${JSON.stringify(pathToFileURL(exported).href)};\n`;
  const names = Object.keys(await import(pathToFileURL(exported).href));
  const source = `${head}const { ${names.join(", ")} } = exported;\n${checked}\nconsole.log("done");`;
  // Node 20 knows no `using`.
  writeFileSync(path, (await transform(source, { loader: "ts", target: "node20", format: "esm" })).code);
  const { stdout } = await run(process.execPath, [path], { timeout: 60_000 });
  expect(stdout).toMatch(/done\n$/);
});

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

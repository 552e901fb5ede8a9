import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, expect, test } from "vitest";
import { buildDist, projectRoot } from "./build-dist.js";

const run = promisify(execFile);

beforeAll(buildDist, 120_000);

async function example(name: string): Promise<string> {
  const { stdout, stderr } = await run(process.execPath, [join(projectRoot, "examples", name)], { timeout: 60_000 });
  expect(stderr).toBe("");
  return stdout;
}

test("examples/library.mjs: answers, and says what came from the store", async () => {
  expect(await example("library.mjs")).toMatch(/Eileen Ryan\.\n275 tokens in, 0 of them from the store\n$/);
});

test("examples/rag.mjs: passages in another order are all hits", async () => {
  const output = await example("rag.mjs");
  expect(output.match(/Naomi Foner/g)).toHaveLength(3);
  expect(output).toContain("3 of 4 blocks");
  expect(output.match(/4 of 4 blocks/g)).toHaveLength(2);
});

test("examples/in-context.mjs: demonstrations in another choice and order are all hits", async () => {
  const output = await example("in-context.mjs");
  expect(output.match(/(\d+) of (\d+) tokens/g)).toEqual(["0 of 68 tokens", "41 of 53 tokens", "56 of 68 tokens"]);
});

test("examples/game-state.mjs: only the values that changed are computed", async () => {
  const output = await example("game-state.mjs");
  expect(output.match(/\d+ of \d+(?= blocks)/g)).toEqual(["12 of 12", "0 of 12", "2 of 12", "1 of 13"]);
});

// docs/reuse.md and its pictures show these numbers.
test.each([
  ["turns", "block", [0, 306]],
  ["turns", "full", [0, 306]],
  ["order", "block", [0, 129]],
  ["order", "full", [0, 29]],
  ["misses", "block", [0, 51, 20]],
  ["misses", "full", [0, 6, 68]],
])("examples/reuse/%s.jsonl: what %s mode takes from the store", async (name, mode, expected) => {
  const input = join(projectRoot, "examples/reuse", `${name}.jsonl`);
  const args = ["generate", "--input", input, "--mode", mode, "--threads", "1", "--json"];
  const { stdout } = await run(process.execPath, [join(projectRoot, "dist/cli/main.js"), ...args]);
  expect(stdout.match(/(?<="cached_tokens":)\d+/g)?.map(Number)).toEqual(expected);
});

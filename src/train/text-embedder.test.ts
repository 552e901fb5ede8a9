import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, expect, test } from "vitest";
import { PythonEmbedder, type TextEmbedderOptions } from "./text-embedder.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-embedder-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/**
 * Stands for Python: embeds a text as [its length, its first character's code, its own turn], and can be told by a text to
 * die, to complain, to answer nonsense or to hang.
 */
const fakePython = join(folder, "python.cjs");
writeFileSync(
  fakePython,
  `#!${process.execPath}
const fs = require("node:fs");
fs.writeFileSync(${JSON.stringify(join(folder, "started.json"))}, JSON.stringify({ args: process.argv.slice(2), path: process.env.PYTHONPATH, pid: process.pid }));
if (process.env.FAIL === "load") { console.error("a warning"); console.error("error: Cannot load an embedding model from \\"x\\": it is no folder"); process.exit(1); }
if (process.env.FAIL === "crash") { for (const word of ["one", "two", "three", "four"]) console.error(word); process.exit(3); }
console.log(JSON.stringify({ dimensions: 3 }));
let turn = 0;
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { texts } = JSON.parse(line);
  if (texts[0] === "die") process.kill(process.pid, "SIGKILL");
  if (texts[0] === "complain") { console.error("error: Cannot embed line 2: its texts are none"); process.exit(1); }
  if (texts[0] === "nonsense") { console.log("hello"); return; }
  if (texts[0] === "hang") { setInterval(() => undefined, 1000); return; }
  const rows = texts.map((text) => Buffer.from(Float32Array.of(text.length, text.charCodeAt(0), turn).buffer).toString("base64"));
  turn += 1;
  console.log(JSON.stringify({ embeddings: rows }));
});
`,
);
chmodSync(fakePython, 0o755);

const heard: string[] = [];
const start = (more: Partial<TextEmbedderOptions> = {}, env: Record<string, string> = {}) =>
  PythonEmbedder.start({
    python: fakePython,
    pythonFolder: "/the/python/folder",
    model: "./encoder",
    batchSize: 5,
    env: { ...process.env, ...env },
    platform: process.platform,
    onText: (line) => heard.push(line),
    signal: new AbortController().signal,
    ...more,
  });
const started = () => JSON.parse(readFileSync(join(folder, "started.json"), "utf8"));

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Where there are no "#!" lines there is no stand-in for Python. */
const unixTest = test.skipIf(process.platform === "win32");

unixTest("PythonEmbedder: starts the package's command, and answers stand in the order of the requests", async () => {
  await using embedder = await start();
  expect(started().args).toEqual([
    ...["-m", "block_attention_trainer", "embed", "--model", "./encoder", "--batch-size", "5"],
  ]);
  expect(started().path.split(":")[0]).toBe("/the/python/folder");
  const requests = Array.from({ length: 20 }, (_, i) => [`${i}`, "é".repeat(i)]);
  const answers = await Promise.all(requests.map((texts) => embedder.embed(texts)));
  for (const [i, [first, second]] of answers.entries()) {
    expect([...(first as Float32Array)]).toEqual([`${i}`.length, `${i}`.charCodeAt(0), i]);
    expect(second?.[0]).toBe(i);
  }
  expect(await embedder.embed([])).toEqual([]);
});

unixTest("PythonEmbedder: texts larger than a pipe holds, several at once", async () => {
  await using embedder = await start();
  const texts = Array.from({ length: 8 }, (_, i) => "x".repeat(300_000 + i));
  const answers = await Promise.all(texts.map((text) => embedder.embed([text])));
  expect(answers.map(([vector]) => vector?.[0])).toEqual(texts.map(({ length }) => length));
});

unixTest("PythonEmbedder.start(): tells what is wrong in the process's own words", async () => {
  await expect(start({}, { FAIL: "load" })).rejects.toThrow(
    /^Cannot load an embedding model from "x": it is no folder$/,
  );
  expect(heard).toContain("a warning");
  await expect(start({}, { FAIL: "crash" })).rejects.toThrow(
    'Cannot embed on: the embedding process ended with exit code 3; its last lines: "two" "three" "four"',
  );
  await expect(start({ python: join(folder, "nowhere") })).rejects.toThrow(
    /^Cannot start Python ".*nowhere": no such program$/,
  );
});

unixTest(
  "PythonEmbedder.embed(): all that waits hears of the process's death, and so does who asks later",
  async () => {
    await using embedder = await start();
    const outcomes = await Promise.allSettled([embedder.embed(["a"]), embedder.embed(["die"]), embedder.embed(["b"])]);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected"]);
    const message = "Cannot embed on: the embedding process ended with SIGKILL";
    for (const outcome of outcomes.slice(1)) expect(outcome).toMatchObject({ reason: { message } });
    await expect(embedder.embed(["c"])).rejects.toThrow(message);
  },
);

unixTest("PythonEmbedder.embed(): a complaint, and an answer that is none", async () => {
  {
    await using embedder = await start();
    await expect(embedder.embed(["complain"])).rejects.toThrow("Cannot embed line 2: its texts are none");
  }
  await using embedder = await start();
  await expect(embedder.embed(["nonsense"])).rejects.toThrow("the embedding process's line");
});

unixTest("PythonEmbedder: a stop ends the process and what waits for it", async () => {
  const ending = new AbortController();
  const { signal } = ending;
  {
    await using embedder = await start({ signal });
    const asked = embedder.embed(["hang"]);
    setTimeout(() => ending.abort(new Error("Cancelled")), 20);
    await expect(asked).rejects.toThrow("Cancelled");
    // At once, not when it is closed.
    for (let i = 0; i < 200 && isAlive(started().pid); i++) await sleep(20);
    expect(isAlive(started().pid)).toBe(false);
  }
  await expect(start({ signal })).rejects.toThrow("Cancelled");
});

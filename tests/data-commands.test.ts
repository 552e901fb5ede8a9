import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import pc from "picocolors";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createProgram } from "../src/cli/program.js";
import { fakeChatServer } from "../src/data/answer/fake-chat-server.suite.js";
import { buildDist, projectRoot } from "./build-dist.js";

beforeAll(buildDist, 120_000);

const folder = mkdtempSync(join(tmpdir(), "block-attention-data-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

/** Runs `data …` in this process. */
async function data(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ code: number; stdout: string }> {
  const stdout = new PassThrough();
  const parts: Buffer[] = [];
  stdout.on("data", (part: Buffer) => parts.push(part));
  const colors = pc.createColors(false);
  const program = createProgram({
    stdin: new PassThrough(),
    stdout,
    stderr: new PassThrough().resume(),
    isErrorTerminal: false,
    colors,
    errorColors: colors,
    signal: new AbortController().signal,
    env,
    endWell: () => undefined,
    onHangup: () => ({ [Symbol.dispose]: () => undefined }),
  });
  const code = await program.run(["node", "block-attention", "data", ...args]);
  return { code, stdout: Buffer.concat(parts).toString("utf8") };
}

/** Runs `data …` in a process of its own and sends it a signal as soon as it is time. @returns its exit code. */
function signalled(
  args: readonly string[],
  isTime: () => boolean,
  signal: NodeJS.Signals = "SIGKILL",
  env: Record<string, string> = {},
): Promise<number | null> {
  const main = join(projectRoot, "dist", "cli", "main.js");
  const child = spawn(process.execPath, [main, "data", ...args], { stdio: "ignore", env: { ...process.env, ...env } });
  const timer = setInterval(() => {
    if (!isTime()) return;
    clearInterval(timer);
    child.kill(signal);
  }, 1);
  return new Promise((resolve) => {
    child.on("close", (code) => {
      clearInterval(timer);
      resolve(code);
    });
  });
}

const rows = Array.from({ length: 2000 }, (_, i) => ({
  id: `q${i}`,
  question: `Where was person ${i} born, in town ${i % 7}?`,
  answers: [`Town ${i % 7}`],
  generated: `In town ${i % 7}.`,
  documents: Array.from({ length: 6 }, (_, j) => ({
    title: `Person ${i + j}`,
    text: `Person ${i + j} was born in town ${(i + j) % 7}. ${"It is a long way. ".repeat(4)}`,
  })),
}));
const jsonLines = (values: readonly object[]) => values.map((value) => `${JSON.stringify(value)}\n`).join("");
const rag = at("rag.jsonl");
writeFileSync(rag, jsonLines(rows));
const few = at("few.jsonl");
writeFileSync(few, jsonLines(rows.slice(0, 60).map((row) => ({ ...row, generated: "" }))));

const bytes = (name: string) => readFileSync(at(name)).toString("hex");
/** A process starts slowly on a busy machine. */
const timeoutMs = 120_000;

test.each([
  ["retrieve", ["--input", rag, "--passages", "3"], ".scores.partial"],
  ["sample", ["--input", rag, "--count", "1900"], ".partial"],
  ["merge", [rag, rag], ".partial"],
  ["convert", ["--input", rag], ".partial"],
  ["mix", ["--input", rag, "--input", rag, "--shares", "2,1"], ".drawn.partial"],
])(
  "data %s: killed while it writes, run again, it gives the bytes of an undisturbed run",
  async (name, args, ending) => {
    const [whole, killed] = [`${name}.jsonl`, `${name}-killed.jsonl`];
    expect(await data([name, ...args, "--output", at(whole)])).toMatchObject({ code: 0 });
    const code = await signalled([name, ...args, "--output", at(killed)], () => existsSync(at(killed + ending)));
    expect(code).toBe(null);
    expect(existsSync(at(killed))).toBe(false);
    expect(await data([name, ...args, "--output", at(killed)])).toMatchObject({ code: 0 });
    expect(bytes(killed)).toBe(bytes(whole));
    const manifest = (file: string) => readFileSync(at(`${file}.manifest.json`), "utf8").replaceAll(file, "");
    expect(manifest(killed)).toBe(manifest(whole));
    expect(readdirSync(folder).filter((file) => /partial|lock/.test(file))).toEqual([]);
  },
  timeoutMs,
);

test(
  "data answer: killed again and again, it asks nothing that was answered, and ends with the same bytes",
  async () => {
    await using server = await fakeChatServer(undefined, () => 8);
    const env = { DATA_TEST_KEY: "sk-never-told" };
    const args = (output: string) => [
      ...["answer", "--input", few, "--output", at(output), "--base-url", server.baseUrl.href, "--model", "m"],
      ...["--concurrency", "4", "--api-key-env", "DATA_TEST_KEY"],
    ];
    expect(await data(args("answered.jsonl"), env)).toMatchObject({ code: 0 });
    expect(server.requests.length).toBe(60);
    const journal = at("killed.jsonl.journal.jsonl");
    const numLines = () => (existsSync(journal) ? readFileSync(journal, "utf8").split("\n").length - 2 : 0);
    let numLost = 0;
    for (const wanted of [10, 35]) {
      expect(await signalled(args("killed.jsonl"), () => numLines() >= wanted, "SIGKILL", env)).toBe(null);
      expect(existsSync(at("killed.jsonl"))).toBe(false);
      // What was under way, at most one question a lane.
      numLost += 4;
    }
    const numLeft = numLines();
    expect(numLeft).toBeGreaterThanOrEqual(35);
    const asked = server.requests.length;
    expect(await data(args("killed.jsonl"), env)).toMatchObject({ code: 0 });
    expect(server.requests.length - asked).toBe(60 - numLeft);
    expect(server.requests.length).toBeLessThanOrEqual(120 + numLost);
    expect(bytes("killed.jsonl")).toBe(bytes("answered.jsonl"));
    expect(server.requests.every(({ headers }) => headers.authorization === "Bearer sk-never-told")).toBe(true);
    for (const name of readdirSync(folder)) expect(readFileSync(at(name), "utf8")).not.toContain("sk-never-told");
  },
  timeoutMs,
);

test(
  "data answer: Ctrl-C ends it with its own exit code, and what was answered stays",
  async () => {
    await using server = await fakeChatServer(undefined, () => 20);
    const args = ["--input", few, "--base-url", server.baseUrl.href, "--model", "m", "--concurrency", "1"];
    const journal = at("stopped.jsonl.journal.jsonl");
    const isTime = () => existsSync(journal) && readFileSync(journal).length > 600;
    expect(await signalled(["answer", ...args, "--output", at("stopped.jsonl")], isTime, "SIGINT")).toBe(130);
    expect(existsSync(at("stopped.jsonl"))).toBe(false);
    expect(existsSync(at("stopped.jsonl.lock"))).toBe(false);
    expect(readFileSync(journal).length).toBeGreaterThan(600);
  },
  timeoutMs,
);

test("data answer: exit code 1 where a question was refused", async () => {
  await using server = await fakeChatServer(({ prompt }) =>
    prompt.includes("person 3 born") ? { status: 400, body: '{"error":{"message":"too long"}}' } : undefined,
  );
  const output = at("refused.jsonl");
  const args = ["answer", "--input", few, "--base-url", server.baseUrl.href, "--model", "m", "--output", output];
  const { code, stdout } = await data(args);
  expect(code).toBe(1);
  expect(stdout).toContain(
    `59 answered, 0 had an answer already\n1 questions were refused: "${output}.errors.jsonl" tells why`,
  );
});

test("data inspect: shows a sample as blocks", async () => {
  const { code, stdout } = await data(["inspect", rag, "--row", "2"]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^RAG line "q1"\n6 documents\nanswers: "Town 1"\n\[block 1: \d+ tokens?\]\n/);
  expect(stdout).toMatch(/\[response: \d+ tokens\]\nIn town 1\.\n8 blocks, \d+ tokens\n\n$/);
  expect(JSON.parse((await data(["inspect", rag, "--json"])).stdout)).toMatchObject({ format: "rag", id: "q0" });
});

test("data sample: a row that cannot be used is told, the others go on, and the exit code is 1", async () => {
  writeFileSync(at("bad.jsonl"), '{"a":1}\n{no json\n');
  const { code, stdout } = await data([
    "sample",
    "--input",
    at("bad.jsonl"),
    "--share",
    "1",
    "--output",
    at("o.jsonl"),
  ]);
  expect(code).toBe(1);
  expect(stdout).toMatch(/^2 rows, 1 written\n1 rows could not be used; the first of them:\n {2}Cannot read line 2/);
});

test.each([
  [["sample", "--input", "a", "--output", "o"], "there is neither --count nor --share, wanted one of them"],
  [["sample", "--input", "a", "--output", "o", "--share", "1.5"], 'it is "1.5", wanted a number over 0 to 1'],
  [["mix", "--input", "a", "--output", "o"], "Cannot mix: there is one --input, wanted two or more"],
  [["mix", "--input", "a", "--input", "b", "--output", "o", "--shares", "1"], "Cannot use --shares: it has 1 numbers"],
  [["mix", "--input", "a", "--input", "b", "--output", "o", "--shares", "1,0"], 'Cannot use --shares: it is "1,0"'],
  [["retrieve", "--input", "a", "--output", "o", "--method", "dense"], "--embedding-model is missing"],
  [["retrieve", "--input", "a", "--output", "o", "--embedding-model", "m"], "--embedding-model: the method is bm25"],
  [["retrieve", "--input", "a", "--output", "o", "--scores", "s", "--with-title"], "--with-title: --scores is given"],
  [
    ["answer", "--input", "a", "--output", "o", "--base-url", "ftp://x", "--model", "m"],
    "Cannot use --base-url: wanted",
  ],
  [
    ["answer", "--input", "a", "--output", "o", "--base-url", "http://x/v1", "--model", "m", "--api-key-env", "NO_KEY"],
    'Cannot use --api-key-env: the variable "NO_KEY" is not set, or empty',
  ],
  [
    ["answer", "--input", "a", "--output", "o", "--base-url", "http://x/v1", "--model", "m", "--extra-body", "[]"],
    'Cannot use --extra-body: it is "[]", wanted a JSON object',
  ],
])("data %j: says what was wanted", async (args, message) => {
  await expect(data(args)).rejects.toThrow(message);
});

test("data merge: wants files", async () => {
  await expect(data(["merge", "--output", at("o.jsonl")])).rejects.toThrow(/missing required argument/);
});

/** Runs `data …` in a process that may write files of so many KiB at most, as on a full disk. */
function limited(kib: number, args: readonly string[]): Promise<{ code: number | null; stderr: string }> {
  const main = join(projectRoot, "dist", "cli", "main.js");
  const script = `ulimit -f ${kib}; exec "$@"`;
  const child = spawn("bash", ["-c", script, "bash", process.execPath, main, "data", ...args], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr.on("data", (part: Buffer) => {
    stderr += part;
  });
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, stderr })));
}

test.skipIf(process.platform === "win32")(
  "data mix, data answer: what cannot be written is an error that names the file, and what was there stays",
  async () => {
    const mixed = at("limited.jsonl");
    const mix = ["mix", "--input", rag, "--input", rag, "--output", mixed, "--force"];
    writeFileSync(mixed, "before\n");
    const failed = await limited(200, mix);
    expect(failed).toEqual({
      code: 1,
      stderr: `Cannot write "${mixed}.drawn.partial": a file may not be that large here\n`,
    });
    expect(readFileSync(mixed, "utf8")).toBe("before\n");
    expect(readdirSync(folder).filter((file) => file.includes("partial"))).toEqual([]);

    await using server = await fakeChatServer();
    const output = at("limited-answers.jsonl");
    const answer = ["answer", "--input", few, "--base-url", server.baseUrl.href, "--model", "m", "--output", output];
    const stopped = await limited(3, answer);
    expect(stopped).toEqual({
      code: 1,
      stderr: `Cannot write "${output}.journal.jsonl": a file may not be that large here\n`,
    });
    const asked = server.requests.length;
    const numKept = readFileSync(`${output}.journal.jsonl`, "utf8").split("\n").length - 2;
    expect(numKept).toBeGreaterThan(10);
    expect(await data(answer)).toMatchObject({ code: 0 });
    expect(server.requests.length - asked).toBe(60 - numKept);
    expect(bytes("limited-answers.jsonl")).toBe(bytes("answered.jsonl"));
  },
  timeoutMs,
);

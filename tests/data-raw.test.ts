import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  createWriteStream,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import pc from "picocolors";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createProgram } from "../src/cli/program.js";
import { buildDist, projectRoot } from "./build-dist.js";

beforeAll(buildDist, 120_000);

const folder = mkdtempSync(join(tmpdir(), "block-attention-data-raw-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fixture = (name: string) => join(projectRoot, "tests", "fixtures", "raw", name);

/** A process of its own, which can be killed. */
const start = (args: readonly string[]) =>
  spawn(process.execPath, [join(projectRoot, "dist", "cli", "main.js"), "data", ...args], { stdio: "ignore" });

/** The same program in this process. */
async function cli(args: readonly string[]): Promise<{ code: number; stdout: string }> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const told: Buffer[] = [];
  stdout.on("data", (data: Buffer) => told.push(data));
  const colors = pc.createColors(false);
  const code = await createProgram({
    stdin: new PassThrough(),
    ...{ stdout, stderr: stderr.resume(), isErrorTerminal: false, colors, errorColors: colors, env: {} },
    signal: new AbortController().signal,
    endWell: () => undefined,
    onHangup: () => ({ [Symbol.dispose]: () => undefined }),
  }).run(["node", "block-attention", "data", ...args]);
  return { code, stdout: Buffer.concat(told).toString() };
}

/** All files of a folder by name. */
const filesOf = (path: string) =>
  Object.fromEntries(readdirSync(path).map((name) => [name, readFileSync(join(path, name), "utf8")]));

const conversations = Array.from({ length: 200 }, (_, i) => {
  const messages = [
    { role: "user", content: `A passage of ${i}.\n\nAnother one.\n\nWhat is it?` },
    { role: "assistant", content: `It is ${i}.` },
  ];
  return `${JSON.stringify({ id: `c${i}`, messages })}\n`;
}).join("");
// More than is written at a time.
const questions = Array.from({ length: 2000 }, (_, i) => {
  const ctxs = [
    { title: "One", text: `Text ${i}. ${"Words. ".repeat(50)}`, score: i % 3 },
    { title: "Two", text: "More.", score: 1 },
  ];
  return `${JSON.stringify({ question: `q ${i}`, answers: ["a"], ctxs })}\n`;
}).join("");

const pipeMaker = "mkfifo";

// A pipe that gives no more than a part holds the command where it is, in the middle of its work.
test.skipIf(process.platform === "win32").each([
  ["tulu3", conversations, (output: string) => ["--output-dir", output, "--workers", "0"]],
  ["nq", questions, (output: string) => ["--output", join(output, "nq.jsonl")]],
])(
  "data %s: killed in the middle and run again, it gives the bytes of an undisturbed run",
  async (command, text, outputTo) => {
    const input = join(folder, `${command}.jsonl`);
    const [disturbed, undisturbed] = [join(folder, `${command}-disturbed`), join(folder, `${command}-undisturbed`)];
    execFileSync(pipeMaker, [input]);
    const child = start([command, "--input", input, ...outputTo(disturbed)]);
    const pipe = createWriteStream(input);
    pipe.on("error", () => undefined);
    pipe.write(text.slice(0, text.length * 0.8));
    const written = () =>
      existsSync(disturbed) && readdirSync(disturbed).some((name) => statSync(join(disturbed, name)).size > 1000);
    for (let i = 0; i < 5000 && child.exitCode === null && !written(); i++) await sleep(10);
    expect(written()).toBe(true);
    child.kill("SIGKILL");
    const [, signal] = await once(child, "close");
    pipe.destroy();
    expect(signal).toBe("SIGKILL");
    // Its lock stays too, and the next run takes it over.
    expect(readdirSync(disturbed).filter((name) => !/\.partial(\.lock)?$/.test(name))).toEqual([]);

    rmSync(input);
    writeFileSync(input, text);
    expect((await cli([command, "--input", input, ...outputTo(disturbed)])).code).toBe(0);
    expect((await cli([command, "--input", input, ...outputTo(undisturbed)])).code).toBe(0);
    const files = filesOf(undisturbed);
    expect(Object.keys(files).length).toBeGreaterThanOrEqual(4);
    expect(filesOf(disturbed)).toEqual(files);
  },
  60_000,
);

test("data tulu3: the number of threads changes nothing", async () => {
  const input = join(folder, "threads.jsonl");
  writeFileSync(input, conversations);
  const args = (workers: string) => {
    return ["tulu3", "--input", input, "--output-dir", join(folder, `workers-${workers}`), "--workers", workers];
  };
  // Threads run compiled code.
  const [code] = await once(start(args("2")), "close");
  expect(code).toBe(0);
  await cli(args("0"));
  expect(filesOf(join(folder, "workers-2"))).toEqual(filesOf(join(folder, "workers-0")));
}, 60_000);

// Above what one thread does alone; some rows cannot be used.
test("data nq, convert, validate: the number of threads changes nothing", async () => {
  const input = join(folder, "many.jsonl");
  const text = "A passage – née Köln 東京 – of many words. ".repeat(20);
  const row = (i: number) => {
    if (i % 97 === 5) return "{no json";
    const ctxs = Array.from({ length: 4 }, (_, j) => ({
      title: `T ${i} ${j}`,
      text: `${j} ${text}`,
      score: (i * j) % 5,
    }));
    return JSON.stringify({ question: i % 89 === 7 ? "" : `q ${i}?`, answers: i % 83 === 1 ? [] : ["a"], ctxs });
  };
  writeFileSync(input, `${Array.from({ length: 3000 }, (_, i) => row(i)).join("\n")}\n`);
  expect(statSync(input).size).toBeGreaterThan(2 ** 23);
  const main = join(projectRoot, "dist", "cli", "main.js");
  const run = (args: readonly string[]) => {
    const { status, stdout } = spawnSync(process.execPath, [main, "data", ...args, "--json"], { encoding: "utf8" });
    return { status, report: JSON.parse(stdout) };
  };
  const outcomes = ["0", "2", "3"].map((workers) => {
    const lines = join(folder, `threads-${workers}.jsonl`);
    const counted = run(["nq", "--input", input, "--output", lines, "--workers", workers]);
    const answered = join(folder, `threads-${workers}.answered.jsonl`);
    writeFileSync(answered, readFileSync(lines, "utf8").replaceAll('"generated":""', '"generated":"It is."'));
    const trained = join(folder, `threads-${workers}.train.jsonl`);
    const converted = run(["convert", "--input", answered, "--output", trained, "--workers", workers]);
    const checked = run(["validate", "--format", "nq", input, "--workers", workers]);
    const limited = join(folder, `threads-${workers}.limited.jsonl`);
    const first = run(["nq", "--input", input, "--limit", "500", "--output", limited, "--workers", workers]);
    const bytes = [lines, trained, limited].map((path) => readFileSync(path, "utf8"));
    return { counted, converted, checked, first, bytes };
  });
  expect(outcomes[0]?.counted).toMatchObject({ status: 1, report: { rows: 3000, bad: 31 } });
  expect(outcomes[0]?.bytes[2]?.split("\n")).toHaveLength(501);
  expect(outcomes[1]).toEqual(outcomes[0]);
  expect(outcomes[2]).toEqual(outcomes[0]);
}, 120_000);

test("data nq: rows that cannot be used are told with their places, and the exit code is 1", async () => {
  const args = ["nq", "--input", fixture("nq.json"), "--output", join(folder, "nq", "out.jsonl")];
  const { code, stdout } = await cli(args);
  expect(code).toBe(1);
  expect(stdout).toMatch(
    /^5 rows: 2 lines, 5 passages\n {2}1 left out: it has no answer\n2 rows could not be used; the first of them:\n/,
  );
  const json = await cli([...args, "--force", "--json", "--passages", "all", "--order", "as-is", "--limit", "1"]);
  expect(JSON.parse(json.stdout)).toMatchObject({ rows: 1, written: 1, passages: 3 });
  expect(json.code).toBe(0);
});

test("data validate: the exit code is 1 if a row is not of the format", async () => {
  const good = await cli(["validate", "--format", "tqa", fixture("tqa.json")]);
  expect(good).toEqual({ code: 0, stdout: '1 rows: all are of the format "tqa"\n' });
  const bad = await cli(["validate", "--format", "hqa", fixture("nq.json")]);
  expect(bad.code).toBe(1);
  expect(bad.stdout).toMatch(
    /element 5 of ".*": "context" is missing\n5 rows: 0 are of the format "hqa", 5 are not\n$/,
  );
});

test.each([
  [["validate", "--format", "rag"], /missing required argument/],
  [["validate", "--format", "csv", "x"], /Cannot use --format: it is "csv", wanted "rag", "train", /],
  [["validate", "--format", "rag", ""], /Cannot use <file>/],
  [["nq", "--input", "x"], /--output/],
  [["nq", "--input", "x", "--output", "y", "--passages", "0"], /Cannot use --passages: it is "0"/],
  [["nq", "--input", "x", "--output", "y", "--order", "random"], /Cannot use --order/],
  [["tulu3", "--input", "x", "--output-dir", ""], /Cannot use --output-dir/],
])("data %j: wrong usage is told before anything is done", async (args, message) => {
  await expect(cli(args)).rejects.toThrow(message);
});

// Rows a second and peak memory of the data commands, against the same work in the reference's way: Python, one process, whole
// files as lists (python/benchmarks/data_commands.py). Times are of whole processes, start included; inputs are made first.
// BLOCK_ATTENTION_PYTHON names a Python with the trainer's packages.
// `npm run bench -- data-commands [rows] [command,command…]`
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { DuckDBInstance } from "@duckdb/node-api";
import { Random } from "../src/data/random.js";
import { embeddedModelPath } from "../src/engine/model.js";
import { describeRun, printTable } from "./shared/report.js";

const [rowsText = "100000", namesText = ""] = process.argv.slice(2);
const numRows = Number(rowsText);
const python = process.env.BLOCK_ATTENTION_PYTHON ?? "python3";
const folder = mkdtempSync(join(tmpdir(), "block-attention-data-commands-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

const passagesPerRow = 10;
const words =
  "the of and in a to was is film by director born she he American novel 1987 river city band née Köln 東京 album award first university later son mother queen".split(
    " ",
  );

function text(random: Random, min: number, max: number): string {
  return Array.from({ length: random.between(min, max) }, () => random.pick(words)).join(" ");
}

/** About 600 characters in sentences. */
function sentences(random: Random): string[] {
  return Array.from({ length: random.between(4, 8) }, () => `${text(random, 10, 25)}.`);
}

function titled(random: Random): { title: string; sentences: string[] }[] {
  return Array.from({ length: passagesPerRow }, (_, i) => ({
    title: `${text(random, 1, 3)} ${i}`,
    sentences: sentences(random),
  }));
}

const rowOf = {
  multiHop(i: number, isText: boolean): object {
    const random = new Random(`multi-hop ${i}`);
    const passages = titled(random);
    const context = passages.map(({ title, sentences }) => [title, sentences]);
    const supporting = [0, 3].map((place) => [passages[place]?.title, 0]);
    const nested = (value: unknown) => (isText ? JSON.stringify(value) : value);
    return {
      _id: `q${i}`,
      type: "bridge",
      question: `${text(random, 8, 16)}?`,
      answer: text(random, 1, 3),
      context: nested(context),
      supporting_facts: nested(supporting),
    };
  },
  fid(i: number): object {
    const random = new Random(`fid ${i}`);
    const ctxs = titled(random).map(({ title, sentences }, place) => ({
      id: String(100 * i + place),
      title,
      text: sentences.join(" "),
      score: `${70 + random.between(0, 200) / 10}`,
      has_answer: random.chance(0.2),
    }));
    return { id: String(i), question: `${text(random, 8, 16)}?`, answers: [text(random, 1, 3)], ctxs };
  },
  rag(i: number, generated: string): object {
    const random = new Random(`rag ${i}`);
    const documents = titled(random).map(({ title, sentences }) => ({ title, text: sentences.join(" ") }));
    const question = `${text(random, 8, 16)}?`;
    return { id: `r${i}`, question, answers: [text(random, 1, 3)], generated, documents };
  },
  conversation(i: number): object {
    const random = new Random(`conversation ${i}`);
    const numRounds = random.chance(0.8) ? 1 : random.between(2, 4);
    const paragraphs = () => Array.from({ length: random.between(1, 8) }, () => text(random, 10, 40)).join("\n\n");
    const messages = Array.from({ length: numRounds }, () => [
      { role: "user", content: paragraphs() },
      { role: "assistant", content: (random.chance(0.1) ? "```python\n" : "") + paragraphs() },
    ]).flat();
    return { id: `c${i}`, source: "bench", messages };
  },
};

/** What each command's run needs, by the names of the files that it makes. */
const makers: Readonly<Record<string, (path: string) => Promise<void>>> = {
  "hqa.json": (path) => write(path, (i) => rowOf.multiHop(i, false), true),
  "fid.json": (path) => write(path, (i) => rowOf.fid(i), true),
  "rag.jsonl": (path) => write(path, (i) => rowOf.rag(i, "")),
  "few.jsonl": (path) => write(path, (i) => rowOf.rag(i, ""), false, 2000),
  "answered.jsonl": (path) => write(path, (i) => rowOf.rag(i, "The director of the film is Köln.")),
  "2wiki.parquet": (path) => writeParquet(path, (i) => rowOf.multiHop(i, true)),
  "tulu3.parquet": (path) => writeParquet(path, (i) => rowOf.conversation(i)),
  "train.jsonl": async (path) => {
    await ensure("answered.jsonl");
    await run(process.execPath, [main, "data", "convert", "--input", at("answered.jsonl"), "--output", path]);
  },
};

async function write(path: string, row: (i: number) => object, isArray = false, count = Infinity): Promise<void> {
  const stream = createWriteStream(path);
  if (isArray) stream.write("[");
  for (let i = 0; i < Math.min(numRows, count); i++) {
    const separator = isArray ? (i === 0 ? "" : ",\n") : "";
    if (!stream.write(`${separator}${JSON.stringify(row(i))}${isArray ? "" : "\n"}`)) await once(stream, "drain");
  }
  stream.end(isArray ? "]\n" : "");
  await once(stream, "finish");
}

async function writeParquet(path: string, row: (i: number) => object): Promise<void> {
  const lines = `${path}.jsonl`;
  await write(lines, row);
  const instance = await DuckDBInstance.create(":memory:", { memory_limit: "2GB" });
  const connection = await instance.connect();
  await connection.run(
    `COPY (SELECT * FROM read_ndjson('${lines}', maximum_object_size = 100000000)) TO '${path}' (FORMAT parquet)`,
  );
  connection.closeSync();
  instance.closeSync();
  rmSync(lines);
}

const made = new Set<string>();
async function ensure(name: string): Promise<string> {
  if (!made.has(name)) await (makers[name] as (path: string) => Promise<void>)(at(name));
  made.add(name);
  return at(name);
}

const main = join("dist", "cli", "main.js");

/** A command of ours and the reference's way of it: arguments after `data NAME` and after the script's own name. */
interface Pair {
  readonly inputs: readonly string[];
  /** The commands that tokenize have another goal. */
  readonly tokenizes?: boolean;
  /** At most so many rows, where others say nothing new. */
  readonly maxRows?: number;
  readonly ours: (output: string, url: string) => string[];
  readonly theirs: (output: string, url: string) => string[];
}

const model = embeddedModelPath();
const half = Math.floor(numRows / 2);
const pairs: Readonly<Record<string, Pair>> = {
  "2wiki": raw("2wiki.parquet"),
  hqa: raw("hqa.json"),
  nq: raw("fid.json"),
  tqa: raw("fid.json"),
  retrieve: {
    inputs: ["rag.jsonl"],
    ours: (output) => ["--input", at("rag.jsonl"), "--passages", "5", "--output", output],
    theirs: (output) => [at("rag.jsonl"), output],
  },
  sample: {
    inputs: ["rag.jsonl"],
    ours: (output) => ["--input", at("rag.jsonl"), "--count", String(half), "--output", output],
    theirs: (output) => [at("rag.jsonl"), output, String(half)],
  },
  merge: {
    inputs: ["rag.jsonl", "answered.jsonl"],
    ours: (output) => [at("rag.jsonl"), at("answered.jsonl"), "--output", output],
    theirs: (output) => [at("rag.jsonl"), at("answered.jsonl"), output],
  },
  mix: {
    inputs: ["rag.jsonl", "answered.jsonl"],
    ours: (output) => ["--input", at("rag.jsonl"), "--input", at("answered.jsonl"), "--output", output],
    theirs: (output) => [at("rag.jsonl"), at("answered.jsonl"), output],
  },
  convert: {
    inputs: ["answered.jsonl"],
    ours: (output) => ["--template", "tulu", "--input", at("answered.jsonl"), "--output", output],
    theirs: (output) => [at("answered.jsonl"), output],
  },
  // A model's answer takes as long as it takes: few rows tell what many would.
  answer: {
    inputs: ["few.jsonl"],
    maxRows: 2000,
    ours: (output, url) => ["--input", at("few.jsonl"), "--base-url", url, "--model", "m", "--output", output],
    theirs: (output, url) => [at("few.jsonl"), output, url],
  },
  validate: {
    inputs: ["rag.jsonl"],
    ours: () => ["--format", "rag", at("rag.jsonl")],
    theirs: () => [at("rag.jsonl")],
  },
  tulu3: {
    inputs: ["tulu3.parquet"],
    tokenizes: true,
    ours: (output) => ["--model", model, "--input", at("tulu3.parquet"), "--output-dir", output],
    theirs: (output) => [at("tulu3.parquet"), output, model],
  },
  pack: {
    inputs: ["train.jsonl"],
    tokenizes: true,
    ours: (output) => ["--model", model, "--input", at("train.jsonl"), "--output", output],
    theirs: (output) => [at("train.jsonl"), output, model],
  },
};

function raw(input: string): Pair {
  return {
    inputs: [input],
    ours: (output) => ["--input", at(input), "--output", output],
    theirs: (output) => [at(input), output],
  };
}

interface Measured {
  readonly seconds: number;
  readonly peakBytes: number;
}

const execute = promisify(execFile);

/** Runs a program to its end. @throws Error with what it said if it fails. */
async function run(
  command: string,
  args: readonly string[],
): Promise<{ seconds: number; stdout: string; stderr: string }> {
  const startedMs = performance.now();
  const told = await execute(command, args, { maxBuffer: 2 ** 26 });
  return { seconds: (performance.now() - startedMs) / 1000, ...told };
}

async function measureOurs(name: string, args: readonly string[]): Promise<Measured> {
  // Peak memory of the whole process, all threads, in KiB.
  const tellMemory =
    'data:text/javascript,process.on("exit",()=>console.error("peak "+process.resourceUsage().maxRSS))';
  const { seconds, stderr } = await run(process.execPath, ["--import", tellMemory, main, "data", name, ...args]);
  return { seconds, peakBytes: 1024 * Number(/peak (\d+)/.exec(stderr)?.[1]) };
}

async function measureTheirs(name: string, args: readonly string[]): Promise<Measured> {
  const script = join("python", "benchmarks", "data_commands.py");
  const { seconds, stdout } = await run(python, [script, name, ...args]);
  const told = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as { peak_bytes: number };
  return { seconds, peakBytes: told.peak_bytes };
}

/** A server that answers after 50 ms, in a process of its own. */
async function answeringServer(): Promise<{ readonly url: string; readonly child: ChildProcess }> {
  const child = spawn(process.execPath, [join("bench", "shared", "answering-server.mjs")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [data] = (await once(child.stdout, "data")) as [Buffer];
  return { url: data.toString().trim(), child };
}

const names = namesText === "" ? Object.keys(pairs) : namesText.split(",");
const unknown = names.find((name) => !Object.hasOwn(pairs, name));
if (unknown !== undefined) throw new Error(`Cannot measure "${unknown}": wanted ${Object.keys(pairs).join(", ")}`);
console.log(`data-commands, ${numRows} rows, ${describeRun()}\n`);
const server = names.includes("answer") ? await answeringServer() : undefined;
const url = server?.url ?? "";
const megabytes = ({ peakBytes }: Measured) => Math.round(peakBytes / 1e6);
const table: (string | number)[][] = [];
try {
  for (const name of names) {
    const pair = pairs[name] as Pair;
    for (const input of pair.inputs) await ensure(input);
    const theirs = await measureTheirs(name, pair.theirs(at(`${name}.theirs`), url));
    const ours = await measureOurs(name, pair.ours(at(`${name}.ours`), url));
    for (const output of [`${name}.theirs`, `${name}.ours`]) rmSync(at(output), { recursive: true, force: true });
    const ratio = theirs.seconds / ours.seconds;
    const rows = Math.min(numRows, pair.maxRows ?? numRows);
    const perSecond = ({ seconds }: Measured) => Math.round(rows / seconds);
    table.push([
      name,
      rows,
      perSecond(ours),
      perSecond(theirs),
      `${ratio.toFixed(2)} x`,
      pair.tokenizes ? 1 : 5,
      megabytes(ours),
      megabytes(theirs),
      `${(ours.peakBytes / theirs.peakBytes).toFixed(2)} x`,
    ]);
    console.error(`${name}: ours ${ours.seconds.toFixed(1)} s, reference's way ${theirs.seconds.toFixed(1)} s`);
  }
} finally {
  server?.child.kill();
}
printTable(["command", "rows", "rows/s", "reference's", "ratio", "goal", "MB", "reference's", "memory"], table);

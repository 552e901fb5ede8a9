import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { DuckDBInstance } from "@duckdb/node-api";
import { afterAll, beforeAll, expect, test } from "vitest";
import { embeddedModelPath } from "../../engine/model.js";
import { packTrainingData } from "../pack.js";
import { madeUpQuestions } from "../rag/questions.suite.js";
import { PackedRows } from "./packed-row.js";
import { writeRagFile } from "./rag-file.js";
import { writeTulu3 } from "./tulu3.js";
import { type ValidFormat, validateFile } from "./validate.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-validate-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fixture = (name: string) => fileURLToPath(new URL(`../../../tests/fixtures/raw/${name}`, import.meta.url));
const signal = new AbortController().signal;
const validate = (path: string, format: ValidFormat) => validateFile(path, format, signal);
const lines = (name: string, rows: readonly unknown[]): string => {
  const path = join(folder, name);
  writeFileSync(path, rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`).join(""));
  return path;
};
const cutting = {
  model: embeddedModelPath(),
  template: "tulu",
  prefix: undefined,
  maxTokens: 4096,
  singleProbability: 1,
  seed: "1",
  numWorkers: 0,
  signal,
} as const;
const packed = join(folder, "packed.parquet");

beforeAll(async () => {
  const samples = madeUpQuestions(10, 4).map(({ id, question, documents, generated }) => {
    const blocks = [...documents.map(({ title, text }) => `${title}\n${text}\n`), question];
    return { id, prompt: blocks.join(""), blocks, response: generated };
  });
  lines("samples.jsonl", samples);
  await packTrainingData({ ...cutting, inputs: [join(folder, "samples.jsonl")], output: packed });
});

test("validateFile(): what the commands write is of its format, and so are the miniatures", async () => {
  const rag = {
    split: undefined,
    limit: Infinity,
    scores: undefined,
    numPassages: 10,
    order: "best-first",
    signal,
  } as const;
  await writeRagFile({ ...rag, format: "nq", input: fixture("nq.json"), output: join(folder, "nq.jsonl") });
  await writeTulu3({ ...cutting, input: fixture("tulu3"), outputDir: folder });
  for (const [path, format] of [
    [join(folder, "nq.jsonl"), "rag"],
    [join(folder, "sft.train.jsonl"), "train"],
    [join(folder, "block.train.jsonl"), "train"],
    [join(folder, "samples.jsonl"), "train"],
    [join(fixture("tulu3"), "train-00000-of-00001.parquet"), "tulu"],
    [join(fixture("2wiki"), "dev.parquet"), "2wiki"],
    [fixture("hqa.json"), "hqa"],
    [fixture("tqa.json"), "tqa"],
    [packed, "packed"],
  ] as const) {
    const report = await validate(path, format);
    expect({ path, bad: report.bad, errors: report.errors }).toEqual({ path, bad: 0, errors: [] });
    expect(report.rows).toBeGreaterThan(0);
  }
});

test("validateFile(): rows that are of the format but would be left out are told apart from wrong ones", async () => {
  expect(await validate(fixture("hqa.json"), "hqa")).toMatchObject({
    rows: 5,
    written: 2,
    bad: 0,
    dropped: { "it has no answer": 2, "it has no passage with text": 1 },
  });
  expect(await validate(fixture("nq.json"), "nq")).toMatchObject({
    rows: 5,
    bad: 2,
    dropped: { "it has no answer": 1 },
  });
});

test("validateFile(): of many wrong lines the first 20 are told, with their numbers, and all are counted", async () => {
  const good = { question: "q", answers: ["a"], documents: [] };
  const path = lines("many.jsonl", [good, ...Array.from({ length: 30 }, () => ({ ...good, question: 1 })), good]);
  const report = await validate(path, "rag");
  expect(report).toMatchObject({ rows: 32, written: 2, bad: 30 });
  expect(report.errors).toHaveLength(20);
  expect(report.errors[0]).toMatch(/"question" is 1, wanted text \(line 2 of ".*many\.jsonl"\)$/);
  expect(report.errors[19]).toMatch(/line 21 of/);
});

test.each<[ValidFormat, unknown, RegExp]>([
  ["rag", "{no json", /line 1.*no JSON/],
  ["rag", "[1]", /no object/],
  ["rag", { answers: ["a"], documents: [] }, /"question" is missing/],
  ["rag", { question: "q", documents: [] }, /"answers" is undefined, a list of one text or more is wanted/],
  ["rag", { question: "q", answers: "a", documents: [] }, /"answers" is "a", a list/],
  ["rag", { question: "q", answers: [""], documents: [] }, /"answers" is a list, a list of one text or more/],
  ["rag", { question: "q", answers: ["a"], documents: [{ title: "t" }] }, /document 1/],
  [
    "rag",
    { question: "q", answers: ["a"], documents: [{ title: "t", text: "x", score: "1" }] },
    /score of document 1 is "1"/,
  ],
  ["train", { text: "a" }, /neither "messages" nor "blocks"/],
  ["train", { blocks: ["a", "b"], response: " " }, /line 1 of ".*": the response is empty/],
  ["train", { prompt: "x", blocks: ["a", "b"], response: "c" }, /the blocks are not the prompt/],
  ["train", { messages: [{ role: "user", content: "a" }] }, /"messages" has none of an assistant/],
  ["tulu", { blocks: ["a"], response: "b" }, /"messages" is missing/],
  ["tulu", { messages: [{ role: "user", content: 1 }] }, /message 1 has no "role" and "content" of text/],
  [
    "tulu",
    {
      messages: [
        { role: "assistant", content: "a" },
        { role: "critic", content: "b" },
      ],
    },
    /role of message 2 is "critic", wanted system, user, assistant/,
  ],
  ["tulu", { id: 5, messages: [{ role: "assistant", content: "a" }] }, /"id" is 5, a text is wanted/],
  ["hqa", { question: "q" }, /"context" is missing/],
])("validateFile(): as %s, %j says what was wanted", async (format, row, message) => {
  const report = await validate(lines("one.jsonl", [row]), format);
  expect(report).toMatchObject({ rows: 1, bad: 1 });
  expect(report.errors[0]).toMatch(message);
});

test("validateFile(): files that cannot be read at all, or hold no rows, are errors", async () => {
  await expect(validate(join(folder, "none.jsonl"), "rag")).rejects.toThrow(/no such file/);
  await expect(validate(lines("empty.jsonl", []), "rag")).rejects.toThrow(
    /Cannot validate ".*empty\.jsonl": it holds no rows/,
  );
  await expect(validate(join(folder, "samples.jsonl"), "packed")).rejects.toThrow(/packed data are a \.parquet file/);
  await expect(validate(lines("text.parquet", ["no Parquet"]), "packed")).rejects.toThrow(
    /Cannot read ".*text\.parquet"/,
  );
});

const sample = {
  sample_id: "s",
  group_id: null,
  input_ids: [5, 6, 7, 8, 9],
  labels: [-100, -100, -100, 8, 9],
  block_lengths: [2, 0, 1],
  modes: ["block", "full"],
};

test.each<[object, RegExp]>([
  [{ sample_id: null }, /"sample_id" is missing/],
  [{ input_ids: [5, 6, 7, 8, -1] }, /value 5 of "input_ids" is -1, wanted 0 or more/],
  [{ input_ids: [5, null, 7, 8, 9] }, /value 2 of "input_ids" is null/],
  [{ labels: [-100, -100, -100, 8] }, /"labels" has 4 values, "input_ids" 5/],
  [{ labels: [-100, -100, -100, 9, 9] }, /label 4 is 9, wanted 8 or -100/],
  [{ labels: [-100, -100, 7, 8, 9] }, /label 3 is in the prompt/],
  [{ labels: [-100, -100, -100, -100, -100] }, /no label is to be learned/],
  [{ block_lengths: [3, 0] }, /does not end in a final block/],
  [{ block_lengths: [] }, /does not end in a final block/],
  [{ block_lengths: [2, 3] }, /the blocks have 5 tokens of 5/],
  [{ block_lengths: "2" }, /"block_lengths" is "2", a list of whole numbers is wanted/],
  [{ modes: ["block", "half"] }, /"modes" is a list, a list of "block", "full" or both is wanted/],
  [{ modes: [] }, /"modes"/],
])("PackedRows: %j is told", (change, message) => {
  expect(() => new PackedRows([1]).check({ ...sample, ...change } as never, "row 1")).toThrow(message);
  expect(() => new PackedRows([1]).check(sample, "row 1")).not.toThrow();
});

const { block_lengths: lengths, ...rest } = sample;
const spans = { ...rest, span_lengths: lengths, is_global: [false, true, true] };

test.each<[object, RegExp]>([
  [{ span_lengths: null }, /"span_lengths" is missing/],
  [{ is_global: null }, /"is_global" is missing/],
  [{ is_global: [false, true] }, /"is_global" is a list, 3 of true or false, the last true is wanted/],
  [{ is_global: [true, true, false] }, /"is_global" is a list, 3 of true or false, the last true/],
  [{ is_global: [0, 0, true] }, /"is_global"/],
  [{ span_lengths: [3, 0, 0] }, /"span_lengths" does not end in a final block/],
])("PackedRows: %j of a row of spans is told", (change, message) => {
  expect(() => new PackedRows([1]).check({ ...spans, ...change } as never, "row 1")).toThrow(message);
  expect(() => new PackedRows([1]).check(spans, "row 1")).not.toThrow();
});

test("PackedRows: samples of a group share all blocks but the last, inside one row group", () => {
  const first = { ...sample, group_id: "g" };
  const question = { ...first, input_ids: [5, 6, 3, 8, 9] };
  const other = { ...first, input_ids: [4, 6, 7, 8, 9] };
  const bySpans = new PackedRows([2]);
  bySpans.check({ ...spans, group_id: "g" }, "row 1");
  expect(() => bySpans.check({ ...spans, group_id: "g", is_global: [false, false, true] }, "row 2")).toThrow(
    'Cannot use row 2: its blocks before the last are not those of its group "g"',
  );
  const rows = new PackedRows([3, 2]);
  rows.check(first, "row 1");
  rows.check(question, "row 2");
  expect(() => rows.check(other, "row 3")).toThrow(
    'Cannot use row 3: its blocks before the last are not those of its group "g"',
  );
  rows.check(other, "row 4");
  expect(() => rows.check(first, "row 5")).toThrow(/row 5/);
});

test("validateFile(): a packed file with another column is told row by row", async () => {
  const path = join(folder, "other.parquet");
  const instance = await DuckDBInstance.create(":memory:", { threads: "1" });
  const connection = await instance.connect();
  await connection.run(
    `COPY (SELECT * RENAME (labels AS label) FROM read_parquet('${packed}')) TO '${path}' (FORMAT parquet)`,
  );
  connection.closeSync();
  instance.closeSync();
  const report = await validate(path, "packed");
  expect(report.bad).toBe(report.rows);
  expect(report.errors[0]).toMatch(/^Cannot read row 1 of ".*other\.parquet": "labels" is missing$/);
});

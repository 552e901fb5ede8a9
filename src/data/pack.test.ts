import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DuckDBInstance } from "@duckdb/node-api";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ragPrompt } from "../blocks/rag-prompt.js";
import { embeddedModelPath, loadTokenizer, templateOf } from "../engine/model.js";
import { tokenizePrompt } from "../engine/prompt.js";
import { type PackOptions, packTrainingData } from "./pack.js";
import { modelPrompt } from "./rag/model-prompt.js";
import { madeUpQuestions } from "./rag/questions.suite.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-pack-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const signal = new AbortController().signal;
const options = (input: string, output: string, more: Partial<PackOptions> = {}): PackOptions => ({
  model: embeddedModelPath(),
  inputs: [join(folder, input)],
  output: join(folder, output),
  template: "own",
  prefix: undefined,
  maxTokens: 4096,
  singleProbability: 1,
  seed: "1",
  numWorkers: 0,
  signal,
  ...more,
});
// More rows than a piece has.
const questions = madeUpQuestions(80, 4);
beforeAll(async () => {
  const { rag } = await modelPrompt(embeddedModelPath(), "own");
  const rows = questions.map(({ id, question, documents, generated }) => {
    const blocks = ragPrompt({ documents, question }, rag).blocks.map(({ text }) => text);
    return { id, group: `group of ${id}`, prompt: blocks.join(""), blocks, response: generated };
  });
  writeFileSync(join(folder, "train.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
});

async function query(sql: string, path: string): Promise<Record<string, unknown>[]> {
  const instance = await DuckDBInstance.create(":memory:", { threads: "1" });
  const connection = await instance.connect();
  const reader = await connection.runAndReadAll(sql, { path });
  const rows = reader.getRowObjectsJson();
  connection.closeSync();
  instance.closeSync();
  return rows;
}
const rowsOf = (path: string) => query("SELECT * FROM read_parquet($path)", path);

test("packTrainingData(): ids are those that serving computes, and what is to be learned is the response", async () => {
  const report = await packTrainingData(options("train.jsonl", "train.parquet"));
  const rows = (await rowsOf(join(folder, "train.parquet"))) as Record<string, string[] & number[]>[];
  expect(report).toMatchObject({ rows: rows.length, bad: 0, kept: rows.length, keptBlock: rows.length, dropped: {} });
  const tokenizer = await loadTokenizer(embeddedModelPath());
  const chatTemplate = templateOf(tokenizer);
  const config = JSON.parse(readFileSync(join(embeddedModelPath(), "config.json"), "utf8"));
  const context = { tokenizer, chatTemplate, ragTexts: config.block_attention.rag_prompt, prefix: "" };
  expect(rows).toHaveLength(questions.length);
  for (const [i, { id, question, documents, generated }] of questions.entries()) {
    const row = rows[i];
    const served = tokenizePrompt({ question, documents }, "block", context).spans.map(({ tokenIds }) => [...tokenIds]);
    const prompt = served.flat();
    const response = [...tokenizer.encode(generated, "all"), ...tokenizer.encode("<|eos|>", "all")];
    expect(row).toMatchObject({ sample_id: id, group_id: `group of ${id}` });
    expect(row?.input_ids).toEqual([...prompt, ...response]);
    expect(row?.labels).toEqual([...prompt.map(() => -100), ...response]);
    expect(row?.block_lengths).toEqual(served.map(({ length }) => length));
    expect(row?.modes).toEqual(["block", "full"]);
  }
  const metadata = await query(
    "SELECT decode(key) AS key, decode(value) AS value FROM parquet_kv_metadata($path)",
    join(folder, "train.parquet"),
  );
  expect(metadata).toContainEqual({ key: "tokenizer_digest", value: tokenizer.digest });
});

test("packTrainingData(): JSON lines, a JSON array and Parquet give the same bytes, and so does another run", async () => {
  const lines = readFileSync(join(folder, "train.jsonl"), "utf8").trim().split("\n");
  writeFileSync(join(folder, "train-array.json"), `[${lines.join(",\n")}]`);
  const instance = await DuckDBInstance.create(":memory:");
  const connection = await instance.connect();
  await connection.run(
    `COPY (SELECT * FROM read_ndjson('${join(folder, "train.jsonl")}')) TO '${join(folder, "raw.parquet")}' (FORMAT parquet)`,
  );
  connection.closeSync();
  instance.closeSync();
  const bytes = async (input: string) => {
    await packTrainingData(options(input, "again.parquet"));
    return readFileSync(join(folder, "again.parquet"));
  };
  const first = readFileSync(join(folder, "train.parquet"));
  for (const input of ["train.jsonl", "train-array.json", "raw.parquet"])
    expect((await bytes(input)).equals(first)).toBe(true);
});

test("packTrainingData(): rows that cannot be used and samples that are too long are counted, with their places", async () => {
  writeFileSync(
    join(folder, "mixed.jsonl"),
    [
      '{"blocks":["a","b"],"response":"c"}',
      "{no json",
      '{"text":"a"}',
      JSON.stringify({ blocks: ["word ".repeat(300), "b"], response: "c" }),
      '{"blocks":["a","b"],"response":""}',
    ].join("\n"),
  );
  const report = await packTrainingData(options("mixed.jsonl", "mixed.parquet", { maxTokens: 100 }));
  expect(report).toMatchObject({ rows: 5, bad: 2, samples: 3, kept: 1 });
  expect(report.dropped).toEqual({ "it has 100 tokens or more": 1, "the response is empty": 1 });
  expect(report.errors.join("\n")).toMatch(/line 2.*line 3/s);
  expect(JSON.parse(readFileSync(join(folder, "mixed.parquet.report.json"), "utf8"))).toEqual(
    JSON.parse(JSON.stringify(report)),
  );
  expect(readFileSync(join(folder, "mixed.parquet.lengths.svg"), "utf8")).toMatch(/^<svg.*1 samples/s);
});

test("packTrainingData(): files of spans have columns that a reader of blocks alone lacks; the rule's are as they were", async () => {
  const [system, user, assistant] = [
    { role: "system", content: "Be brief." },
    { role: "user", content: "One?" },
    { role: "assistant", content: "First." },
  ];
  const messages = [system, user, assistant, system, user, assistant];
  writeFileSync(join(folder, "chat.jsonl"), JSON.stringify({ id: "c", messages }));
  const pack = async (output: string, conversations: PackOptions["conversations"]) => {
    await packTrainingData(options("chat.jsonl", output, { template: "tulu", conversations }));
    const [settings] = await query(
      "SELECT decode(value) AS version FROM parquet_kv_metadata($path) WHERE decode(key) = 'block_attention_packing'",
      join(folder, output),
    );
    return [settings, ...(await rowsOf(join(folder, output)))];
  };
  const [rule, , byRule] = await pack("rule.parquet", "rule");
  expect(rule).toEqual({ version: "1" });
  expect(Object.keys(byRule ?? {})).toEqual(["sample_id", "group_id", "input_ids", "labels", "block_lengths", "modes"]);
  await packTrainingData(options("chat.jsonl", "default.parquet", { template: "tulu" }));
  const bytes = (name: string) => readFileSync(join(folder, name));
  expect(bytes("default.parquet").equals(bytes("rule.parquet"))).toBe(true);
  expect(bytes("default.parquet.manifest.json").includes("conversations")).toBe(false);

  const [spans, first, second] = (await pack("spans.parquet", "spans")) as Record<string, number[]>[];
  expect(spans).toEqual({ version: "2" });
  expect(Object.keys(first ?? {})).toEqual([
    "sample_id",
    "group_id",
    "input_ids",
    "labels",
    "span_lengths",
    "is_global",
    "modes",
  ]);
  expect([first?.is_global, second?.is_global]).toEqual([
    [false, true],
    [false, true, false, true],
  ]);
  expect(JSON.parse(bytes("spans.parquet.manifest.json").toString()).options.conversations).toBe("spans");
  // What serving computes of the earlier prompt, then of the later one, which begins with it.
  const { tokenizer, rag } = await modelPrompt(embeddedModelPath(), "tulu");
  const context = { tokenizer, chatTemplate: rag.template, ragTexts: undefined, prefix: "" };
  for (const [row, numBefore] of [
    [first, 2],
    [second, 5],
  ] as const) {
    const served = tokenizePrompt({ messages: messages.slice(0, numBefore) }, "block", context).spans;
    expect(row?.is_global).toEqual(served.map(({ kind }) => kind === "global"));
    expect(row?.span_lengths).toEqual(served.map(({ tokenIds }) => tokenIds.length));
    const prompt = served.flatMap(({ tokenIds }) => [...tokenIds]);
    expect(row?.input_ids?.slice(0, prompt.length)).toEqual(prompt);
    expect(second?.input_ids?.slice(0, prompt.length)).toEqual(prompt);
  }
});

test("packTrainingData(): what fails leaves the old file and no half one", async () => {
  const before = readFileSync(join(folder, "mixed.parquet"));
  writeFileSync(join(folder, "bad.jsonl"), "{no json");
  await expect(packTrainingData(options("bad.jsonl", "mixed.parquet"))).rejects.toThrow(
    /no sample is left of 1 rows; .*line 1/,
  );
  await expect(packTrainingData(options("none.jsonl", "mixed.parquet"))).rejects.toThrow(/no such file/);
  const ending = new AbortController();
  const abort = { signal: ending.signal, onProgress: () => ending.abort(new Error("Cancelled")) };
  await expect(packTrainingData(options("train.jsonl", "mixed.parquet", abort))).rejects.toThrow("Cancelled");
  truncateSync(join(folder, "raw.parquet"), 5000);
  await expect(packTrainingData(options("raw.parquet", "mixed.parquet"))).rejects.toThrow(
    /Cannot read ".*raw\.parquet"/,
  );
  expect(readFileSync(join(folder, "mixed.parquet")).equals(before)).toBe(true);
  expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
});

test("packTrainingData(): the model's own prefix is read without its weights; one that cannot be read is no missing one", async () => {
  const model = join(folder, "model");
  cpSync(embeddedModelPath(), model, { recursive: true, filter: (path) => !path.endsWith(".safetensors") });
  const pack = async (block_attention: object | undefined): Promise<unknown> => {
    const path = join(model, "config.json");
    const config = JSON.parse(readFileSync(join(embeddedModelPath(), "config.json"), "utf8"));
    if (block_attention === undefined) rmSync(path);
    else writeFileSync(path, JSON.stringify({ ...config, block_attention }));
    await packTrainingData(options("train.jsonl", "prefix.parquet", { model }));
    return JSON.parse(readFileSync(join(folder, "prefix.parquet.manifest.json"), "utf8")).options.prefix;
  };
  expect(await pack({ version: 1, prefix: "[Block]", modes: ["block"] })).toBe("[Block]");
  await expect(pack({ version: 9, prefix: "[Block]", modes: ["block"] })).rejects.toThrow(
    /^Cannot read "block_attention" of ".*config\.json": its version is 9, version 1 is read$/,
  );
  expect(await pack(undefined)).toBe("");
});

test("packTrainingData(): its manifest tells what went in and out, without times", async () => {
  const manifest = (output: string) => JSON.parse(readFileSync(join(folder, `${output}.manifest.json`), "utf8"));
  const { digest } = await loadTokenizer(embeddedModelPath());
  const input = readFileSync(join(folder, "train.jsonl"));
  const sha256 = createHash("sha256").update(input).digest("hex");
  const report = await packTrainingData(options("train.jsonl", "train.parquet"));
  expect(manifest("train.parquet")).toMatchObject({
    command: "data pack",
    options: { template: "own", prefix: "", max_tokens: 4096, single_probability: 1, seed: "1" },
    inputs: [{ path: join(folder, "train.jsonl"), bytes: input.length, sha256 }],
    tokenizer_digest: digest,
    counts: { rows: report.rows, kept: report.kept, kept_block: report.keptBlock },
    dropped: {},
    output: { path: "train.parquet", bytes: readFileSync(join(folder, "train.parquet")).length },
  });
});

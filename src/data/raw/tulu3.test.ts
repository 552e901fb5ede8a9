import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { DuckDBInstance } from "@duckdb/node-api";
import { afterAll, expect, test } from "vitest";
import { embeddedModelPath, loadTokenizer } from "../../engine/model.js";
import { packTrainingData } from "../pack.js";
import { type Tulu3Options, writeTulu3 } from "./tulu3.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-tulu3-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const miniature = fileURLToPath(new URL("../../../tests/fixtures/raw/tulu3", import.meta.url));
const signal = new AbortController().signal;
const settings = {
  model: embeddedModelPath(),
  template: "tulu",
  prefix: undefined,
  maxTokens: 4096,
  singleProbability: 1,
  seed: "1",
  numWorkers: 0,
  signal,
} as const;
const write = (output: string, more: Partial<Tulu3Options> = {}) =>
  writeTulu3({ ...settings, input: miniature, outputDir: join(folder, output), ...more });

interface Line {
  readonly id: string;
  readonly source: string;
  readonly prompt: string;
  readonly blocks: readonly string[];
  readonly response: string;
  readonly train_block: boolean;
}
const linesOf = (output: string, name: "sft" | "block"): Line[] =>
  readFileSync(join(folder, output, `${name}.train.jsonl`), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

// Worked out by hand from the miniature's rows: each message cut at the first delimiter that occurs in it, the last user
// message whole where another message stands before it, "<|role|>\n" and the newline after a message on its first and last
// piece; of sixteen equal pieces before the last, two pairs merge from the left.
const expectedBlocks: Omit<Line, "prompt">[] = [
  {
    id: "oasst1_1#1",
    source: "ai2-adapt-dev/oasst1_converted",
    blocks: ["<|user|>\nA list:\n- one\n- two\n\n", "What is the second?\n\n", "Say it.\n<|assistant|>\n"],
    response: "Two.<|end_of_text|>\n",
    train_block: true,
  },
  {
    id: "no_robots_2#2",
    source: "ai2-adapt-dev/no_robots_converted",
    blocks: ["<|system|>\nYou are Ada.\n", "Be brief.\n", "<|user|>\nHello\nAda\n<|assistant|>\n"],
    response: "Hello.\n\nWhat is it?<|end_of_text|>\n",
    train_block: true,
  },
  {
    id: "no_robots_2#4",
    source: "ai2-adapt-dev/no_robots_converted",
    blocks: [
      "<|system|>\nYou are Ada.\n",
      "Be brief.\n",
      "<|user|>\nHello\n",
      "Ada\n",
      "<|assistant|>\nHello.\n\n",
      "What is it?<|end_of_text|>\n",
      "<|user|>\nOne---two.\nThat is all.\n<|assistant|>\n",
    ],
    response: "Good.<|end_of_text|>\n",
    train_block: true,
  },
  {
    id: "personahub_3#1",
    source: "ai2-adapt-dev/personahub_code",
    blocks: ["<|user|>\nWrite a function.\n\n", "It adds.\n<|assistant|>\n"],
    response: "```python\ndef add(a, b):\n    return a + b\n```<|end_of_text|>\n",
    train_block: false,
  },
  {
    id: "oasst1_1#1",
    source: "ai2-adapt-dev/oasst1_converted",
    blocks: ["<|user|>\nAn id that stands twice.\n\n", "Does it?\n<|assistant|>\n"],
    response: "It does.<|end_of_text|>\n",
    train_block: true,
  },
  {
    id: "sciriff_6#1",
    source: "ai2-adapt-dev/tulu_v3.9_sciriff_10k",
    blocks: [
      "<|user|>\n01\n\n02\n\n",
      "03\n\n04\n\n",
      ...["05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16"].map((text) => `${text}\n\n`),
      "last\n<|assistant|>\n",
    ],
    response: "Sixteen.<|end_of_text|>\n",
    train_block: true,
  },
];

test("writeTulu3(): the miniature gives the block lines that were worked out by hand", async () => {
  const report = await write("all");
  expect(linesOf("all", "block")).toEqual(expectedBlocks.map((line) => ({ ...line, prompt: line.blocks.join("") })));
  const sft = linesOf("all", "sft");
  expect(sft.map(({ id }) => id)).toEqual([
    "oasst1_1#1",
    "no_robots_2#2",
    "no_robots_2#4",
    "personahub_3#1",
    "aya_4#1",
    "oasst1_1#1",
    "sciriff_6#1",
  ]);
  expect(sft[4]).toMatchObject({
    blocks: ["<|user|>\n东京的人口是多少？\n<|assistant|>\n"],
    response: "大约一千四百万。<|end_of_text|>\n",
  });
  for (const { prompt, blocks, train_block } of sft)
    expect({ blocks, train_block }).toEqual({ blocks: [prompt], train_block: false });
  expect(report).toMatchObject({
    rows: 8,
    bad: 0,
    samples: 9,
    sft: {
      written: 7,
      inBlockMode: 0,
      dropped: { "a message is empty": 1, "no user message stands before the answer": 1 },
    },
    block: {
      written: 6,
      inBlockMode: 5,
      dropped: { "a message is empty": 1, "no user message stands before the answer": 1, "its prompt is one block": 1 },
    },
  });
});

test("writeTulu3(): packing the block lines gives what packing the conversations gives", async () => {
  const pack = async (input: string, output: string) => {
    const path = join(folder, output);
    await packTrainingData({ ...settings, inputs: [input], output: path });
    const instance = await DuckDBInstance.create(":memory:", { threads: "1" });
    const connection = await instance.connect();
    const reader = await connection.runAndReadAll("SELECT * FROM read_parquet($path)", { path });
    const rows = reader.getRowObjectsJson();
    connection.closeSync();
    instance.closeSync();
    return rows;
  };
  const fromLines = await pack(join(folder, "all", "block.train.jsonl"), "lines.parquet");
  const fromRows = await pack(miniature, "rows.parquet");
  expect(fromLines).toHaveLength(6);
  // The one that has but one block is in full mode only, and so in sft.train.jsonl alone.
  expect(fromLines).toEqual(fromRows.filter(({ sample_id }) => sample_id !== "aya_4#1"));
});

test("writeTulu3(): of single messages a share is kept for block training, by the seed", async () => {
  const messages = [
    { role: "user", content: "One.\n\nTwo?" },
    { role: "assistant", content: "Yes." },
  ];
  const input = join(folder, "singles.jsonl");
  writeFileSync(input, Array.from({ length: 200 }, (_, i) => JSON.stringify({ id: `s${i}`, messages })).join("\n"));
  const idsOf = async (output: string, seed: string) => {
    await write(output, { input, seed, singleProbability: 0.45 });
    return linesOf(output, "block").map(({ id }) => id);
  };
  const kept = await idsOf("seed-1", "1");
  // Five standard deviations of 200 draws at 0.45 are 0.176.
  expect(Math.abs(kept.length / 200 - 0.45)).toBeLessThan(0.176);
  expect(await idsOf("seed-1-again", "1")).toEqual(kept);
  expect(await idsOf("seed-2", "2")).not.toEqual(kept);
  expect(linesOf("seed-1", "sft")).toHaveLength(200);
});

test("writeTulu3(): samples that are too long are in neither file; the manifests tell all, and no run differs", async () => {
  const endings = ["", ".manifest.json", ".lengths.svg"];
  const bytes = (output: string) =>
    ["sft", "block"].flatMap((name) =>
      endings.map((ending) => readFileSync(join(folder, output, `${name}.train.jsonl${ending}`), "utf8")),
    );
  await write("short", { maxTokens: 60 });
  await write("short-again", { maxTokens: 60 });
  expect(bytes("short")).toEqual(bytes("short-again"));
  const manifest = JSON.parse(bytes("short")[4] as string);
  const { digest } = await loadTokenizer(embeddedModelPath());
  expect(manifest).toMatchObject({
    command: "data tulu3",
    options: { template: "tulu", prefix: "", max_tokens: 60, single_probability: 1, seed: "1" },
    tokenizer_digest: digest,
    inputs: [{ path: join(miniature, "train-00000-of-00001.parquet") }],
    counts: { rows: 8, bad: 0, samples: 9 },
    output: { path: "block.train.jsonl" },
  });
  const tooLong = manifest.dropped["it has 60 tokens or more"];
  expect(tooLong).toBeGreaterThan(0);
  const reasons = Object.values(manifest.dropped as Record<string, number>);
  expect(manifest.counts.written).toBe(9 - reasons.reduce((sum, count) => sum + count, 0));
  expect(linesOf("short", "sft").map(({ id }) => id)).not.toContain("sciriff_6#1");
});

test("writeTulu3(): rows of other columns are told, and where none is left nothing is written", async () => {
  const input = join(folder, "wrong.jsonl");
  writeFileSync(input, '{"conversation":[]}\n{"messages":"x"}\n{"messages":[{"role":"user","content":1}]}\n{no json');
  await expect(write("wrong", { input })).rejects.toThrow(
    /no sample is left of 4 rows; Cannot use the row: it has no "messages" \(line 1 of ".*wrong\.jsonl"\)/,
  );
  expect(readdirSync(join(folder, "wrong"))).toEqual([]);
  writeFileSync(
    input,
    `${readFileSync(input, "utf8")}\n${JSON.stringify({
      messages: [
        { role: "user", content: "a\nb" },
        { role: "assistant", content: "c" },
      ],
    })}`,
  );
  const report = await write("wrong", { input });
  expect(report).toMatchObject({ rows: 5, bad: 4, samples: 1 });
  expect(report.errors).toHaveLength(4);
  expect(report.errors[3]).toMatch(/line 4.*no JSON/);
});

test("writeTulu3(): an aborted run leaves neither file", async () => {
  const ending = new AbortController();
  const more = { input: join(folder, "singles.jsonl"), onProgress: () => ending.abort(new Error("Cancelled")) };
  await expect(write("aborted", { ...more, signal: ending.signal })).rejects.toThrow("Cancelled");
  expect(readdirSync(join(folder, "aborted"))).toEqual([]);
});

test.skipIf(!existsSync("/dev/full"))("writeTulu3(): a full disk is told, and both old files stay", async () => {
  await write("full");
  const before = readFileSync(join(folder, "full", "sft.train.jsonl"), "utf8");
  // The second file being written is a device that is always full.
  symlinkSync("/dev/full", join(folder, "full", "block.train.jsonl.partial"));
  await expect(write("full")).rejects.toThrow(/Cannot write ".*block\.train\.jsonl.*the disk is full$/);
  expect(readFileSync(join(folder, "full", "sft.train.jsonl"), "utf8")).toBe(before);
  expect(readdirSync(join(folder, "full")).filter((name) => name.includes("partial"))).toEqual([]);
});

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { embeddedModelPath, loadTokenizer } from "../engine/model.js";
import { type InspectOptions, inspectRow } from "./inspect-sample.js";
import { packTrainingData } from "./pack.js";
import { convertRows } from "./rag/convert-rows.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-inspect-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const model = embeddedModelPath();
const signal = new AbortController().signal;
const inspect = (name: string, more: Partial<InspectOptions> = {}) =>
  inspectRow({ path: at(name), row: 1, model, template: "own", signal, ...more });

const packing = {
  model,
  template: "own",
  prefix: undefined,
  maxTokens: 4096,
  singleProbability: 1,
  seed: "1",
  numWorkers: 0,
  signal,
} as const;

const documents = [
  { title: "Ada", text: "Ada was born in Oslo.", score: 2.5 },
  { title: "Oslo", text: "A city.", score: 1 },
];
const rag = { id: "x", question: "Where was Ada born?", answers: ["Oslo"], generated: "In Oslo.", documents };
writeFileSync(at("rag.jsonl"), `${JSON.stringify({ ...rag, generated: "" })}\n${JSON.stringify(rag)}\n7\n{no json\n`);

test("inspectRow(): a RAG line, the training line and the packed row of it are the same blocks", async () => {
  const [shown] = await inspect("rag.jsonl", { row: 2 });
  expect(shown).toMatchObject({ format: "rag", id: "x" });
  expect(shown?.notes).toEqual(["2 documents, scores 2.5, 1", 'answers: "Oslo"']);
  expect(shown?.parts.map(({ kind }) => kind)).toEqual(["local", "local", "local", "final", "response"]);
  expect(shown?.parts.at(-1)?.text).toBe("In Oslo.");
  expect((await inspect("rag.jsonl"))[0]?.notes.at(-1)).toBe("no answer was generated yet");

  await convertRows({
    inputs: [at("rag.jsonl")],
    output: at("train.jsonl"),
    model,
    template: "own",
    order: "best-first",
    signal,
  });
  const [train] = await inspect("train.jsonl");
  expect(train).toMatchObject({ format: "train", id: "x", notes: ["trained in block and full mode"] });
  expect(train?.parts).toEqual(shown?.parts);

  await packTrainingData({ ...packing, inputs: [at("train.jsonl")], output: at("packed.parquet") });
  const [packed] = await inspect("packed.parquet");
  expect(packed).toMatchObject({ format: "packed", id: "x", notes: ["trained in block and full mode"] });
  const texts = packed?.parts.map(({ text }) => text) ?? [];
  expect(texts.slice(0, -1)).toEqual(train?.parts.slice(0, -1).map(({ text }) => text));
  // Packing puts the end token after the response.
  const tokenizer = await loadTokenizer(model);
  expect(texts.at(-1)).toBe(`In Oslo.${tokenizer.templateTokens.eos_token}`);
  expect(packed?.parts.map(({ tokens }) => tokens)).toEqual(
    train?.parts.map(({ tokens, kind }) => (kind === "response" ? tokens + 1 : tokens)),
  );
});

test("inspectRow(): a conversation has a sample for each answer", async () => {
  const messages = [
    { role: "user", content: "One.\n\nTwo?" },
    { role: "assistant", content: "First." },
    { role: "user", content: "And?" },
    { role: "assistant", content: "Second." },
  ];
  writeFileSync(at("chat.jsonl"), `${JSON.stringify({ id: "c", messages })}\n`);
  const samples = await inspect("chat.jsonl", { template: "tulu" });
  expect(samples.map(({ id, format }) => [id, format])).toEqual([
    ["c#1", "conversation"],
    ["c#3", "conversation"],
  ]);
  expect(samples[0]?.parts.map(({ text }) => text)).toEqual([
    "<|user|>\nOne.\n\n",
    "Two?\n<|assistant|>\n",
    "First.<|end_of_text|>\n",
  ]);
});

test("inspectRow(), packTrainingData(): a conversation in spans, cut and packed; another turn changes no block", async () => {
  const messages = [
    { role: "system", content: "Be\n\nbrief." },
    { role: "user", content: "One?" },
    { role: "assistant", content: "First." },
    { role: "system", content: "It rained." },
    { role: "user", content: "Two?" },
    { role: "assistant", content: "Second." },
  ];
  writeFileSync(at("spans.jsonl"), `${JSON.stringify({ id: "c", messages })}\n`);
  const [first, second] = await inspect("spans.jsonl", { template: "tulu", conversations: "spans" });
  expect(second?.parts.map(({ kind, text }) => [kind, text])).toEqual([
    ["local", "<|system|>\nBe\n\nbrief.\n"],
    ["global", "<|user|>\nOne?\n<|assistant|>\n"],
    ["global", "First."],
    ["global", "<|end_of_text|>\n<|system|>\n"],
    ["local", "It rained."],
    ["final", "\n<|user|>\nTwo?\n<|assistant|>\n"],
    ["response", "Second.<|end_of_text|>\n"],
  ]);
  expect(first?.parts.slice(0, 2).map(({ text }) => text)).toEqual(second?.parts.slice(0, 2).map(({ text }) => text));

  const spans = { ...packing, template: "tulu", conversations: "spans" } as const;
  await packTrainingData({ ...spans, inputs: [at("spans.jsonl")], output: at("spans.parquet") });
  const packed = [await inspect("spans.parquet"), await inspect("spans.parquet", { row: 2 })].flat();
  expect(packed.map(({ id, parts }) => [id, ...parts.map(({ kind }) => kind)])).toEqual([
    ["c#2", "local", "final", "response"],
    ["c#5", "local", "global", "local", "final", "response"],
  ]);
  // Global blocks side by side are one span; each is tokenized alone.
  const tokens = second?.parts.map((part) => part.tokens) ?? [];
  expect(packed[1]?.parts[1]).toEqual({
    kind: "global",
    text: "<|user|>\nOne?\n<|assistant|>\nFirst.<|end_of_text|>\n<|system|>\n",
    tokens: (tokens[1] ?? 0) + (tokens[2] ?? 0) + (tokens[3] ?? 0),
  });
});

test("inspectRow(): tells what is wrong with a file or a row", async () => {
  await expect(inspect("rag.jsonl", { row: 9 })).rejects.toThrow(/Cannot show row 9 of ".*rag\.jsonl": it has 4 rows/);
  await expect(inspect("rag.jsonl", { row: 3 })).rejects.toThrow(/Cannot show line 3 of .*: it is no object/);
  await expect(inspect("rag.jsonl", { row: 4 })).rejects.toThrow(/Cannot show line 4 of .*: .*no JSON/);
  await expect(inspect("nowhere.jsonl")).rejects.toThrow("no such file");
  writeFileSync(at("short.parquet"), readFileSync(at("packed.parquet")).subarray(0, 500));
  await expect(inspect("short.parquet")).rejects.toThrow(/Cannot read ".*short\.parquet"/);
  for (const [line, message] of [
    ['{"text":"a"}', /neither "messages" nor "blocks"/],
    ['{"messages":[]}', /it has no answer to learn/],
    ['{"question":"a","documents":5}', /"documents" is 5, wanted an array/],
    ['{"input_ids":[1,-2],"block_lengths":[1]}', /"input_ids" is no list of whole numbers/],
    ['{"input_ids":[1],"block_lengths":[5]}', /its blocks have 5 tokens, "input_ids" has 1/],
    ['{"input_ids":[1,999999],"block_lengths":[1]}', /its id 999999 is none of the tokenizer's/],
  ] as const) {
    writeFileSync(at("wrong.jsonl"), line);
    await expect(inspect("wrong.jsonl")).rejects.toThrow(message);
    await expect(inspect("wrong.jsonl")).rejects.toThrow(/^Cannot show line 1 of/);
  }
});

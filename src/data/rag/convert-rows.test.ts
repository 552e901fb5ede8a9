import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { DEFAULT_RAG_PROMPT_TEXTS, ragPrompt } from "../../blocks/rag-prompt.js";
import { embeddedModelPath, loadTokenizer, templateOf } from "../../engine/model.js";
import { tokenizePrompt } from "../../engine/prompt.js";
import { trainingSamples } from "../training-sample.js";
import { type ConvertOptions, convertRows } from "./convert-rows.js";
import { modelPrompt } from "./model-prompt.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-convert-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const documents = [
  { title: "Ada Lind", text: " Ada Lind was born in Oslo. ", score: 2 },
  { title: "Ünïcode 東京", text: "Second.\n\nTwo paragraphs." },
];
const rows = [
  { id: "x", group: "g", question: "Where was Ada Lind born?", answers: ["Oslo"], generated: "In Oslo.", documents },
  { id: "y", question: "Who?", answers: [], generated: " \n", documents },
  { id: "z", question: "Who?", answers: [], documents },
  { question: "Who?", answers: [], generated: "None.", documents: [] },
];
writeFileSync(at("rag.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

const convert = (more: Partial<ConvertOptions> = {}) =>
  convertRows({
    inputs: [at("rag.jsonl")],
    output: at("train.jsonl"),
    model: embeddedModelPath(),
    template: "own",
    order: "best-first",
    signal: new AbortController().signal,
    ...more,
  });
const linesOf = (name: string) =>
  readFileSync(at(name), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

test("convertRows(): blocks are those that serving computes, and a row without an answer is dropped", async () => {
  const report = await convert();
  expect(report).toEqual({ rows: 4, written: 2, bad: 0, dropped: { "it has no answer": 2 }, errors: [] });
  const lines = linesOf("train.jsonl");
  expect(lines.map(({ id, group, response }) => ({ id, group, response }))).toEqual([
    { id: "x", group: "g", response: "In Oslo." },
    { id: "3", group: undefined, response: "None." },
  ]);
  const tokenizer = await loadTokenizer(embeddedModelPath());
  const config = JSON.parse(readFileSync(join(embeddedModelPath(), "config.json"), "utf8"));
  const context = {
    tokenizer,
    chatTemplate: templateOf(tokenizer),
    ragTexts: config.block_attention.rag_prompt,
    prefix: "",
  };
  for (const [i, row] of [rows[0], rows[3]].entries()) {
    const served = tokenizePrompt(
      { question: row?.question as string, documents: row?.documents ?? [] },
      "block",
      context,
    );
    const [outcome] = trainingSamples(lines[i], "row", { template: undefined, seed: "1" });
    if (outcome?.kind !== "sample") throw new Error("it was dropped");
    const ids = outcome.sample.blocks.map(({ text, trusted }) => tokenizer.encode(text, trusted));
    expect(ids).toEqual(served.spans.map(({ tokenIds }) => [...tokenIds]));
    expect(lines[i].prompt).toBe(lines[i].blocks.join(""));
  }
});

test("convertRows(): the paper's prompt in its template, as docs/reference.md has it", async () => {
  // A folder with a tokenizer alone has no texts of its own.
  mkdirSync(at("tokenizer"));
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    cpSync(join(embeddedModelPath(), name), join(at("tokenizer"), name));
  }
  await convert({ model: at("tokenizer"), template: "tulu", output: at("tulu.jsonl") });
  const { preamble, final } = DEFAULT_RAG_PROMPT_TEXTS;
  expect(linesOf("tulu.jsonl")[0].blocks).toEqual([
    `<|user|>\n${preamble}`,
    "- Title: Ada Lind\nAda Lind was born in Oslo.\n",
    "- Title: Ünïcode 東京\nSecond.\n\nTwo paragraphs.\n",
    `${final.replace("{question}", "Where was Ada Lind born?")}\n<|assistant|>\n`,
  ]);
  await convert({ model: at("tokenizer"), template: "tulu", output: at("one.jsonl"), maxDocuments: 1 });
  expect(linesOf("one.jsonl")[0].blocks.length).toBe(3);
  await convert({ model: at("tokenizer"), template: "tulu", output: at("last.jsonl"), order: "best-last" });
  expect(linesOf("last.jsonl")[0].blocks.slice(1, 3)).toEqual(linesOf("tulu.jsonl")[0].blocks.slice(1, 3).reverse());
  expect(JSON.parse(readFileSync(at("last.jsonl.manifest.json"), "utf8"))).toMatchObject({
    command: "data convert",
    options: { template: "tulu", passages: null, order: "best-last" },
    counts: { rows: 4, written: 2, bad: 0 },
    dropped: { "it has no answer": 2 },
    tokenizer_digest: (await loadTokenizer(at("tokenizer"))).digest,
  });
});

test("convertRows(): bad rows are counted; no row, no model and no file are errors that leave nothing", async () => {
  writeFileSync(at("bad.jsonl"), '{"question":5}\n{"question":"a","documents":[]}\n');
  await expect(convert({ inputs: [at("bad.jsonl")], output: at("never.jsonl") })).rejects.toThrow(
    /Cannot convert: no row is left of 2; .*"question" is 5, wanted text.*line 1/,
  );
  await expect(convert({ model: at("nowhere"), output: at("never.jsonl") })).rejects.toThrow(/nowhere/);
  await expect(convert({ inputs: [at("nowhere")], output: at("never.jsonl") })).rejects.toThrow("no such file");
  expect(existsSync(at("never.jsonl"))).toBe(false);
  const both = await convert({ inputs: [at("bad.jsonl"), at("rag.jsonl")], output: at("both.jsonl") });
  expect(both).toMatchObject({ rows: 6, written: 2, bad: 1, dropped: { "it has no answer": 3 } });
});

test("convertRows(): the first right answer is learned where it is asked for, after a system message", async () => {
  const system = "Answer shortly.";
  const report = await convert({ system, learnsAnswers: true, output: at("answers.jsonl") });
  expect(report).toMatchObject({ written: 2, dropped: { "it has no answer": 2 } });
  writeFileSync(at("short.jsonl"), `${JSON.stringify({ ...rows[0], generated: "" })}\n`);
  const template = "tulu" as const;
  await convert({
    inputs: [at("short.jsonl")],
    template,
    system,
    learnsAnswers: true,
    output: at("short.train.jsonl"),
  });
  const [line] = linesOf("short.train.jsonl");
  expect(line.response).toBe("Oslo");
  const messages = [
    { role: "system", content: system },
    { role: "user", content: "Where was Ada Lind born?" },
  ] as const;
  const { blocks } = ragPrompt({ documents, messages }, (await modelPrompt(embeddedModelPath(), template)).rag);
  expect(line.blocks).toEqual(blocks.map(({ text }) => text));
  expect(line.blocks[0]).toContain(system);
});

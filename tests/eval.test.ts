import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { madeUpQuestions } from "../src/data/rag/questions.suite.js";
import { Engine } from "../src/engine/engine.js";
import { embeddedModelPath } from "../src/engine/model.js";
import { readTableRows, runAccuracyTable } from "../src/eval/accuracy-table.js";
import type { RagLine } from "../src/eval/rag-line.js";
import { type RagRunOptions, runRag } from "../src/eval/rag-run.js";
import { randomAdapter, writePeftAdapter } from "./models/random-adapter.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-eval-"));
const engine = await Engine.load({ threads: 1 });
afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const lines = madeUpQuestions(6, 4);

function run(name: string, more: Partial<RagRunOptions> = {}) {
  return runRag({
    engine,
    lines,
    folder: join(folder, name),
    mode: "block",
    maxTokens: 12,
    concurrency: 2,
    signal: new AbortController().signal,
    ...more,
  });
}

const answersOf = (name: string) => readFileSync(join(folder, name, "answers.jsonl"), "utf8");

test("runRag(): a run that is interrupted goes on, answers nothing twice, and ends with the same bytes", async () => {
  const whole = await run("whole");
  expect(whole).toMatchObject({ resumed: 0, answers: lines.map(({ id, question }) => ({ id, question })) });
  expect(whole.timings.length).toBe(lines.length);

  const controller = new AbortController();
  const stopped = run("parts", {
    signal: controller.signal,
    onProgress: (answered) => answered === 2 && controller.abort(new Error("stopped by the test")),
  });
  await expect(stopped).rejects.toThrow("stopped by the test");
  const numLeft = answersOf("parts").trimEnd().split("\n").length;
  expect(numLeft).toBeGreaterThanOrEqual(2);
  expect(numLeft).toBeLessThan(lines.length);
  // A machine that fails in the middle of a line.
  appendFileSync(join(folder, "parts", "answers.jsonl"), '{"index":');
  const resumed = await run("parts", { concurrency: 1 });
  expect(resumed.resumed).toBe(numLeft);
  expect(answersOf("parts")).toBe(answersOf("whole"));
  expect(resumed.answers).toEqual(whole.answers);
});

test("runRag(): answers under other settings or to other questions are not mixed", async () => {
  await run("settled");
  const before = answersOf("settled");
  await expect(run("settled", { mode: "full" })).rejects.toThrow('mode was "block", now it is "full"');
  await expect(run("settled", { lines: [...lines].reverse() })).rejects.toThrow("its answer 1 is to another question");
  expect(answersOf("settled")).toBe(before);
});

test("runRag(): two at once in one folder", async () => {
  const outcomes = await Promise.allSettled([run("shared"), run("shared")]);
  expect(outcomes.filter(({ status }) => status === "fulfilled").length).toBe(1);
  expect(outcomes.find(({ status }) => status === "rejected")).toMatchObject({
    reason: { message: expect.stringMatching(/Cannot run in .*: process \d+ does/) },
  });
});

test("runRag(): a question that is too long counts as wrong, and says why", async () => {
  const long: RagLine = {
    ...(lines[0] as RagLine),
    documents: Array(60).fill({ title: "T", text: "word ".repeat(60) }),
  };
  const { answers } = await run("long", { lines: [long, lines[1] as RagLine] });
  expect(answers[0]).toMatchObject({
    generated: "",
    error: expect.stringContaining("more than the 2048 tokens"),
    errorCode: "too_long",
  });
  expect(answers[1]?.error).toBeUndefined();
});

test("runRag(): block mode asked again finds all passages in the store, full mode is asked once", async () => {
  const few = lines.slice(0, 3);
  const block = await run("block-again", { lines: few, asksAgain: true, salt: "block-again" });
  for (const { again, cachedTokens, promptTokens } of block.timings) {
    expect(again).toMatchObject({ start: "stored", ttftMs: expect.any(Number) });
    expect(again?.cachedTokens).toBeGreaterThan(cachedTokens as number);
    // All but the final block.
    expect(again?.cachedTokens).toBeGreaterThan(promptTokens / 2);
  }
  expect(block.timings[0]?.start).toBe("cold");
  // What is there for one salt is not there for another.
  const other = await run("block-other", { lines: few, salt: "other", concurrency: 1 });
  expect(other.timings[0]?.cachedTokens).toBe(0);
  expect(answersOf("block-other")).toBe(answersOf("block-again"));

  const full = await run("full-again", { lines: few, mode: "full", asksAgain: true });
  expect(full.timings.map(({ again, start, cachedTokens }) => [again, start, cachedTokens])).toEqual(
    few.map(() => [undefined, "cold", 0]),
  );
});

test("runAccuracyTable(): rows, the questions alone, differences, and rows whose parts are not there", async () => {
  const rows = join(folder, "rows.json");
  const model = embeddedModelPath();
  writePeftAdapter(join(folder, "adapter"), await randomAdapter(model, { seed: 3 }));
  writeFileSync(
    rows,
    JSON.stringify([
      { name: "full", model, mode: "full", paper: "block_in_full" },
      { name: "block", model, mode: "block", paper: "block" },
      { name: "adapted", model, adapter: "adapter", mode: "block", repair: "first=4" },
      { name: "not yet", model: "nowhere", mode: "full", paper: "full" },
      { name: "not adapted yet", model, adapter: "nowhere", mode: "full" },
    ]),
  );
  const table = await runAccuracyTable({
    rows: await readTableRows(rows),
    folder: join(folder, "table"),
    sets: [{ name: "4 passages", lines, notes: ["2 lines of the set could not be used and are left out."] }],
    lastSentence: true,
    maxTokens: 40,
    concurrency: 2,
    openEngine: (of) =>
      Engine.load({ model: of.model, adapters: of.adapter ? [{ path: of.adapter }] : [], threads: 1 }),
    signal: new AbortController().signal,
  });
  const [set] = table.sets;
  expect(set?.rows.map(({ outcome }) => outcome.kind)).toEqual(["scored", "scored", "scored", "missing", "missing"]);
  expect(set?.comparisons.map(({ name, against }) => [name, against])).toEqual([
    ["block", "full"],
    ["adapted", "full"],
  ]);
  const settings = (name: string) =>
    JSON.parse(readFileSync(join(folder, "table", "4-passages", name, "run.json"), "utf8"));
  expect(settings("adapted").repair).toBe("first=4");
  expect(settings("adapted").model).not.toBe(settings("block").model);
  expect(set?.baselines.map(({ name }) => name)).toEqual(["question only"]);
  const markdown = readFileSync(join(folder, "table", "accuracy.md"), "utf8");
  expect(markdown).toContain("## 4 passages, 6 questions");
  expect(markdown).toContain("not there: no model at");
  expect(markdown).toContain("not there: no adapter at");
  expect(markdown).toContain("whose last sentence holds a gold answer");
  // The paper's second row stands below its first.
  const { low, high } = set?.comparisons[0]?.differences.word ?? { low: Number.NaN, high: Number.NaN };
  const order = high < 0 ? "1 stand in the paper's order" : low > 0 ? "1 in the opposite" : "1 are not told apart";
  expect(markdown).toMatch(new RegExp(`Of 1 pairs of rows that the paper has too, .*${order}`));
  expect(markdown).toContain("- 2 lines of the set could not be used");
  expect(readFileSync(join(folder, "table", "4-passages.svg"), "utf8")).toMatch(/^<svg /);
}, 120_000);

test.each([
  ["no array", {}, '"rows" is an object, wanted a list'],
  [
    "a mode that is none",
    [{ name: "a", model: "m", mode: "both" }],
    '"rows[0].mode" is "both", wanted "block" or "full"',
  ],
  [
    "a repair that is none",
    [{ name: "a", model: "m", mode: "block", repair: "glue" }],
    '"rows[0].repair" is "glue", wanted none, auto',
  ],
  ["two of one name", [row("a"), row("A!")], 'two rows are called "A!"'],
  ["a comparison with nothing", [{ ...row("a"), against: "b" }], 'compared with "b", which is no other row'],
])("readTableRows(): %s", async (_, value, message) => {
  const path = join(folder, "bad-rows.json");
  writeFileSync(path, JSON.stringify(value));
  await expect(readTableRows(path)).rejects.toThrow(message);
});

function row(name: string) {
  return { name, model: "m", mode: "full" };
}

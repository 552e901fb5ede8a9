import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { fillUp, parseExamples, suggestedQuestions } from "./examples.js";

const examplesOf = (model: string) =>
  parseExamples(readFileSync(new URL(`../../../../models/${model}/demo.jsonl`, import.meta.url), "utf8"));
const sets = examplesOf("tiny-rag");

test.each(["tiny-rag", "smollm2-rag"])(
  "parseExamples(): the demo of %s gives a set a line, and all of them together",
  (name) => {
    const sets = examplesOf(name);
    expect(sets.length).toBeGreaterThan(2);
    const others = sets.slice(0, -1);
    const all = sets.at(-1);
    expect(all?.documents).toEqual(others.flatMap(({ documents }) => documents));
    expect([...(all?.questions ?? [])].sort()).toEqual(others.flatMap(({ questions }) => questions).sort());
    expect(new Set(all?.documents.map(({ title }) => title)).size).toBe(15);
    expect(() => parseExamples('{"documents":[]}')).toThrow("Cannot read the examples: line 1");
  },
);

test("fillUp(): own passages come first, examples fill up, none twice", () => {
  const own = { title: "Mine", text: "Words of my own" };
  const second = sets[1]?.documents ?? [];
  const filled = fillUp([own, ...second], sets, 15);
  expect(filled.slice(0, 4)).toEqual([own, ...second]);
  expect(new Set(filled.map(({ title }) => title)).size).toBe(15);
  const many = Array.from({ length: 20 }, (_, i) => ({ title: String(i), text: "" }));
  expect(fillUp(many, sets, 15)).toEqual(many);
});

test("suggestedQuestions(): only of sets whose passages are all there", () => {
  const second = sets[1];
  const titles = new Set(second?.documents.map(({ title }) => title));
  expect(suggestedQuestions(sets, titles, 9)).toEqual(second?.questions);
  expect(suggestedQuestions(sets, titles, 1)).toEqual(second?.questions.slice(0, 1));
  expect(suggestedQuestions(sets, new Set(), 9)).toEqual([]);
});

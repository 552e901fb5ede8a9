import { expect, test } from "vitest";
import type { AnsweredLine } from "./rag-line.js";
import { compareRuns, summarizeRun, summarizeServing } from "./summary.js";

function answered(id: string | undefined, generated: string, more: Partial<AnsweredLine> = {}): AnsweredLine {
  const asked = { id, kind: undefined, question: `Q${id}`, answers: ["yes"], firstHop: undefined };
  return { ...asked, generated, error: undefined, ...more };
}

test("summarizeRun(): in all and by kind; what could not be asked is wrong", () => {
  const summary = summarizeRun({
    name: "run",
    answers: [
      answered("1", "yes", { kind: "bridge" }),
      answered("2", "no", { kind: "bridge" }),
      answered("3", "yes", { kind: "single" }),
      answered("4", "", { kind: "single", error: "too long", answers: ["the"] }),
    ],
  });
  expect(summary).toMatchObject({ questions: 4, failed: 1, emptyGold: 1 });
  expect(summary.right).toEqual({ subspan: 2, word: 2, exact: 2, f1: 2 });
  expect(Object.keys(summary.kinds)).toEqual(["bridge", "single"]);
  expect(summary.kinds.bridge?.scores.word.mean).toBe(0.5);
});

test("compareRuns(): by id, whatever the order", () => {
  const ours = { name: "ours", answers: [answered("1", "yes"), answered("2", "yes"), answered("3", "no")] };
  const theirs = { name: "theirs", answers: [answered("2", "no"), answered("1", "yes"), answered("9", "yes")] };
  const compared = compareRuns(ours, theirs);
  expect(compared).toMatchObject({ questions: 2, onlyName: 1, onlyAgainst: 1 });
  expect(compared.differences.word).toMatchObject({ mean: 0.5, won: 1, lost: 0, tied: 1 });
});

test("compareRuns(): runs that cannot be paired", () => {
  const run = (name: string, ...answers: AnsweredLine[]) => ({ name, answers });
  const one = run("a", answered("1", "yes"));
  expect(() => compareRuns(one, run("b", answered("2", "yes")))).toThrow("no question stands in both");
  expect(() => compareRuns(one, run("b", answered("1", "x", { question: "other" })))).toThrow(
    "asks different questions",
  );
  expect(() => compareRuns(one, run("b", answered("1", "x"), answered("1", "y")))).toThrow("stands twice");
  expect(() => compareRuns(one, run("b", answered(undefined, "x"), answered(undefined, "y")))).toThrow(
    "wanted equally many",
  );
});

test("summarizeServing(): hit rate over tokens, times over requests that gave one", () => {
  const timing = { index: 0, promptTokens: 100, cachedTokens: 50, completionTokens: 5, ttftMs: 10, concurrency: 2 };
  const others = [
    { ...timing, index: 1, promptTokens: 300, cachedTokens: 250, ttftMs: 30 },
    { ...timing, index: 2, promptTokens: 0, cachedTokens: 0, completionTokens: 0, ttftMs: undefined },
  ];
  expect(summarizeServing([timing, ...others])).toMatchObject({
    requests: 3,
    hitRate: 0.75,
    completionTokens: 10,
    ttftMs: { p50: 20 },
  });
  expect(summarizeServing([])).toBeUndefined();
});

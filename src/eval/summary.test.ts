import { expect, test } from "vitest";
import type { AnsweredLine } from "./rag-line.js";
import { compareRuns, failedRemark, summarizeRun, summarizeServing } from "./summary.js";

function answered(id: string | undefined, generated: string, more: Partial<AnsweredLine> = {}): AnsweredLine {
  const asked = { id, kind: undefined, question: `Q${id}`, answers: ["yes"] };
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
  expect(failedRemark(summary)).toBe("1 of 4 questions could not be asked; they count as wrong. The first: too long");
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

test("summarizeServing(): cold and stored apart; second askings count as stored alone", () => {
  const timing = { promptTokens: 100, cachedTokens: 20, completionTokens: 5, concurrency: 1 };
  const stored = (ttftMs: number) => ({ cachedTokens: 80, start: "stored", ttftMs }) as const;
  const summary = summarizeServing([
    { ...timing, index: 0, start: "cold", ttftMs: 10, again: stored(2) },
    { ...timing, index: 1, start: "cold", ttftMs: 20, again: { cachedTokens: 0, start: "cold", ttftMs: 99 } },
    { ...timing, index: 2, ...stored(4), again: stored(3) },
  ]);
  expect(summary?.cold).toEqual({ requests: 2, p50: 15, p95: 19.5 });
  expect(summary?.stored).toEqual({ requests: 3, p50: 3, p95: 3.9 });
  expect(summary?.ttftMs).toMatchObject({ requests: 3, p50: 10 });
  // (20 + 20 + 80) of 300: what the second askings found is no hit of the set.
  expect(summary?.hitRate).toBeCloseTo(0.4, 12);
});

test("summarizeServing(): what a server does not tell is unknown, not nothing", () => {
  const timing = { promptTokens: 100, completionTokens: 5, ttftMs: 10, concurrency: 1 };
  const silent = { ...timing, index: 0, cachedTokens: undefined };
  expect(summarizeServing([silent])).toMatchObject({ promptTokens: 100, cachedTokens: undefined, hitRate: undefined });
  // The hit rate of those that tell.
  expect(summarizeServing([silent, { ...timing, index: 1, cachedTokens: 50 }])?.hitRate).toBe(0.5);
});

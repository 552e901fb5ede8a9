import { expect, test } from "vitest";
import { synthesizeContext } from "../data/synth/context.js";
import { baselineAnswers } from "./baselines.js";
import { heldOutLines } from "./held-out.js";
import { scoreAnswer } from "./metrics.js";

test("heldOutLines(): the four kinds in equal shares, over so many passages, with at least four distractors", () => {
  const lines = heldOutLines({ passages: 10, numQuestions: 80 });
  expect(lines.length).toBe(80);
  const kinds = new Map<string | undefined, number>();
  for (const { kind, documents } of lines) {
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    expect(documents.length).toBe(10);
  }
  expect([...kinds.values()]).toEqual([20, 20, 20, 20]);
  // A smaller set is the first part of a larger: figures of both can be held together.
  expect(heldOutLines({ passages: 10, numQuestions: 12 })).toEqual(lines.slice(0, 12));
});

test("heldOutLines(): the answer stands in the passages, and the question does not hold it unless it offers two", () => {
  for (const { question, answers, documents, kind } of heldOutLines({ passages: 4, numQuestions: 60 })) {
    const read = documents.map((document) => (typeof document === "string" ? document : document.text)).join("\n");
    // Some passages have no space between sentences, as some of HotpotQA's, so that names end at no border.
    expect(scoreAnswer(read, answers).subspan).toBe(1);
    if (kind !== "comparison") expect(scoreAnswer(question, answers).word).toBe(0);
  }
});

test("heldOutLines(): no title of the test stands in training contexts", () => {
  const titles = new Set(
    heldOutLines({ passages: 10, numQuestions: 40 }).flatMap(({ documents }) =>
      documents.map((document) => (typeof document === "string" ? document : document.title)),
    ),
  );
  for (let index = 0; index < 40; index++) {
    const context = synthesizeContext(index, {
      seed: "any",
      split: "train",
      minPassages: 10,
      maxPassages: 10,
      numQuestions: 1,
      noise: [],
    });
    for (const { title } of context.documents) expect(titles.has(title)).toBe(false);
  }
});

test("baselineAnswers(): readers that cheat get little, and the same again", () => {
  const lines = heldOutLines({ passages: 10, numQuestions: 200 });
  for (const baseline of ["random-name", "first-hop"] as const) {
    const answers = baselineAnswers(baseline, lines);
    expect(baselineAnswers(baseline, lines)).toEqual(answers);
    const numRight = answers.filter((line) => scoreAnswer(line.generated, line.answers).word === 1).length;
    // Ten passages hold some twenty names and dates; a first hop is never the answer.
    expect(numRight / lines.length).toBeLessThan(0.2);
  }
  const named = baselineAnswers("question-name", lines);
  const ofKind = (isComparison: boolean) => named.filter(({ kind }) => (kind === "comparison") === isComparison);
  const share = (some: typeof named) =>
    some.filter((line) => scoreAnswer(line.generated, line.answers).word === 1).length / some.length;
  // Of two that the question offers, which is right is balanced.
  expect(share(ofKind(true))).toBeGreaterThan(0.25);
  expect(share(ofKind(true))).toBeLessThan(0.75);
  expect(share(ofKind(false))).toBeLessThan(0.1);
});

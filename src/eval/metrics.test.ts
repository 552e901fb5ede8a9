import fc from "fast-check";
import { expect, test } from "vitest";
import { hasEmptyGold, scoreAnswer } from "./metrics.js";

test.each([
  ["inside a word", "I know.", ["no"], { subspan: 1, word: 0, exact: 0, f1: 0 }],
  ["a word of its own", "I say no.", ["no"], { subspan: 1, word: 1, exact: 0, f1: 0.5 }],
  ["the same but for case, articles and signs", "The U.S., an Island!", ["us island"], ones(1)],
  ["any gold answer", "Paris", ["London", "paris"], ones(1)],
  ["none of them", "Rome", ["London", "Paris"], ones(0)],
  ["a gold answer that normalizes to nothing", "Rome", ["The"], { subspan: 1, word: 0, exact: 0, f1: 0 }],
  ["an empty answer", "", ["Paris"], ones(0)],
  ["what follows the end of the turn", "Rome<|im_end|>Paris", ["Paris"], ones(0)],
  [
    "letters with marks",
    "She is Małgorzata Braunek.",
    ["małgorzata braunek"],
    { subspan: 1, word: 1, exact: 0, f1: 2 / 3 },
  ],
  ["part of a word with marks", "Müllerová", ["Müller"], { subspan: 1, word: 0, exact: 0, f1: 0 }],
  ["a script without spaces", "首都は東京です", ["東京"], { subspan: 1, word: 1, exact: 0, f1: 0 }],
  ["digits inside a number", "in 12015", ["2015"], { subspan: 1, word: 0, exact: 0, f1: 0 }],
])("scoreAnswer(): %s", (_, generated, answers, wanted) => {
  const found = scoreAnswer(generated, answers);
  for (const [metric, value] of Object.entries(wanted)) {
    expect(found[metric as keyof typeof found], metric).toBeCloseTo(value, 10);
  }
});

function ones(value: number) {
  return { subspan: value, word: value, exact: value, f1: value };
}

test("scoreAnswer(): the last sentence alone", () => {
  const chain = "The director of Polish-Russian War is Xawery Żuławski. The mother of him is Małgorzata Braunek.";
  expect(scoreAnswer(chain, ["Xawery Żuławski"]).word).toBe(1);
  expect(scoreAnswer(chain, ["Xawery Żuławski"], { lastSentence: true }).word).toBe(0);
  expect(scoreAnswer(chain, ["Małgorzata Braunek"], { lastSentence: true }).word).toBe(1);
});

test("scoreAnswer(): F1 counts a word as often as both hold it", () => {
  // Two of four words against two of two: precision 1/2, recall 1.
  expect(scoreAnswer("new york new jersey", ["new york"]).f1).toBeCloseTo(2 / 3, 10);
});

test("scoreAnswer(): exact is word is subspan, and exact is F1, whatever the texts", () => {
  const words = fc.array(fc.constantFrom("no", "know", "a", "The", "3.5", "ł", "-", "東", "x"), { maxLength: 6 });
  fc.assert(
    fc.property(words, fc.array(words, { minLength: 1, maxLength: 3 }), (generated, golds) => {
      const answers = golds.map((gold) => gold.join(" "));
      const { subspan, word, exact, f1 } = scoreAnswer(generated.join(" "), answers);
      expect(exact).toBeLessThanOrEqual(word);
      expect(word).toBeLessThanOrEqual(subspan);
      expect(exact).toBeLessThanOrEqual(f1);
      expect(f1).toBeLessThanOrEqual(1);
    }),
  );
});

test("hasEmptyGold(): signs and articles alone", () => {
  expect(["The The", "?!", ""].map((gold) => hasEmptyGold([gold]))).toEqual([true, true, true]);
  expect(hasEmptyGold(["The Who"])).toBe(false);
});

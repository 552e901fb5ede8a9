import fc from "fast-check";
import { expect, test } from "vitest";
import { Bm25 } from "./bm25.js";

const words = fc.array(fc.constantFrom("a", "b", "c", "d", "e"), { maxLength: 12 });

test("Bm25.scores(): what the formula gives by hand", () => {
  const bm25 = new Bm25();
  const passages = [["a", "b", "a"], ["b"], ["c", "d"]];
  for (const passage of passages) bm25.add(passage);
  // Three passages of 2 words on average; "a" stands in one of them, twice, in a passage of 3 words:
  // weight ln(1 + 2.5 / 1.5) = 0.980829, times 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2)) = 4.4 / 3.65 = 1.205479.
  expect(bm25.scores(["a"], passages)[0]).toBeCloseTo(1.18237, 5);
  // "b" stands in two: ln(1 + 1.5 / 2.5) = 0.470004; in the passage of 1 word times 2.2 / (1 + 1.2 * 0.625) = 1.257143.
  expect(bm25.scores(["b", "z"], passages)).toEqual([
    expect.closeTo((0.470004 * 2.2) / (1 + 1.2 * 1.375), 5),
    expect.closeTo(0.470004 * 1.257143, 5),
    0,
  ]);
  // A word that is asked twice counts twice.
  expect(bm25.scores(["b", "b"], passages)[1]).toBeCloseTo(2 * 0.590862, 5);
});

test("Bm25.scores(): are 0 where no word is shared, above 0 where one is, and the same in any order of passages", () => {
  fc.assert(
    fc.property(fc.array(words, { minLength: 1, maxLength: 8 }), words, (passages, question) => {
      const [forwards, backwards] = [new Bm25(), new Bm25()];
      for (const passage of passages) forwards.add(passage);
      for (const passage of [...passages].reverse()) backwards.add(passage);
      const scores = forwards.scores(question, passages);
      expect(backwards.scores(question, passages)).toEqual(scores);
      for (const [i, score] of scores.entries()) {
        const isShared = question.some((word) => passages[i]?.includes(word));
        expect(Number.isFinite(score)).toBe(true);
        expect(score > 0).toBe(isShared);
      }
    }),
  );
});

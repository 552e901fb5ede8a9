import { expect, test } from "vitest";
import { type Draft, Drafter, maxDraftTokens, planRows, RowTimes, TokenPairs } from "./drafts.js";

function pairsOf(tokenIds: readonly number[]): TokenPairs {
  const pairs = new TokenPairs(tokenIds.length);
  for (const id of tokenIds) pairs.add(id);
  return pairs;
}

/** What a drafter guesses after an answer, over a prompt. */
function guess(promptIds: readonly number[], answer: readonly number[], maxTokens = 4, predicted: number[] = []) {
  const drafter = new Drafter(pairsOf([...promptIds, ...predicted]), promptIds);
  for (const id of answer) drafter.add(id);
  return drafter.draft(maxTokens)?.tokenIds;
}

test("Drafter: what followed the longest match goes on; of equal ones the last; the answer's own text counts", () => {
  const prompt = [1, 2, 3, 4, 5, 6, 9, 2, 3, 7, 7, 8, 9, 9];
  expect(guess(prompt, [2, 3])).toEqual([7, 7, 8, 9]);
  expect(guess(prompt, [1, 2, 3])).toEqual([4, 5, 6, 9]);
  expect(guess(prompt, [1, 2, 3], 2)).toEqual([4, 5]);
  expect(guess(prompt, [2, 3, 4, 5])).toEqual([6, 9, 2, 3]);
  // One token alone is no match, and neither is what nothing follows.
  expect(guess(prompt, [11, 3])).toBeUndefined();
  expect(guess(prompt, [])).toBeUndefined();
  expect(guess(prompt, [2, 3], 0)).toBeUndefined();
  expect(guess([5], [6])).toBeUndefined();
  expect(guess(prompt, [2, 3, 50, 51, 52, 60, 50, 51])).toEqual([52, 60, 50, 51]);
  // An answer that repeats itself goes on with what is guessed.
  expect(guess(prompt, [20, 21, 22, 20, 21, 22, 20], 7)).toEqual([21, 22, 20, 21, 22, 20, 21]);
});

test("Drafter: a prediction is guessed from the first token on, and found again after what differs", () => {
  const prompt = [1, 2, 3, 4];
  const predicted = [30, 31, 32, 33, 34, 35];
  expect(guess(prompt, [], 3, predicted)).toEqual([30, 31, 32]);
  expect(guess(prompt, [30, 31], 3, predicted)).toEqual([32, 33, 34]);
  expect(guess(prompt, [30, 31, 99, 33, 34], 3, predicted)).toEqual([35]);
});

test("Drafter: guesses that turn out wrong are held less likely, though none was computed", () => {
  const prompt = [1, 2, 3, 1, 2, 3];
  const wrong = new Drafter(pairsOf(prompt), [9, 9]);
  const right = new Drafter(pairsOf(prompt), [9, 9]);
  const first = () => new Drafter(pairsOf(prompt), [1, 2]).draft(1)!.odds[0]!;
  for (let i = 0; i < 20; i++) {
    for (const id of [50 + i, 1, 2, 80 + i]) wrong.add(id);
    for (const id of [50 + i, 1, 2, 3]) right.add(id);
  }
  for (const drafter of [wrong, right]) for (const id of [200, 1, 2]) drafter.add(id);
  expect([wrong, right].map((drafter) => drafter.draft(1)!.numRight)).toEqual([0, 20]);
  expect(wrong.draft(1)!.odds[0]).toBeLessThan(first() / 3);
  expect(right.draft(1)!.odds[0]).toBeGreaterThan(first() * 1.3);
});

test("TokenPairs: many places with the same tokens take no longer to look through, and long texts none of what is right", () => {
  const ids = Array.from({ length: 40_000 }, (_, i) => (i % 2 === 0 ? 7 : 8));
  const from = performance.now();
  const drafter = new Drafter(pairsOf(ids), ids);
  for (let i = 0; i < 2000; i++) drafter.add(i % 5 === 4 ? 9 : i % 2 === 0 ? 7 : 8);
  expect(performance.now() - from).toBeLessThan(1000);
  const text = Array.from({ length: 40_000 }, (_, i) => i);
  const pairs = pairsOf(text);
  for (const place of [1, 2, 999, 20_000, 39_998]) {
    expect(pairs.longestMatch([place - 1, place])).toEqual({ place, length: 2 });
  }
  expect(pairs.longestMatch([5, 4])).toBeUndefined();
  expect(pairs.longestMatch([39_998, 39_999])).toBeUndefined();
});

test("RowTimes: what was measured counts, its neighbours tell of the rest, and what was slow once is tried again", () => {
  const times = new RowTimes();
  expect(times.timeOf(4, 100)).toBeGreaterThan(times.timeOf(1, 100));
  times.add(1, 100, 10);
  const guessed = times.timeOf(4, 100);
  expect(guessed / 10).toBeCloseTo(times.timeOf(4, 5000) / times.timeOf(1, 5000));
  times.add(4, 100, 200);
  expect(times.timeOf(4, 100)).toBe(200);
  // Contexts of other sizes take other times.
  expect(times.timeOf(1, 5000)).toBe(1);
  for (let i = 0; i < 300; i++) times.add(1, 100, 10);
  expect(times.timeOf(1, 100)).toBeCloseTo(10);
  expect(times.timeOf(4, 100)).toBeLessThan(100);
  for (let i = 0; i < 3000; i++) times.add(1, 100, 10);
  expect(times.timeOf(4, 100)).toBeCloseTo(guessed, 1);
});

test("planRows(): rows where they make all sequences together faster, the surest sequence first, up to a bound", () => {
  const sure: Draft = { tokenIds: Array(maxDraftTokens).fill(1), odds: Array(maxDraftTokens).fill(0.98), numRight: 9 };
  const unsure: Draft = { tokenIds: Array(maxDraftTokens).fill(1), odds: Array(maxDraftTokens).fill(0.3), numRight: 0 };
  const cheap = (rows: number) => 1 + 0.25 * (rows - 1);
  const dear = (rows: number) => rows;
  expect(planRows([sure], 100, cheap)).toEqual([16]);
  expect(planRows([sure], 8, cheap)).toEqual([8]);
  expect(planRows([sure], 3, cheap)).toEqual([1]);
  expect(planRows([unsure], 100, cheap)).toEqual([1]);
  expect(planRows([sure], 100, dear)).toEqual([1]);
  expect(planRows([undefined, unsure, sure], 100, cheap)).toEqual([1, 1, 16]);
  expect(planRows([unsure, sure], 17, cheap)).toEqual([1, 16]);
  expect(planRows([unsure, sure], 20)).toEqual([4, 16]);
  // No more rows than tokens want, even where they were measured to be faster: there may be no room for them.
  const strange = (rows: number) => (rows === 16 ? 0.1 : rows);
  expect(planRows([{ tokenIds: [1, 2, 3], odds: [0.9, 0.9, 0.9], numRight: 1 }], 100, strange)).toEqual([1]);
  expect(planRows([sure], 100, strange)).toEqual([16]);
  expect(planRows([{ tokenIds: [1, 2, 3], odds: [0.9, 0.9, 0.9], numRight: 1 }], 100)).toEqual([4]);
  expect(planRows([], 100)).toEqual([]);
});

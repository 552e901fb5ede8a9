import { expect, test } from "vitest";
import { LineDraw } from "./line-draw.js";
import { Random } from "./random.js";

const drawn = (seed: string, total: number, count: number) => {
  const draw = new LineDraw(new Random(seed), total, count);
  return Array.from({ length: total }, () => draw.takes());
};

test("LineDraw: takes exactly as many as asked, the same for a seed", () => {
  for (const [total, count] of [
    [10, 0],
    [10, 3],
    [10, 10],
    [0, 0],
    [1, 1],
  ] as const) {
    expect(drawn("1", total, count).filter(Boolean).length).toBe(count);
  }
  expect(drawn("1", 100, 30)).toEqual(drawn("1", 100, 30));
  expect(drawn("2", 100, 30)).not.toEqual(drawn("1", 100, 30));
  expect(() => drawn("1", 3, 4)).toThrow("Cannot draw 4 of 3");
});

test("LineDraw: every pair is as likely as another", () => {
  const counts = new Map<string, number>();
  for (let seed = 0; seed < 2400; seed++) {
    const places = drawn(String(seed), 4, 2).flatMap((isTaken, i) => (isTaken ? [i] : []));
    counts.set(places.join(), (counts.get(places.join()) ?? 0) + 1);
  }
  expect(counts.size).toBe(6);
  // 400 of 2,400 each; five standard deviations are 92.
  for (const count of counts.values()) expect(Math.abs(count - 400)).toBeLessThan(92);
});

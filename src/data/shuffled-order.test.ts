import { expect, test } from "vitest";
import { shuffledOrder } from "./mix-rows.js";
import { Random } from "./random.js";

test("shuffledOrder(): every order is as likely as another", () => {
  const counts = new Map<string, number>();
  for (let seed = 0; seed < 2400; seed++) {
    const order = shuffledOrder(new Random(String(seed)), 3).join(" ");
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  expect([...counts.keys()].sort()).toEqual(["0 1 2", "0 2 1", "1 0 2", "1 2 0", "2 0 1", "2 1 0"]);
  // 400 of 2,400 each; five standard deviations are 92.
  for (const count of counts.values()) expect(Math.abs(count - 400)).toBeLessThan(92);
  expect(shuffledOrder(new Random("1"), 0).length).toBe(0);
});

import { expect, test } from "vitest";
import { Credits } from "./serve-calls.js";

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Takes until nothing is left for long; how many it took. */
function taker(credits: Credits): { taken: number } {
  const state = { taken: 0 };
  void (async () => {
    for (; state.taken < 100; state.taken++) await credits.take();
  })();
  return state;
}

test("Credits: nobody takes more than was given", async () => {
  const credits = new Credits(3);
  const state = taker(credits);
  await turn();
  expect(state.taken).toBe(3);
  credits.add(2);
  await turn();
  expect(state.taken).toBe(5);
});

test("Credits.release(): wakes who waits, and nobody waits again", async () => {
  const credits = new Credits(1);
  const state = taker(credits);
  await turn();
  credits.release();
  await turn();
  expect(state.taken).toBe(100);
});

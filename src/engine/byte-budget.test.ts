import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { ByteBudget } from "./byte-budget.js";

test("ByteBudget: bytes are given in the order asked for, as they come back", async () => {
  const budget = new ByteBudget(10);
  const first = await budget.take(6);
  const order: string[] = [];
  const big = budget.take(8).then((taken) => {
    order.push("big");
    return taken;
  });
  // It would fit, but does not pass the one before it.
  const small = budget.take(2).then((taken) => {
    order.push("small");
    return taken;
  });
  await Promise.resolve();
  expect(order).toEqual([]);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  (await big)[Symbol.dispose]();
  (await small)[Symbol.dispose]();
  expect(order).toEqual(["big", "small"]);
  expect(budget.usedBytes).toBe(0);
});

test("ByteBudget: an abort leaves the line, and lets those behind pass", async () => {
  const budget = new ByteBudget(10);
  const first = await budget.take(6);
  const controller = new AbortController();
  const big = budget.take(8, controller.signal);
  const small = budget.take(4);
  const reason = new Error("enough");
  controller.abort(reason);
  await expect(big).rejects.toBe(reason);
  (await small)[Symbol.dispose]();
  first[Symbol.dispose]();
  expect(budget.usedBytes).toBe(0);
  expect(getEventListeners(controller.signal, "abort")).toEqual([]);
  await expect(budget.take(1, controller.signal)).rejects.toBe(reason);
});

test("ByteBudget: more than there is at all is an error at once", async () => {
  await expect(new ByteBudget(10).take(11)).rejects.toThrow(
    "Cannot assemble a context of 11 bytes: the budget for contexts is 10 bytes",
  );
});

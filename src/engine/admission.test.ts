import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { Admission } from "./admission.js";

const never = () => new AbortController().signal;

test("Admission: places go to those who wait, in their order, and beyond the line's end requests are turned away", async () => {
  const admission = new Admission({ maxRunning: 2, maxQueued: 2 });
  const first = await admission.enter(never());
  const second = await admission.enter(never());
  const order: number[] = [];
  const waiting = [3, 4].map(async (n) => {
    using _ = await admission.enter(never());
    order.push(n);
  });
  expect(admission.numQueued).toBe(2);
  expect(() => admission.requireRoom()).toThrow(
    expect.objectContaining({
      code: "queue_full",
      message: "Cannot take the request: 2 run and 2 wait, at most 2 may wait",
    }),
  );
  await expect(admission.enter(never())).rejects.toMatchObject({ code: "queue_full" });
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await Promise.all(waiting);
  expect(order).toEqual([3, 4]);
  expect(admission.numQueued).toBe(0);
  second[Symbol.dispose]();
  using _third = await admission.enter(never());
  using _fourth = await admission.enter(never());
  expect(admission.numQueued).toBe(0);
});

test("Admission: an abort leaves the line, and its place in it goes to the next", async () => {
  const admission = new Admission({ maxRunning: 1, maxQueued: 2 });
  const first = await admission.enter(never());
  const controller = new AbortController();
  const left = admission.enter(controller.signal);
  const next = admission.enter(never());
  controller.abort(new Error("enough"));
  await expect(left).rejects.toThrow("enough");
  expect(getEventListeners(controller.signal, "abort")).toEqual([]);
  expect(admission.numQueued).toBe(1);
  first[Symbol.dispose]();
  (await next)[Symbol.dispose]();
  using _ = await admission.enter(never());
  await expect(admission.enter(AbortSignal.abort(new Error("gone")))).rejects.toThrow("gone");
});

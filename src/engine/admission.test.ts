import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { Admission, type Ticket } from "./admission.js";

const never = () => new AbortController().signal;

/** Joins and enters at once. */
async function enter(admission: Admission, signal: AbortSignal = never()): Promise<Ticket> {
  const ticket = admission.join();
  await ticket.enter(signal).catch((error: unknown) => {
    ticket[Symbol.dispose]();
    throw error;
  });
  return ticket;
}

test("Admission: places go to those who wait, in their order, and beyond the line's end requests are turned away", async () => {
  const admission = new Admission({ maxRunning: 2, maxQueued: 2 });
  const first = await enter(admission);
  const second = await enter(admission);
  const order: number[] = [];
  const waiting = [3, 4].map(async (n) => {
    using _ = await enter(admission);
    order.push(n);
  });
  expect(admission.numQueued).toBe(2);
  expect(() => admission.join()).toThrow(
    expect.objectContaining({
      code: "queue_full",
      message: "Cannot take the request: 2 run and 2 wait, at most 2 may wait",
    }),
  );
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await Promise.all(waiting);
  expect(order).toEqual([3, 4]);
  expect(admission.numQueued).toBe(0);
  second[Symbol.dispose]();
  using _third = await enter(admission);
  using _fourth = await enter(admission);
  expect(admission.numQueued).toBe(0);
});

test("Admission: an abort leaves the line, and its place in it goes to the next", async () => {
  const admission = new Admission({ maxRunning: 1, maxQueued: 2 });
  const first = await enter(admission);
  const controller = new AbortController();
  const left = enter(admission, controller.signal);
  const next = enter(admission);
  controller.abort(new Error("enough"));
  await expect(left).rejects.toThrow("enough");
  expect(getEventListeners(controller.signal, "abort")).toEqual([]);
  expect(admission.numQueued).toBe(1);
  first[Symbol.dispose]();
  (await next)[Symbol.dispose]();
  using _ = await enter(admission);
  await expect(enter(admission, AbortSignal.abort(new Error("gone")))).rejects.toThrow("gone");
});

test("Admission.join(): those whose prompt is being made ready count, and find their place in the line again", async () => {
  const admission = new Admission({ maxRunning: 1, maxQueued: 1 });
  const preparing = [admission.join(), admission.join()];
  expect(() => admission.join()).toThrow("0 run and 2 wait");
  await preparing[1]!.enter(never());
  const waiting = preparing[0]!.enter(never());
  expect(() => admission.join()).toThrow("1 run and 1 wait");
  preparing[1]![Symbol.dispose]();
  await waiting;
  preparing[0]![Symbol.dispose]();
  expect(admission.numQueued).toBe(0);
});

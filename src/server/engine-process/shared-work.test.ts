import { expect, test } from "vitest";
import { SharedWork } from "./shared-work.js";

test("SharedWork: done once for all who wait, later too", async () => {
  let numStarts = 0;
  const work = new SharedWork(async () => ++numStarts);
  expect(await Promise.all([work.wait(), work.wait(new AbortController().signal)])).toEqual([1, 1]);
  expect(await work.wait()).toBe(1);
  expect(work.isCancelled).toBe(false);
});

test("SharedWork: who gives up leaves the others waiting, the last one cancels it", async () => {
  const signals: AbortSignal[] = [];
  const work = new SharedWork((signal) => {
    signals.push(signal);
    return new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  });
  const [first, second] = [new AbortController(), new AbortController()];
  const waiting = [work.wait(first.signal), work.wait(second.signal)];
  first.abort(new Error("first left"));
  await expect(waiting[0]).rejects.toThrow("first left");
  expect(signals[0]!.aborted).toBe(false);
  second.abort(new Error("second left"));
  await expect(waiting[1]).rejects.toThrow("second left");
  expect(work.isCancelled).toBe(true);
});

test("SharedWork: everybody hears of a failure", async () => {
  const work = new SharedWork(async () => {
    throw new RangeError("no");
  });
  await expect(work.wait()).rejects.toThrow("no");
  await expect(work.wait()).rejects.toThrow("no");
});

import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { unlessAborted } from "./task.js";

test("unlessAborted(): what the promise gives, or the signal's reason at once; no listener stays", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  expect(await unlessAborted(Promise.resolve(3), signal)).toBe(3);
  await expect(unlessAborted(Promise.reject(new Error("Cannot read")), signal)).rejects.toThrow("Cannot read");
  const never = unlessAborted(new Promise<void>(() => undefined), signal);
  const reason = new Error("Cannot wait: no more time");
  controller.abort(reason);
  await expect(never).rejects.toBe(reason);
  await expect(unlessAborted(Promise.resolve(3), signal)).rejects.toBe(reason);
  expect(getEventListeners(signal, "abort")).toEqual([]);
});

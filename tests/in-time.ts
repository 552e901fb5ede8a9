import { expect } from "vitest";

/**
 * Expects an attempt within a time. The machine may be busy: one attempt of four is enough. Whatever else an attempt
 * expects fails at once.
 *
 * @param attempt gives what it took, in ms.
 */
export async function expectInTime(maxMs: number, attempt: () => Promise<number>, name = "the attempt"): Promise<void> {
  const tookMs: number[] = [];
  while (tookMs.length < 4) {
    tookMs.push(await attempt());
    if (tookMs.at(-1)! < maxMs) return;
  }
  expect(Math.min(...tookMs), `ms that ${name} took at least`).toBeLessThan(maxMs);
}

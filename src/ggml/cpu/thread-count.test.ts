import { expect, onTestFinished, test, vi } from "vitest";
import { readCpuTimes, ThreadCount } from "./thread-count.js";

/** Looks, a second apart: in each, others used so many cores. @returns how many threads there were after each. */
function after(most: number, cores: number, others: readonly number[]): number[] {
  let [atMs, busyMs, ownMs] = [0, 0, 0];
  const count = new ThreadCount(most);
  count.decide({ atMs, cores, busyMs, ownMs });
  return others.map((used) => {
    atMs += 1000;
    ownMs += 700;
    busyMs += 700 + used * 1000;
    count.decide({ atMs, cores, busyMs, ownMs });
    return count.now;
  });
}

test("ThreadCount: others' work takes threads at once, and gives them back after four quiet looks in a row", () => {
  expect(after(2, 2, [0, 0.3, 0.67, 0, 0, 0.9, 0, 0, 0, 0, 2])).toEqual([2, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1]);
});

test("ThreadCount: work about the limit does not make the number go up and down", () => {
  const around = [0.45, 0.55, 0.45, 0.4, 0.45, 0.4, 0.45, 0.55, 0.4, 0.4, 0.4, 0.4, 0.4];
  expect(after(2, 2, around)).toEqual([2, ...Array(12).fill(1)]);
});

test("ThreadCount: as many threads as others leave cores, and no more than asked for", () => {
  expect(after(16, 16, [1, 3.4, 16, 20])).toEqual([15, 13, 1, 1]);
  expect(after(4, 16, [1, 12, 15])).toEqual([4, 4, 1]);
  // Others that fill most of a large machine's cores leave enough to a process whose quota is small.
  expect(after(2, 64, [40, 60, 63])).toEqual([2, 2, 1]);
});

test("ThreadCount: a clock or a count that does not go on changes nothing", () => {
  const count = new ThreadCount(2);
  for (const [atMs, busyMs, ownMs] of [
    [5, 9, 0],
    [5, 900, 0],
    [9, 9, 800],
  ] as const) {
    count.decide({ atMs, cores: 2, busyMs, ownMs });
    expect(count.now).toBe(2);
  }
});

test("ThreadCount: looks four times a second at most", () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const read = vi.fn(() => ({ atMs: performance.now(), cores: 2, busyMs: 2 * performance.now(), ownMs: 0 }));
  const count = new ThreadCount(2, read);
  const counts = Array.from({ length: 6 }, () => {
    vi.advanceTimersByTime(125);
    return count.look();
  });
  expect(counts).toEqual([2, 2, 1, 1, 1, 1]);
  expect(read).toHaveBeenCalledTimes(3);
});

test("readCpuTimes(): this process is among those that are busy", () => {
  const times = readCpuTimes();
  expect(times.cores).toBeGreaterThan(0);
  expect(times.ownMs).toBeGreaterThan(0);
  expect(times.busyMs).toBeGreaterThan(0);
});

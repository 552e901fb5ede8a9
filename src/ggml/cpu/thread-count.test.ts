import { expect, test, vi } from "vitest";
import { readCpuTimes, ThreadCount } from "./thread-count.js";

/** Looks, a second apart: in each, others used so many cores. @returns how many threads there were after each. */
function after(count: ThreadCount, cores: number, others: readonly number[]): number[] {
  let [atMs, busyMs, ownMs] = [0, 0, 0];
  count.look({ atMs, busyMs, ownMs }, cores);
  return others.map((used) => {
    atMs += 1000;
    ownMs += 700;
    busyMs += 700 + used * 1000;
    count.look({ atMs, busyMs, ownMs }, cores);
    return count.now;
  });
}

test("ThreadCount: others' work takes threads at once, and gives them back after four quiet looks in a row", () => {
  expect(after(new ThreadCount(2), 2, [0, 0.3, 0.67, 0, 0, 0.9, 0, 0, 0, 0, 2])).toEqual([
    2, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1,
  ]);
});

test("ThreadCount: as many threads as others leave cores, and no more than asked for", () => {
  expect(after(new ThreadCount(16), 16, [1, 3.4, 16, 20])).toEqual([15, 13, 1, 1]);
  expect(after(new ThreadCount(4), 16, [1, 12, 15])).toEqual([4, 4, 1]);
});

test("ThreadCount: a clock or a count that does not go on changes nothing", () => {
  using count = new ThreadCount(2);
  for (const times of [
    { atMs: 5, busyMs: 9, ownMs: 0 },
    { atMs: 5, busyMs: 900, ownMs: 0 },
    { atMs: 9, busyMs: 9, ownMs: 800 },
  ]) {
    count.look(times, 2);
    expect(count.now).toBe(2);
  }
});

test("ThreadCount: looks by itself where it adapts, until it is disposed", () => {
  vi.useFakeTimers();
  const read = vi.fn(() => ({ atMs: read.mock.calls.length, busyMs: 2 * read.mock.calls.length, ownMs: 0 }));
  {
    using count = new ThreadCount(2, { adapts: true, read, cores: 2 });
    vi.advanceTimersByTime(600);
    expect([count.now, count.othersCores]).toEqual([1, 2]);
  }
  using _fixed = new ThreadCount(2, { adapts: false, read });
  vi.advanceTimersByTime(6000);
  vi.useRealTimers();
  expect(read).toHaveBeenCalledTimes(2);
});

test("readCpuTimes(): this process is among those that are busy", () => {
  const times = readCpuTimes();
  expect(times.ownMs).toBeGreaterThan(0);
  expect(times.busyMs).toBeGreaterThan(0);
});

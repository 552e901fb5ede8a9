import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { holdLock, Watch } from "./lock.js";

test("holdLock(): what another process has taken meanwhile stays its", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
  try {
    const path = join(folder, "writer.lock");
    const lock = await holdLock(path, "write");
    await writeFile(path, "1 1\n");
    await lock[Symbol.asyncDispose]();
    expect(await readFile(path, "utf8")).toBe("1 1\n");
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("holdLock(): of those that come together after a process that was killed, one alone holds it", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
  try {
    for (let round = 0; round < 20; round++) {
      const path = join(folder, `${round}.lock`);
      // No process has such a number.
      await writeFile(path, "99999999 1\n");
      const one = async (_: unknown, n: number) => {
        for (let turn = 0; turn < (n * round) % 11; turn++) await setImmediate();
        return await holdLock(path, "write");
      };
      const locks = await Promise.allSettled(Array.from({ length: 8 }, one));
      expect(locks.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    }
    expect(await readdir(folder)).toHaveLength(20);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("holdLock(): what a process of another machine or container holds is taken over once it renews it no more, and it sees that", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
  const now = vi.spyOn(performance, "now").mockReturnValue(0);
  try {
    const path = join(folder, "writer.lock");
    const first = await holdLock(path, "write");
    // Its number is that of a process here.
    await writeFile(path, (await readFile(path, "utf8")).replace(/^(\S+ \S+) \S+/, "$1 elsewhere/pid:[1]"));
    const watch = new Watch();
    await expect(holdLock(path, "write", watch)).rejects.toThrow(/on another machine or in another container does; if/);
    now.mockReturnValue(29_000);
    await utimes(path, 1, 1);
    await expect(holdLock(path, "write", watch)).rejects.toThrow("Cannot write");
    now.mockReturnValue(58_000);
    await expect(holdLock(path, "write", watch)).rejects.toThrow("Cannot write");
    now.mockReturnValue(60_000);
    await using second = await holdLock(path, "write", watch);
    expect([await first.isHeld(), first.isLost, await second.isHeld()]).toEqual([false, true, true]);
    await first[Symbol.asyncDispose]();
    expect(await second.isHeld()).toBe(true);
  } finally {
    now.mockRestore();
    await rm(folder, { recursive: true });
  }
});

test("holdLock(): a lock is renewed while it is held", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  try {
    const path = join(folder, "writer.lock");
    await using _ = await holdLock(path, "write");
    await utimes(path, 1, 1);
    vi.advanceTimersByTime(5_000);
    await expect.poll(async () => (await stat(path)).mtimeMs).toBeGreaterThan(1_000);
  } finally {
    vi.useRealTimers();
    await rm(folder, { recursive: true });
  }
});

import fc from "fast-check";
import { expect, onTestFinished, test, vi } from "vitest";
import { Outbox } from "./outbox.js";

test("Outbox: what came before the end is read before the end, and after it nothing is taken", async () => {
  const outbox = new Outbox<number>();
  outbox.push(1);
  outbox.push(2);
  outbox.fail(new Error("Cannot go on: test"));
  outbox.push(3);
  outbox.end();
  const read: number[] = [];
  const reading = (async () => {
    for await (const event of outbox.read()) read.push(event);
  })();
  await expect(reading).rejects.toThrow("Cannot go on: test");
  expect(read).toEqual([1, 2]);
});

test("Outbox: full until half of it is read, and then whoever fills it hears of the room", async () => {
  let numRooms = 0;
  const outbox = new Outbox<number>({ capacity: 4, onRoom: () => numRooms++ });
  for (const event of [1, 2, 3]) outbox.push(event);
  expect(outbox.isFull).toBe(false);
  outbox.push(4);
  expect(outbox.isFull).toBe(true);
  const reader = outbox.read();
  // An event is read once the next one is asked for.
  for (let i = 0; i < 2; i++) await reader.next();
  expect([outbox.isFull, numRooms]).toEqual([true, 0]);
  await reader.next();
  expect([outbox.isFull, numRooms]).toEqual([false, 1]);
});

test("Outbox: a reader who takes nothing while it is full is told of after its time, one who takes some is not", async () => {
  vi.useFakeTimers();
  onTestFinished(() => {
    vi.useRealTimers();
  });
  let numStalled = 0;
  const outbox = new Outbox<number>({ capacity: 8, patienceMs: 1000, onStalled: () => numStalled++ });
  for (let i = 0; i < 7; i++) outbox.push(i);
  vi.advanceTimersByTime(10_000);
  expect(numStalled).toBe(0);
  outbox.push(7);
  const reader = outbox.read();
  await reader.next();
  for (let i = 0; i < 3; i++) {
    vi.advanceTimersByTime(900);
    await reader.next();
  }
  expect(numStalled).toBe(0);
  vi.advanceTimersByTime(1001);
  expect(numStalled).toBe(1);
  expect(vi.getTimerCount()).toBe(0);
});

test("Outbox: once there is an end, no time runs", () => {
  vi.useFakeTimers();
  onTestFinished(() => {
    vi.useRealTimers();
  });
  const outbox = new Outbox<number>({ capacity: 1, patienceMs: 1000, onStalled: () => undefined });
  outbox.push(1);
  expect(vi.getTimerCount()).toBe(1);
  outbox.end();
  expect(vi.getTimerCount()).toBe(0);
});

test("Outbox: gives every event once and in order, however reading and writing take turns", async () => {
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const writes = fc.array(fc.tuple(fc.nat(3), fc.boolean()), { maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(writes, fc.boolean(), async (sizes, readsFirst) => {
      const outbox = new Outbox<number>();
      const readAll = async (): Promise<number[]> => {
        const read: number[] = [];
        for await (const event of outbox.read()) read.push(event);
        return read;
      };
      const reading = readsFirst ? readAll() : undefined;
      let next = 0;
      for (const [size, pauses] of sizes) {
        for (let i = 0; i < size; i++) outbox.push(next++);
        if (pauses) await turn();
      }
      outbox.end();
      expect(await (reading ?? readAll())).toEqual(Array.from({ length: next }, (_, i) => i));
    }),
  );
});

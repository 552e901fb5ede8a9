import fc from "fast-check";
import { expect, test } from "vitest";
import { EventQueue } from "./event-queue.js";

async function readAll(queue: EventQueue<number>, into: number[] = []): Promise<number[]> {
  for await (const event of queue.read()) into.push(event);
  return into;
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("EventQueue: gives every event once and in order, however reading and writing take turns", async () => {
  const writes = fc.array(fc.tuple(fc.nat(3), fc.boolean()), { maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(writes, fc.boolean(), async (sizes, readsFirst) => {
      const queue = new EventQueue<number>();
      const reading = readsFirst ? readAll(queue) : undefined;
      let next = 0;
      for (const [size, pauses] of sizes) {
        queue.push(Array.from({ length: size }, () => next++));
        if (pauses) await turn();
      }
      queue.end();
      expect(await (reading ?? readAll(queue))).toEqual(Array.from({ length: next }, (_, i) => i));
    }),
  );
});

test("EventQueue.fail(): the reader gets what came before, then the error; the first ending counts", async () => {
  const queue = new EventQueue<number>();
  queue.push([1, 2]);
  queue.fail(new Error("first"));
  queue.fail(new Error("second"));
  queue.end();
  queue.push([3]);
  const read: number[] = [];
  await expect(readAll(queue, read)).rejects.toThrow("first");
  expect(read).toEqual([1, 2]);
});

test("EventQueue.fail(): wakes a reader that waits", async () => {
  const queue = new EventQueue<number>();
  const reading = readAll(queue).catch((error: Error) => error.message);
  await turn();
  queue.fail(new Error("gone"));
  expect(await reading).toBe("gone");
});

test("EventQueue.read(): tells of an event when its reader is done with it", async () => {
  const queue = new EventQueue<number>();
  queue.push([1, 2]);
  let numDone = 0;
  const events = queue.read(() => {
    numDone += 1;
  });
  await events.next();
  expect(numDone).toBe(0);
  await events.next();
  expect(numDone).toBe(1);
  await events.return();
  expect(numDone).toBe(1);
});

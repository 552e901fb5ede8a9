import { expect, test } from "vitest";
import type { PrefillPart } from "./row-queue.js";
import { RowQueue, type RowWork } from "./row-queue.js";
import { Task } from "./task.js";

type Prefill = RowWork & { readonly kind: "prefill" };

/** A prompt of so many tokens; which is all that the line looks at. */
function prompt(owner: string, numTokens: number): Prefill {
  const task = new Task<PrefillPart>(undefined, () => undefined);
  const rest = { context: undefined as never, positions: 0, firstWanted: 0 };
  return { kind: "prefill", owner, task, tokenIds: new Int32Array(numTokens), ...rest };
}

/** Takes a graph of so many rows, and hands in what prompts have left. @returns the rows of each owner. */
function graph(queue: RowQueue, numRows: number): Record<string, number> {
  const rows: Record<string, number> = {};
  const rest: Prefill[] = [];
  queue.take(numRows, (work, maxRows) => {
    if (work.kind !== "prefill" || maxRows < 4) return undefined;
    const numTaken = Math.min(work.tokenIds.length, maxRows);
    rows[work.owner] = (rows[work.owner] ?? 0) + numTaken;
    if (work.tokenIds.length > numTaken) rest.push(prompt(work.owner, work.tokenIds.length - numTaken));
    return { numRows: numTaken };
  });
  for (const work of rest) queue.add(work);
  return rows;
}

/** A graph of a request's own. */
function ownGraph(owner: string, rows: number): RowWork {
  return {
    kind: "graph",
    owner,
    task: new Task<Float32Array | undefined>(undefined, () => undefined),
    rows,
    fill: () => undefined,
  };
}

function queueOf(...works: RowWork[]): RowQueue {
  const queue = new RowQueue(64);
  for (const work of works) queue.add(work);
  return queue;
}

test("RowQueue.take(): owners share a graph evenly, however many prompts one of them has", () => {
  const queue = queueOf(...Array.from({ length: 8 }, () => prompt("a", 1000)), prompt("b", 1000));
  for (let i = 0; i < 3; i++) expect(graph(queue, 512)).toEqual({ a: 256, b: 256 });
});

test("RowQueue.take(): what one owner leaves, the others have", () => {
  expect(graph(queueOf(prompt("a", 1000), prompt("b", 30), prompt("c", 1000)), 512)).toEqual({ a: 241, b: 30, c: 241 });
  expect(graph(queueOf(prompt("a", 1000)), 512)).toEqual({ a: 512 });
});

test("RowQueue.take(): where a graph has no share for each owner, they come in turn", () => {
  const queue = queueOf(...["a", "b", "c", "d", "e"].map((owner) => prompt(owner, 10_000)));
  const total: Record<string, number> = {};
  for (let i = 0; i < 50; i++) {
    const rows = graph(queue, 128);
    expect(Object.keys(rows).length).toBe(2);
    for (const [owner, count] of Object.entries(rows)) total[owner] = (total[owner] ?? 0) + count;
  }
  expect(Object.values(total)).toEqual([1280, 1280, 1280, 1280, 1280]);
});

test("RowQueue.take(): of one owner's prompts the shortest goes first every second time, else who came first", () => {
  const queue = queueOf(prompt("a", 3000), prompt("a", 600));
  expect([graph(queue, 512), graph(queue, 512)]).toEqual([{ a: 512 }, { a: 512 }]);
  // 512 rows of the long one, then 512 of the short one: 88 and 2,488 are left.
  const left: number[] = [];
  queue.take(512, (work, maxRows) => {
    if (work.kind === "prefill") left.push(work.tokenIds.length);
    return maxRows > 0 ? { numRows: maxRows } : undefined;
  });
  expect(left.sort((a, b) => a - b)).toEqual([88, 2488]);
});

test("RowQueue.take(): a piece that is larger than an even share is not passed over for ever", () => {
  const queue = queueOf(prompt("large", 1280));
  let numServed = 0;
  for (let i = 0; i < 40 && numServed < 10; i++) {
    // Another owner always has a little to do.
    queue.add(prompt("small", 64));
    const shares: string[] = [];
    queue.take(128, (work, maxRows) => {
      const numRows = work.owner === "large" ? 128 : 64;
      if (numRows > maxRows && (work.owner === "small" || shares.length > 0)) return undefined;
      shares.push(work.owner);
      return { numRows };
    });
    if (!shares.includes("large")) continue;
    numServed += 1;
    queue.add(prompt("large", 1280 - 128 * numServed));
  }
  expect(numServed).toBe(10);
});

test("RowQueue.takeOwnGraph(): an owner's own graph comes soon, whatever else of theirs is computed with others' work", () => {
  const queue = queueOf(prompt("busy", 100), prompt("light", 4));
  graph(queue, 512);
  for (const work of [ownGraph("busy", 20), prompt("busy", 100_000), prompt("light", 8)]) queue.add(work);
  let numSteps = 0;
  while (queue.takeOwnGraph() === undefined && numSteps < 50) {
    numSteps += 1;
    graph(queue, 512);
    // There is always some of it.
    queue.add(prompt("light", 8));
  }
  expect(numSteps).toBeLessThan(3);
});

test("RowQueue.takeOwnGraph(): who has many own graphs, and had few rows so far, leaves others their turns", () => {
  const queue = queueOf(prompt("old", 100_000));
  for (let i = 0; i < 20; i++) graph(queue, 512);
  for (let i = 0; i < 10; i++) queue.add(ownGraph("new", 512));
  const turns: string[] = [];
  for (let i = 0; i < 8; i++) {
    const own = queue.takeOwnGraph();
    turns.push(own?.owner ?? Object.keys(graph(queue, 512)).join());
  }
  expect(turns).toEqual(["new", "old", "new", "old", "new", "old", "new", "old"]);
});

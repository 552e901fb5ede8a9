import { expect, test } from "vitest";
import type { KVRows } from "../model/kv-rows.js";
import { slotRows } from "./decode-slots.js";
import { planRuns } from "./decode-steps.js";
import type { HeldRows } from "./held-rows.js";

const groups = [0, 1].map((id) => ({ id, stride: 1 }));
const sequence = (group: number, index: number, length: number, shared: HeldRows[] = []) => {
  const keys = { capacity: 4096 } as KVRows;
  const slot = { group: groups[group]!, index, keys, decodeValues: keys, [Symbol.dispose]: () => undefined };
  return {
    context: { slot, shared, length, ownLength: length, cleared: length },
    tokenId: 0,
    position: length,
    draftIds: [],
    rows: 1,
  };
};

test("planRuns(): neighbours go together, unless one is so long that the others would wait for it", () => {
  const plan = (...works: ReturnType<typeof sequence>[]) =>
    planRuns(works).map(({ works: run, numKeys }) => [
      numKeys,
      ...run.map(({ context: { slot } }) => `${slot?.group.id}.${slot?.index}`),
    ]);
  expect(plan(sequence(0, 0, 63))).toEqual([[64, "0.0"]]);
  expect(plan(sequence(0, 0, 64))).toEqual([[128, "0.0"]]);
  expect(plan(sequence(0, 0, 1100))).toEqual([[1280, "0.0"]]);
  expect(plan(sequence(0, 0, 4095))).toEqual([[4096, "0.0"]]);
  expect(plan(sequence(1, 1, 10), sequence(0, 1, 100), sequence(1, 0, 90), sequence(0, 0, 10))).toEqual([
    [128, "0.0", "0.1"],
    [128, "1.0", "1.1"],
  ]);
  const [prompt, other] = [{} as HeldRows, {} as HeldRows];
  const forks = [[prompt], [prompt], [prompt, other], [other], []].map((shared, i) => sequence(0, i, 10, shared));
  expect(plan(...forks)).toEqual([
    [64, "0.0", "0.1"],
    [64, "0.2"],
    [64, "0.3"],
    [64, "0.4"],
  ]);
  // A slot between them that decodes nothing now.
  expect(plan(sequence(0, 0, 10), sequence(0, 2, 10))).toEqual([
    [64, "0.0"],
    [64, "0.2"],
  ]);
  expect(plan(sequence(0, 0, 10), sequence(0, 1, 3000), sequence(0, 2, 2800))).toEqual([
    [64, "0.0"],
    [3072, "0.1", "0.2"],
  ]);
});

test("slotRows(): few sizes, none much larger than asked for", () => {
  const sizes = new Set<number>();
  for (let rows = 1; rows <= 50_000; rows += 7) {
    const size = slotRows(rows);
    sizes.add(size);
    expect(size).toBeGreaterThanOrEqual(rows);
    expect(size % 64).toBe(0);
    if (rows > 64) expect(size).toBeLessThan(2 * rows);
    if (rows > 128) expect(size).toBeLessThanOrEqual(1.5 * rows + 1);
    expect(slotRows(size)).toBe(size);
  }
  expect(sizes.size).toBeLessThan(30);
});

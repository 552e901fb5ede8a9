import fc from "fast-check";
import { expect, test } from "vitest";
import { blockOfRuns, blocksFromStrings, joinLocalBlocks, joinTextBlocks, runsOfBlock, sliceRuns } from "./block.js";

test("blocksFromStrings(): the caller's own text is trusted everywhere", () => {
  expect(blocksFromStrings(["a", "", "b"])).toEqual({
    blocks: [
      { text: "a", trusted: "all" },
      { text: "", trusted: "all" },
      { text: "b", trusted: "all" },
    ],
    warnings: [],
  });
  expect(() => blocksFromStrings([])).toThrow("Cannot use blocks: there are none, wanted at least the final block");
  expect(() => blocksFromStrings(["a", ""])).toThrow("Cannot use blocks: the final block is empty");
  expect(() => blocksFromStrings(["a", 1 as never])).toThrow("Cannot use blocks: block 2 is 1, wanted text");
  expect(() => blocksFromStrings("ab" as never)).toThrow(TypeError);
});

test("joinLocalBlocks(): blocks past n join the final block, 0 is full attention", () => {
  expect(joinLocalBlocks(4, 0)).toEqual([[0, 1, 2, 3]]);
  expect(joinLocalBlocks(4, 1)).toEqual([[0], [1, 2, 3]]);
  for (const numLocal of [3, 4, 100, undefined]) expect(joinLocalBlocks(4, numLocal)).toEqual([[0], [1], [2], [3]]);
  expect(joinLocalBlocks(1, 5)).toEqual([[0]]);
  for (const numLocal of [-1, 0.5, Number.NaN]) expect(() => joinLocalBlocks(4, numLocal)).toThrow(RangeError);
  expect(() => joinLocalBlocks(0, 1)).toThrow(RangeError);
});

const runs = fc.array(fc.record({ text: fc.string({ maxLength: 4 }), trusted: fc.boolean() }), { maxLength: 8 });

test("blockOfRuns(): trust is kept, unit by unit", () => {
  const trustOf = (list: readonly { text: string; trusted: boolean }[]) =>
    list.flatMap(({ text, trusted }) => Array.from({ length: text.length }, () => trusted));
  fc.assert(
    fc.property(runs, fc.nat(30), fc.nat(30), (list, start, end) => {
      const block = blockOfRuns(list);
      expect(block.text).toBe(list.map((run) => run.text).join(""));
      expect(trustOf(runsOfBlock(block))).toEqual(trustOf(list));
      expect(joinTextBlocks([block])).toEqual(block);
      expect(blockOfRuns(sliceRuns(list, start, end)).text).toBe(block.text.slice(start, end));
      expect(trustOf(sliceRuns(list, start, end))).toEqual(trustOf(list).slice(start, end));
    }),
  );
});

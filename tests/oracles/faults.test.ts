import { expect, test } from "vitest";
import {
  allFaults,
  expectBound,
  expectOnlyRight,
  type Fault,
  oneBlockFaults,
  oneQuestionFaults,
  readPrompt,
  shows,
} from "./faults.js";

const table = (seen: (query: number, key: number, layer: number) => unknown, numRows: number) =>
  Array.from({ length: numRows }, (_, query) =>
    Array.from({ length: numRows }, (_, key) => (seen(query, key, 0) ? "1" : "0")).join(""),
  ).join(" / ");

// Blocks of 1 and 2 tokens, an empty one, and a final block of 1 with one token of the answer.
const prompt = { blockTokenIds: [[5], [6, 7], [], [8]], continuationTokenIds: [9, 10] };

test("readPrompt(): local blocks see themselves, the final block sees everything, at the places of the prompt", () => {
  const { tokenIds, sees, queryPosition, keyPosition } = readPrompt(prompt);
  expect(tokenIds).toEqual([5, 6, 7, 8, 9]);
  expect(table(sees, 5)).toBe("10000 / 01000 / 01100 / 11110 / 11111");
  expect(tokenIds.map((_, row) => [queryPosition(row), keyPosition(row)])).toEqual([0, 1, 2, 3, 4].map((p) => [p, p]));
  const kept = readPrompt({ ...prompt, positionReencoding: false });
  expect(tokenIds.map((_, row) => kept.keyPosition(row))).toEqual([0, 0, 1, 3, 4]);
});

test.each<readonly [Fault, string]>([
  ["local blocks see the block before", "10000 / 11000 / 11100 / 11110 / 11111"],
  ["local blocks see everything before", "10000 / 11000 / 11100 / 11110 / 11111"],
  ["the final block does not see the first", "10000 / 01000 / 01100 / 01110 / 01111"],
  ["rows see the row after them", "10000 / 01100 / 01100 / 11111 / 11111"],
  ["rows do not see themselves", "10000 / 01000 / 01000 / 11100 / 11110"],
])("readPrompt(): %s", (fault, mask) => {
  expect(table(readPrompt(prompt, fault).sees, 5)).toBe(mask);
});

// A local block, a question of 1 with its answer, an empty block, a later passage, and a final block.
const spans = {
  blockTokenIds: [[5], [6], [7], [], [8], [9]],
  isGlobal: [false, true, true, true, false, true],
  continuationTokenIds: [10],
};

test.each<readonly [Fault | undefined, string]>([
  [undefined, "10000 / 11000 / 11100 / 00010 / 11111"],
  ["local blocks see global ones before", "10000 / 11000 / 11100 / 01110 / 11111"],
  ["earlier global blocks do not see local ones", "10000 / 01000 / 01100 / 00010 / 11111"],
  ["the final block does not see earlier global ones", "10000 / 11000 / 11100 / 00010 / 10011"],
  ["local blocks see the block before", "10000 / 11000 / 11100 / 00110 / 11111"],
])("readPrompt(): global blocks see everything before them, and %s", (fault, mask) => {
  expect(table(readPrompt(spans, fault).sees, 5)).toBe(mask);
  const { keyPosition } = readPrompt({ ...spans, positionReencoding: false });
  expect([0, 1, 2, 3, 4].map(keyPosition)).toEqual([0, 1, 2, 0, 4]);
});

test("readPrompt(): positions and values with a fault", () => {
  const read = (fault: Fault, what: "queryPosition" | "keyPosition" | "valueRow", asked: object = {}) =>
    [0, 1, 2, 3, 4].map((row) => readPrompt({ ...prompt, ...asked }, fault)[what](row));
  const kept = { positionReencoding: false };
  expect(read("blocks keep the positions that they should not", "keyPosition")).toEqual([0, 0, 1, 3, 4]);
  expect(read("blocks keep the positions that they should not", "queryPosition", kept)).toEqual([0, 1, 2, 3, 4]);
  expect(read("the final block is a position too far", "queryPosition")).toEqual([0, 1, 2, 4, 5]);
  expect(read("a position is left out after each block", "keyPosition")).toEqual([0, 2, 3, 5, 6]);
  expect(read("keys are not turned", "keyPosition")).toEqual([0, 0, 0, 0, 0]);
  expect(read("keys are not turned", "queryPosition")).toEqual([0, 1, 2, 3, 4]);
  expect(read("keys are turned twice", "keyPosition")).toEqual([0, 2, 4, 6, 8]);
  expect(read("blocks have the values of the block before", "valueRow")).toEqual([0, 0, 0, 3, 4]);
  expect(read("rows have the values of the row before", "valueRow")).toEqual([0, 0, 1, 2, 3]);
});

test("shows(): a prompt of one block shows no fault of local blocks, and of one token none", () => {
  expect(oneBlockFaults).toEqual([
    "rows see the row after them",
    "rows do not see themselves",
    "keys are not turned",
    "keys are turned twice",
    "rows have the values of the row before",
  ]);
  expect(allFaults.filter((fault) => shows(fault, { blockTokenIds: [[5]], continuationTokenIds: [8] }))).toEqual([]);
  expect(oneQuestionFaults).toEqual(allFaults.filter((fault) => shows(fault, prompt)));
  expect(allFaults.filter((fault) => !oneQuestionFaults.includes(fault))).toEqual([
    "local blocks see global ones before",
    "earlier global blocks do not see local ones",
    "the final block does not see earlier global ones",
  ]);
  expect(
    allFaults.filter((fault) => !shows(fault, { ...spans, blockTokenIds: [[5], [6, 7], [8, 9], [], [10, 11], [12]] })),
  ).toEqual([]);
});

test("expectBound(): fails for an answer too far, for a fault within the bound, and for one that no prompt shows", () => {
  const found = (right: number, wrong: number, blockTokenIds = prompt.blockTokenIds) => [
    {
      name: "one",
      prompt: { ...prompt, blockTokenIds },
      distance: (fault?: Fault) => (fault === "keys are not turned" ? wrong : fault ? 9 : right),
    },
  ];
  expectBound(1, found(0.5, 2));
  expect(() => expectBound(1, found(1.5, 2))).toThrow();
  expect(() => expectBound(1, found(Number.NaN, 2))).toThrow();
  expect(() => expectBound(1, found(0.5, 0.9))).toThrow("what the bound 1 does not catch");
  expect(() => expectBound(1, found(0.5, 2, [[5, 6]]))).toThrow();
  expectBound(1, found(0.5, 2, [[5, 6]]), { faults: ["keys are not turned"] });
  expectOnlyRight(1, 0.5, { "all is wrong": 2 });
  expect(() => expectOnlyRight(1, 0.5, { "all is wrong": 0.5 })).toThrow("an oracle in which all is wrong");
  expect(() => expectOnlyRight(1, 0.5, {})).toThrow();
});

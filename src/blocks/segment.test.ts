import fc from "fast-check";
import { expect, test } from "vitest";
import { runToEnd } from "../tokenizer/steps.js";
import { countCharacters, cutAtPassages, cutText, segmentRule, segmentText } from "./segment.js";

const texts = fc
  .array(fc.constantFrom("a", "bb", "😀", "\n", "\n\n", "\t", "---", "===", " ", "-", "="), { maxLength: 60 })
  .map((pieces) => pieces.join(""));

test("segmentText(): the pieces put together are the text, within the limit, none empty", () => {
  fc.assert(
    fc.property(texts, fc.integer({ min: 1, max: 20 }), (text, limit) => {
      const pieces = segmentText(text, { limit });
      expect(pieces.join("")).toBe(text);
      expect(pieces.length).toBeLessThanOrEqual(limit);
      expect(pieces).not.toContain("");
    }),
  );
});

test("segmentText(): the limit is used up whenever there are pieces enough", () => {
  fc.assert(
    fc.property(texts, fc.integer({ min: 1, max: 20 }), (text, limit) => {
      const numPieces = segmentText(text, { limit: Infinity }).length;
      expect(segmentText(text, { limit })).toHaveLength(Math.min(numPieces, limit));
    }),
  );
});

test("segmentText(): merges as the slow way does, the smallest pair first, leftmost on a tie, never the last", () => {
  const slowly = (pieces: string[], limit: number): string[] => {
    if (pieces.length <= limit) return pieces;
    if (limit === 1) return [pieces.join("")];
    const sizes = pieces.slice(0, -2).map((piece, i) => [...piece, ...pieces[i + 1]!].length);
    const at = sizes.indexOf(Math.min(...sizes));
    return slowly([...pieces.slice(0, at), pieces[at]! + pieces[at + 1]!, ...pieces.slice(at + 2)], limit);
  };
  fc.assert(
    fc.property(texts, fc.integer({ min: 1, max: 8 }), (text, limit) => {
      expect(segmentText(text, { limit })).toEqual(slowly(segmentText(text, { limit: Infinity }), limit));
    }),
    { numRuns: 300 },
  );
});

test("segmentText(): the first delimiter that occurs cuts, and stays with the text before it", () => {
  expect(segmentText("a\n\nb\nc")).toEqual(["a\n\n", "b\nc"]);
  expect(segmentText("a---b===c\nd")).toEqual(["a---", "b===c\nd"]);
  expect(segmentText("a\n\tb\nc")).toEqual(["a\n\t", "b\nc"]);
  expect(segmentText("a\nb\n")).toEqual(["a\n", "b\n"]);
  expect(segmentText("a b")).toEqual(["a b"]);
  expect(segmentText("")).toEqual([]);
});

test("segmentText(): no block is nothing but delimiters", () => {
  expect(segmentText("---a------b---")).toEqual(["---a------", "b---"]);
  expect(segmentText("\n\n\n\na\n\nb")).toEqual(["\n\n\n\na\n\n", "b"]);
  expect(segmentText("------")).toEqual(["------"]);
});

test("segmentText(): the final block counts against the limit and never merges", () => {
  const text = `${Array.from({ length: 20 }, (_, i) => `${"x".repeat(20 - i)}\n\n`).join("")}?`;
  const pieces = segmentText(text);
  expect(pieces).toHaveLength(15);
  expect(pieces.at(-1)).toBe("?");
  // Two ties of 2 characters: the left pair merges.
  expect(segmentText("a\nb\nc\nd\n?", { limit: 4 })).toEqual(["a\nb\n", "c\n", "d\n", "?"]);
});

test("segmentText(): delimiters, limit and the cut can be replaced", () => {
  expect(segmentText("a|b|c", { delimiters: ["|"] })).toEqual(["a|", "b|", "c"]);
  expect(segmentText("abcd", { cut: (text) => [...text], limit: 3 })).toEqual(["ab", "c", "d"]);
  expect(() => segmentText("ab", { cut: () => ["a"] })).toThrow(RangeError);
  expect(() => segmentText("ab", { cut: () => 1 as never })).toThrow(TypeError);
});

test("segmentText(): bad options are one-line errors", () => {
  for (const limit of [0, -1, 1.5, Number.NaN, "3" as never]) {
    expect(() => segmentText("a", { limit })).toThrow(/^Cannot cut text: limit is .+, wanted a whole number/);
  }
  expect(() => segmentText("a", { delimiters: [""] })).toThrow(
    'Cannot cut text: delimiters is [""], wanted a list of texts of whole characters',
  );
  expect(() => segmentText("a", { delimiters: ["\ud83d"] })).toThrow(RangeError);
  expect(() => segmentText("a", { delimiters: "x" as never })).toThrow(TypeError);
  expect(() => segmentText(1 as never)).toThrow(TypeError);
});

test("segmentText(): 5 MB in a million pieces take seconds, not hours", () => {
  const text = "abcd\n".repeat(1_000_000);
  const start = performance.now();
  expect(segmentText(text)).toHaveLength(15);
  expect(performance.now() - start).toBeLessThan(8_000);
  expect(segmentText("\n\n".repeat(2_500_000))).toHaveLength(1);
});

test("countCharacters(): a surrogate pair is one character", () => {
  expect(countCharacters("a😀\ud83d")).toBe(3);
});

test("cutText(): a text of a million lines is cut in some thousand places, its last line always", () => {
  const text = "a\n".repeat(2 ** 20);
  const pieces = cutText(`${text}question`, segmentRule({}));
  expect(pieces.length).toBeLessThanOrEqual(8194);
  expect(pieces.at(-1)).toBe("question");
  expect(pieces.join("")).toBe(`${text}question`);
  expect(segmentText(text).at(-1)).toBe("a\n");
  // Who wants no limit gets every line.
  expect(cutText(text, segmentRule({ limit: Infinity }))).toHaveLength(2 ** 20);
});

test("cutAtPassages(): what follows the last passage is global; white space is no question", () => {
  const passages = ["Ann was born in Rome.", "Bo was born in Oslo."];
  const globals = (text: string, isFirst = true) => {
    const pieces = runToEnd(cutAtPassages(text, isFirst));
    expect(pieces.map((piece) => piece.text).join("")).toBe(text);
    return pieces.filter((piece) => piece.isGlobal).map((piece) => piece.text);
  };
  const text = `Read.\n<doc>${passages[0]}</doc>\n<doc>${passages[1]}</doc>`;
  expect(globals(`${text}\nWho?`)).toEqual([expect.stringMatching(/^\s*Who\?$/)]);
  for (const end of ["", "\n", "\n \n\n"]) expect(globals(text + end).join("")).toContain(passages[1]);
  expect(globals(`${text}\nWho?`, false)).toEqual(["Read.\n", expect.stringMatching(/^\s*Who\?$/)]);
  for (const plain of ["", " ", "Who?", "One.\n\nTwo?"]) expect(globals(plain)).toEqual([plain]);
});

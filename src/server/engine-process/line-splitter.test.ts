import fc from "fast-check";
import { expect, test } from "vitest";
import { LineSplitter } from "./child-link.js";

function split(pieces: readonly string[], longest?: number): string[] {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line), longest);
  for (const piece of pieces) splitter.push(piece);
  splitter.end();
  return lines;
}

test("LineSplitter: the lines that have text, however it is cut", () => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "\n"), maxLength: 8 });
  fc.assert(
    fc.property(fc.array(text), (pieces) => {
      expect(split(pieces)).toEqual(
        pieces
          .join("")
          .split("\n")
          .filter((line) => line !== ""),
      );
    }),
  );
  expect(split(["a\r\nb\r", "\nc"])).toEqual(["a", "b", "c"]);
});

test("LineSplitter: a line without an end is told in pieces, at once", () => {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line), 4);
  splitter.push("abcdefghi");
  expect(lines).toEqual(["abcd", "efgh"]);
  expect(split(["abcdefghi\n"], 4)).toEqual(["abcd", "efgh", "i"]);
});

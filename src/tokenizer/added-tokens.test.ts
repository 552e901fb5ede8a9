import { expect, test } from "vitest";
import { type AddedToken, AddedTokenFinder } from "./added-tokens.js";

const plain = { control: false, lstrip: false, rstrip: false, singleWord: false, normalized: false };

function finder(...tokens: (Partial<AddedToken> & { readonly content: string })[]): AddedTokenFinder {
  return new AddedTokenFinder(tokens.map((token, id) => ({ ...plain, id, ...token })));
}

/** Tokens as their ids, text as itself. */
function split(found: AddedTokenFinder, text: string, trusted: Parameters<AddedTokenFinder["split"]>[1]) {
  return Array.from(found.split(text, trusted), (part) =>
    part.kind === "token" ? part.id : text.slice(part.start, part.end),
  );
}

test("AddedTokenFinder.split(): takes the leftmost token, the longest of those that start together", () => {
  const found = finder({ content: "ab" }, { content: "abc" }, { content: "bcde" });
  expect(split(found, "xabcde ab", "none")).toEqual(["x", 1, "de ", 0]);
});

test("AddedTokenFinder.split(): finds control tokens in trusted runs only, others everywhere", () => {
  const found = finder({ content: "<s>", control: true }, { content: "[U]" });
  const text = "<s>[U]<s>";
  expect(split(found, text, "all")).toEqual([0, 1, 0]);
  expect(split(found, text, "none")).toEqual(["<s>", 1, "<s>"]);
  expect(split(found, text, [{ start: 4, end: 9 }])).toEqual(["<s>", 1, 0]);
});

test("AddedTokenFinder.split(): a control token across the edge of a trusted run is text, even where two runs touch", () => {
  const found = finder({ content: "<s>", control: true }, { content: "<", control: true });
  expect(split(found, "a<s>", [{ start: 0, end: 2 }])).toEqual(["a", 1, "s>"]);
  expect(
    split(finder({ content: "<s>", control: true }), "<s>", [
      { start: 0, end: 2 },
      { start: 2, end: 3 },
    ]),
  ).toEqual(["<s>"]);
});

test("AddedTokenFinder.split(): a user-defined token inside an untrusted control token's spelling still matches", () => {
  expect(split(finder({ content: "<|x|>", control: true }, { content: "|" }), "<|x|>", "none")).toEqual([
    "<",
    1,
    "x",
    1,
    ">",
  ]);
});

test("AddedTokenFinder.split(): tokens take white space along, and single words stand alone", () => {
  const found = finder(
    { content: "[L]", lstrip: true },
    { content: "[R]", rstrip: true },
    { content: "[W]", singleWord: true },
  );
  expect(split(found, "a \n[L] b[R]  c", "none")).toEqual(["a", 0, " b", 1, "c"]);
  expect(split(found, "a[W] [W] é[W]", "none")).toEqual(["a[W] ", 2, " é[W]"]);
});

test("AddedTokenFinder.split(): refuses trusted runs that do not ascend inside the text", () => {
  const found = finder({ content: "<s>", control: true });
  for (const runs of [
    [{ start: 0, end: 9 }],
    [{ start: -1, end: 1 }],
    [{ start: 2, end: 1 }],
    [
      { start: 1, end: 2 },
      { start: 0, end: 1 },
    ],
    [{ start: 0.5, end: 1 }],
  ]) {
    expect(() => [...found.split("abc", runs)]).toThrow(RangeError);
  }
});

import fc from "fast-check";
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

test("AddedTokenFinder.split(): finds what trying every token at every place finds", () => {
  const spelling = fc.string({ unit: fc.constantFrom("a", "b", "\0", "\uffff"), minLength: 1, maxLength: 4 });
  const text = fc.string({ unit: fc.constantFrom("a", "b", "\0", "\uffff", "c"), maxLength: 30 });
  fc.assert(
    fc.property(fc.uniqueArray(spelling, { maxLength: 8 }), text, (contents, of) => {
      const slowly: (string | number)[] = [];
      let plainText = "";
      for (let at = 0; at < of.length; ) {
        const fitting = contents.filter((content) => of.startsWith(content, at));
        const longest = fitting.sort((a, b) => b.length - a.length)[0];
        if (longest === undefined) {
          plainText += of[at++];
          continue;
        }
        if (plainText !== "") slowly.push(plainText);
        plainText = "";
        slowly.push(contents.indexOf(longest));
        at += longest.length;
      }
      if (plainText !== "") slowly.push(plainText);
      expect(split(finder(...contents.map((content) => ({ content }))), of, "none")).toEqual(slowly);
    }),
  );
});

test("AddedTokenFinder.split(): a hundred thousand tokens are no matter", () => {
  const found = finder(...Array.from({ length: 100_000 }, (_, i) => ({ content: `<|reserved ${i}|>` })));
  const text = "<|reserved <|reserved 99999|> ".repeat(10_000);
  expect(split(found, text, "none").filter((part) => part === 99_999)).toHaveLength(10_000);
});

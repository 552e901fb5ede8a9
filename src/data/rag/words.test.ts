import fc from "fast-check";
import { expect, test } from "vitest";
import { makeWordSplitter } from "./score-passages.js";

test.each([
  ["Who directed “Ed Wood” (1994)?", ["who", "directed", "ed", "wood", "1994"]],
  ["The Café's 3.5 km", ["the", "café's", "3.5", "km"]],
  ["It's the U.S. in 1,000.5 B.C., isn't it?", ["it's", "the", "u.s", "in", "1,000.5", "b.c", "isn't", "it"]],
  // Compatibility forms and capitals of any script are one word.
  ["ＦＵＬＬ ﬁlm ΣΟΦΟΣ Ünïcode", ["full", "film", "σοφος", "ünïcode"]],
  // A script without spaces is split by a dictionary.
  ["東京に行く", ["東京", "に", "行く"]],
  ["— … !?", []],
  ["", []],
])("makeWordSplitter(): %j", (text, words) => {
  const found = makeWordSplitter()(text);
  // Greek's final sigma is lower-cased by its place.
  expect(found.map((word) => word.replaceAll("ς", "σ"))).toEqual(words.map((word) => word.replaceAll("ς", "σ")));
});

test("makeWordSplitter(): gives what the segmenter gives for the whole text", () => {
  const segmenter = new Intl.Segmenter("und", { granularity: "word" });
  const split = makeWordSplitter();
  const unit = fc.constantFrom(..."aZb09 .,;:'_-\"()\n\t\u0000\u007fé\u0301東京にไทยאB\u2019\u200d😀");
  const plain = fc.constantFrom(..."aB12 .,;:'_");
  const texts = fc.oneof(
    fc.string({ unit: plain, maxLength: 16 }),
    fc.string({ unit, maxLength: 24 }),
    fc.string({ unit: "binary", maxLength: 12 }),
  );
  fc.assert(
    fc.property(texts, (text) => {
      const whole = [...segmenter.segment(text.normalize("NFKC").toLowerCase())];
      expect(split(text)).toEqual(whole.flatMap(({ segment, isWordLike }) => (isWordLike ? [segment] : [])));
    }),
    { numRuns: 1500 },
  );
});

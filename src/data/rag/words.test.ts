import { expect, test } from "vitest";
import { makeWordSplitter } from "./words.js";

test.each([
  ["Who directed “Ed Wood” (1994)?", ["who", "directed", "ed", "wood", "1994"]],
  ["The Café's 3.5 km", ["the", "café's", "3.5", "km"]],
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

import { expect, test } from "vitest";
import { cutAtEndOfTurn, lastSentence, normalizeAnswer } from "./normalize.js";

// What SQuAD's normalize_answer() gives, run once over the same texts.
test.each([
  ["The U.S., an island?", "us island"],
  ["a an the", ""],
  ["Theatre of the absurd", "theatre of absurd"],
  ["3.5%", "35"],
  ["  two   words\n", "two words"],
  ["it's", "its"],
  ["“quoted”", "“quoted”"],
])("normalizeAnswer(%j)", (text, wanted) => {
  expect(normalizeAnswer(text)).toBe(wanted);
});

test.each([
  ["The director is Ann Lee. Her mother is Eve Lee.", "Her mother is Eve Lee."],
  ["One sentence", "One sentence"],
  ["He is George W. Bush.", "He is George W. Bush."],
  ["It is Dr. No. He was born on 3 May 1900.", "He was born on 3 May 1900."],
  ["She lives in Washington D.C. today.", "She lives in Washington D.C. today."],
  ["First line\nSecond line", "Second line"],
  ["Really?! Yes. ", "Yes."],
  ["一つ目。二つ目。", "二つ目。"],
  ["", ""],
])("lastSentence(%j)", (text, wanted) => {
  expect(lastSentence(text)).toBe(wanted);
});

test("cutAtEndOfTurn(): the first end counts", () => {
  expect(cutAtEndOfTurn("a<|eot_id|>b</s>")).toBe("a");
  expect(cutAtEndOfTurn("no end")).toBe("no end");
});

import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { expect, test } from "vitest";
import { loadTokenizerFromFolder } from "../tokenizer/load-tokenizer.js";
import { runToEnd } from "../tokenizer/steps.js";
import { type Passage, passageBlock, readPassage } from "./passage.js";
import { MIN_PART_TOKENS, splitPassage } from "./split-passage.js";

const tokenizer = await loadTokenizerFromFolder(fileURLToPath(new URL("../../models/tiny-rag", import.meta.url)));
const form = "- Title: {title}\n{text}\n";
const split = (input: unknown, maxTokens: number): Passage[] =>
  runToEnd(splitPassage(readPassage(input, 3), { form, maxTokens, tokenizer }));
const tokensOf = (passage: Passage): number => tokenizer.encode(passageBlock(passage, form), "none").length;

const word = fc.oneof(
  fc.constantFrom(
    "the",
    "film",
    "Paris",
    "a",
    "1977",
    "\n",
    "\n\n",
    "end.",
    "Why?",
    "“so.”",
    "猫。",
    "是！",
    "😀",
    "  ",
  ),
  fc.string({ minLength: 1, maxLength: 90, unit: "grapheme" }),
);
const text = fc.array(word, { maxLength: 80 }).map((words) => words.join(" "));

test("splitPassage(): the parts fit, are the text, have the title, and no two neighbours would fit as one", () => {
  fc.assert(
    fc.property(
      text,
      fc.option(fc.constant("A title")),
      fc.integer({ min: MIN_PART_TOKENS, max: 60 }),
      (body, title, max) => {
        for (const input of [body, { title, text: body, id: "x" }]) {
          const whole = readPassage(input, 3);
          const parts = split(input, max);
          if (tokensOf(whole) <= max) {
            expect(parts).toEqual([whole]);
            continue;
          }
          for (const [i, part] of parts.entries()) {
            expect(tokensOf(part)).toBeLessThanOrEqual(max);
            expect(part).toEqual({ ...whole, text: part.text, label: { ...whole.label, part: i } });
          }
          const joined = parts.map((part) => part.text).join("");
          // Where there is no text but white space, a document has no part.
          if (typeof input === "string") expect(joined).toBe(body);
          else expect(joined.replace(/\s+/g, "")).toBe(body.replace(/\s+/g, ""));
          for (const [i, part] of parts.slice(1).entries()) {
            expect(tokensOf({ ...part, text: parts[i]!.text + part.text })).toBeGreaterThan(max);
          }
        }
      },
    ),
    { numRuns: 150 },
  );
});

test("splitPassage(): cuts at the ends of lines and sentences, else at words, else anywhere", () => {
  const sentences = ["The film was made in 1977. ", "Who made it? ", "“Sean Penn.” ", "He was born\n", "in Paris. "];
  const long = sentences.join("").repeat(8);
  const parts = split({ title: "A", text: long }, 40).map((part) => part.text);
  expect(parts.length).toBeGreaterThan(3);
  for (const part of parts) expect(sentences.some((sentence) => part.endsWith(sentence))).toBe(true);
  const words = split("The film was made in Paris and ".repeat(12), 24).map((part) => part.text);
  expect(words.length).toBeGreaterThan(2);
  for (const part of words) expect(part).toMatch(/ $/);
  const one = split("0123456789".repeat(20), 16);
  expect(one.length).toBeGreaterThan(5);
});

test("splitPassage(): stops between any two texts that it tokenizes, and tokenizes each part a few times", () => {
  for (const text of ["The film was made in Paris. ", "a. ", "ab ", "0123456789", "😀"]) {
    let numTokens = 0;
    let numSince = 0;
    const counting = {
      ...tokenizer,
      *encodeInSteps(...[part, trusted, ids]: Parameters<typeof tokenizer.encodeInSteps>) {
        numSince += 1;
        expect(numSince).toBe(1);
        yield* tokenizer.encodeInSteps(part, trusted, ids);
        numTokens += ids.length;
      },
    };
    const whole = readPassage({ title: "A", text: text.repeat(3_000) }, 0);
    const steps = splitPassage(whole, { form, maxTokens: 100, tokenizer: counting });
    let step = steps.next();
    for (; step.done !== true; step = steps.next()) numSince = 0;
    const numOfParts = step.value.map(tokensOf).reduce((sum, count) => sum + count, 0);
    expect(numTokens / numOfParts).toBeLessThan(16);
  }
});

test("splitPassage(): a title that leaves no room is told", () => {
  const title = "A very long title of a film that nobody made ".repeat(4);
  expect(() => split({ title, text: "The film was made in Paris. ".repeat(9) }, 32)).toThrow(
    /^Cannot split passage 4: its title leaves \d+ of 32 tokens to the text$/,
  );
  expect(() => split(`${"a ".repeat(50)}\ud800`, 16)).toThrow("surrogate");
});

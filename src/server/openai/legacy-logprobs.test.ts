import { expect, test } from "vitest";
import type { SpelledToken } from "../../engine/results.js";
import { joinLegacyLogprobs, LegacyLogprobsWriter } from "./legacy-logprobs.js";

function token(
  bytes: string | number[],
  logprob: number | undefined = -1,
  top: SpelledToken["top"] = [],
): SpelledToken {
  const all = typeof bytes === "string" ? [...Buffer.from(bytes)] : bytes;
  return { id: 0, text: Buffer.from(all).toString(), bytes: all, logprob, top };
}

test("LegacyLogprobsWriter: halves of a character are spelled as bytes, and start where the character does", () => {
  const [a, b] = [
    [0xf0, 0x9f],
    [0x99, 0x82],
  ];
  const lists = new LegacyLogprobsWriter(0).answer([token("é"), token(a!), token(b!), token("!")], "é🙂!");
  expect(lists.tokens).toEqual(["é", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82", "!"]);
  // Code points, so that the smile is one.
  expect(lists.text_offset).toEqual([0, 1, 1, 2]);
  expect(lists.top_logprobs).toBeNull();
});

test("LegacyLogprobsWriter: the likeliest tokens and the token itself, the likelier of two that spell the same", () => {
  const top = [
    { ...token("a"), logprob: -0.1 },
    { ...token("a"), logprob: -2 },
  ];
  const lists = new LegacyLogprobsWriter(2).answer([token("b", Number.NEGATIVE_INFINITY, top)], "b");
  expect(lists.top_logprobs).toEqual([{ a: -0.1, b: -9999 }]);
  expect(lists.token_logprobs).toEqual([-9999]);
});

test("LegacyLogprobsWriter: what the server put before an echoed prompt starts where it does", () => {
  const writer = new LegacyLogprobsWriter(1);
  const echo = writer.echo([{ ...token("<s>"), logprob: undefined }, token(" Hi"), token(" you")], "Hi you");
  const answer = writer.answer([token(" there"), token("!")], " there!");
  const lists = joinLegacyLogprobs([echo, answer]);
  expect(lists.text_offset).toEqual([0, 0, 2, 6, 12]);
  expect(lists.token_logprobs).toEqual([null, -1, -1, -1, -1]);
  expect(lists.top_logprobs?.[0]).toBeNull();
});

test("LegacyLogprobsWriter: a dummy space that the answer dropped moves the tokens after it", () => {
  const lists = new LegacyLogprobsWriter(0).answer([token(" Paris"), token("!")], "Paris!");
  expect(lists.text_offset).toEqual([0, 5]);
});

test("LegacyLogprobsWriter: blocks that are spelled unlike their text still start inside it", () => {
  const echo = new LegacyLogprobsWriter(0).echo([token(" a"), token(" b")], "ab");
  expect(echo.text_offset).toEqual([0, 2]);
});

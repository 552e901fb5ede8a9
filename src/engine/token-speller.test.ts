import { expect, test } from "vitest";
import { TokenSpeller } from "./token-speller.js";

const bytes = [Buffer.from("a"), Buffer.of(0xe4, 0xbd), Buffer.from("\ufeffé")];
const speller = new TokenSpeller({ vocabSize: bytes.length, tokenBytes: (id) => bytes[id]! });

test("TokenSpeller.token(): text and exact bytes, half a character as U+FFFD, nothing for padding rows", () => {
  expect([0, 1, 2, 3].map((id) => speller.token(id))).toEqual([
    { id: 0, text: "a", bytes: [0x61] },
    { id: 1, text: "\ufffd", bytes: [0xe4, 0xbd] },
    { id: 2, text: "\ufeffé", bytes: [0xef, 0xbb, 0xbf, 0xc3, 0xa9] },
    { id: 3, text: "", bytes: [] },
  ]);
  // What half a character left behind is no part of the next token.
  expect(speller.token(0)).toBe(speller.token(0));
});

test("TokenSpeller.spell(): the token and its alternatives spelled", () => {
  expect(speller.spell({ id: 0, logprob: undefined, top: [{ id: 2, logprob: -1 }] })).toEqual({
    ...speller.token(0),
    logprob: undefined,
    top: [{ ...speller.token(2), logprob: -1 }],
  });
});

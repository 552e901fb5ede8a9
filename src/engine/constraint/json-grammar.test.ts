import { expect, test } from "vitest";
import { jsonGrammar } from "./json-grammar.js";

const control = "\\U00000000-\\U0000001F";
const escaped = `${control}\\U00000022\\U0000005C`;

test.each([
  [
    "a length",
    'string ::= "\\"" [^"\\\\\\r\\n]{0,12} "\\""',
    `string ::= "\\"" [^\\U00000022\\U0000005C\\U0000000D\\U0000000A${escaped}]{0,12} "\\""`,
  ],
  [
    "a pattern of any characters",
    's ::= "\\"" "a" [\\u0000-\\U0010FFFF]* "\\""',
    's ::= "\\"" "a" [\\U00000020-\\U00000021\\U00000023-\\U0000005B\\U0000005D-\\U0010FFFF]* "\\""',
  ],
  [
    "sets of plain ones",
    's ::= "\\"" [a-c0\\-] "\\""',
    's ::= "\\"" [\\U00000061-\\U00000063\\U00000030\\U0000002D] "\\""',
  ],
  ["what is no string", "object ::= [ \\n\\t]* x [ \\n\\t]{0,9}", "object ::= [ \\n\\t]{0,9} x [ \\n\\t]{0,9}"],
])("jsonGrammar(): %s", (_, ebnf, corrected) => {
  expect(jsonGrammar(ebnf, 9)).toBe(corrected);
});

test.each([
  ['s ::= "\\"" "a\\"b" "\\""', "with quotes"],
  ['s ::= "\\"" [\\n] "\\""', "which JSON escapes"],
])("jsonGrammar(): a pattern of what JSON escapes is refused, %s", (ebnf, message) => {
  expect(() => jsonGrammar(ebnf, 9)).toThrow(message);
});

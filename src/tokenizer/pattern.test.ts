import fc from "fast-check";
import { expect, test } from "vitest";
import { JsonFields } from "./json-fields.js";
import { judgeExpression } from "./linear-expression.js";
import { compileOniguruma, type Pattern, readPattern, type SplitBehavior, splitStep } from "./pattern.js";

const fail = (reason: string): never => {
  throw new Error(reason);
};
const compile = (source: string) => compileOniguruma(source, fail);
const pattern = (fields: object) => readPattern(new JsonFields("the test", "", fields));
const words = (of: Pattern, pieces: Iterable<string>, behavior: SplitBehavior = "isolated", invert = false) =>
  [...splitStep(of, behavior, invert)(pieces, true)].filter((piece) => piece !== "");

const lineEnds = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const modern = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${lineEnds}`;
const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const start = "[^\\r\\n\\p{L}\\p{N}]?";

test.each([
  ["GPT-2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"],
  ["Llama 3", modern("\\p{N}{1,3}")],
  ["Qwen2", modern("\\p{N}")],
  [
    "tekken",
    `${start}${upper}*${lower}+|${start}${upper}+${lower}*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${lineEnds}`,
  ],
  ["DeepSeek 3", `[!"#$][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|${lineEnds}`],
  ["BLOOM", " ?[^(\\s|[.,!?…。，、।۔،])]+"],
  ["DeepSeek LLM's spaces", "\\s+$"],
  ["digits", "\\p{N}{1,3}"],
  ["runs of spaces", " {2,}"],
])("compileOniguruma(): the expression of %s needs no watch", (_, source) => {
  expect(compile(source).stopwatch).toBeUndefined();
});

test.each(["(a|a)*b", "(.*)*x", "a+b", "\\s*x|\\s", "(a)\\1+", "(?:a{0,9}){0,9}b", "[ab]+?c", "(?=a+)b", "a{2,400}b"])(
  "judgeExpression(): %s may be slow",
  (source) => {
    expect(judgeExpression(source)).toBe("slow");
    expect(compile(source).stopwatch).toBeDefined();
  },
);

test.each(["(a|a)*b", "(.*)*x", "(x+x+)+y", "(\\w|\\d)*$", "(?:a{0,30}){0,30}b", "([^z]|[^z])*z", "(qu|qu)*!"])(
  "readPattern(): %s is refused, for it explodes",
  (source) => {
    expect(() => pattern({ Regex: source })).toThrow(/^Cannot read the test: the expression "[^\n]*explodes over "/);
  },
);

test("readPattern(): refuses what is empty, very long or repeats too much", () => {
  expect(() => pattern({ String: "" })).toThrow("the text to look for has 0 UTF-16 units, not 1 to 256");
  expect(() => pattern({ String: "a".repeat(2 ** 20) })).toThrow("has 1048576 UTF-16 units");
  expect(() => pattern({ Regex: "" })).toThrow("the expression has 0 UTF-16 units");
  expect(() => pattern({ Regex: "a|".repeat(2 ** 20) })).toThrow("has 2097152 UTF-16 units");
  for (const source of ["a{1000000}", "((a{100}){100}){100}", `${"(?:".repeat(1000)}a${"){9}".repeat(1000)}`]) {
    expect(() => pattern({ Regex: source })).toThrow("repeats too much");
  }
  expect(() => pattern({ Regex: "(" })).toThrow("is not understood");
});

test("splitStep(): an expression that explodes over a text pauses, and ends in an error", () => {
  const pieces = splitStep(pattern({ Regex: "a+b" }), "isolated", false)(["ab", "a".repeat(100_000)], true);
  const given: string[] = [];
  expect(() => {
    for (const piece of pieces) given.push(piece);
  }).toThrow(
    new RangeError(`Cannot tokenize the text: an expression of the tokenizer explodes over "${"a".repeat(40)}…"`),
  );
  expect(given.filter((piece) => piece !== "")).toEqual(["ab"]);
  expect(given.filter((piece) => piece === "").length).toBeGreaterThan(5);
});

test("splitStep(): an expression that gets on is not stopped, however long the text", () => {
  const slow = pattern({ Regex: "[ab]+?c" });
  expect(words(slow, ["abc".repeat(200_000)])).toHaveLength(200_000);
});

test("splitStep(): puts pieces together as the behavior says", () => {
  const digits = compile("\\d");
  const text = ["a12b3"];
  expect(words(digits, text)).toEqual(["a", "1", "2", "b", "3"]);
  expect(words(digits, text, "removed")).toEqual(["a", "b"]);
  expect(words(digits, text, "removed", true)).toEqual(["1", "2", "3"]);
  expect(words(digits, text, "contiguous")).toEqual(["a", "12", "b", "3"]);
  expect(words(digits, text, "mergedwithprevious")).toEqual(["a1", "2", "b3"]);
  expect(words(digits, text, "mergedwithnext")).toEqual(["a", "1", "2b", "3"]);
});

test("splitStep(): under a watch, and over many pieces, an expression cuts as it does alone", () => {
  const behaviors = ["isolated", "removed", "contiguous", "mergedwithprevious", "mergedwithnext"] as const;
  const text = fc.string({ unit: fc.constantFrom("a", "b", " ", "1", "é", "🙂"), minLength: 1, maxLength: 20 });
  const sources = fc.constantFrom("a+", "[ab]*", " ?\\p{L}+", "🙂|1", "(?!a)");
  fc.assert(
    fc.property(
      fc.array(text, { maxLength: 600, size: "large" }),
      sources,
      fc.constantFrom(...behaviors),
      fc.boolean(),
      (texts, source, behavior, invert) => {
        const { expression } = compile(source);
        const { stopwatch } = compile("a+b");
        const alone = texts.flatMap((piece) => words({ expression, stopwatch: undefined }, [piece], behavior, invert));
        expect(words({ expression, stopwatch: undefined }, texts, behavior, invert)).toEqual(alone);
        expect(words({ expression, stopwatch }, texts, behavior, invert)).toEqual(alone);
        if (behavior !== "removed") expect(alone.join("")).toBe(texts.join(""));
      },
    ),
    { numRuns: 60 },
  );
});

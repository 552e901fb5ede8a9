import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { compileChatTemplate } from "./chat-template.js";
import { DEMONSTRATION_RULES, inContextPrompt, segmentDemonstrations } from "./in-context.js";

const tokens = { bos_token: "", eos_token: "<|end_of_text|>", pad_token: "", unk_token: "" };
const url = new URL("../../tests/fixtures/templates/tulu-3.jinja", import.meta.url);
const tulu = compileChatTemplate(readFileSync(url, "utf8"), { tokens, addsBos: false });

test("inContextPrompt(): every round is a block, the query the final one", () => {
  const input = { demonstrations: [{ question: "1+1", answer: "2" }], query: "2+2", system: "Add." };
  expect(inContextPrompt(input, tulu).blocks.map((block) => block.text)).toEqual([
    "<|system|>\nAdd.\n",
    "<|user|>\n1+1\n<|assistant|>\n2<|end_of_text|>\n",
    "<|user|>\n2+2\n<|assistant|>\n",
  ]);
  expect(inContextPrompt({ demonstrations: [], query: "2+2" }, tulu).blocks).toHaveLength(1);
});

test("segmentDemonstrations(): the benchmarks' prompts are cut where docs/reference.md says", () => {
  const texts = (text: string, name: keyof typeof DEMONSTRATION_RULES) =>
    segmentDemonstrations(text, DEMONSTRATION_RULES[name]).blocks.map((block) => block.text);
  expect(texts("a<|end_of_text|>\nb<|end_of_text|>\nq", "gsm8k")).toEqual([
    "a<|end_of_text|>\n",
    "b<|end_of_text|>\n",
    "q",
  ]);
  expect(texts("intro\n\nQ: a\n\nA: b\n\nQ: c", "bbh")).toEqual(["intro", "\n\nQ: a\n\nA: b", "\n\nQ: c"]);
  expect(texts("intro\n---\n# Example 1\nx\n---\n# Your Task\np\n---\nq", "drop")).toEqual([
    "intro",
    "\n---\n# Example 1\nx",
    "\n---\n# Your Task\np\n---\nq",
  ]);
  expect(texts("intro\n---\nq", "drop")).toEqual(["intro", "\n---\nq"]);
  // OpenCompass puts the closing behind the last example, without a mark before it.
  expect(texts("intro\n---\n# Example 1\nx\n\n# Your Task\n---\nq", "drop")).toEqual([
    "intro",
    "\n---\n# Example 1\nx\n\n",
    "# Your Task\n---\nq",
  ]);
});

test("segmentDemonstrations(): the blocks put together are the text", () => {
  const texts = fc
    .array(fc.constantFrom("a", "\n---", "\n\nQ: ", "# Your Task", "<|end_of_text|>\n"), { maxLength: 20 })
    .map((pieces) => `${pieces.join("")}?`);
  fc.assert(
    fc.property(texts, fc.constantFrom(...Object.values(DEMONSTRATION_RULES)), (text, rule) => {
      const { blocks } = segmentDemonstrations(text, rule);
      expect(blocks.map((block) => block.text).join("")).toBe(text);
    }),
  );
});

test("inContextPrompt(), segmentDemonstrations(): bad input is a one-line error", () => {
  const rule = DEMONSTRATION_RULES.gsm8k;
  expect(() => segmentDemonstrations("a<|end_of_text|>\n", rule)).toThrow(
    "Cannot cut demonstrations: no query follows the last of them",
  );
  expect(() => segmentDemonstrations("", rule)).toThrow(RangeError);
  expect(() => segmentDemonstrations(1 as never, rule)).toThrow(TypeError);
  expect(() => segmentDemonstrations("a", { after: "" })).toThrow(RangeError);
  expect(() => inContextPrompt({ demonstrations: [{ question: "a" } as never], query: "q" }, tulu)).toThrow(
    /^Cannot use demonstration 1/,
  );
  expect(() => inContextPrompt({ demonstrations: [null as never], query: "q" }, tulu)).toThrow(
    /^Cannot use demonstration 1/,
  );
  expect(() => inContextPrompt({ demonstrations: [], query: " " }, tulu)).toThrow(/the query is empty$/);
  expect(() => inContextPrompt({ demonstrations: 1 as never, query: "q" }, tulu)).toThrow(TypeError);
});

import { expect, test } from "vitest";
import { compileChatTemplate } from "../blocks/chat-template.js";
import { TULU_TEMPLATE } from "./rag/model-prompt.js";
import { holdsCode, type SampleOptions, type TrainingSample, trainingSamples } from "./training-sample.js";

const template = compileChatTemplate(TULU_TEMPLATE, {
  tokens: { bos_token: "", eos_token: "<|end_of_text|>", pad_token: "", unk_token: "" },
  addsBos: false,
});
const options: SampleOptions = { template, seed: "1", singleProbability: 1 };
const samplesOf = (row: unknown, more: Partial<SampleOptions> = {}) =>
  trainingSamples(row as never, "row 1", { ...options, ...more }).map((outcome) =>
    outcome.kind === "sample" ? outcome.sample : outcome.reason,
  );
const keptOf = (row: unknown, more?: Partial<SampleOptions>) => samplesOf(row, more) as TrainingSample[];

test("trainingSamples(): each assistant turn is a sample, what stands before it its prompt", () => {
  const messages = [
    { role: "user", content: "One.\n\nTwo.\n\nThree?" },
    { role: "assistant", content: "First." },
    { role: "user", content: "And then?\n\nSay." },
    { role: "assistant", content: "Second." },
  ];
  const [first, second] = keptOf({ id: "a", messages });
  expect(first).toMatchObject({
    id: "a#1",
    blocks: [{ text: "<|user|>\nOne.\n\n" }, { text: "Two.\n\n" }, { text: "Three?\n<|assistant|>\n" }],
    response: "First.<|end_of_text|>\n",
    modes: ["block", "full"],
  });
  // The last user message stays whole.
  expect(second).toMatchObject({ id: "a#3", response: "Second.<|end_of_text|>\n" });
  const blocks = second?.blocks ?? [];
  expect(blocks.at(-1)?.text).toBe("<|user|>\nAnd then?\n\nSay.\n<|assistant|>\n");
  expect(blocks.map(({ text }) => text).join("")).toBe(
    "<|user|>\nOne.\n\nTwo.\n\nThree?\n<|assistant|>\nFirst.<|end_of_text|>\n<|user|>\nAnd then?\n\nSay.\n<|assistant|>\n",
  );
});

test("trainingSamples(): conversations are cut into spans as they are served, where asked", () => {
  const messages = [
    { role: "system", content: "Be\n\nbrief." },
    { role: "user", content: "One?" },
    { role: "assistant", content: "First." },
    { role: "user", content: "Two?" },
    { role: "assistant", content: "Second." },
  ];
  const [, second] = keptOf({ messages }, { conversations: "spans" });
  const { blocks, modes } = second as TrainingSample;
  expect(blocks.map(({ text, isGlobal = false }) => [text, isGlobal])).toEqual([
    ["<|system|>\nBe\n\nbrief.\n", false],
    ["<|user|>\nOne?\n<|assistant|>\n", true],
    ["First.", true],
    ["<|end_of_text|>\n<|user|>\nTwo?\n<|assistant|>\n", true],
  ]);
  expect(modes).toEqual(["block", "full"]);
  // Nothing local is left: block mode is full mode.
  const [, alone] = keptOf({ messages: messages.slice(1) }, { conversations: "spans" });
  expect(alone).toMatchObject({ modes: ["full"], fullOnly: "its prompt is one block" });
});

test("trainingSamples(): of single messages a share is trained in block mode, the same ones each time", () => {
  const rows = Array.from({ length: 500 }, (_, i) => ({
    id: `s${i}`,
    messages: [
      { role: "user", content: "A passage.\n\nA question?" },
      { role: "assistant", content: "Yes." },
    ],
  }));
  const modes = (seed: string) =>
    rows.flatMap((row) => keptOf(row, { seed, singleProbability: 0.45 }).map(({ modes }) => modes.length));
  const both = modes("x").filter((count) => count === 2).length;
  // Five standard deviations of 500 draws at 0.45 are 0.112.
  expect(Math.abs(both / rows.length - 0.45)).toBeLessThan(0.112);
  expect(modes("x")).toEqual(modes("x"));
  expect(modes("y")).not.toEqual(modes("x"));
});

test("trainingSamples(): rows that are cut already, under either name", () => {
  const row = { prompt: "ab", blocks: ["a", "", "b"], response: "c", train_block: true };
  expect(samplesOf(row)).toMatchObject([
    { id: "row 1", blocks: [{ text: "a" }, { text: "b" }], modes: ["block", "full"] },
  ]);
  expect(samplesOf({ prompt: "ab", chunks: ["a", "b"], response: "c", train_block: false })).toMatchObject([
    { modes: ["full"] },
  ]);
  expect(samplesOf({ prompt: "ab", blocks: ["ab"], response: "c" })).toMatchObject([{ modes: ["full"] }]);
  expect(samplesOf({ prompt: "other", blocks: ["a", "b"], response: "c" })).toEqual(["the blocks are not the prompt"]);
  expect(samplesOf({ blocks: ["a", "b"], response: " " })).toEqual(["the response is empty"]);
});

test("trainingSamples(): samples with code are trained in full mode only", () => {
  const row = { blocks: ["Write it in\n", "Python."], response: "```python\nprint()\n```" };
  expect(samplesOf(row)).toMatchObject([{ modes: ["full"] }]);
});

test.each([
  ["```python\n", true],
  ["```c\n", true],
  ["```C++\n", true],
  ["```css\n", false],
  ["```cobol\n", false],
  ["I like C++ best", true],
  ["a c# minor chord", true],
  ["plain words", false],
  ["```javascript", true],
])("holdsCode(): %j is %s", (text, is) => {
  expect(holdsCode(text)).toBe(is);
});

test.each([
  [[1], /no object/],
  [{ text: "a" }, /neither "messages" nor "blocks"/],
  [{ messages: "a" }, /wanted an array/],
  [{ messages: [{ role: "user", content: 1 }] }, /message 1/],
  [{ blocks: ["a"], response: 5 }, /"response" is number/],
  [{ blocks: ["a"] }, /no "response"/],
  [{ blocks: ["a"], response: "b", train_block: "yes" }, /"train_block" is string/],
  [{ blocks: "a", response: "b" }, /wanted an array/],
])("trainingSamples(): %j says what was wanted", (row, message) => {
  expect(() => samplesOf(row)).toThrow(message);
});

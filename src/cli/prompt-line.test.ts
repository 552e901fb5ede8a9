import { expect, test } from "vitest";
import type { JsonValue } from "../files/bounded-json.js";
import { parsePromptLine, parseScoreLine, parseTextLine } from "./prompt-line.js";

test("parsePromptLine(): the four forms", () => {
  expect(parsePromptLine({ blocks: ["a", "b"], num_local_attention_blocks: 1 })).toEqual({
    blocks: ["a", "b"],
    numLocalAttentionBlocks: 1,
  });
  const messages = { messages: [{ role: "user", name: "Ada", content: ["a", "b"] }] };
  expect(parsePromptLine(messages)).toEqual(messages);
  const question = { question: "q", documents: [{ title: "t", text: "x" }] };
  expect(parsePromptLine(question)).toEqual(question);
  expect(parsePromptLine({ prompt: "p" })).toEqual({ prompt: "p" });
});

test("parsePromptLine(): what does not fit is told in one line", () => {
  const cases: [JsonValue, string][] = [
    [7, "it is 7, wanted an object"],
    [{}, 'it is empty, wanted one of "blocks", "messages", "question" or "prompt"'],
    [{ promt: "x" }, 'it has the key "promt", wanted one of "blocks", "messages", "question" or "prompt"'],
    [{ prompt: "x", blocks: [] }, 'it has both "blocks" and "prompt"'],
    [{ prompt: "x", seed: 1 }, '"seed" is an option of the command, for all lines'],
    [{ prompt: "x", maxTokens: 1 }, '"maxTokens" is an option of the command, for all lines'],
    [{ prompt: "x", documents: [] }, 'the key "documents" belongs to another form of prompt'],
    [
      { blocks: ["x"], num_local_attention_block: 1 },
      'the key "num_local_attention_block" is not known, wanted "num_local_attention_blocks"',
    ],
    [{ question: "x", documents: [], blocks: [] }, 'it has both "blocks" and "question"'],
    [
      { question: "x", documents: [{ text: "a", Title: "t" }] },
      'the key "Title" of a document is not known, wanted "title"',
    ],
    [{ prompt: null }, '"prompt" is null, wanted text'],
    [{ blocks: "a" }, '"blocks" is "a", wanted a list'],
    [{ blocks: ["a", 1] }, '"blocks[1]" is 1, wanted text'],
    [{ blocks: ["a"], num_local_attention_blocks: 1.5 }, '"num_local_attention_blocks" is 1.5, wanted a whole number'],
    [{ blocks: ["a"], num_local_attention_blocks: "1" }, '"num_local_attention_blocks" is "1", wanted a number'],
    [{ question: "q" }, '"documents" is missing, wanted a list'],
    [{ question: "q", documents: {} }, '"documents" is an object, wanted a list'],
    [{ messages: [{ role: "user", content: 3 }] }, '"messages[0].content" is 3, wanted text or an array of texts'],
    [{ messages: [{ role: "user", content: ["a", 3] }] }, '"messages[0].content[1]" is 3, wanted text'],
  ];
  for (const [line, reason] of cases) expect(() => parsePromptLine(line)).toThrow(`Cannot use the line: ${reason}`);
});

test("parsePromptLine(): lines of evaluations and of RAG sets are prompts, and what no prompt is made of is told", () => {
  const passedOver: string[] = [];
  const line = {
    ...{ id: "q1", kind: "bridge", question: "q", answers: ["a"], generated: "g", inputs: "p q", prompt: "p q" },
    ...{ supports: [0], metadata: { hop: 2 }, index: 0, __proto__x: 1 },
    documents: [{ title: "t", text: "x", score: 1, id: 7, has_answer: true, idx: 3 }, "y"],
  };
  expect(parsePromptLine(line, (key) => passedOver.push(key))).toEqual({
    question: "q",
    documents: [{ title: "t", text: "x", score: 1, id: 7 }, "y"],
  });
  expect(passedOver.sort()).toEqual(
    [
      ...["id", "kind", "answers", "generated", "inputs", "prompt", "supports", "metadata", "index", "__proto__x"],
      ...["has_answer", "idx"],
    ].sort(),
  );
  expect(parsePromptLine({ prompt: "p", answers: ["a"] })).toEqual({ prompt: "p" });
});

test("parseScoreLine(), parseTextLine(): their own keys", () => {
  expect(parseScoreLine({ prompt: "p", continuation: "c" })).toEqual({ prompt: { prompt: "p" }, continuation: "c" });
  expect(() => parseScoreLine({ prompt: "p" })).toThrow('"continuation" is missing, wanted text');
  expect(parseTextLine({ text: "t" })).toBe("t");
  expect(() => parseTextLine({ text: "t", special: true })).toThrow('there is no field "special"');
});

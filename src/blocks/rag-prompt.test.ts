import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { compileChatTemplate } from "./chat-template.js";
import type { Passage } from "./passage.js";
import { DEFAULT_RAG_PROMPT_TEXTS, ragPrompt } from "./rag-prompt.js";

const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "", unk_token: "" };
const template = (name: string) =>
  compileChatTemplate(readFileSync(new URL(`../../tests/fixtures/templates/${name}.jinja`, import.meta.url), "utf8"), {
    tokens,
    addsBos: true,
  });
const documents = [
  { title: "A", text: " first\n" },
  { title: "B {text} $&", text: "second {question}" },
];
const { preamble } = DEFAULT_RAG_PROMPT_TEXTS;
const task =
  "Please write a high-quality answer for the given question using only the provided search documents (some of which might be irrelevant).\nQuestion: ";

test("ragPrompt(): preamble, a block a passage, the task sentence and the question", () => {
  expect(ragPrompt({ documents, question: "Why $&?" })).toEqual({
    blocks: [
      { text: preamble, trusted: "all" },
      { text: "- Title: A\nfirst\n", trusted: "none", passage: { index: 0 } },
      { text: "- Title: B {text} $&\nsecond {question}\n", trusted: "none", passage: { index: 1 } },
      { text: `\n\n${task}Why $&?`, trusted: [{ start: 0, end: task.length + 2 }] },
    ],
    warnings: [],
  });
});

test("ragPrompt(): with a chat template, block 0 is all before the passages", () => {
  const { blocks } = ragPrompt({ documents, question: "Why?" }, { template: template("tulu-3") });
  expect(blocks.map((block) => block.text)).toEqual([
    `<|user|>\n${preamble}`,
    "- Title: A\nfirst\n",
    "- Title: B {text} $&\nsecond {question}\n",
    `\n\n${task}Why?\n<|assistant|>\n`,
  ]);
});

test("ragPrompt(): tiny-rag's blocks, with the final text that it was trained on", () => {
  const texts = { final: `${task}{question}\n` };
  const { blocks } = ragPrompt({ documents, question: "Why?" }, { template: template("tiny-rag"), texts });
  expect(blocks[0]!.text).toBe(`<|user|>\n${preamble}`);
  expect(blocks.at(-1)!.text).toBe(`${task}Why?\n<|assistant|>\n`);
});

test("ragPrompt(): a system message replaces the preamble, earlier turns follow the passages", () => {
  const messages = [
    { role: "system", content: "Be\n\nbrief." },
    { role: "user", content: "U1\n\nU2" },
    { role: "assistant", content: "A1" },
    { role: "user", content: "Why?" },
  ];
  const { blocks } = ragPrompt({ documents: documents.slice(0, 1), messages }, { template: template("chatml") });
  expect(blocks.map((block) => block.text)).toEqual([
    "<|im_start|>system\nBe\n\nbrief.<|im_end|>\n<|im_start|>user\n",
    "- Title: A\nfirst\n",
    "U1\n\n",
    "U2<|im_end|>\n",
    "<|im_start|>assistant\nA1<|im_end|>\n",
    `<|im_start|>user\n${task}Why?<|im_end|>\n<|im_start|>assistant\n`,
  ]);
});

test("ragPrompt(): the texts' system message stands where a prompt has none, and in the preamble's place", () => {
  const options = { template: template("chatml"), texts: { system: "Be brief." } };
  const opening = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n";
  const user = { role: "user", content: "Why?" };
  for (const input of [{ question: "Why?" }, { messages: [user] }]) {
    const { blocks } = ragPrompt({ documents, ...input } as Parameters<typeof ragPrompt>[0], options);
    expect(blocks.map(({ text }) => text)).toEqual([
      opening,
      "- Title: A\nfirst\n",
      "- Title: B {text} $&\nsecond {question}\n",
      `\n\n${task}Why?<|im_end|>\n<|im_start|>assistant\n`,
    ]);
  }
  const own = [{ role: "system", content: "Be long." }, user];
  expect(ragPrompt({ documents, messages: own }, options).blocks[0]?.text).toContain("Be long.");
  expect(ragPrompt({ documents, question: "Why?" }, { texts: options.texts }).blocks[0]?.text).toBe(preamble);
});

test("ragPrompt(): order and number of documents", () => {
  const titles = (options: Parameters<typeof ragPrompt>[1]) =>
    ragPrompt({ documents: ["1", "2", "3"].map((title) => ({ title, text: "" })), question: "?" }, options)
      .blocks.slice(1, -1)
      .map((block) => block.text.slice(9, 10));
  expect(titles({})).toEqual(["1", "2", "3"]);
  expect(titles({ order: "best-last", maxDocuments: 2 })).toEqual(["2", "1"]);
  expect(ragPrompt({ documents: [], question: "?" }).blocks).toHaveLength(2);
});

test("ragPrompt(): a document that is a text is a passage as it stands", () => {
  const { blocks } = ragPrompt({ documents: [" as it {title} stands", { title: "A", text: "B" }], question: "?" });
  expect(blocks.slice(1, -1).map((block) => block.text)).toEqual([" as it {title} stands", "- Title: A\nB\n"]);
});

test("ragPrompt(): blocks tell which document each is, whatever the order, and with what it was given", () => {
  const given = ["a", { text: "b", id: "doc-7", metadata: { page: 3 } }, { pageContent: "c", score: 0.5 }];
  for (const options of [{}, { template: template("chatml") }]) {
    const { blocks } = ragPrompt({ documents: given, question: "?" }, { ...options, order: "best-last" });
    expect(blocks.map(({ text, passage }) => [text, passage]).slice(1, -1)).toEqual([
      ["c\n", { index: 2, score: 0.5 }],
      ["b\n", { index: 1, id: "doc-7", metadata: { page: 3 } }],
      ["a", { index: 0 }],
    ]);
    expect(blocks[0]?.passage).toBeUndefined();
    expect(blocks.at(-1)?.passage).toBeUndefined();
  }
});

test("ragPrompt(): a long passage is laid as its parts, in their order", () => {
  const partsOf = (passage: Passage) => [...passage.text].map((text) => ({ ...passage, text }));
  const { blocks } = ragPrompt(
    { documents: ["0", { title: "T", text: "ab" }, "3"], question: "?" },
    { partsOf, order: "best-last", maxDocuments: 2 },
  );
  expect(blocks.slice(1, -1).map(({ text }) => text)).toEqual(["- Title: T\na\n", "- Title: T\nb\n", "0"]);
});

test("ragPrompt(): bad input is a one-line error", () => {
  const cases: [input: unknown, options: unknown, RegExp][] = [
    [{ documents: ["a", { title: "x" }], question: "?" }, {}, /^Cannot use passage 2: text is undefined, wanted text$/],
    [{ documents: "x", question: "?" }, {}, /^Cannot use the passages: they are "x", wanted an array$/],
    [{ documents }, {}, /there is no question, wanted text$/],
    [{ documents, question: " " }, {}, /the question is empty$/],
    [{ documents, messages: [] }, { template: template("chatml") }, /there are none$/],
    [{ documents, messages: [{ role: "user", content: "" }] }, { template: template("chatml") }, /is empty$/],
    [{ documents, messages: [{ role: "user", content: "x" }] }, {}, /there is no chat template$/],
    [{ documents, question: "x", messages: [] }, {}, /both a question and messages$/],
    [{ documents, question: "?" }, { order: "up" }, /order is "up", wanted "best-first" or "best-last"$/],
    [{ documents, question: "?" }, { maxDocuments: -1 }, /maxDocuments is -1, wanted a whole number from 0 on$/],
    [
      { documents, question: "?" },
      { texts: { final: "no place" } },
      /final is "no place", wanted .* "\{question\}" once$/,
    ],
    [
      { documents, question: "?" },
      { texts: { passage: "{text}{text}" } },
      /passage is "\{text\}\{text\}", wanted .* "\{text\}" once/,
    ],
    [{ documents, question: "?" }, { texts: { preamble: 3 } }, /preamble is 3, wanted up to 20000 characters$/],
  ];
  for (const [input, options, message] of cases) {
    expect(() => ragPrompt(input as never, options as never)).toThrow(message);
  }
});

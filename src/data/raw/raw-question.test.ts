import { expect, test } from "vitest";
import { type RawFormat, rawQuestion, spacedSentences } from "./raw-question.js";

const read = (format: RawFormat, row: unknown) => rawQuestion(format, row as never, "row 7");
const hop = { _id: "a", question: "Q?", answer: "A", type: "bridge" };
const context = [
  ["One", ["First.", " Second."]],
  ["Two", []],
];

test("rawQuestion(): the three forms of a multi-hop context are the same question", () => {
  const facts = [["One", 1]];
  const expected = {
    id: "a",
    kind: "bridge",
    question: "Q?",
    answers: ["A"],
    passages: [
      { title: "One", text: "First. Second.", score: undefined, supports: true },
      { title: "Two", text: "", score: undefined, supports: false },
    ],
  };
  expect(read("hqa", { ...hop, context, supporting_facts: facts })).toEqual(expected);
  const asText = { context: JSON.stringify(context), supporting_facts: JSON.stringify(facts) };
  expect(read("2wiki", { ...hop, ...asText })).toEqual(expected);
  const { _id, ...rest } = hop;
  const columns = {
    id: _id,
    context: { title: ["One", "Two"], sentences: [["First.", " Second."], []] },
    supporting_facts: { title: ["One"], sent_id: [1] },
  };
  expect(read("hqa", { ...rest, ...columns })).toEqual(expected);
});

test("rawQuestion(): HotpotQA's sentences are joined as they are, 2Wiki's a space apart", () => {
  const cut = { ...hop, context: [["T", ['The EP "O!RUL8,2?', '" came.', " Then."]]] };
  expect(read("hqa", cut).passages[0]?.text).toBe('The EP "O!RUL8,2?" came. Then.');
  expect(read("2wiki", { ...hop, context: [["T", ["One.", "Two."]]] }).passages[0]?.text).toBe("One. Two.");
});

test("rawQuestion(): without supporting facts nothing is said of what supports the answer", () => {
  const { passages } = read("hqa", { ...hop, context });
  expect(passages.map(({ supports }) => supports)).toEqual([undefined, undefined]);
});

test("rawQuestion(): FiD's answers are a list or a text, its scores numbers or text", () => {
  const ctxs = [
    { id: "9", title: "T", text: "x", score: "80.25", has_answer: true },
    { title: "", text: " ", score: -1 },
  ];
  expect(read("nq", { id: 3, question: " q ", answers: ["a", " ", "b"], ctxs })).toEqual({
    id: "3",
    kind: undefined,
    question: "q",
    answers: ["a", "b"],
    passages: [
      { title: "T", text: "x", score: 80.25, supports: true },
      { title: "", text: " ", score: -1, supports: undefined },
    ],
  });
  expect(read("tqa", { question: "q", answer: "a", ctxs: [] })).toMatchObject({ id: undefined, answers: ["a"] });
  expect(read("tqa", { question: "q", answers: null, ctxs: [] })).toMatchObject({ answers: [] });
});

test("spacedSentences(): white space between sentences stays, and is put where there is none", () => {
  expect(spacedSentences(["One.", " Two.", "Three.", "", "\nFour. ", "Five."])).toBe("One. Two. Three.\nFour. Five.");
  expect(spacedSentences([])).toBe("");
});

test.each<[RawFormat, unknown, RegExp]>([
  ["hqa", [1], /^Cannot read row 7: it is no object/],
  ["hqa", { ...hop, question: undefined, context }, /row 7: "question" is missing$/],
  ["hqa", { ...hop, question: 5, context }, /row 7: "question" is 5, a text is wanted$/],
  ["hqa", hop, /row 7: "context" is missing$/],
  ["hqa", { ...hop, context: 5 }, /"context" is 5, a list of \[title, sentences\] is wanted$/],
  ["hqa", { ...hop, context: [["A"]] }, /item 1 of "context" is no \[title, sentences\]$/],
  ["hqa", { ...hop, context: ["A"] }, /item 1 of "context" is no/],
  ["hqa", { ...hop, context: [["A", "text"]] }, /passage 1 of "context" has no list of sentences$/],
  ["hqa", { ...hop, context: [["A", [1]]] }, /passage 1 of "context" has no list of sentences$/],
  ["hqa", { ...hop, context: [["A", ["\ud83d"]]] }, /passage 1 of "context" holds half a character$/],
  [
    "hqa",
    { ...hop, context: { title: ["A"], sentences: [] } },
    /"context" has no "title" and "sentences" of equal length$/,
  ],
  ["hqa", { ...hop, context, supporting_facts: [1] }, /item 1 of "supporting_facts" is no \[title, sent_id\]$/],
  ["2wiki", { ...hop, context: "[[" }, /^Cannot read "context" of row 7: it is no JSON/],
  ["2wiki", { ...hop, context, answer: {} }, /"answer" is an object, a text or a list of texts is wanted$/],
  ["nq", { question: "q", answers: ["a"] }, /row 7: "ctxs" is missing$/],
  ["nq", { question: "q", answers: ["a"], ctxs: {} }, /"ctxs" is an object, a list of passages is wanted$/],
  ["nq", { question: "q", answers: [1], ctxs: [] }, /"answers" is a list, a text or a list of texts is wanted$/],
  ["nq", { question: "q", answers: ["a"], ctxs: ["p"] }, /^Cannot read passage 1 of row 7: it is no object/],
  ["nq", { question: "q", answers: ["a"], ctxs: [{ title: "T" }] }, /passage 1 of row 7: "text" is missing$/],
  [
    "nq",
    { question: "q", answers: ["a"], ctxs: [{ title: "T", text: "t", score: "NaN" }] },
    /"score" is "NaN", a number/,
  ],
])("rawQuestion(): %s %j says what was wanted", (format, row, message) => {
  expect(() => read(format, row)).toThrow(message);
});

test("rawQuestion(): MuSiQue's aliases are answers, its paragraphs passages", () => {
  const paragraphs = [
    { idx: 0, title: "One", paragraph_text: "First.", is_supporting: true },
    { idx: 1, title: "Two", paragraph_text: "Second.", is_supporting: false },
  ];
  const row = {
    id: "2hop__1_2",
    question: "Q? ",
    answer: "A",
    answer_aliases: ["A", "An A"],
    answerable: true,
    paragraphs,
  };
  expect(read("musique", row)).toEqual({
    id: "2hop__1_2",
    kind: undefined,
    question: "Q?",
    answers: ["A", "An A"],
    passages: [
      { title: "One", text: "First.", score: undefined, supports: true },
      { title: "Two", text: "Second.", score: undefined, supports: false },
    ],
  });
  expect(() => read("musique", { ...row, paragraphs: [{ title: "One" }] })).toThrow('"paragraph_text"');
});

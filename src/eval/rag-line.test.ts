import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readGoldLines } from "./rag-line.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-lines-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const documents = [
  { title: "Rome", text: "A city that knows no end." },
  { title: "Paris", text: "The capital of France." },
  "Nothing of note, Paris aside.",
];

async function goldOf(more: object) {
  const path = join(folder, "lines.jsonl");
  writeFileSync(path, `${JSON.stringify({ question: "Q?", answers: ["Paris"], documents, ...more })}\n`);
  const { lines } = await readGoldLines(path, new AbortController().signal);
  return lines[0]?.gold;
}

test.each([
  ["places", { supports: [2, 0, 2] }, [0, 2]],
  ["titles", { supports: [" Paris"] }, [1]],
  [
    "pairs of title and sentence",
    {
      supporting_facts: [
        ["Paris", 0],
        ["Rome", 1],
        ["Paris", 2],
      ],
    },
    [0, 1],
  ],
  ["the hub's form of them", { supporting_facts: { title: ["Rome"], sent_id: [0] } }, [0]],
  ["a passage that is not there", { supports: ["Paris", "London"] }, "missing"],
  ["a place that is not there", { supports: [3] }, "missing"],
  ["none of them", { supports: [] }, "none"],
  ["passages that hold an answer, in title or text", {}, [1, 2]],
  ["null for none given", { supports: null }, [1, 2]],
  ["an answer inside a word alone", { answers: ["now"] }, "none"],
  ["an answer of signs alone", { answers: ["?!"] }, "none"],
])("readGoldLines(): %s", async (_, more, wanted) => {
  expect(await goldOf(more)).toEqual(wanted);
});

test("readGoldLines(): a document may have no title; its other keys are its file's own", async () => {
  const untitled = [{ text: "In Paris." }, { title: null, text: "x", score: 1, hasanswer: false }];
  expect(await goldOf({ documents: untitled })).toEqual([0]);
  const noText = goldOf({ documents: ["a", { title: "Paris" }] });
  await expect(noText).rejects.toThrow(
    'document 2 is no text, and has no "text" of text with a "title" of text or none',
  );
});

test.each([
  ["text", { supports: "Paris" }, 'its supports are no array and no {"title": […]}'],
  ["what is neither place nor title", { supports: [true] }, "its supports hold true, wanted places or titles"],
  ["an empty pair", { supporting_facts: [[]] }, "its supports hold missing, wanted places or titles"],
])("readGoldLines(): supports that are %s", async (_, more, message) => {
  await expect(goldOf(more)).rejects.toThrow(message);
});

import { Document } from "@langchain/core/documents";
import { expect, test } from "vitest";
import { passageBlock, passageSchema, readPassage, readPassages, unloadPassage } from "./passage.js";

const form = "- Title: {title}\n{text}\n";
const blockOf = (input: unknown, own = form): string => passageBlock(readPassage(input, 0), own);

test.each([
  ["as it {title} stands ", "as it {title} stands "],
  [{ title: "A", text: " B\n" }, "- Title: A\nB\n"],
  [{ title: "A {text} $&", text: "B {title}" }, "- Title: A {text} $&\nB {title}\n"],
  [{ text: " B " }, "B\n"],
  [{ title: null, text: "B" }, "B\n"],
  [{ title: " ", text: "B" }, "B\n"],
  [{ pageContent: "B", metadata: { title: "A", source: "x.pdf" } }, "- Title: A\nB\n"],
  [{ pageContent: "B", metadata: { title: 7 }, id: "x" }, "B\n"],
  [{ page_content: "B", metadata: { title: "A" }, id: null, type: "Document" }, "- Title: A\nB\n"],
  // A document's own metadata name no title: it has a field for it.
  [{ text: "B", metadata: { title: "A" } }, "B\n"],
])("readPassage(): %o", (input, block) => {
  expect(blockOf(input)).toBe(block);
  expect(passageSchema.safeParse(input).success).toBe(true);
});

test("passageBlock(): a form without a place for a title is used without one too", () => {
  expect(blockOf({ text: "B" }, "[{text}]\n")).toBe("[B]\n");
  expect(blockOf({ text: "B" }, "[{title}: {text}]\n")).toBe("B\n");
});

test("readPassage(): id, metadata and score are kept, and never part of the block", () => {
  const named = { id: 7, metadata: { page: 3, deep: { a: [1] } }, score: 0.5 };
  for (const text of [{ text: "B" }, { pageContent: "B" }, { page_content: "B" }]) {
    expect(readPassage({ ...text, ...named }, 4).label).toEqual({ index: 4, ...named });
    expect(blockOf({ ...text, ...named })).toBe("B\n");
  }
});

test("unloadPassage(): a passage of the same block, and what the given one carries", () => {
  const load = { id: 7, metadata: { title: "A", page: 3 }, score: 0.5 };
  for (const [input, bare] of [
    [
      { title: "T", text: "B" },
      { title: "T", text: "B" },
    ],
    [{ pageContent: "B" }, { title: "A", text: "B" }],
    [
      { page_content: "B", type: "Document" },
      { title: "A", text: "B" },
    ],
  ] as const) {
    expect(unloadPassage({ ...input, ...load })).toEqual([bare, load]);
    expect(blockOf(unloadPassage({ ...input, ...load })[0])).toBe(blockOf({ ...input, ...load }));
    expect(unloadPassage({ ...input, id: null, metadata: null })[1]).toEqual({});
  }
  expect(unloadPassage("B")).toEqual(["B", {}]);
  expect(unloadPassage({ pageContent: "B", metadata: { title: 7 } })[0]).toEqual({ text: "B" });
});

test.each([
  [7, "the fields are 7, wanted an object"],
  [null, "the fields are null, wanted an object"],
  [["B"], 'the fields are ["B"], wanted an object'],
  [{}, "text is undefined, wanted text"],
  [{ title: "A" }, "text is undefined, wanted text"],
  [{ title: "A", text: 1 }, "text is 1, wanted text"],
  [{ text: "B", titel: "A" }, 'there is no field "titel", wanted "title"'],
  [{ text: "B", url: "x" }, 'there is no field "url", wanted "title" or "text" or "id" or "metadata" or "score"'],
  [{ text: "B", pageContent: "B" }, 'there is no field "text", wanted'],
  [{ pageContent: "B", title: "A" }, 'there is no field "title", wanted'],
  [{ text: "B", id: {} }, "id is {}, wanted text of up to 1000 characters, or a number"],
  [{ text: "B", metadata: "x" }, 'metadata is "x", wanted an object'],
  [{ page_content: "B", type: "Other" }, 'type is "Other", wanted "Document"'],
])("readPassage(): refuses %o", (input, problem) => {
  expect(() => readPassages(["", input])).toThrow(`Cannot use passage 2: ${problem}`);
  expect(passageSchema.safeParse(input).success).toBe(false);
});

test("readPassage(): a document of LangChain's own, and what is left of it in JSON", () => {
  const document = new Document({ pageContent: "B", metadata: { title: "A", loc: { pageNumber: 3 } }, id: "x" });
  for (const input of [document, JSON.parse(JSON.stringify(document))]) {
    expect(blockOf(input)).toBe("- Title: A\nB\n");
    expect(readPassage(input, 0).label).toEqual({ index: 0, id: "x", metadata: document.metadata });
  }
});

test("readPassages(): wants an array", () => {
  expect(() => readPassages("abc")).toThrow('Cannot use the passages: they are "abc", wanted an array');
  expect(() => readPassages(undefined)).toThrow("Cannot use the passages: they are undefined, wanted an array");
});

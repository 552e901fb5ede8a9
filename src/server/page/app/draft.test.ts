import * as fc from "fast-check";
import { expect, test } from "vitest";
import { changeDraft, type Draft, type DraftAction, emptyDraft, formatDraft, parseDraft } from "./draft.js";

const documents = [
  { title: "A", text: "a" },
  { title: "B", text: "b" },
  { title: "C", text: "c" },
];
const loaded = changeDraft(emptyDraft, { kind: "load", documents, question: "Who?" });
const titles = ({ passages }: Draft) => passages.map(({ title }) => title).join("");

test("changeDraft(): a passage moves to a place, and no further than the ends", () => {
  const move = (id: number, to: number) => titles(changeDraft(loaded, { kind: "move", id, to }));
  expect([move(1, 1), move(1, 2), move(3, 0), move(2, -5), move(2, 99), move(9, 0)]).toEqual([
    "BAC",
    "BCA",
    "CAB",
    "BAC",
    "ACB",
    "ABC",
  ]);
});

test("changeDraft(): another text forgets the block's id, the same text keeps it", () => {
  const served = changeDraft(loaded, { kind: "served", blockIds: new Map([[2, "f00"]]) });
  expect(served.passages.map(({ blockId }) => blockId)).toEqual([undefined, "f00", undefined]);
  const same = changeDraft(served, { kind: "edit", id: 2, title: "B", text: "b" });
  expect(same.passages[1]?.blockId).toBe("f00");
  const other = changeDraft(served, { kind: "edit", id: 2, title: "B", text: "b!" });
  expect(other.passages[1]).toEqual({ id: 2, title: "B", text: "b!", isOn: true, blockId: undefined });
});

test("changeDraft(): a removed passage comes back in its place, and no id is given twice", () => {
  const removed = changeDraft(loaded, { kind: "remove", id: 3 });
  const added = changeDraft(removed, { kind: "add" });
  expect(added.passages.map(({ id }) => id)).toEqual([1, 2, 4]);
  expect(titles(changeDraft(added, { kind: "restore", passages: loaded.passages }))).toBe("ABC");
});

test("parseDraft(): any draft comes back as it was formatted", () => {
  const id = fc.integer({ min: 1, max: 6 });
  const text = fc.string();
  const action: fc.Arbitrary<DraftAction> = fc.oneof(
    fc.constant({ kind: "add" } as const),
    fc.record({ kind: fc.constant("edit" as const), id, title: text, text }),
    fc.record({ kind: fc.constant("remove" as const), id }),
    fc.record({ kind: fc.constant("move" as const), id, to: fc.integer() }),
    fc.record({ kind: fc.constant("switch" as const), id, isOn: fc.boolean() }),
    fc.record({ kind: fc.constant("question" as const), question: text }),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 20 }), (actions) => {
      const draft = actions.reduce(changeDraft, loaded);
      expect(parseDraft(formatDraft(draft))).toEqual(JSON.parse(JSON.stringify(draft)));
    }),
  );
});

test("parseDraft(): text that is no draft is none", () => {
  const broken = (change: object) => JSON.stringify({ version: 1, ...loaded, ...change });
  const texts = [
    "",
    "{",
    "null",
    "[]",
    "{}",
    broken({ version: 2 }),
    broken({ passages: {} }),
    broken({ passages: [null] }),
    broken({ passages: [{ ...loaded.passages[0], text: 1 }] }),
    broken({ passages: [loaded.passages[0], loaded.passages[0]] }),
    broken({ nextId: 2 }),
    broken({ maxTokens: 0 }),
  ];
  expect(texts.map(parseDraft)).toEqual(texts.map(() => undefined));
  expect(parseDraft(broken({}))).toEqual(loaded);
});

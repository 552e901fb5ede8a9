import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type Paragraph, paragraphsOf, squadLines, writeSquadFile } from "./squad.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-squad-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const own = {
  data: [
    {
      title: "New_York",
      paragraphs: [
        {
          context: "It is cold.",
          qas: [
            {
              id: "a",
              question: " How? ",
              answers: ["cold", "cold", "so cold"].map((text) => ({ text, answer_start: 6 })),
            },
            { id: "b", question: "Why?", answers: [] },
          ],
        },
      ],
    },
  ],
};
const paragraph = {
  title: "New York",
  text: "It is cold.",
  questions: [{ id: "a", question: "How?", answers: ["cold", "so cold"] }],
};

test("paragraphsOf(): SQuAD's own file and lines of paragraphs are the same", () => {
  expect(paragraphsOf(own, "row 1")).toEqual([paragraph]);
  expect(paragraphsOf(paragraph, "row 1")).toEqual([paragraph]);
});

test.each([
  [[], "Cannot read row 1: it is no object"],
  [{ data: 3 }, '"data"'],
  [{ title: "T", text: 3, questions: [] }, '"text"'],
  [{ title: "T", text: "x", questions: [{ question: "Q?", answers: ["a"] }] }, '"id"'],
])("paragraphsOf(): what is neither is refused by name", (row, says) => {
  expect(() => paragraphsOf(row as never, "row 1")).toThrow(says);
});

const articles = ["A", "B", "C", "D"].flatMap((title) =>
  Array.from({ length: 13 }, (_, i): Paragraph => {
    const questions = [1, 2].map((n) => ({ id: `${title}${i}-${n}`, question: `${n}?`, answers: [`${n}`] }));
    return { title, text: `${title} ${i}.`, questions };
  }),
);

test.each([0, 0.5, 1])(
  "squadLines(): each paragraph stands in one context, where all its questions are asked (%d mixed)",
  (mixed) => {
    const lines = squadLines(articles, { passages: [3, 6], mixed, seed: "7" });
    expect(lines.map(({ id }) => id).sort()).toEqual(
      articles.flatMap(({ questions }) => questions.map(({ id }) => id)).sort(),
    );
    const contexts = new Map(lines.map(({ group, documents }) => [group, documents]));
    const texts = [...contexts.values()].flatMap((documents) => documents.map(({ text }) => text));
    expect(texts.sort()).toEqual(articles.map(({ text }) => text).sort());
    for (const { id, group, documents, supports } of lines) {
      expect(documents).toEqual(contexts.get(group));
      expect(documents[supports?.[0] as number]?.text).toBe(`${id[0]} ${id.slice(1).split("-")[0]}.`);
    }
    const ofSeveral = [...contexts.values()].filter(
      (documents) => new Set(documents.map(({ title }) => title)).size > 1,
    );
    if (mixed === 0) expect(ofSeveral).toEqual([]);
    else expect(ofSeveral.length / contexts.size).toBeGreaterThan(mixed / 3);
    expect(Math.max(...[...contexts.values()].map(({ length }) => length))).toBe(6);
  },
);

test("squadLines(): the seed decides", () => {
  const lines = (seed: string) => squadLines(articles, { passages: [3, 6], mixed: 0.3, seed });
  expect(lines("1")).toEqual(lines("1"));
  expect(lines("1")).not.toEqual(lines("2"));
});

test("writeSquadFile(): rows that are none are counted, the others written with their manifest", async () => {
  const [input, output] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
  writeFileSync(input, [own, { title: 3 }, paragraph].map((row) => `${JSON.stringify(row)}\n`).join(""));
  const options = {
    input,
    output,
    passages: [2, 2],
    mixed: 0,
    seed: "1",
    signal: new AbortController().signal,
  } as const;
  const report = await writeSquadFile(options);
  expect(report).toMatchObject({ rows: 3, written: 2, bad: 1, errors: [expect.stringContaining('"title"')] });
  const lines = readFileSync(output, "utf8").trim().split("\n");
  expect(JSON.parse(lines[0] as string)).toEqual({
    id: "a",
    question: "How?",
    answers: ["cold", "so cold"],
    generated: "",
    supports: [0],
    documents: [
      { title: "New York", text: "It is cold." },
      { title: "New York", text: "It is cold." },
    ],
    group: "squad-0",
  });
  expect(JSON.parse(readFileSync(`${output}.manifest.json`, "utf8"))).toMatchObject({ command: "data squad" });
});

import { expect, test } from "vitest";
import type { RagDocument } from "../../blocks/block.js";
import { needleLines } from "./needles.js";

const passages = Array.from({ length: 60 }, (_, i) => ({ title: `T${i}`, text: `It is ${i}. So it is! Is it? Yes.` }));
const options = { count: 12, hops: 4, seed: "7" };

test("needleLines(): the answer stands in one passage, and tracking leads to it through all of a line's", () => {
  const lines = needleLines(passages, options);
  expect(lines.map(({ id }) => id)).toHaveLength(24);
  const textsOf = (documents: readonly RagDocument[]) => documents.map(({ text }) => text);
  for (const { kind, question, answers, documents, supports } of lines) {
    const [answer] = answers as [string];
    const texts = textsOf(documents as readonly RagDocument[]);
    expect(texts.filter((text) => text.includes(answer))).toHaveLength(1);
    expect(supports).toEqual([...texts.keys()]);
    if (kind === "needle") {
      const [, name] = /number for (.*)\?$/.exec(question) as RegExpExecArray;
      expect(texts).toEqual([expect.stringContaining(`The special magic number for ${name} is ${answer}.`)]);
      continue;
    }
    let wanted = /(VAR [A-Z]{5})\?$/.exec(question)?.[1];
    for (let hop = 0; hop < 4; hop++) {
      const [found] = texts.flatMap((text) => new RegExp(`${wanted} = (VAR [A-Z]{5}|\\d{6})\\.`).exec(text)?.[1] ?? []);
      wanted = found;
    }
    expect(wanted).toBe(answer);
  }
  // Nothing but the sentence is added, and no passage serves twice.
  const all = lines.flatMap(({ documents }) => documents as readonly RagDocument[]);
  expect(new Set(all.map(({ title }) => title)).size).toBe(60);
  const without = (text: string) => text.replace(/ ?(VAR [^.]*\.|The special [^.]*\.) ?/, " ").trim();
  expect(all.map(({ title, text }) => `${title} ${without(text)}`).sort()).toEqual(
    passages.map(({ title, text }) => `${title} ${text}`).sort(),
  );
});

test("needleLines(): the seed decides; too few passages are refused", () => {
  expect(needleLines(passages, options)).toEqual(needleLines(passages, options));
  expect(needleLines(passages, { ...options, seed: "8" })).not.toEqual(needleLines(passages, options));
  expect(() => needleLines(passages, { ...options, count: 13 })).toThrow(
    "Cannot hide needles: 65 passages are needed, the input has 60",
  );
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { type SynthContext, type SynthOptions, synthesizeContext } from "./context.js";
import { NO_REAL_NAMES } from "./real-names.js";

const options: SynthOptions = {
  seed: "test",
  split: "train",
  minPassages: 2,
  maxPassages: 10,
  numQuestions: 7,
  noise: [
    { title: "Some Village", text: "Some Village is a village." },
    { title: "Xawery Żuławski", text: "A name that must never be seen." },
  ],
};

const contexts = (count: number, more: Partial<SynthOptions> = {}): SynthContext[] =>
  Array.from({ length: count }, (_, index) => synthesizeContext(index, { ...options, ...more }));

test("synthesizeContext(): the same options and index give the same context, in any order", () => {
  const later = synthesizeContext(7, options);
  synthesizeContext(3, options);
  expect(synthesizeContext(7, options)).toEqual(later);
  expect(synthesizeContext(7, { ...options, seed: "other" })).not.toEqual(later);
});

test("synthesizeContext(): what a chain copies stands in the passages that support it", () => {
  for (const { documents, questions } of contexts(150)) {
    for (const { chain, answers, kind, supports, firstHop } of questions) {
      const text = supports.map((i) => `${documents[i]?.title}\n${documents[i]?.text}`).join("\n");
      if (kind !== "comparison") expect(text).toContain(answers[0]);
      expect(text).toContain(firstHop);
      for (const [, value] of chain.matchAll(/ is ([^.]+)\.(?= The|$)/g)) expect(text).toContain(value);
    }
  }
});

test("synthesizeContext(): the last sentence holds the answer, and of two candidates the right one alone", () => {
  for (const { questions } of contexts(150)) {
    for (const { chain, answers, kind, question } of questions) {
      const last = chain.slice(chain.lastIndexOf(" is ") + 4, -1);
      expect(answers).toContain(last);
      if (kind !== "comparison") continue;
      const [, a, b] = /, (.+) or (.+)\?$/.exec(question) ?? [];
      expect([a, b].filter((name) => answers.includes(name as string))).toHaveLength(1);
    }
  }
});

test("synthesizeContext(): which of two is right is balanced, by place and by earlier or later", () => {
  const asked = contexts(600, { kinds: ["comparison"], numQuestions: 4, minPassages: 6 }).flatMap(
    (one) => one.questions,
  );
  const share = (is: (question: (typeof asked)[number]) => boolean) => asked.filter(is).length / asked.length;
  expect(asked.length).toBeGreaterThan(1500);
  // Six standard deviations of a fair coin over 1,500 tosses are 0.08.
  const isFirst = share(({ question, answers }) => {
    const [, a] = /, (.+) or (.+)\?$/.exec(question) as RegExpExecArray;
    return answers.includes(a as string);
  });
  expect(Math.abs(isFirst - 0.5)).toBeLessThan(0.08);
  expect(
    Math.abs(share(({ chain }) => /The (earlier one|\w+ with the earlier birth) is/.test(chain)) - 0.5),
  ).toBeLessThan(0.08);
});

test("synthesizeContext(): no two splits share a title or an answer's name", () => {
  const namesOf = (split: "train" | "dev" | "test") =>
    new Set(
      contexts(200, { split, noise: [] }).flatMap(({ documents }) =>
        documents.map(({ title }) => title.replace(/ \(.*/, "")),
      ),
    );
  const [train, dev, held] = [namesOf("train"), namesOf("dev"), namesOf("test")];
  expect(train.size).toBeGreaterThan(500);
  expect([...train].filter((name) => dev.has(name) || held.has(name))).toEqual([]);
  expect([...dev].filter((name) => held.has(name))).toEqual([]);
});

test("synthesizeContext(): noise with a name of the reference's example is never used", () => {
  const titles = contexts(200, { minPassages: 8 }).flatMap(({ documents }) => documents.map(({ title }) => title));
  expect(titles).toContain("Some Village");
  expect(titles).not.toContain("Xawery Żuławski");
});

test("synthesizeContext(): questions of one context differ, all four kinds come in near equal numbers", () => {
  const counts = new Map<string, number>();
  for (const { questions } of contexts(300, { minPassages: 10, numQuestions: 4 })) {
    expect(new Set(questions.map(({ key }) => key)).size).toBe(questions.length);
    for (const { kind } of questions) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  for (const kind of ["single", "bridge", "inference", "comparison"]) {
    expect((counts.get(kind) ?? 0) / total).toBeGreaterThan(0.15);
  }
});

test("synthesizeContext(): options out of range are told", () => {
  expect(() => synthesizeContext(0, { ...options, maxPassages: 21 })).toThrow(/wanted whole numbers from 2 to 20/);
  expect(() => synthesizeContext(0, { ...options, numQuestions: 0 })).toThrow(/wanted 1 or more/);
});

test("synthesizeContext(): holds its number of passages, whatever is asked", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 20 }), fc.integer({ min: 0, max: 1e6 }), (count, index) => {
      const { documents } = synthesizeContext(index, { ...options, minPassages: count, maxPassages: count });
      expect(documents).toHaveLength(count);
    }),
    { numRuns: 60 },
  );
});

test("synthesizeContext(): some people and works have real names where such are given, and splits still share none", () => {
  const realNames = {
    ...NO_REAL_NAMES,
    men: ["Xerxes"],
    women: ["Xenia"],
    surnames: ["Quimby", "Zapotek"],
    titles: ["Stand by Me", "Into the Wild"],
  };
  const textOf = (more: Partial<SynthOptions>) =>
    contexts(60, more).map(({ documents }) => documents.map(({ title, text }) => `${title}\n${text}`).join("\n"));
  const train = textOf({ realNames });
  const shareWith = (name: string) => train.filter((text) => text.includes(name)).length / train.length;
  expect(shareWith("Quimby") + shareWith("Zapotek")).toBeGreaterThan(0.5);
  expect(shareWith("Xenia")).toBeGreaterThan(0.2);
  expect(train.join("")).not.toMatch(
    /mother,? (?:is |was )?(?:the [\w ]+ )?Xerxes|father,? (?:is |was )?(?:the [\w ]+ )?Xenia/,
  );
  const isOfOneSplit = ["Stand by Me", "Into the Wild"].map(
    (title) =>
      (["train", "dev", "test"] as const).filter((split) => textOf({ realNames, split }).join("").includes(title))
        .length,
  );
  expect(isOfOneSplit).toEqual([1, 1]);
  expect(textOf({}).join("")).not.toMatch(/Quimby|Zapotek|Xenia/);
});

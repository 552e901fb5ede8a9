import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type RetrieveOptions, retrievePassages } from "./retrieve.js";
import type { TextEmbedder } from "./score-passages.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-retrieve-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const passage = (title: string, text: string) => ({ title, text });
const first = {
  id: "a",
  question: "Where was the director of Glass Harbour born?",
  answers: ["Oslo"],
  generated: "",
  supports: [1, 2],
  group: "g",
  prompt: "stale",
  inputs: { input_ids: [1] },
  documents: [
    passage("Tin", "Tin is a metal."),
    passage("Glass Harbour", "Glass Harbour is a film; its director is Ada Lind."),
    passage("Ada Lind", "Ada Lind, a director, was born in Oslo."),
    passage("Empty", ""),
  ],
  note: { kept: true },
};
const rows = [
  first,
  { question: "Metal?", answers: ["tin"], documents: ["Tin is a metal.", "Wood is not."] },
  { id: 7, question: "Nothing?", answers: [], documents: [] },
];
writeFileSync(at("rag.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

const signal = new AbortController().signal;
const retrieve = (more: Partial<RetrieveOptions> = {}) =>
  retrievePassages({
    input: at("rag.jsonl"),
    output: at("best.jsonl"),
    scoring: { kind: "bm25", withTitle: false },
    maxPassages: 2,
    order: "best-first",
    signal,
    ...more,
  });
const jsonLines = (name: string) =>
  readFileSync(at(name), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
const bytes = (name: string) => readFileSync(at(name)).toString("hex");

test("retrievePassages(): keeps the best passages with their scores, and what still holds of a row", async () => {
  const report = await retrieve({ scoresOutput: at("scores.jsonl") });
  expect(report).toEqual({ rows: 3, written: 3, bad: 0, dropped: {}, errors: [], passages: 6, kept: 4 });
  const [best, second, third] = jsonLines("best.jsonl");
  expect(best.documents.map(({ title }: { title: string }) => title).sort()).toEqual(["Ada Lind", "Glass Harbour"]);
  expect(best.documents[0].score).toBeGreaterThan(best.documents[1].score);
  expect(best.documents[1].score).toBeGreaterThan(0);
  // Places of documents are places of the kept ones; what was true of other passages is gone.
  expect(best.supports).toEqual([0, 1]);
  expect(Object.keys(best)).toEqual(["id", "question", "answers", "generated", "supports", "documents", "note"]);
  expect(best.note).toEqual({ kept: true });
  expect(second.documents).toEqual(["Tin is a metal.", "Wood is not."]);
  expect(third.documents).toEqual([]);
  const scores = jsonLines("scores.jsonl");
  expect(scores.map(({ id }) => id)).toEqual(["a", "1", "7"]);
  expect(scores.map((line) => line.scores.length)).toEqual([4, 2, 0]);
  expect(scores[0].scores[3]).toBe(0);
});

test("retrievePassages(): scores of a file give the same bytes without the method", async () => {
  await retrieve({ output: at("again.jsonl"), scoring: { kind: "file", path: at("scores.jsonl") } });
  expect(bytes("again.jsonl")).toBe(bytes("best.jsonl"));
  await retrieve({ output: at("twice.jsonl") });
  expect(bytes("twice.jsonl")).toBe(bytes("best.jsonl"));
  expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
});

test("retrievePassages(): the manifest tells method, input and counts", () => {
  const manifest = JSON.parse(readFileSync(at("best.jsonl.manifest.json"), "utf8"));
  expect(manifest).toMatchObject({
    command: "data retrieve",
    options: { method: "bm25", k1: 1.2, b: 0.75, with_title: false, passages: 2, order: "best-first" },
    counts: { rows: 3, written: 3, bad: 0, passages: 6, kept: 4 },
  });
  expect(manifest.inputs[0].sha256).toBe(
    createHash("sha256")
      .update(readFileSync(at("rag.jsonl")))
      .digest("hex"),
  );
  expect(existsSync(at("scores.jsonl.manifest.json"))).toBe(true);
});

test("retrievePassages(): titles count only where they are asked for", async () => {
  const row = { question: "Oslo", documents: [passage("Bergen", "A town."), passage("Oslo", "A town.")] };
  writeFileSync(at("titles.jsonl"), JSON.stringify(row));
  const bestTitle = async (withTitle: boolean) => {
    await retrieve({ input: at("titles.jsonl"), output: at("t.jsonl"), scoring: { kind: "bm25", withTitle } });
    return jsonLines("t.jsonl")[0].documents[0].title;
  };
  expect(await bestTitle(false)).toBe("Bergen");
  expect(await bestTitle(true)).toBe("Oslo");
});

/** Texts as vectors of how often some letters stand in them; told what it is asked. */
function letterEmbedder(asked: string[][], give: (vector: Float32Array) => Float32Array = (v) => v): TextEmbedder {
  return {
    async embed(texts) {
      asked.push([...texts]);
      return texts.map((text) => give(Float32Array.from("aeiourst", (letter) => text.split(letter).length - 1)));
    },
  };
}

test("retrievePassages(): dense scores are dot products, and no text is embedded twice in a piece", async () => {
  const asked: string[][] = [];
  const model = at("encoder");
  mkdirSync(model);
  writeFileSync(join(model, "config.json"), "{}");
  const scoring = { kind: "dense", withTitle: false, model, embedder: letterEmbedder(asked) } as const;
  await retrieve({ scoring, output: at("dense.jsonl"), scoresOutput: at("dense-scores.jsonl"), maxPassages: 10 });
  expect(asked.length).toBe(1);
  expect(new Set(asked[0]).size).toBe(asked[0]?.length);
  const count = (text: string) => [..."aeiourst"].map((letter) => text.split(letter).length - 1);
  const dot = (a: string, b: string) => count(a).reduce((sum, x, i) => sum + x * (count(b)[i] as number), 0);
  expect(jsonLines("dense-scores.jsonl")[0].scores).toEqual(
    first.documents.map(({ text }) => dot(first.question, text)),
  );
  const manifest = JSON.parse(readFileSync(at("dense.jsonl.manifest.json"), "utf8"));
  expect(manifest.options).toMatchObject({ method: "dense", embedding_model: model });
  expect(manifest.inputs.map(({ path }: { path: string }) => path)).toEqual([
    at("rag.jsonl"),
    join(model, "config.json"),
  ]);
});

test("retrievePassages(): a model that fails or gives no numbers leaves no file", async () => {
  const model = at("encoder");
  const before = bytes("dense.jsonl");
  const dense = (embedder: TextEmbedder) =>
    retrieve({ output: at("dense.jsonl"), scoring: { kind: "dense", withTitle: false, model, embedder } });
  await expect(dense(letterEmbedder([], (vector) => vector.fill(Number.NaN)))).rejects.toThrow(
    /Cannot score the passages of line 1 of .*: a score is NaN/,
  );
  await expect(dense({ embed: () => Promise.reject(new Error("gone")) })).rejects.toThrow("gone");
  await expect(dense({ embed: async () => [] })).rejects.toThrow(/texts gave 0 embeddings/);
  expect(bytes("dense.jsonl")).toBe(before);
  expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
});

test("retrievePassages(): rows that are none are counted with their places, and the others go on", async () => {
  writeFileSync(
    at("mixed.jsonl"),
    [
      "{no json",
      "[1]",
      '{"question":"Who?"}',
      '{"question":" ","documents":[]}',
      '{"question":"Who?","documents":[{"title":"a"}]}',
      '{"question":"\\ud800","documents":[]}',
      JSON.stringify(rows[1]),
    ].join("\n"),
  );
  const report = await retrieve({ input: at("mixed.jsonl"), output: at("mixed-best.jsonl") });
  expect(report).toMatchObject({ rows: 7, written: 1, bad: 6 });
  expect(report.errors.map((error) => /line (\d)/.exec(error)?.[1])).toEqual(["1", "2", "3", "4", "5", "6"]);
  // Rows are numbered as they stand in the file.
  await retrieve({ input: at("mixed.jsonl"), output: at("m.jsonl"), scoresOutput: at("mixed-scores.jsonl") });
  expect(jsonLines("mixed-scores.jsonl").map(({ id }) => id)).toEqual(["6"]);
});

test.each([
  ['{"id":"b","scores":[1,2,3,4]}', /its "id" is "b", that of line 1 of .* is "a"/],
  ['{"id":"a","scores":[1,2,3]}', /it has 3 scores, line 1 of .* has 4 documents/],
  ['{"id":"a","scores":[1,2,3,"4"]}', /wanted \{"id", "scores"\} with numbers/],
  ['{"id":"a","scores":[1,2,3,4]}', /they end before line 2/],
  ["{", /Cannot use line 1 of/],
])("retrievePassages(): scores %j are refused", async (line, message) => {
  writeFileSync(at("wrong-scores.jsonl"), line);
  const scoring = { kind: "file", path: at("wrong-scores.jsonl") } as const;
  await expect(retrieve({ output: at("never.jsonl"), scoring })).rejects.toThrow(message);
  expect(existsSync(at("never.jsonl"))).toBe(false);
});

test("retrievePassages(): scores that are too many, missing files, and a stop", async () => {
  writeFileSync(at("one.jsonl"), `${JSON.stringify(rows[1])}\n`);
  writeFileSync(at("long-scores.jsonl"), '{"id":"0","scores":[1,2]}\n{"id":"1","scores":[]}\n');
  const scoring = { kind: "file", path: at("long-scores.jsonl") } as const;
  await expect(retrieve({ input: at("one.jsonl"), output: at("never.jsonl"), scoring })).rejects.toThrow(
    /line 2 of .*: there is no row for it/,
  );
  await expect(retrieve({ input: at("nowhere.jsonl") })).rejects.toThrow(
    /Cannot read ".*nowhere\.jsonl": no such file/,
  );
  const ending = new AbortController();
  ending.abort(new Error("Cancelled"));
  await expect(retrieve({ output: at("never.jsonl"), signal: ending.signal })).rejects.toThrow("Cancelled");
  expect(existsSync(at("never.jsonl"))).toBe(false);
});

test("retrievePassages(): a run that was stopped goes on with the scores that it had, and ends with the same bytes", async () => {
  const many = Array.from({ length: 150 }, (_, i) => ({ ...rows[0], id: `m${i}`, question: `Question ${i} of Ada?` }));
  writeFileSync(at("many.jsonl"), many.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const model = at("encoder");
  const run = (output: string, asked: string[][], dies: (numAsked: number) => boolean = () => false) => {
    const embedder = letterEmbedder(asked);
    const embed: TextEmbedder["embed"] = async (texts) => {
      if (dies(asked.length)) throw new Error("gone");
      return embedder.embed(texts);
    };
    const scoring = { kind: "dense", withTitle: true, model, embedder: { embed } } as const;
    return retrieve({ input: at("many.jsonl"), output: at(output), scoring });
  };
  const whole: string[][] = [];
  await run("many-whole.jsonl", whole);
  expect(whole.length).toBe(5);
  await expect(run("many-parts.jsonl", [], (numAsked) => numAsked === 3)).rejects.toThrow("gone");
  expect(existsSync(at("many-parts.jsonl"))).toBe(false);
  const scores = at("many-parts.jsonl.scores.partial");
  const left = readFileSync(scores);
  expect(left.toString("utf8").split("\n").length - 1).toBeGreaterThanOrEqual(32);
  // As a kill in the middle of a write would leave it.
  writeFileSync(scores, left.subarray(0, left.length - 5));
  const rest: string[][] = [];
  await run("many-parts.jsonl", rest);
  expect(rest.length).toBeLessThan(5);
  expect(rest.at(-1)).toEqual(whole.at(-1));
  expect(bytes("many-parts.jsonl")).toBe(bytes("many-whole.jsonl"));
  expect(readdirSync(folder).filter((name) => /partial|lock/.test(name))).toEqual([]);
});

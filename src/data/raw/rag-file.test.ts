import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { DuckDBInstance } from "@duckdb/node-api";
import { afterAll, expect, test } from "vitest";
import { type RagFileOptions, writeRagFile } from "./rag-file.js";
import type { RawFormat } from "./raw-question.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-raw-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fixture = (name: string) => fileURLToPath(new URL(`../../../tests/fixtures/raw/${name}`, import.meta.url));
const shared = (name: string) => fileURLToPath(new URL(`../../../../shared/data/${name}`, import.meta.url));
const signal = new AbortController().signal;
const write = (format: RawFormat, input: string, output: string, more: Partial<RagFileOptions> = {}) =>
  writeRagFile({
    format,
    input,
    output: join(folder, output),
    split: undefined,
    limit: Infinity,
    scores: undefined,
    numPassages: 10,
    order: "best-first",
    signal,
    ...more,
  });
type Line = Readonly<Record<string, unknown>> & {
  readonly documents: readonly { readonly title: string; readonly text: string }[];
};
const linesOf = (output: string): Line[] =>
  readFileSync(join(folder, output), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
const titlesOf = (output: string) => linesOf(output).map(({ documents }) => documents.map(({ title }) => title));
const manifestOf = (output: string) => JSON.parse(readFileSync(join(folder, `${output}.manifest.json`), "utf8"));

// The expected lines were written by hand from the miniatures' rows: passages in the file's order, those without text
// taken out, sentences put together, titles of supporting_facts looked up.
test("writeRagFile(): HotpotQA's miniature gives the lines that were worked out by hand", async () => {
  const report = await write("hqa", fixture("hqa.json"), "hqa.jsonl");
  expect(linesOf("hqa.jsonl")).toEqual([
    {
      id: "5a8b57f25542995d1e6f1371",
      kind: "comparison",
      question: "Were Scott Derrickson and Ed Wood of the same nationality?",
      answers: ["yes"],
      generated: "",
      supports: [1, 2, 3],
      documents: [
        { title: "Ed Wood (film)", text: "Ed Wood is a 1994 film. It concerns the period in Wood's life." },
        {
          title: "Scott Derrickson",
          text: "Scott Derrickson (born July 16, 1966) is an American director. He lives in Los Angeles.",
        },
        { title: "Ed Wood", text: "Edward Davis Wood Jr. was an American filmmaker." },
        { title: "Ed Wood", text: " A second passage of the same title." },
      ],
    },
    {
      id: "5a8c7595554299585d9e36b6",
      kind: "bridge",
      question: 'Which band named themselves "!!!"?',
      answers: ["!!!"],
      generated: "",
      supports: [0],
      documents: [
        { title: "!!!", text: "!!! ( ) is an American dance-punk band." },
        { title: "東京事変", text: "東京事変は、日本のロックバンドである。 2004年に活動を開始した。" },
      ],
    },
  ]);
  expect(report).toEqual({
    rows: 5,
    written: 2,
    bad: 0,
    dropped: { "it has no answer": 2, "it has no passage with text": 1 },
    errors: [],
    passages: 6,
    emptyPassages: 1,
    unscored: 2,
  });
});

test("writeRagFile(): 2Wiki's miniature, Parquet with JSON text inside, keeps the first ten of passages without scores", async () => {
  await write("2wiki", fixture("2wiki"), "2wiki.jsonl", { split: "dev" });
  const [first, second] = linesOf("2wiki.jsonl");
  expect(first).toEqual({
    id: "8813f87c0bdd11eba7f7acde48001122",
    kind: "compositional",
    question: "Who is the mother of the director of film Polish-Russian War (Film)?",
    answers: ["Małgorzata Braunek"],
    generated: "",
    supports: [1, 2],
    documents: [
      {
        title: "Maheen Khan",
        text: "Maheen Khan is a Pakistani fashion designer. She also does embroidery work.",
      },
      {
        title: "Xawery Żuławski",
        text: "Xawery Żuławski (born 22 December 1971 in Warsaw) is a Polish film director. He is the son of Małgorzata Braunek.",
      },
      {
        title: "Polish-Russian War (film)",
        text: "Polish-Russian War (Wojna polsko-ruska) is a 2009 Polish film.",
      },
    ],
  });
  expect(second?.documents.map(({ title }) => title)).toEqual([
    "P0",
    "P1",
    "P2",
    "P3",
    "P4",
    "P5",
    "P6",
    "P7",
    "P8",
    "P9",
  ]);
  expect(second).toMatchObject({ supports: [1] });
  expect(manifestOf("2wiki.jsonl").notes).toEqual([
    "2 of 2 lines have passages without scores: the first ones are kept, as they came",
  ]);
});

test("writeRagFile(): NQ's miniature is ordered by its scores, equal ones as they came; wrong rows are told by their place", async () => {
  const report = await write("nq", fixture("nq.json"), "nq.jsonl", { split: "test" });
  expect(linesOf("nq.jsonl")).toEqual([
    {
      id: "0",
      question: "who got the first nobel prize in physics",
      answers: ["Wilhelm Conrad Röntgen", "Wilhelm Röntgen"],
      generated: "",
      supports: [1, 2],
      documents: [
        { title: "Nobel Prize", text: "A group including 42 Swedish writers protested.", score: 81.25 },
        {
          title: "Nobel Prize in Physics",
          text: "The first prize was awarded in 1901 to Wilhelm Röntgen.",
          score: 80.5,
        },
        { title: "Nobel Prize in Physics", text: 'Röntgen received it "in recognition" of the rays.', score: 80.5 },
      ],
    },
    {
      id: "nq-test-1",
      question: "when is the next deadpool movie being released",
      answers: ["May 18, 2018"],
      generated: "",
      documents: [
        {
          title: "Deadpool 2",
          text: "Deadpool 2 is scheduled to be released in the United States on May 18, 2018.",
        },
        { title: "", text: "A passage without a title." },
      ],
    },
  ]);
  expect(report).toMatchObject({
    rows: 5,
    written: 2,
    bad: 2,
    dropped: { "it has no answer": 1 },
    passages: 5,
    emptyPassages: 1,
    unscored: 1,
  });
  expect(report.errors).toEqual([
    expect.stringMatching(/^Cannot read passage 1 of element 4 of ".*nq\.json": "text" is missing$/),
    expect.stringMatching(
      /^Cannot order passages: 1 of 2 have a score, wanted all or none \(element 5 of ".*nq\.json"\)$/,
    ),
  ]);
});

test("writeRagFile(): TriviaQA's miniature, in the three orders, with fewer passages than there are", async () => {
  await write("tqa", fixture("tqa.json"), "tqa.jsonl");
  expect(linesOf("tqa.jsonl")[0]).toMatchObject({
    id: "0",
    answers: ["Sinclair Lewis", "Harry Sinclair Lewis", "Lewis, (Harry) Sinclair", "Grace Hegger"],
    documents: [
      { title: "Élan", text: "Σίνκλερ Λιούις — 辛克莱·刘易斯 — سنكلير لويس 😀", score: 2 },
      { title: "Sinclair Lewis", score: 1.5 },
      { title: "Main Street (novel)", text: "  Main Street is a satirical novel.\n", score: -0.5 },
    ],
  });
  await write("tqa", fixture("tqa.json"), "last.jsonl", { order: "best-last" });
  expect(titlesOf("last.jsonl")).toEqual([["Main Street (novel)", "Sinclair Lewis", "Élan"]]);
  await write("tqa", fixture("tqa.json"), "as-is.jsonl", { order: "as-is", numPassages: 2 });
  expect(titlesOf("as-is.jsonl")).toEqual([["Sinclair Lewis", "Élan"]]);
});

test("writeRagFile(): a manifest tells inputs, options and counts; pictures stand beside; another run gives the same bytes", async () => {
  const endings = ["", ".manifest.json", ".lengths.svg", ".passages.svg"];
  const bytes = () => endings.map((ending) => readFileSync(join(folder, `nq.jsonl${ending}`), "utf8"));
  const first = bytes();
  await write("nq", fixture("nq.json"), "nq.jsonl", { split: "test" });
  expect(bytes()).toEqual(first);
  const raw = readFileSync(fixture("nq.json"));
  expect(manifestOf("nq.jsonl")).toEqual({
    format_version: 1,
    command: "data nq",
    options: { split: "test", limit: null, passages: 10, order: "best-first", scores: null },
    inputs: [{ path: fixture("nq.json"), bytes: raw.length, sha256: createHash("sha256").update(raw).digest("hex") }],
    counts: { rows: 5, written: 2, bad: 2, passages: 5, empty_passages: 1, unscored: 1 },
    dropped: { "it has no answer": 1 },
    notes: ["1 of 2 lines have passages without scores: the first ones are kept, as they came"],
    output: {
      path: "nq.jsonl",
      bytes: Buffer.byteLength(first[0] as string),
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    },
  });
  expect(first[2]).toMatch(/^<svg.*2 samples/s);
});

test("writeRagFile(): scores of a file take the place of the raw file's, and scores of other rows are refused", async () => {
  const scores = (rows: readonly unknown[]) => {
    writeFileSync(join(folder, "scores.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    return join(folder, "scores.jsonl");
  };
  // Rows that make no line have no scores, nor have passages without text.
  const good = [
    { id: "0", scores: [1, 2, 3] },
    { id: "nq-1", scores: [0.5, 0.75] },
  ];
  const report = await write("nq", fixture("nq.json"), "scored.jsonl", { scores: scores(good), numPassages: 2 });
  expect(linesOf("scored.jsonl").map(({ documents }) => documents)).toMatchObject([
    [
      { text: 'Röntgen received it "in recognition" of the rays.', score: 3 },
      { title: "Nobel Prize", score: 2 },
    ],
    [
      { title: "", score: 0.75 },
      { title: "Deadpool 2", score: 0.5 },
    ],
  ]);
  expect(report.unscored).toBe(0);
  expect(manifestOf("scored.jsonl").inputs).toHaveLength(2);
  const before = readFileSync(join(folder, "scored.jsonl"), "utf8");
  const refused = (rows: readonly unknown[], more: Partial<RagFileOptions> = {}) =>
    expect(write("nq", fixture("nq.json"), "scored.jsonl", { scores: scores(rows), ...more })).rejects;
  await refused([good[1]]).toThrow(/line 1 of ".*scores\.jsonl": its "id" is "nq-1"/);
  await refused([{ id: "0", scores: [1, 2] }]).toThrow(/has 2 scores, element 1 of ".*" has 3 documents/);
  await refused([good[0]]).toThrow(/they end before element 2/);
  await refused([...good, good[0]]).toThrow(/line 3 of ".*": there is no row for it/);
  await refused([{ id: "0" }]).toThrow(/wanted \{"id", "scores"\}/);
  expect(readFileSync(join(folder, "scored.jsonl"), "utf8")).toBe(before);
  await write("nq", fixture("nq.json"), "scored.jsonl", { scores: scores(good), limit: 1 });
  expect(linesOf("scored.jsonl")).toHaveLength(1);
});

test("writeRagFile(): JSON lines, an array and Parquet of the same rows give the same lines", async () => {
  const rows = JSON.parse(readFileSync(fixture("hqa.json"), "utf8")) as unknown[];
  writeFileSync(join(folder, "hqa-lines.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
  await write("hqa", join(folder, "hqa-lines.jsonl"), "from-lines.jsonl");
  expect(linesOf("from-lines.jsonl")).toEqual(linesOf("hqa.jsonl"));
  const asText = rows.map((row) => ({
    ...(row as object),
    context: JSON.stringify((row as { context: unknown }).context),
  }));
  writeFileSync(join(folder, "text.json"), JSON.stringify(asText));
  const instance = await DuckDBInstance.create(":memory:", { threads: "1" });
  const connection = await instance.connect();
  await connection.run(
    `COPY (SELECT * REPLACE (supporting_facts::VARCHAR AS supporting_facts) FROM read_json('${join(folder, "text.json")}')) TO '${join(folder, "hqa.parquet")}' (FORMAT parquet)`,
  );
  connection.closeSync();
  instance.closeSync();
  await write("hqa", join(folder, "hqa.parquet"), "from-parquet.jsonl");
  expect(linesOf("from-parquet.jsonl")).toEqual(linesOf("hqa.jsonl"));
});

test("writeRagFile(): of a folder the files of one split; --limit ends early", async () => {
  const set = join(folder, "set");
  mkdirSync(set);
  const row = (id: string) =>
    JSON.stringify([{ id, question: "q", answers: ["a"], ctxs: [{ title: "t", text: "x" }] }]);
  for (const name of ["train.json", "hotpot_dev_v1.json", "validation-00000-of-00001.json", "latest.json"]) {
    writeFileSync(join(set, name), row(name));
  }
  // What stands beside an output is no data.
  writeFileSync(join(set, "train.json.manifest.json"), "{}");
  writeFileSync(join(set, "train.json.report.json"), "{}");
  const idsOf = async (more: Partial<RagFileOptions>) => {
    await write("tqa", set, "split.jsonl", more);
    return linesOf("split.jsonl").map(({ id }) => id);
  };
  expect(await idsOf({ split: "train" })).toEqual(["train.json"]);
  expect(await idsOf({ split: "dev" })).toEqual(["hotpot_dev_v1.json", "validation-00000-of-00001.json"]);
  await expect(idsOf({ split: "test" })).rejects.toThrow(/no name of its 4 files says "test"/);
  expect(await idsOf({})).toHaveLength(4);
  expect(await idsOf({ limit: 3 })).toHaveLength(3);
});

test("writeRagFile(): what fails names the file and leaves the old one, and no half one", async () => {
  const before = readFileSync(join(folder, "hqa.jsonl"));
  const refused = (input: string, more: Partial<RagFileOptions> = {}) =>
    expect(write("hqa", input, "hqa.jsonl", more)).rejects;
  await refused(fixture("nq.json")).toThrow(/no row is left of 5; Cannot read element 1 of ".*": "context" is missing/);
  await refused(join(folder, "none.json")).toThrow(/Cannot read ".*none\.json": no such file/);
  const parquet = join(folder, "cut.parquet");
  writeFileSync(parquet, readFileSync(join(folder, "hqa.parquet")));
  truncateSync(parquet, 700);
  await refused(parquet).toThrow(/Cannot read ".*cut\.parquet": /);
  writeFileSync(join(folder, "cut.json"), readFileSync(fixture("hqa.json"), "utf8").slice(0, 900));
  await refused(join(folder, "cut.json")).toThrow(/Cannot read ".*cut\.json": /);
  const ending = new AbortController();
  ending.abort(new Error("Cancelled"));
  await refused(fixture("hqa.json"), { signal: ending.signal }).toThrow("Cancelled");
  expect(readFileSync(join(folder, "hqa.jsonl")).equals(before)).toBe(true);
  expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
});

test("writeRagFile(): a line that is no JSON is told by its number, the others go on", async () => {
  const good = JSON.stringify({ question: "q", answers: ["a"], ctxs: [{ title: "t", text: "x" }] });
  writeFileSync(join(folder, "bad.jsonl"), `${good}\n{"question": \n[1]\n${good}\n`);
  const report = await write("nq", join(folder, "bad.jsonl"), "of-bad.jsonl");
  expect(report).toMatchObject({ rows: 4, written: 2, bad: 2 });
  expect(report.errors[0]).toMatch(/line 2.*no JSON/);
  expect(report.errors[1]).toMatch(/line 3/);
  expect(linesOf("of-bad.jsonl").map(({ id }) => id)).toEqual(["nq-0", "nq-3"]);
});

test("writeRagFile(): a row of more than 64 MiB in an array is told, and the others go on", async () => {
  const path = join(folder, "huge.json");
  const row = (text: string) => JSON.stringify({ question: "q", answers: ["a"], ctxs: [{ title: "t", text }] });
  writeFileSync(path, `[${row("x".repeat(2 ** 26))},${row("y")}]`);
  const report = await write("nq", path, "of-huge.jsonl");
  rmSync(path);
  expect(report).toMatchObject({ rows: 2, written: 1, bad: 1 });
  expect(report.errors[0]).toMatch(/^Cannot read element 1: it has 671\d+ bytes, at most 67108864 are read/);
});

test.skipIf(!existsSync("/dev/full"))("writeRagFile(): a full disk is told, and what was there stays", async () => {
  await write("hqa", fixture("hqa.json"), "full.jsonl");
  const before = readFileSync(join(folder, "full.jsonl"), "utf8");
  // The file being written is a device that is always full.
  symlinkSync("/dev/full", join(folder, "full.jsonl.partial"));
  await expect(write("hqa", fixture("hqa.json"), "full.jsonl")).rejects.toThrow(
    /Cannot write ".*full\.jsonl.*the disk is full$/,
  );
  expect(readFileSync(join(folder, "full.jsonl"), "utf8")).toBe(before);
  expect(existsSync(join(folder, "full.jsonl.partial"))).toBe(false);
});

const hotpot = shared("hotpot_dev_distractor_sample.json");
test.skipIf(!existsSync(hotpot))(
  `writeRagFile(): HotpotQA's sample runs through (skipped without ${hotpot})`,
  async () => {
    const rows = JSON.parse(readFileSync(hotpot, "utf8")) as {
      _id: string;
      question: string;
      answer: string;
      context: [string, string[]][];
    }[];
    const report = await write("hqa", hotpot, "hotpot.jsonl");
    expect(report).toMatchObject({ rows: rows.length, written: rows.length, bad: 0, dropped: {} });
    for (const [i, line] of linesOf("hotpot.jsonl").entries()) {
      const { _id, question, answer, context } = rows[i] as (typeof rows)[number];
      const documents = context.map(([title, sentences]) => ({ title, text: sentences.join("") }));
      expect(line).toMatchObject({ id: _id, question: question.trim(), answers: [answer], documents });
    }
  },
);

const passages = shared("2wiki_passages.jsonl");
test.skipIf(!existsSync(passages))(
  `writeRagFile(): 2Wiki's passages run through (skipped without ${passages})`,
  async () => {
    const all = readFileSync(passages, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { title: string; text: string });
    const rows = Array.from({ length: Math.ceil(all.length / 10) }, (_, i) => ({
      _id: `q${i}`,
      question: `Question ${i}?`,
      answer: "yes",
      context: JSON.stringify(all.slice(i * 10, i * 10 + 10).map(({ title, text }) => [title, [text]])),
    }));
    writeFileSync(join(folder, "corpus.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
    const report = await write("2wiki", join(folder, "corpus.jsonl"), "of-corpus.jsonl");
    expect(report).toMatchObject({ rows: rows.length, bad: 0, written: rows.length });
    const withText = all.filter(({ text }) => text.trim() !== "");
    expect(linesOf("of-corpus.jsonl").flatMap(({ documents }) => documents)).toEqual(withText);
  },
);

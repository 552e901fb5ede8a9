import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type MadeUpQuestion, madeUpQuestions } from "../src/data/rag/questions.suite.js";
import { Engine } from "../src/engine/engine.js";
import type { LocalEngine } from "../src/engine/local-engine.js";
import { embeddedModelPath } from "../src/engine/model.js";
import type { GenerateResult } from "../src/engine/results.js";
import type { RunsComparison } from "../src/eval/compare.js";
import { type FakePeer, type PeerRequest, startFakePeer, streamAnswer } from "../src/eval/fake-peer.suite.js";
import type { SetsReport } from "../src/eval/report.js";
import type { SweepReport } from "../src/eval/sweep.js";
import { measureTtft } from "../src/eval/ttft-table.js";
import { runCli } from "./run-cli.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-eval-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Questions over four passages each, which their "supports" name. */
function writeSet(name: string, first: number, count: number): { path: string; lines: MadeUpQuestion[] } {
  const lines = madeUpQuestions(count, 4, first);
  const path = join(folder, `${name}.jsonl`);
  writeFileSync(path, lines.map(({ generated, ...line }) => `${JSON.stringify(line)}\n`).join(""));
  return { path, lines };
}

const one = writeSet("one", 0, 4);
const two = writeSet("two", 100, 3);

/** Knows the answers to some questions: those whose gold answer has an even length. */
function startKnowing(): Promise<FakePeer> {
  const known = [...one.lines, ...two.lines];
  const seen = new Set<string>();
  return startFakePeer(({ body }: PeerRequest, response) => {
    const { content } = body.messages[0];
    const line = known.find(({ question }) => content.includes(`Question: ${question}`));
    const cachedTokens = seen.has(content) ? 90 : 30;
    seen.add(content);
    const gold = line?.answers[0] ?? "Hello";
    return streamAnswer(response, { pieces: gold.length % 2 === 0 ? ["It is ", gold] : ["Nothing"], cachedTokens });
  });
}

// What reports tell, worked out again from the runs' files.

// biome-ignore lint/suspicious/noExplicitAny: lines of JSON, looked into at will
function readLines(...path: string[]): any[] {
  return readFileSync(join(folder, ...path), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

const wordsOf = (text: string) =>
  ` ${text
    .toLowerCase()
    .replace(/[!-/:-@[-`{-~]/g, "")
    .split(/\s+/)
    .filter((word) => !["a", "an", "the", ""].includes(word))
    .join(" ")} `;

const isRight = ({ generated, answers }: { generated: string; answers: string[] }) =>
  answers.some((gold) => wordsOf(generated).includes(wordsOf(gold)));

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const low = sorted[Math.floor(place)] as number;
  const high = sorted[Math.ceil(place)] as number;
  return low + (high - low) * (place % 1);
}

const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);

// biome-ignore lint/suspicious/noExplicitAny: a report's figures of serving
function expectServing(serving: any, ...path: string[]): void {
  const timings = readLines(...path, "timings.jsonl");
  const prompts = total(timings.map(({ prompt_tokens }) => prompt_tokens));
  expect(serving.promptTokens).toBe(prompts);
  expect(serving.hitRate).toBeCloseTo(total(timings.map(({ cached_tokens }) => cached_tokens)) / prompts, 12);
  const stored = [
    ...timings.filter(({ start }) => start === "stored").map(({ ttft_ms }) => ttft_ms),
    ...timings.filter(({ again }) => again?.start === "stored").map(({ again }) => again.ttft_ms),
  ];
  const cold = timings.filter(({ start }) => start === "cold").map(({ ttft_ms }) => ttft_ms);
  for (const [name, times] of [
    ["stored", stored],
    ["cold", cold],
  ] as const) {
    if (times.length === 0) expect(serving[name]).toBeUndefined();
    else {
      expect(serving[name].requests).toBe(times.length);
      expect(serving[name].p50).toBeCloseTo(percentile(times, 0.5), 9);
      expect(serving[name].p95).toBeCloseTo(percentile(times, 0.95), 9);
    }
  }
}

test("eval rag: two sets, three ways of an engine and a peer in one report, each figure from the runs' files", async () => {
  await using server = await startKnowing();
  const args = [
    ...["eval", "rag", "--threads", "1", "--max-tokens", "5", "--json", "--output", join(folder, "report")],
    ...["--input", one.path, "--input", `second=${two.path}`, "--modes", "block,full,no-reencoding"],
    ...["--peer", `fake=${server.url}`, "--peer-model", "m", "--peer-api-key-env", "FAKE_KEY"],
  ];
  const { code, error, stdout, stderr } = await runCli(args, { FAKE_KEY: "secret-key" });
  expect(error).toBeUndefined();
  expect(code).toBe(0);
  expect(stderr).toContain("second: no-reencoding");
  const report: SetsReport = JSON.parse(stdout);
  expect(JSON.parse(readFileSync(join(folder, "report", "report.json"), "utf8"))).toEqual(report);
  expect(report.sets.map(({ title }) => title)).toEqual(["one", "second"]);
  for (const { folder: set, runs, comparisons } of report.sets) {
    expect(runs.map(({ name }) => name)).toEqual(["block", "full", "no-reencoding", "fake"]);
    const right: Record<string, boolean[]> = {};
    for (const { name, questions, right: counted, scores, serving } of runs) {
      const answers = readLines("report", set, name, "answers.jsonl");
      right[name] = answers.map(isRight);
      const numRight = right[name].filter(Boolean).length;
      expect([questions, counted.word]).toEqual([answers.length, numRight]);
      expect(scores.word.mean).toBeCloseTo(numRight / answers.length, 12);
      expect(scores.word.low).toBeLessThanOrEqual(scores.word.mean);
      expect(scores.word.high).toBeGreaterThanOrEqual(scores.word.mean);
      expectServing(serving, "report", set, name);
    }
    for (const { name, against, differences } of comparisons) {
      expect(against).toBe("block");
      const difference = (right[name] as boolean[]).map((is, i) => Number(is) - Number(right.block?.[i]));
      expect(differences.word.mean).toBeCloseTo(total(difference) / difference.length, 12);
      expect(differences.word.won).toBe(difference.filter((by) => by > 0).length);
      expect(differences.word.lost).toBe(difference.filter((by) => by < 0).length);
    }
    const serving = Object.fromEntries(runs.map((run) => [run.name, run.serving]));
    expect(serving.full).toMatchObject({ hitRate: 0, cachedTokens: 0 });
    // No run finds what another has left, and a second asking finds everything.
    expect(serving["no-reencoding"]?.hitRate).toBe(serving.block?.hitRate);
    expect(serving.block?.stored?.requests).toBeGreaterThanOrEqual(3);
    // The fake server says 30 of 100, then 90.
    expect(serving.fake).toMatchObject({ hitRate: 0.3, stored: { requests: runs[0]?.questions } });
  }
  const known = one.lines.filter(({ answers }) => (answers[0] as string).length % 2 === 0).length;
  expect(report.sets[0]?.runs[3]?.right.word).toBe(known);

  const markdown = readFileSync(join(folder, "report", "report.md"), "utf8");
  expect(markdown).toContain("| Word borders | one | second | Average |");
  expect(markdown).toContain("![one](one.svg)");
  expect(readFileSync(join(folder, "report", "second.svg"), "utf8")).toMatch(/^<svg /);
  // The key went to the server and nowhere else.
  expect(server.requests.every(({ headers }) => headers.authorization === "Bearer secret-key")).toBe(true);
  expect(markdown + stdout + stderr + readFileSync(join(folder, "report", "one", "fake", "run.json"))).not.toContain(
    "secret-key",
  );

  // Again: nothing is asked, and the same is told.
  const before = server.requests.length;
  const again = await runCli(args, { FAKE_KEY: "secret-key" });
  expect(JSON.parse(again.stdout)).toEqual(report);
  expect(server.requests.length).toBe(before);
}, 120_000);

test("eval rag: a peer alone, which tells no cached tokens, without a model", async () => {
  await using server = await startFakePeer((_, response) => streamAnswer(response, { pieces: ["Nothing"] }));
  const { code, stdout } = await runCli([
    ...["eval", "rag", "--input", one.path, "--modes", "none", "--peer", `silent=${server.url}`, "--peer-model", "m"],
    ...["--output", join(folder, "silent"), "--model", "no-such-model", "--no-ask-again", "--limit", "2"],
    ...["--compare", join(folder, "report", "one", "block")],
  ]);
  expect(code).toBe(0);
  expect(stdout).toContain("not told");
  expect(stdout).toContain("silent less block");
  expect(stdout).toContain("0 questions stand in the first alone and 2 in the second; they are left out.");
  expect(server.requests.length).toBe(3);
  const markdown = readFileSync(join(folder, "silent", "report.md"), "utf8");
  expect(markdown).toMatch(
    /\| silent \| 200 \| not told \| not told \| \d+\.\d ms \| \d+\.\d ms \| {2}\| {2}\| 1 \| 2 \|/,
  );
});

test("eval compare: difference, exact test, and the questions won and lost", async () => {
  const [first, second] = [join(folder, "report", "one", "fake"), join(folder, "report", "one", "full")];
  const { code, stdout } = await runCli([
    "eval",
    "compare",
    first,
    second,
    "--json",
    "--output",
    join(folder, "compared"),
  ]);
  expect(code).toBe(0);
  const compared: RunsComparison = JSON.parse(stdout);
  const [ours, theirs] = [
    readLines("report", "one", "fake", "answers.jsonl"),
    readLines("report", "one", "full", "answers.jsonl"),
  ];
  const won = ours.filter((line, i) => isRight(line) && !isRight(theirs[i]));
  const lost = theirs.filter((line, i) => isRight(line) && !isRight(ours[i]));
  expect(won.length + lost.length).toBeGreaterThan(0);
  expect(compared.won.map(({ id, first: said }) => [id, said])).toEqual(
    won.map(({ id, generated }) => [id, generated]),
  );
  expect(compared.lost.map(({ id, second: said }) => [id, said])).toEqual(
    lost.map(({ id, generated }) => [id, generated]),
  );
  const { mean, low, high } = compared.comparison.differences.word;
  expect(mean).toBeCloseTo((won.length - lost.length) / ours.length, 12);

  // All 4^4 ways to draw four questions again, each as likely; a step is a question.
  const difference = ours.map((line, i) => Number(isRight(line)) - Number(isRight(theirs[i])));
  const means = Array.from(
    { length: 4 ** 4 },
    (_, draw) => total(difference.map((_, place) => difference[Math.floor(draw / 4 ** place) % 4] as number)) / 4,
  );
  if (new Set(difference).size > 1) {
    expect(Math.abs(low - percentile(means, 0.025))).toBeLessThanOrEqual(1 / 4 + 1e-9);
    expect(Math.abs(high - percentile(means, 0.975))).toBeLessThanOrEqual(1 / 4 + 1e-9);
  }
  // Every way in which as many fair coins fall, and those that fall as unevenly or more.
  const numCoins = won.length + lost.length;
  const ways = Array.from({ length: 2 ** numCoins }, (_, way) => way.toString(2).replaceAll("0", "").length);
  const uneven = ways.filter((heads) => Math.abs(2 * heads - numCoins) >= Math.abs(won.length - lost.length)).length;
  expect(compared.mcnemar.word).toBeCloseTo(uneven / ways.length, 9);
  expect(readFileSync(join(folder, "compared", "compare.md"), "utf8")).toContain("# fake less full");

  // What the runs took is in their folders.
  expectServing(compared.runs[0].serving, "report", "one", "fake");
  const text = await runCli(["eval", "compare", first, second, "--list", "1"]);
  expect(text.stdout).toContain("McNemar p");
});

test("eval compare: runs over different questions are refused, and which they are is told", async () => {
  const answered = (id: string, answers = ["x"]) =>
    JSON.stringify({ id, question: `Question ${id}`, answers, generated: "x" });
  const write = (name: string, ...lines: string[]) => {
    const path = join(folder, name);
    writeFileSync(path, `${lines.join("\n")}\n`);
    return path;
  };
  const base = write("base.jsonl", answered("a"), answered("b"));
  const more = write("more.jsonl", answered("a"), answered("b"), answered("c"), answered("d"));
  const other = write("other.jsonl", answered("a"), answered("b", ["y"]));
  const compare = async (first: string, second: string) =>
    (await runCli(["eval", "compare", first, second])).error?.message;
  expect(await compare(base, more)).toBe(
    'Cannot compare "base.jsonl" with "more.jsonl": 2 questions stand in "more.jsonl" alone, "c", "d"',
  );
  expect(await compare(more, base)).toContain('2 questions stand in "more.jsonl" alone, "c", "d"');
  expect(await compare(base, other)).toContain('the id "b" has different gold answers');
  expect(await compare(base, join(folder, "no-such-run"))).toContain("no such file or folder");
  expect((await runCli(["eval", "compare", base])).code).toBeUndefined();
});

test("eval sweep: each point from its run's files, and one over the model's context", async () => {
  const { code, error, stdout } = await runCli([
    ...["eval", "sweep", "--threads", "1", "--max-tokens", "3", "--json", "--input", one.path, "--limit", "3"],
    ...[
      "--passages",
      "4,1,7",
      "--order",
      "gold-first,gold-last",
      "--modes",
      "block",
      "--output",
      join(folder, "sweep"),
    ],
  ]);
  expect(error).toBeUndefined();
  expect(code).toBe(0);
  const report: SweepReport = JSON.parse(stdout);
  expect(report.points.map(({ order, passages }) => [order, passages])).toEqual([
    ["gold-first", 1],
    ["gold-first", 4],
    ["gold-first", 7],
    ["gold-last", 1],
    ["gold-last", 4],
    ["gold-last", 7],
  ]);
  for (const { order, passages, lines, moreGold, fewOthers, tooLong, outcome } of report.points) {
    expect(lines + moreGold + fewOthers).toBe(3);
    if (outcome.kind !== "scored") {
      expect(lines - tooLong).toBe(0);
      continue;
    }
    const name = `block-${order}-${passages}`;
    const answers = readLines("sweep", name, "answers.jsonl").filter(({ error_code }) => error_code !== "too_long");
    expect(outcome.summary.questions).toBe(answers.length);
    expect(lines - tooLong).toBe(answers.length);
    expect(outcome.summary.scores.word.mean).toBeCloseTo(answers.filter(isRight).length / answers.length, 12);
    if (tooLong === 0) expectServing(outcome.summary.serving, "sweep", name);
  }
  const markdown = readFileSync(join(folder, "sweep", "sweep.md"), "utf8");
  for (const name of ["accuracy", "hit-rate", "ttft"]) {
    expect(markdown).toContain(`(${name}.svg)`);
    expect(readFileSync(join(folder, "sweep", `${name}.svg`), "utf8")).toMatch(/^<svg [\s\S]*<polyline/);
  }
}, 120_000);

test("eval repair: each way over one store, what was computed again, and the table beside full mode", async () => {
  const output = join(folder, "repair");
  const command = [
    ...["eval", "repair", "--threads", "1", "--max-tokens", "2", "--json", "--input", one.path, "--limit", "5"],
    ...["--passages", "3", "--repair", "lead", "--repair", "first=4", "--output", output],
  ];
  const { code, error, stdout } = await runCli(command);
  expect(error).toBeUndefined();
  expect(code).toBe(0);
  const [head, ...rows] = JSON.parse(stdout).table as string[][];
  expect(head?.[1]).toBe("Way");
  expect(rows.map((row) => row[1])).toEqual(["full", "block", "lead", "first=4"]);
  const share = (name: string) => Number.parseFloat(rows.find((row) => row[1] === name)?.[8] ?? "");
  expect(share("full")).toBe(100);
  expect(share("lead")).toBe(share("block"));
  expect(share("first=4")).toBeGreaterThan(share("block"));
  expect(share("first=4")).toBeLessThan(100);
  // Blocks are the same whatever is computed again of them: the last way finds what plain blocks have left.
  const timings = readLines("repair", "first-4", "timings.jsonl");
  expect(timings.every(({ start, again }) => start === "stored" && again === undefined)).toBe(true);
  expect(readFileSync(join(output, "repair.md"), "utf8")).toContain("(repair.svg)");
  expect(readFileSync(join(output, "repair.svg"), "utf8")).toMatch(/^<svg /);
}, 120_000);

test("eval table: each set at each number of passages, filled up", async () => {
  const rows = join(folder, "rows.json");
  writeFileSync(
    rows,
    JSON.stringify([{ name: "repaired", model: embeddedModelPath(), mode: "block", repair: "lead" }]),
  );
  const { error, stdout } = await runCli([
    ...["eval", "table", "--threads", "1", "--max-tokens", "2", "--json", "--rows", rows, "--input", one.path],
    ...["--limit", "3", "--passages", "2,3", "--output", join(folder, "table")],
  ]);
  expect(error).toBeUndefined();
  const { sets } = JSON.parse(stdout);
  const name = basename(one.path, ".jsonl");
  expect(sets.map((set: { name: string }) => set.name)).toEqual([`${name}, 2 passages`, `${name}, 3 passages`]);
  const [answered] = readLines("table", `${name}-3-passages`, "repaired", "answers.jsonl");
  expect(answered).toMatchObject({ id: expect.anything() });
}, 120_000);

test("eval sweep: prompts over the context are a row of their own, no crash", async () => {
  const many = writeSet("many", 200, 20);
  const { code, stdout } = await runCli([
    ...["eval", "sweep", "--threads", "1", "--max-tokens", "2", "--input", many.path, "--limit", "20"],
    ...[
      "--passages",
      "60",
      "--order",
      "gold-middle",
      "--modes",
      "full",
      "--output",
      join(folder, "long"),
      "--no-ask-again",
    ],
  ]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/full, gold-middle +60 +0 +\d+ +too long/);
});

test("eval ttft: every time is of the blocks that it says, and a length over the context is told", async () => {
  await using engine = await Engine.load({ threads: 1, trainedModes: ["block", "full"] });
  const results: GenerateResult[] = [];
  const complete: LocalEngine["complete"] = async (...args) => {
    const result = await engine.complete(...args);
    results.push(result);
    return result;
  };
  const recorded = { model: engine.model, contextLength: engine.contextLength, complete } as unknown as LocalEngine;
  const table = await measureTtft({
    engine: recorded,
    model: "tiny",
    lengths: [60, 260, 2048],
    questionTokens: 50,
    passageTokens: 100,
    repeat: 2,
    texts: undefined,
    signal: new AbortController().signal,
  });
  expect(table.rows.map(({ tokens, outcome }) => [tokens, outcome.kind])).toEqual([
    [60, "measured"],
    [260, "measured"],
    [2048, "too_long"],
  ]);
  for (const [r, length] of [60, 260].entries()) {
    const runs = results.slice(2 + 6 * r, 8 + 6 * r);
    const seen = runs.map(({ mode, usage }) => [mode, usage.promptTokens, usage.cachedTokens]);
    const wanted = [
      ["full", length, 0],
      ["block", length, 0],
      ["block", length, length - 50],
    ];
    expect(seen).toEqual([...wanted, ...wanted]);
    const times = runs.map(({ timings }) => timings.ttftMs as number);
    const medianOf = (i: number) => ((times[i] as number) + (times[i + 3] as number)) / 2;
    const outcome = table.rows[r]?.outcome;
    if (outcome?.kind !== "measured") throw new Error("not measured");
    expect(outcome.times.full).toBeCloseTo(medianOf(0), 9);
    expect(outcome.times.cold).toBeCloseTo(medianOf(1), 9);
    expect(outcome.times.stored).toBeCloseTo(medianOf(2), 9);
    expect(outcome.times.saved).toBeCloseTo(1 - medianOf(2) / medianOf(0), 9);
  }
});

test("eval ttft: a table and a picture, from raw text", async () => {
  const output = join(folder, "ttft");
  const { code, stdout } = await runCli([
    ...[
      "eval",
      "ttft",
      "--threads",
      "1",
      "--lengths",
      "512,50",
      "--repeat",
      "1",
      "--input",
      one.path,
      "--output",
      output,
    ],
  ]);
  expect(code).toBe(0);
  expect(stdout).toContain("tiny-rag");
  const markdown = readFileSync(join(output, "ttft.md"), "utf8");
  // The paper's figures beside ours.
  expect(markdown).toMatch(/\| 512 \|.*\| 50 ms \| 26 ms \|/);
  expect(readFileSync(join(output, "ttft.svg"), "utf8")).toMatch(/^<svg [\s\S]*<polyline/);
  const short = await runCli(["eval", "ttft", "--threads", "1", "--lengths", "2000", "--input", two.path]);
  expect(short.error?.message).toMatch(/^Cannot measure 2000 tokens: the texts have \d+; give more, or other lengths$/);
});

test.each([
  [["rag", "--input", "x", "--output", "o", "--modes", "block,both"], 'Cannot use --modes: it is "block,both", wanted'],
  [["rag", "--input", "x", "--output", "o", "--modes", "full,full"], "none twice"],
  [["rag", "--input", "x", "--output", "o", "--modes", "none,full"], '"none" stands alone'],
  [
    ["rag", "--input", "x", "--output", "o", "--modes", "full", "--mode", "full"],
    "Cannot use --mode: --modes is given",
  ],
  [["rag", "--input", "x", "--input", "y", "--output", "o", "--compare", "z"], "there are 2 sets, wanted one"],
  [["rag", "--input", "SET", "--output", "o", "--peer", "http://127.0.0.1"], "wanted NAME=URL"],
  [["rag", "--input", "SET", "--output", "o", "--peer", "full=http://127.0.0.1"], 'another run is called "full" too'],
  [["rag", "--input", "SET", "--output", "o", "--peer", "a=http://127.0.0.1"], '"a" has no model, wanted --peer-model'],
  [["rag", "--input", "SET", "--output", "o", "--peer", "a=b", "--peer-model", "m"], "it is no URL of http or https"],
  [["rag", "--input", "SET", "--output", "o", "--peer-model", "m"], "Cannot use --peer-model: --peer is missing"],
  [
    ["rag", "--input", "SET", "--output", "o", "--modes", "full", "--peer-model", "m"],
    "Cannot use --peer-model: --peer is missing",
  ],
  [["rag", "--input", "SET", "--output", "o", "--modes", "none"], "--modes is none and there is no --peer"],
  [
    [
      "rag",
      "--input",
      "SET",
      "--output",
      "o",
      "--peer",
      "a=http://h",
      "--peer-model",
      "m",
      "--peer-api-key-env",
      "NO_KEY",
    ],
    'the environment has no "NO_KEY"',
  ],
  [["sweep", "--input", "SET", "--output", "o", "--passages", "0"], "each a whole number from 1 to 10000"],
  [["sweep", "--input", "SET", "--output", "o", "--passages", "5,5"], "none twice"],
  [
    ["table", "--rows", "r.json", "--input", "SET", "--output", "o", "--pool", "p"],
    "where --passages says to how many",
  ],
  [["repair", "--input", "SET", "--output", "o", "--repair", "lead,lead"], "wanted none, auto, or items"],
  [["sweep", "--input", "SET", "--output", "o", "--order", "gold"], 'each "gold-first", "gold-middle" or "gold-last"'],
  [["ttft", "--lengths", "1"], "each a whole number from 2 on"],
  [["rag", "--input", "no-such-file.jsonl", "--output", "o"], "no such file or folder"],
])("eval %j is refused", async (args, message) => {
  const { error } = await runCli(["eval", ...args.map((arg) => (arg === "SET" ? one.path : arg))]);
  expect(error?.message).toContain(message);
});

test("eval score: finished files, a bad line among them, without a model", async () => {
  const path = join(folder, "finished.jsonl");
  writeFileSync(
    path,
    [
      '{"question":"Q1","answers":["Paris"],"generated":"It is Paris."}',
      '{"question":"Q2","answers":["no"],"generated":"I know."}',
      "{",
      '{"question":"Q3","answers":[],"generated":"x"}',
    ].join("\n"),
  );
  const { code, stdout, stderr } = await runCli(["eval", "score", "--input", path, "--json"]);
  expect(code).toBe(1);
  expect(stderr).toContain("line 3");
  expect(stderr).toContain('"answers" is empty');
  expect(JSON.parse(stdout)).toMatchObject({ runs: [{ questions: 2, right: { subspan: 2, word: 1 } }] });
  const missing = await runCli(["eval", "score", "--input", join(folder, "no-such-file.jsonl")]);
  expect(missing.error?.message).toContain("no such file or folder");
});

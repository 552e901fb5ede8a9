import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { ragPrompt } from "../../blocks/rag-prompt.js";
import { type AnswerOptions, answerRows, errorsPath, journalPath } from "./answer-rows.js";
import type { ChatSettings } from "./chat-client.js";
import { chatBody, fakeAnswer, fakeChatServer } from "./fake-chat-server.suite.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-answer-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const documents = [
  { title: "Ada", text: "Ada was born in Oslo." },
  { title: "東京", text: "A city." },
];
const row = (i: number, more: object = {}) => ({
  id: `q${i}`,
  question: `Question ${i}?`,
  answers: ["a"],
  generated: "",
  documents,
  note: i,
  ...more,
});
const promptOf = (i: number) =>
  ragPrompt({ question: `Question ${i}?`, documents })
    .blocks.map(({ text }) => text)
    .join("");
const write = (name: string, rows: readonly object[]) =>
  writeFileSync(at(name), rows.map((one) => `${JSON.stringify(one)}\n`).join(""));
const numRows = 40;
write(
  "rag.jsonl",
  Array.from({ length: numRows }, (_, i) => row(i)),
);
const expected = Array.from(
  { length: numRows },
  (_, i) => `${JSON.stringify(row(i, { generated: fakeAnswer(promptOf(i)) }))}\n`,
).join("");

const answer = (baseUrl: URL, more: Partial<AnswerOptions> = {}, chat: Partial<ChatSettings> = {}) =>
  answerRows({
    input: at("rag.jsonl"),
    output: at("out.jsonl"),
    chat: {
      baseUrl,
      model: "m",
      apiKey: undefined,
      maxTokens: 200,
      extraBody: {},
      retries: 2,
      timeoutMs: 5_000,
      ...chat,
    },
    concurrency: 8,
    replace: false,
    dependencies: { fetch: globalThis.fetch, sleep: async () => undefined, random: () => 0, now: () => 0 },
    signal: new AbortController().signal,
    ...more,
  });
const text = (path: string) => readFileSync(path, "utf8");

test("answerRows(): fills in answers in the order of the input, whatever the order in which they come", async () => {
  // Of each eight questions the later ones are answered first.
  await using server = await fakeChatServer(
    undefined,
    ({ prompt }) => 240 - 30 * (Number(/\d+/.exec(prompt)?.[0]) % 8),
  );
  const report = await answer(server.baseUrl);
  expect(report).toEqual({
    rows: numRows,
    written: numRows,
    bad: 0,
    dropped: {},
    errors: [],
    answered: numRows,
    kept: 0,
    failed: 0,
    cut: 0,
    resumed: 0,
  });
  expect(text(at("out.jsonl"))).toBe(expected);
  expect(server.most()).toBe(8);
  expect(server.requests.length).toBe(numRows);
  expect(existsSync(errorsPath(at("out.jsonl")))).toBe(false);
  const manifest = JSON.parse(text(`${at("out.jsonl")}.manifest.json`));
  expect(manifest).toMatchObject({
    command: "data answer",
    options: { base_url: server.baseUrl.href, model: "m", max_tokens: 200, extra_body: {}, replace: false },
    counts: { rows: numRows, answered: numRows, failed: 0 },
  });
});

test("answerRows(): stopped and begun again, cut at any place, it asks what is missing alone and ends with the same bytes", async () => {
  await using server = await fakeChatServer(undefined, () => 2);
  const journal = journalPath(at("parts.jsonl"));
  let done = 0;
  for (const cut of [0, 1, 17, 60]) {
    const ending = new AbortController();
    const signal = ending.signal;
    const before = done;
    const stopped = answer(server.baseUrl, {
      output: at("parts.jsonl"),
      signal,
      onProgress: (count) => count >= before + 6 && ending.abort(new Error("Cancelled")),
    });
    await expect(stopped).rejects.toThrow("Cancelled");
    expect(existsSync(at("parts.jsonl"))).toBe(false);
    // As a kill in the middle of a write would leave it.
    truncateSync(journal, readFileSync(journal).length - cut);
    done = text(journal).split("\n").slice(1, -1).length;
    expect(done).toBeGreaterThan(0);
  }
  const asked = server.requests.length;
  const report = await answer(server.baseUrl, { output: at("parts.jsonl"), concurrency: 3 });
  expect(report).toMatchObject({ answered: numRows, resumed: done });
  expect(server.requests.length - asked).toBe(numRows - done);
  expect(text(at("parts.jsonl"))).toBe(expected);
  // Once more: nothing is asked.
  expect(await answer(server.baseUrl, { output: at("parts.jsonl") })).toMatchObject({ resumed: numRows });
  expect(server.requests.length - asked).toBe(numRows - done);
  expect(text(at("parts.jsonl"))).toBe(expected);
  const left = readdirSync(folder).filter((name) => /partial|lock/.test(name));
  expect(left).toEqual([]);
});

test("answerRows(): refused questions are told beside the output, and the others go on", async () => {
  await using server = await fakeChatServer(({ prompt, before }) => {
    if (prompt === promptOf(2)) return { status: 400, body: '{"error":{"message":"too long"}}' };
    if (prompt === promptOf(3)) return before === 0 ? { status: 500 } : undefined;
    if (prompt === promptOf(4)) return { status: 503, body: "busy" };
    if (prompt === promptOf(5)) return { status: 200, body: chatBody("cut", "length") };
    return undefined;
  });
  const report = await answer(server.baseUrl, { output: at("refused.jsonl"), concurrency: 1 });
  expect(report).toMatchObject({ written: numRows, answered: numRows - 2, failed: 2, cut: 1 });
  const errors = text(errorsPath(at("refused.jsonl")));
  expect(
    errors
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line)),
  ).toEqual([
    { index: 2, id: "q2", question: "Question 2?", status: 400, error: "the server answers 400: too long" },
    { index: 4, id: "q4", question: "Question 4?", status: 503, error: "after 3 tries: the server answers 503: busy" },
  ]);
  const lines = text(at("refused.jsonl")).split("\n");
  expect(lines[2]).toBe(JSON.stringify(row(2)));
  expect(JSON.parse(lines[3] as string).generated).toBe(fakeAnswer(promptOf(3)));
  expect(JSON.parse(lines[5] as string).generated).toBe("cut");
  // The output goes in again: only what has no answer is asked.
  const asked = server.requests.length;
  await using other = await fakeChatServer();
  const mended = await answer(other.baseUrl, { input: at("refused.jsonl"), output: at("mended.jsonl") });
  expect(mended).toMatchObject({ answered: 2, kept: numRows - 2, failed: 0 });
  expect([other.requests.length, server.requests.length]).toEqual([2, asked]);
});

test("answerRows(): answers that are there are kept, or replaced", async () => {
  write("had.jsonl", [row(0, { generated: "Mine." }), row(1)]);
  await using server = await fakeChatServer();
  const kept = await answer(server.baseUrl, { input: at("had.jsonl"), output: at("kept.jsonl") });
  expect(kept).toMatchObject({ answered: 1, kept: 1 });
  expect(JSON.parse(text(at("kept.jsonl")).split("\n")[0] as string).generated).toBe("Mine.");
  const all = await answer(server.baseUrl, { input: at("had.jsonl"), output: at("all.jsonl"), replace: true });
  expect(all).toMatchObject({ answered: 2, kept: 0 });
  expect(server.requests.length).toBe(3);
});

test("answerRows(): what concerns all questions ends the run, and the journal stays", async () => {
  let isValid = true;
  const body = '{"error":{"message":"Incorrect key sk-secret"}}';
  await using server = await fakeChatServer(({ prompt }) => {
    if (prompt === promptOf(9)) isValid = false;
    return isValid ? undefined : { status: 401, body };
  });
  const run = () => answer(server.baseUrl, { output: at("key.jsonl"), concurrency: 1 }, { apiKey: "sk-secret" });
  await expect(run()).rejects.toThrow(/^Cannot ask ".*": the server answers 401: Incorrect key …$/);
  expect(server.requests.length).toBe(10);
  isValid = true;
  await using good = await fakeChatServer();
  const report = await answer(good.baseUrl, { output: at("key.jsonl") }, { apiKey: "sk-secret" });
  expect(report).toMatchObject({ answered: numRows, resumed: 9 });
  for (const name of readdirSync(folder)) expect(text(at(name))).not.toContain("sk-secret");

  await using nowhere = await fakeChatServer(() => ({ status: 404, body: "no model" }));
  await expect(answer(nowhere.baseUrl, { output: at("nowhere.jsonl"), concurrency: 1 })).rejects.toThrow(
    "the server answers 404: no model",
  );
  expect(nowhere.requests.length).toBe(1);
  const down = answer(new URL("http://127.0.0.1:1/v1"), { output: at("down.jsonl") });
  await expect(down).rejects.toThrow("no answer after 3 tries");
});

test("answerRows(): rows that are none are counted, and their places stay free", async () => {
  writeFileSync(at("bad.jsonl"), `{no json\n${JSON.stringify(row(0))}\n{"question":"a"}\n${JSON.stringify(row(1))}\n`);
  await using server = await fakeChatServer();
  const report = await answer(server.baseUrl, { input: at("bad.jsonl"), output: at("bad-out.jsonl") });
  expect(report).toMatchObject({ rows: 4, written: 2, bad: 2, answered: 2 });
  expect(report.errors).toEqual([
    expect.stringMatching(/line 1/),
    expect.stringMatching(/"documents" is missing.*line 3/),
  ]);
  writeFileSync(at("none.jsonl"), "{no json\n");
  await expect(answer(server.baseUrl, { input: at("none.jsonl"), output: at("none-out.jsonl") })).rejects.toThrow(
    "Cannot answer: no row is left of 1",
  );
  expect(existsSync(at("none-out.jsonl"))).toBe(false);
});

test("answerRows(): other settings, another input, and two at once", async () => {
  await using server = await fakeChatServer(undefined, () => 5);
  await answer(server.baseUrl, { output: at("settled.jsonl") });
  const again = (more: Partial<AnswerOptions>, chat: Partial<ChatSettings> = {}) =>
    answer(server.baseUrl, { output: at("settled.jsonl"), ...more }, chat);
  await expect(again({}, { model: "n" })).rejects.toThrow('model was "m", now it is "n"; remove it to ask anew');
  await expect(again({ input: at("had.jsonl") })).rejects.toThrow(/input was \[".*"\], now it is/);
  expect(text(at("settled.jsonl"))).toBe(expected);
  const both = [again({ output: at("shared.jsonl") }), again({ output: at("shared.jsonl") })];
  const outcomes = await Promise.allSettled(both);
  expect(outcomes.filter(({ status }) => status === "fulfilled").length).toBe(1);
  expect(outcomes.find(({ status }) => status === "rejected")).toMatchObject({
    reason: { message: expect.stringMatching(/^Cannot write ".*shared\.jsonl": process \d+ does/) },
  });
});

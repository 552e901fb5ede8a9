import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { RagLine } from "./rag-line.js";
import { type QuestionRunOptions, runQuestions } from "./rag-run.js";
import type { Reply, Responder } from "./responder.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-run-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const lines: RagLine[] = Array.from({ length: 5 }, (_, i) => ({
  id: `q${i}`,
  kind: i % 2 === 0 ? "even" : "odd",
  question: `Question ${i}?`,
  answers: [`name${i}`],
  documents: [],
}));

/** Says the name of each question's number; the third is too long for it. Counts what it is asked. */
class FakeResponder implements Responder {
  readonly asked: (readonly [string | undefined, number])[] = [];
  constructor(readonly keepsPassages: boolean) {}

  async settings() {
    return { model: "fake" };
  }

  async ask({ id }: RagLine, maxTokens: number): Promise<Reply> {
    const again = this.asked.some(([one]) => one === id);
    this.asked.push([id, maxTokens]);
    if (id === "q3") return { kind: "refused", code: "too_long", message: "Cannot use the prompt: it is too long" };
    return {
      kind: "answered",
      text: `It is name${id?.slice(1)} — ok`,
      finishReason: "stop",
      promptTokens: 100,
      completionTokens: 4,
      cachedTokens: again ? 80 : 20,
      start: undefined,
      ttftMs: again ? 2 : 10,
      times: { total_ms: 20 },
    };
  }
}

function run(name: string, responder: Responder, more: Partial<QuestionRunOptions> = {}) {
  return runQuestions({
    responder,
    lines,
    folder: join(folder, name),
    maxTokens: 9,
    concurrency: 1,
    signal: new AbortController().signal,
    ...more,
  });
}

const bytesOf = (name: string, file = "answers.jsonl") => readFileSync(join(folder, name, file));

test("runQuestions(): a second asking for the first token alone, where passages are kept", async () => {
  const responder = new FakeResponder(true);
  const { answers, timings } = await run("again", responder, { asksAgain: true });
  const once = ["q0", "q1", "q2", "q4"];
  expect(responder.asked).toEqual([
    ...once.slice(0, 3).flatMap((id) => [
      [id, 9],
      [id, 1],
    ]),
    // What is refused is not asked again.
    ["q3", 9],
    ["q4", 9],
    ["q4", 1],
  ]);
  expect(timings[0]).toEqual({
    index: 0,
    promptTokens: 100,
    completionTokens: 4,
    cachedTokens: 20,
    start: "cold",
    ttftMs: 10,
    again: { cachedTokens: 80, start: "stored", ttftMs: 2 },
    concurrency: 1,
  });
  expect(timings[3]).toMatchObject({ index: 3, promptTokens: 0, cachedTokens: undefined, ttftMs: undefined });
  expect(answers[3]).toMatchObject({
    generated: "",
    errorCode: "too_long",
    error: expect.stringContaining("too long"),
  });

  const forgetful = new FakeResponder(false);
  await run("once", forgetful, { asksAgain: true });
  expect(forgetful.asked.length).toBe(5);
  // The second asking is no part of what is compared.
  expect(bytesOf("once")).toEqual(bytesOf("again"));
});

test("runQuestions(): cut off at any byte, it goes on to the same bytes and asks nothing twice", async () => {
  await run("whole", new FakeResponder(true), { asksAgain: true });
  const whole = bytesOf("whole");
  const times = bytesOf("whole", "timings.jsonl");
  const settings = bytesOf("whole", "run.json");
  for (let cut = 0; cut <= whole.length; cut += 37) {
    const name = `cut-${cut}`;
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, "run.json"), settings);
    writeFileSync(join(folder, name, "answers.jsonl"), whole.subarray(0, cut));
    // Times are written first, so at least as many of them are there.
    writeFileSync(join(folder, name, "timings.jsonl"), times);
    const responder = new FakeResponder(true);
    const numKept = whole.subarray(0, cut).toString("utf8").split("\n").length - 1;
    const { resumed, answers, timings } = await run(name, responder);
    expect(resumed).toBe(numKept);
    expect(responder.asked.map(([id]) => id)).toEqual(lines.slice(numKept).map(({ id }) => id));
    expect(bytesOf(name)).toEqual(whole);
    expect(answers.length).toBe(5);
    expect(timings.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4]);
  }
});

test("runQuestions(): a run of another length of answers is not gone on with", async () => {
  await run("settled", new FakeResponder(false));
  await expect(run("settled", new FakeResponder(false), { maxTokens: 10 })).rejects.toThrow(
    "max_tokens was 9, now it is 10",
  );
});

test("runQuestions(): a failure ends all lanes, and what was answered stays", async () => {
  class Failing extends FakeResponder {
    override async ask(line: RagLine, maxTokens: number): Promise<Reply> {
      if (line.id === "q2") throw new Error("Cannot go on: the device is gone");
      return super.ask(line, maxTokens);
    }
  }
  await expect(run("failing", new Failing(false), { concurrency: 2 })).rejects.toThrow("the device is gone");
  const left = bytesOf("failing").toString("utf8").trimEnd().split("\n");
  expect(left.map((text) => JSON.parse(text).id)).toEqual(["q0", "q1"]);
});

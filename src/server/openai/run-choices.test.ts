import { expect, test, vi } from "vitest";
import { EngineError } from "../../engine/engine-error.js";
import { FakeEngine } from "../fake-engine.suite.js";
import { type PromptRequest, runChoices } from "./run-choices.js";

const request: PromptRequest = { prompt: { prompt: "a" }, options: {} };
const never = new AbortController().signal;

test("runChoices(): each answer's events in order, all of them", async () => {
  const texts = ["", "", "", ""];
  const kinds: string[][] = [[], [], [], []];
  for await (const { index, event } of runChoices(new FakeEngine(), [request, request], 2, never)) {
    kinds[index]!.push(event.kind);
    if ("text" in event) texts[index] += event.text;
  }
  expect(texts).toEqual(Array(4).fill("The answer is 42."));
  expect(kinds).toEqual(Array(4).fill(["prompt", "token", "token", "token", "token", "done"]));
});

test("runChoices(): one event at most of each prompt waits for the reader", async () => {
  const engine = new FakeEngine({ endless: true });
  const generate = engine.generate.bind(engine);
  let numTaken = 0;
  engine.generate = async function* (...asked) {
    for await (const event of generate(...asked)) {
      numTaken += 1;
      yield event;
    }
  };
  const events = runChoices(engine, [request, request], 1, never);
  await events.next();
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(numTaken).toBeLessThanOrEqual(3);
  await events.return();
  await vi.waitFor(() => expect(engine.running).toBe(0));
});

test("runChoices(): leaving the loop, an abort and a failure cancel what runs", async () => {
  const leave = new FakeEngine({ endless: true });
  for await (const _ of runChoices(leave, [request, request], 1, never)) break;
  await vi.waitFor(() => expect([leave.running, leave.cancelled]).toEqual([0, 2]));

  const abort = new FakeEngine({ endless: true, tokenMs: 1 });
  const controller = new AbortController();
  const aborted = async () => {
    for await (const { event } of runChoices(abort, [request, request], 1, controller.signal)) {
      if (event.kind === "token") controller.abort(new Error("gone"));
    }
  };
  await expect(aborted()).rejects.toThrow("Cancelled: the client has gone");
  await vi.waitFor(() => expect(abort.running).toBe(0));

  const fail = new FakeEngine({ failAfter: { tokens: 1, error: new EngineError("failed", "Cannot go on: no") } });
  const failed = async () => {
    for await (const _ of runChoices(fail, [request, request], 1, never));
  };
  await expect(failed()).rejects.toThrow("Cannot go on: no");
  await vi.waitFor(() => expect(fail.running).toBe(0));
});

test("runChoices(): many answers listen to one signal without a warning", async () => {
  const engine = new FakeEngine();
  const generate = engine.generate.bind(engine);
  engine.generate = (prompt, options) => {
    options?.signal?.addEventListener("abort", () => undefined, { once: true });
    return generate(prompt, options);
  };
  const warnings: Error[] = [];
  const take = (warning: Error) => warnings.push(warning);
  process.on("warning", take);
  try {
    for await (const _ of runChoices(engine, Array(20).fill(request), 1, never));
    // Warnings come a turn later.
    await new Promise((resolve) => setImmediate(resolve));
  } finally {
    process.off("warning", take);
  }
  expect(warnings).toEqual([]);
});

import { expect, test, vi } from "vitest";
import { HostError, type HostGenerateRequest } from "../engine-host.js";
import { FakeHost } from "../fake-host.suite.js";
import { runChoices } from "./run-choices.js";

const request: HostGenerateRequest = { prompt: { prompt: "a" }, sampling: {}, salt: "", logprobs: false, echo: false };
const never = new AbortController().signal;

test("runChoices(): each answer's events in order, all of them", async () => {
  const texts = ["", "", ""];
  const kinds: string[][] = [[], [], []];
  for await (const { index, event } of runChoices(new FakeHost(), [request, request, request], never)) {
    kinds[index]!.push(event.kind);
    if ("text" in event) texts[index] += event.text;
  }
  expect(texts).toEqual(Array(3).fill("The answer is 42."));
  expect(kinds).toEqual(Array(3).fill(["prompt", "token", "token", "token", "token", "done"]));
});

test("runChoices(): one event at most of each answer waits for the reader", async () => {
  const host = new FakeHost({ endless: true });
  const generate = host.generate.bind(host);
  let numTaken = 0;
  host.generate = async function* (...asked) {
    for await (const event of generate(...asked)) {
      numTaken += 1;
      yield event;
    }
  };
  const events = runChoices(host, [request, request], never);
  await events.next();
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(numTaken).toBeLessThanOrEqual(3);
  await events.return();
  await vi.waitFor(() => expect(host.running).toBe(0));
});

test("runChoices(): leaving the loop, an abort and a failure cancel what runs", async () => {
  const leave = new FakeHost({ endless: true });
  for await (const _ of runChoices(leave, [request, request], never)) break;
  await vi.waitFor(() => expect([leave.running, leave.cancelled]).toEqual([0, 2]));

  const abort = new FakeHost({ endless: true, tokenMs: 1 });
  const controller = new AbortController();
  const aborted = async () => {
    for await (const { event } of runChoices(abort, [request, request], controller.signal)) {
      if (event.kind === "token") controller.abort(new Error("gone"));
    }
  };
  await expect(aborted()).rejects.toThrow("Cancelled: the client has gone");
  await vi.waitFor(() => expect(abort.running).toBe(0));

  const fail = new FakeHost({ failAfter: { tokens: 1, error: new HostError("failed", "Cannot go on: no") } });
  const failed = async () => {
    for await (const _ of runChoices(fail, [request, request], never));
  };
  await expect(failed()).rejects.toThrow("Cannot go on: no");
  await vi.waitFor(() => expect(fail.running).toBe(0));
});

test("runChoices(): many answers listen to one signal without a warning", async () => {
  const host = new FakeHost();
  const generate = host.generate.bind(host);
  host.generate = (asked, signal) => {
    signal?.addEventListener("abort", () => undefined, { once: true });
    return generate(asked, signal);
  };
  const warnings: Error[] = [];
  const take = (warning: Error) => warnings.push(warning);
  process.on("warning", take);
  try {
    for await (const _ of runChoices(host, Array(20).fill(request), never));
    // Warnings come a turn later.
    await new Promise((resolve) => setImmediate(resolve));
  } finally {
    process.off("warning", take);
  }
  expect(warnings).toEqual([]);
});

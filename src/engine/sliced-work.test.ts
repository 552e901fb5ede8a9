import { expect, test } from "vitest";
import type { Steps } from "../tokenizer/steps.js";
import { SlicedWork } from "./sliced-work.js";

const never = new AbortController().signal;

/** A clock that jobs move, and turns that the test takes. */
function byHand() {
  let ms = 0;
  const waiting: (() => void)[] = [];
  const work = new SlicedWork({ now: () => ms, nextTurn: (callback) => waiting.push(callback) });
  const log: string[] = [];
  function* job(name: string, numSteps: number, stepMs = 5): Steps<string> {
    for (let i = 0; i < numSteps; i++) {
      log.push(name);
      ms += stepMs;
      yield;
    }
    return name;
  }
  /** One turn of the event loop: what was put off to it, not what that puts off. */
  const turn = () => {
    const due = waiting.splice(0);
    for (const callback of due) callback();
    return due.length;
  };
  return { work, log, job, turn };
}

test("SlicedWork.run(): one slice a turn, whatever waits; short jobs take turns", async () => {
  const { work, log, job, turn } = byHand();
  const done = Promise.all([work.run(job("a", 2), never), work.run(job("b", 2), never), work.run(job("c", 1), never)]);
  expect(log).toEqual(["a"]);
  let numTurns = 0;
  while (turn() > 0) {
    numTurns += 1;
    expect(log.length).toBeLessThanOrEqual(numTurns + 1);
  }
  expect(log).toEqual(["a", "a", "b", "c", "b"]);
  expect(await done).toEqual(["a", "b", "c"]);
});

test("SlicedWork.run(): steps of less than a slice share a turn", async () => {
  const { work, log, job, turn } = byHand();
  const done = work.run(job("a", 10, 1), never);
  expect(log).toHaveLength(5);
  turn();
  expect(log).toHaveLength(10);
  while (turn() > 0);
  expect(await done).toBe("a");
});

test("SlicedWork.run(): long jobs one after the other, and a short one waits for two turns at most", async () => {
  const { work, log, job, turn } = byHand();
  const long = ["a", "b", "c"].map((name) => work.run(job(name, 100), never));
  for (let i = 0; i < 40; i++) turn();
  // Each was found to be long, then the first alone goes on.
  expect(log.slice(-20)).toEqual(new Array(20).fill("a"));
  const short = work.run(job("s", 1), never);
  turn();
  turn();
  expect(log.slice(-2)).toContain("s");
  while (turn() > 0);
  expect(await Promise.all([...long, short])).toEqual(["a", "b", "c", "s"]);
  expect(log.lastIndexOf("a")).toBeLessThan(log.lastIndexOf("b"));
  expect(log.lastIndexOf("b")).toBeLessThan(log.lastIndexOf("c"));
});

test("SlicedWork.run(): a cancel stops the job between two steps, and nothing of it is done again", async () => {
  const { work, log, job, turn } = byHand();
  const cancelling = new AbortController();
  const steps = job("a", 1000);
  const done = work.run(steps, cancelling.signal);
  turn();
  cancelling.abort(new Error("gone"));
  await expect(done).rejects.toThrow("gone");
  const numDone = log.length;
  while (turn() > 0);
  expect(log).toHaveLength(numDone);
  expect(steps.next()).toEqual({ done: true, value: undefined });
  await expect(work.run(job("b", 1), cancelling.signal)).rejects.toThrow("gone");
});

test("SlicedWork.run(): a job that throws ends alone", async () => {
  const { work, job, turn } = byHand();
  const broken = (function* (): Steps<void> {
    yield;
    throw new RangeError("broken");
  })();
  const [first, second] = [work.run(broken, never), work.run(job("a", 3), never)];
  const told = expect(first).rejects.toThrow("broken");
  while (turn() > 0);
  await told;
  expect(await second).toBe("a");
});

import { getEventListeners } from "node:events";
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import { Admission, type Entered, type Ticket } from "./admission.js";
import { ByteBudget } from "./byte-budget.js";

const never = () => new AbortController().signal;

/** Places are given away as soon as there are any, as they are by a scheduler that steps. */
function admissionOf(limits: { readonly maxRunning: number; readonly maxQueued: number }): Admission {
  const admission = new Admission(limits);
  admission.onWaiting = () => queueMicrotask(() => admission.admit());
  return admission;
}

const join = (admission: Admission, owner = "") => admission.join(owner)[0] as Ticket;

/** Joins and enters at once. */
async function enter(
  admission: Admission,
  { signal = never(), owner = "", tokens = 1 }: { signal?: AbortSignal; owner?: string; tokens?: number } = {},
): Promise<Ticket> {
  const ticket = join(admission, owner);
  await ticket.enter(tokens, signal).catch((error: unknown) => {
    ticket[Symbol.dispose]();
    throw error;
  });
  return ticket;
}

test("Admission: places go to those who wait, in their order, and beyond the line's end requests are turned away", async () => {
  const admission = admissionOf({ maxRunning: 2, maxQueued: 2 });
  const first = await enter(admission);
  const second = await enter(admission);
  const order: number[] = [];
  const waiting = [3, 4].map(async (n) => {
    using _ = await enter(admission);
    order.push(n);
  });
  expect(admission.counts.queued).toBe(2);
  expect(() => join(admission)).toThrow(
    expect.objectContaining({
      code: "queue_full",
      message: "Cannot take the request: 2 run and 2 wait, at most 2 may wait",
    }),
  );
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await Promise.all(waiting);
  expect(order).toEqual([3, 4]);
  expect(admission.counts.queued).toBe(0);
  second[Symbol.dispose]();
  using _third = await enter(admission);
  using _fourth = await enter(admission);
  expect(admission.counts.queued).toBe(0);
});

test("Admission: an abort leaves the line, and its place in it goes to the next", async () => {
  const admission = admissionOf({ maxRunning: 1, maxQueued: 2 });
  const first = await enter(admission);
  const controller = new AbortController();
  const left = enter(admission, controller);
  const next = enter(admission);
  controller.abort(new Error("enough"));
  await expect(left).rejects.toThrow("enough");
  expect(getEventListeners(controller.signal, "abort")).toEqual([]);
  expect(admission.counts.queued).toBe(1);
  first[Symbol.dispose]();
  (await next)[Symbol.dispose]();
  using _ = await enter(admission);
  await expect(enter(admission, { signal: AbortSignal.abort(new Error("gone")) })).rejects.toThrow("gone");
});

test("Admission.join(): those whose prompt is being made ready count, and find their place in the line again", async () => {
  const admission = admissionOf({ maxRunning: 1, maxQueued: 1 });
  const preparing = [join(admission), join(admission)];
  expect(() => join(admission)).toThrow("0 run and 2 wait");
  await preparing[1]!.enter(1, never());
  const waiting = preparing[0]!.enter(1, never());
  expect(() => join(admission)).toThrow("1 run and 1 wait");
  preparing[1]![Symbol.dispose]();
  await waiting;
  preparing[0]![Symbol.dispose]();
  expect(admission.counts.queued).toBe(0);
});

test("Admission: places go to the owner who was charged least, whoever came first", async () => {
  const admission = new Admission({ maxRunning: 2, maxQueued: 100 });
  const order: string[] = [];
  const running: Ticket[] = [];
  const ask = (owner: string, tokens: number) => {
    const ticket = join(admission, owner);
    void ticket.enter(tokens, never()).then(() => {
      order.push(owner);
      running.push(ticket);
    });
  };
  for (let i = 0; i < 6; i++) ask("a", 10);
  for (let i = 0; i < 3; i++) ask("b", 20);
  for (let i = 0; i < 10; i++) {
    running.shift()?.[Symbol.dispose]();
    admission.admit();
    await Promise.resolve();
  }
  // Twenty tokens of b's are as much as two answers of a's.
  expect(order.join("")).toBe("abaabaaba");
  for (const ticket of running) ticket[Symbol.dispose]();
  expect(admission.counts).toMatchObject({ queued: 0, running: 0, finished: 9 });
});

test("Admission: a rest earns nothing, and tokens that were not computed are not charged", async () => {
  const admission = admissionOf({ maxRunning: 1, maxQueued: 100 });
  using rester = join(admission, "b");
  for (let i = 0; i < 5; i++) (await enter(admission, { owner: "a", tokens: 10 }))[Symbol.dispose]();
  rester[Symbol.dispose]();
  const order: string[] = [];
  const first = await enter(admission, { owner: "a", tokens: 1000 });
  first.numTokens = 5;
  const wait = async (owner: string) => {
    using _ = await enter(admission, { owner, tokens: 10 });
    order.push(owner);
  };
  // b comes anew and starts where a stands: 50 tokens.
  const waiting = [wait("a"), wait("a"), wait("b"), wait("b"), wait("b")];
  first[Symbol.dispose]();
  await Promise.all(waiting);
  expect(order.join("")).toBe("babab");
});

test("Admission.join(): where one owner fills the line, another has its share of it", async () => {
  const admission = admissionOf({ maxRunning: 1, maxQueued: 4 });
  using _running = await enter(admission, { owner: "a" });
  const refused: unknown[] = [];
  const tickets = Array.from({ length: 4 }, () => join(admission, "a"));
  for (const ticket of tickets) {
    ticket.enter(1, never()).catch((error: unknown) => {
      refused.push(error);
      ticket.outcome = "failed";
      ticket[Symbol.dispose]();
    });
  }
  expect(() => join(admission, "a")).toThrow("1 run and 4 wait");
  const others = [join(admission, "b"), join(admission, "b")];
  expect(() => join(admission, "b")).toThrow("1 run and 4 wait");
  await new Promise((resolve) => setImmediate(resolve));
  // The newest make room, and those that have more than their share alone.
  expect(refused).toMatchObject([{ code: "queue_full" }, { code: "queue_full" }]);
  expect(admission.counts).toMatchObject({ queued: 4, running: 1, failed: 4 });
  for (const ticket of [...tickets, ...others]) ticket[Symbol.dispose]();
  expect(admission.counts.queued).toBe(0);
});

test("Admission.join(): the answers of a request that has begun stay together, and who has nothing is let in all the same", async () => {
  const admission = admissionOf({ maxRunning: 1, maxQueued: 3 });
  const [first, ...rest] = admission.join("a", 4);
  await first!.enter(1, never());
  using _other = join(admission, "b");
  expect(admission.counts).toMatchObject({ queued: 4, running: 1, failed: 0 });
  expect(() => join(admission, "b")).toThrow("1 run and 4 wait");
  for (const ticket of [first!, ...rest]) ticket[Symbol.dispose]();
});

test("Admission: a place comes with its memory, and who has memory does not wait for those who wait for it", async () => {
  const budget = new ByteBudget(10);
  const admission = new Admission({ maxRunning: 1, maxQueued: 9, budget });
  admission.onWaiting = () => queueMicrotask(() => admission.admit());
  const answers = admission.join("many answers", 2);
  const { room, waitMs } = await answers[0]!.enter(5, never(), 6);
  expect([budget.usedBytes, waitMs]).toEqual([6, 0]);
  const order: string[] = [];
  const told = (name: string, entering: Promise<Entered>) => entering.then(() => order.push(name));
  const other = join(admission, "other");
  const entering = other.enter(1, never(), 6);
  void told("other", entering);
  // It was charged less, but its bytes are not there.
  void told("second answer", answers[1]!.enter(5, never()));
  answers[0]![Symbol.dispose]();
  await nextTurn();
  expect(order).toEqual(["second answer"]);
  answers[1]![Symbol.dispose]();
  await nextTurn();
  expect(order).toEqual(["second answer"]);
  expect([admission.hasWaiting, admission.counts.queued]).toEqual([false, 1]);
  room[Symbol.dispose]();
  const entered = await entering;
  expect(entered.waitMs).toBeGreaterThan(0);
  expect(budget.usedBytes).toBe(6);
  // One who gives up at once leaves no bytes behind.
  const controller = new AbortController();
  const leaver = join(admission);
  const left = expect(leaver.enter(1, controller.signal, 4)).rejects.toThrow("enough");
  other[Symbol.dispose]();
  controller.abort(new Error("enough"));
  admission.admit();
  await left;
  expect([budget.usedBytes, admission.counts.running]).toEqual([6, 0]);
  entered.room[Symbol.dispose]();
});

test.each(["finished", undefined] as const)(
  "Admission: work that is done although its room was needed is counted as it ended: %s",
  async (outcome) => {
    const admission = admissionOf({ maxRunning: 1, maxQueued: 2 });
    using _running = await enter(admission, { owner: "a" });
    using _first = join(admission, "a");
    const second = join(admission, "a");
    second.outcome = outcome;
    using _other = join(admission, "b");
    expect(admission.counts).toMatchObject({ queued: 2, failed: 0 });
    second[Symbol.dispose]();
    second[Symbol.dispose]();
    expect(admission.counts).toMatchObject({ queued: 2, finished: outcome === undefined ? 0 : 1, failed: 0 });
    await expect(second.enter(1, never())).rejects.toMatchObject({ code: "queue_full" });
  },
);

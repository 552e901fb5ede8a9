import { expect, test } from "vitest";
import { errorFault, eventData, HttpClient, type Outcome } from "./http-client.js";
import { expectCleanLog, expectSettled, isAtRest, readAccounts } from "./server-laws.js";
import { childrenOf, isAlive, ServerUnderTest, sleep, until, withLimit } from "./server-under-test.js";

/** A client's place is free that soon after it went away, in ms. */
const maxDelayMs = 200;
// The machine may be busy: a delay counts where it comes again.
const timed = { retry: 3, timeout: 60_000 };

/** Runs to the end of the model's context, unless its client goes away. */
const longBody = { max_tokens: 1900, temperature: 0, logit_bias: { "1": -100 }, stream: true };
const longAnswer = { path: "/v1/completions", body: { ...longBody, prompt: "Once" } };

/** Words of a prompt of nearly the model's context. */
const longText = Array.from({ length: 900 }, (_, i) => `w${i % 97}`).join(" ");

/** What ends a server, its engine or its requests: signals, and clients that go away. */
export function signalsSuite(numTimes: number): void {
  test.skipIf(process.platform === "win32")("serve: SIGTERM ends running requests first", timed, async () => {
    await using server = await ServerUnderTest.start({ args: ["--drain-seconds", "20"] });
    using client = new HttpClient(server);
    const running = Array.from({ length: 4 }, (_, i) =>
      client.send({ ...longAnswer, body: { ...longAnswer.body, max_tokens: 300 + i } }),
    );
    await until("all run", 5000, async () => readAccounts(await server.metrics()).running === 4);
    const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
    expect(enginePids.length).toBeGreaterThan(0);
    server.kill("SIGTERM");
    await sleep(50);
    // New ones are refused, as a closed port or with an answer.
    using late = new HttpClient(server);
    for (const question of [longAnswer, { path: "/ready" }]) {
      const refused = await late.send(question);
      if (refused.kind === "answer") {
        expect(refused.status).toBe(503);
        expect(errorFault(refused.text) ?? "").toMatch(question === longAnswer ? /^$/ : /./);
      } else expect(refused.kind).toBe("broken");
    }
    for (const outcome of await Promise.all(running)) {
      expect(outcome).toMatchObject({ kind: "answer", status: 200 });
      expect(eventData((outcome as { text: string }).text).at(-1)).toBe("[DONE]");
    }
    expect(await withLimit("the server's end", 10_000, server.exited)).toEqual({ code: 0, signal: null });
    expect(enginePids.filter(isAlive)).toEqual([]);
    expectCleanLog(server.stderr);
  });

  test.skipIf(process.platform === "win32")("serve: what runs too long is ended with an error", timed, async () => {
    await using server = await ServerUnderTest.start({ args: ["--drain-seconds", "0"] });
    using client = new HttpClient(server);
    const streaming = client.send(longAnswer);
    const whole = client.send({ ...longAnswer, body: { ...longAnswer.body, stream: false } });
    await until("both run", 5000, async () => readAccounts(await server.metrics()).running === 2);
    const exit = await withLimit("the server's end", 10_000, server.stop());
    expect(exit).toEqual({ code: 0, signal: null });
    expectSeenEnd(await streaming);
    expectSeenEnd(await whole);
    expectCleanLog(server.stderr, { mayFail: true });
  });

  test.skipIf(process.platform === "win32")("serve: a second signal ends at once", timed, async () => {
    await using server = await ServerUnderTest.start({ args: ["--drain-seconds", "60"] });
    using client = new HttpClient(server);
    const running = client.send(longAnswer);
    await until("it runs", 5000, async () => readAccounts(await server.metrics()).running === 1);
    const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
    server.kill("SIGINT");
    await sleep(100);
    server.kill("SIGINT");
    const { code, signal } = await withLimit("the server's end", 2000, server.exited);
    expect(code ?? signal).not.toBe(0);
    expect((await running).kind).not.toBe("late");
    await until("its engine is gone", 2000, () => !enginePids.some(isAlive));
  });

  test.skipIf(process.platform === "win32")("serve: SIGTERM while the model is loading", timed, async () => {
    await using server = await ServerUnderTest.start({ waitReady: false });
    const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
    expect(await withLimit("the server's end", 10_000, server.stop())).toEqual({ code: 0, signal: null });
    expect(enginePids.filter(isAlive)).toEqual([]);
  });

  test.skipIf(process.platform === "win32")("serve: SIGKILL leaves no engine behind", timed, async () => {
    await using server = await ServerUnderTest.start();
    using client = new HttpClient(server);
    const running = client.send(longAnswer);
    await until("it runs", 5000, async () => readAccounts(await server.metrics()).running === 1);
    const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
    expect(enginePids.filter(isAlive)).toEqual(enginePids);
    server.kill("SIGKILL");
    await until("its engine is gone", 3000, () => !enginePids.some(isAlive));
    expect((await running).kind).toBe("broken");
  });

  test.each([
    ["decode", longAnswer],
    [
      "the final block",
      { path: "/v1/completions", body: { ...longBody, prompt: `${longText} `, block_attention: { mode: "full" } } },
    ],
    ["a block", { path: "/v1/completions", body: { ...longBody, block_attention: { blocks: [longText, "Once"] } } }],
    ["n answers", { path: "/v1/completions", body: { ...longBody, prompt: "Once", n: 4, temperature: 1 } }],
    [
      "an answer that is not streamed",
      { path: "/v1/completions", body: { ...longBody, prompt: "Once", stream: false } },
    ],
    ["/generate", { path: "/generate", body: { prompt: longText, stream: true } }],
    ["encoding", { path: "/v1/blocks", body: { passages: Array.from({ length: 40 }, (_, i) => `${i} ${longText}`) } }],
  ])("serve: a client that goes away during %s frees its place", timed, async (_, question) => {
    await using server = await ServerUnderTest.start();
    using client = new HttpClient(server);
    for (let i = 0; i < numTimes; i++) {
      // The prompt differs each time, so that nothing of it is there already.
      const leaving = client.send({ ...question, leaveAfterMs: 60 + 37 * i });
      expect((await leaving).kind).toBe("left");
      const leftAt = performance.now();
      await until("its place is free", 5000, async () => isAtRest(readAccounts(await server.metrics())));
      expect(performance.now() - leftAt).toBeLessThan(maxDelayMs);
    }
    await expectSettled(server);
    expectCleanLog(server.stderr);
  });

  test("serve: a client that goes away while it waits frees its place", timed, async () => {
    await using server = await ServerUnderTest.start({ args: ["--max-running", "1", "--max-queued", "1"] });
    using client = new HttpClient(server, undefined, 5000);
    const running = client.send({ ...longAnswer, leaveAfterMs: 2500 });
    await until("one runs", 2000, async () => readAccounts(await server.metrics()).running === 1);
    for (let i = 0; i < Math.min(numTimes, 5); i++) {
      const waiting = client.send({ ...longAnswer, leaveAfterMs: 150 });
      await until("one waits", 150, async () => readAccounts(await server.metrics()).queued === 1);
      expect((await waiting).kind).toBe("left");
      const leftAt = performance.now();
      await until("its place is free", 5000, async () => readAccounts(await server.metrics()).queued === 0);
      expect(performance.now() - leftAt).toBeLessThan(maxDelayMs);
    }
    await running;
    await expectSettled(server);
    expectCleanLog(server.stderr);
  });
}

/** The client saw an error in the request's own protocol. */
function expectSeenEnd(outcome: Outcome): void {
  expect(outcome.kind).toBe("answer");
  if (outcome.kind !== "answer") return;
  const text = outcome.status === 200 ? eventData(outcome.text).at(-1) : outcome.text;
  expect(errorFault(text ?? "")).toBeUndefined();
}

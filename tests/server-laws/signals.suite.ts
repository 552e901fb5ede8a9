import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { expectInTime } from "../in-time.js";
import { errorFault, eventData, HttpClient, type Outcome, type Question } from "./http-client.js";
import { expectCleanLog, expectSettled, isAtRest, readAccounts } from "./server-laws.js";
import { childrenOf, isAlive, ServerUnderTest, sleep, until, withLimit } from "./server-under-test.js";

/** A client's place is free that soon after it went away, in ms. */
const maxDelayMs = 200;
// Room for attempts on a busy machine.
const patient = { timeout: 120_000 };

/** Runs to the end of the model's context, unless its client goes away. */
const longBody = { max_tokens: 1900, temperature: 0, logit_bias: { "1": -100 }, stream: true };
const longAnswer = { path: "/v1/completions", body: { ...longBody, prompt: "Once" } };

/** A prompt of nearly the model's context. */
const longText = "The director of the film was born in the city. ".repeat(150);

/** What ends a server, its engine or its requests: signals, and clients that go away. */
export function signalsSuite(numTimes: number): void {
  test.skipIf(process.platform === "win32")("serve: SIGTERM ends running requests first", patient, async () => {
    await using server = await ServerUnderTest.start({ args: ["--drain-seconds", "20"] });
    using client = new HttpClient(server);
    const running = Array.from({ length: 4 }, (_, i) =>
      client.send({ ...longAnswer, body: { ...longAnswer.body, max_tokens: 300 + i } }),
    );
    await until("all run", 15_000, async () => readAccounts(await server.metrics()).running === 4);
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
        expect(errorFault(refused.text)).toBeUndefined();
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

  test.skipIf(process.platform === "win32")(
    "serve: SIGHUP reads the keys anew, and touches nothing else",
    patient,
    async () => {
      const [gone, stays, comes] = ["goes", "stays", "comes"].map((what) => `key-that-${what}-0123456789`) as [
        string,
        string,
        string,
      ];
      await using server = await ServerUnderTest.start({ keys: [gone, stays] });
      using goneClient = new HttpClient(server, gone);
      using staysClient = new HttpClient(server, stays);
      using comesClient = new HttpClient(server, comes);
      const statuses = async () => {
        const asked = [goneClient, staysClient, comesClient].map((client) => client.ask({ path: "/v1/models" }));
        return (await Promise.all(asked)).map(({ status }) => status);
      };
      const logged = (text: string) => until(text, 15_000, () => server.stderr.includes(text));
      expect(await statuses()).toEqual([200, 200, 401]);
      const engine = server.engineProcess()?.pid;
      const { blocks } = await goneClient.json<{ blocks: { id: string }[] }>({
        path: "/v1/blocks",
        body: { passages: ["A passage of the key that goes."] },
      });
      const path = `/v1/blocks/${blocks[0]?.id}`;
      const running = goneClient.send(longAnswer);
      await until("it runs", 15_000, async () => readAccounts(await server.metrics(stays)).running === 1);

      writeFileSync(server.keysFile, `${stays} and more\n`);
      server.kill("SIGHUP");
      await logged("the keys stay as they were");
      expect(server.stderr).toContain("line 1 is not one key");
      expect(await statuses()).toEqual([200, 200, 401]);

      writeFileSync(server.keysFile, `${stays}\n${comes}\n`);
      server.kill("SIGHUP");
      await logged("the keys were read anew");
      expect(await statuses()).toEqual([401, 200, 200]);
      for (const client of [staysClient, comesClient]) expect((await client.ask({ path })).status).toBe(404);
      // What ran goes on to its end.
      const outcome = await running;
      expect(outcome).toMatchObject({ kind: "answer", status: 200 });
      expect(eventData((outcome as { text: string }).text).at(-1)).toBe("[DONE]");
      expect(server.engineProcess()?.pid).toBe(engine);
      for (const key of [gone, stays, comes]) expect(server.stderr).not.toContain(key);
      expect(await withLimit("the server's end", 10_000, server.stop())).toEqual({ code: 0, signal: null });
    },
  );

  test.skipIf(process.platform === "win32")("serve: what runs too long is ended with an error", patient, async () => {
    await using server = await ServerUnderTest.start({ args: ["--drain-seconds", "0"] });
    using client = new HttpClient(server);
    const streaming = client.send(longAnswer);
    const whole = client.send({ ...longAnswer, body: { ...longAnswer.body, stream: false } });
    await until("both run", 15_000, async () => readAccounts(await server.metrics()).running === 2);
    const exit = await withLimit("the server's end", 10_000, server.stop());
    expect(exit).toEqual({ code: 0, signal: null });
    expectSeenEnd(await streaming);
    expectSeenEnd(await whole);
    expectCleanLog(server.stderr, { mayFail: true });
  });

  test.skipIf(process.platform === "win32")("serve: a second signal ends at once", patient, () =>
    expectInTime(2000, async () => {
      await using server = await ServerUnderTest.start({ args: ["--drain-seconds", "60"] });
      using client = new HttpClient(server);
      const running = client.send(longAnswer);
      await until("it runs", 15_000, async () => readAccounts(await server.metrics()).running === 1);
      const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
      server.kill("SIGINT");
      await sleep(100);
      server.kill("SIGINT");
      const signalledAt = performance.now();
      const { code, signal } = await withLimit("the server's end", 15_000, server.exited);
      expect(code ?? signal).not.toBe(0);
      await until("its engine is gone", 15_000, () => !enginePids.some(isAlive));
      const tookMs = performance.now() - signalledAt;
      expect((await running).kind).not.toBe("late");
      return tookMs;
    }),
  );

  test.skipIf(process.platform === "win32")("serve: SIGTERM while the model is loading", patient, async () => {
    await using server = await ServerUnderTest.start({ waitReady: false });
    const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
    expect(await withLimit("the server's end", 10_000, server.stop())).toEqual({ code: 0, signal: null });
    expect(enginePids.filter(isAlive)).toEqual([]);
  });

  test.skipIf(process.platform === "win32")("serve: SIGKILL leaves no engine behind", patient, () =>
    expectInTime(3000, async () => {
      await using server = await ServerUnderTest.start();
      using client = new HttpClient(server);
      const running = client.send(longAnswer);
      await until("it runs", 15_000, async () => readAccounts(await server.metrics()).running === 1);
      const enginePids = childrenOf(server.pid).map(({ pid }) => pid);
      expect(enginePids.length).toBeGreaterThan(0);
      expect(enginePids.filter(isAlive)).toEqual(enginePids);
      server.kill("SIGKILL");
      const killedAt = performance.now();
      await until("its engine is gone", 15_000, () => !enginePids.some(isAlive));
      const tookMs = performance.now() - killedAt;
      expect((await running).kind).toBe("broken");
      return tookMs;
    }),
  );

  test("serve: a client that goes away frees its place, whatever its request does", { timeout: 600_000 }, async () => {
    await using server = await ServerUnderTest.start();
    using client = new HttpClient(server);
    let numSent = 0;
    /** Differs each time, so that nothing of it is there already. */
    const fresh = () => `${numSent++} ${longText}`;
    const completion = (body: object) => ({ path: "/v1/completions", body: { ...longBody, ...body } });
    const questions: Readonly<Record<string, () => Question>> = {
      decode: () => longAnswer,
      "the final block": () => completion({ prompt: fresh(), block_attention: { mode: "full" } }),
      "a block": () => completion({ block_attention: { blocks: [fresh(), "Once"] } }),
      "n answers": () => completion({ prompt: "Once", n: 4, temperature: 1 }),
      "an answer that is not streamed": () => completion({ prompt: "Once", stream: false }),
      "/generate": () => ({ path: "/generate", body: { prompt: fresh(), stream: true } }),
      encoding: () => ({ path: "/v1/blocks", body: { passages: Array.from({ length: 20 }, fresh) } }),
    };
    for (const [name, draw] of Object.entries(questions)) {
      for (let i = 0; i < numTimes; i++) {
        const leave = async () => {
          const outcome = await client.send({ ...draw(), leaveAfterMs: 30 + ((37 * i) % 300) });
          expect(outcome, name).toMatchObject({ kind: "left" });
          return msUntil(name, async () => isAtRest(readAccounts(await server.metrics())));
        };
        await expectInTime(maxDelayMs, leave, name);
      }
    }
    await expectSettled(server);
    expectCleanLog(server.stderr);
  });

  test("serve: a client that goes away while it waits frees its place", { timeout: 600_000 }, async () => {
    await using server = await ServerUnderTest.start({ args: ["--max-running", "1", "--max-queued", "1"] });
    using client = new HttpClient(server);
    const accounts = async () => readAccounts(await server.metrics());
    for (let i = 0; i < Math.min(numTimes, 5); i++) {
      await expectInTime(maxDelayMs, async () => {
        await until("all is at rest", 10_000, async () => isAtRest(await accounts()));
        // It leaves after the other, which must wait till then.
        void client.send({ ...longAnswer, leaveAfterMs: 1500 });
        await until("one runs", 1000, async () => (await accounts()).running === 1);
        const waiting = client.send({ ...longAnswer, leaveAfterMs: 300 });
        await until("one waits", 300, async () => (await accounts()).queued === 1);
        expect(await waiting).toEqual({ kind: "left" });
        return msUntil("one that waited", async () => (await accounts()).queued === 0);
      });
    }
    await expectSettled(server);
    expectCleanLog(server.stderr);
  });
}

/** How long from now until a client's place is free. */
async function msUntil(name: string, isFree: () => Promise<boolean>): Promise<number> {
  const leftAt = performance.now();
  await until(`the place of ${name} is free`, 10_000, isFree);
  return performance.now() - leftAt;
}

/** The client saw an error in the request's own protocol. */
function expectSeenEnd(outcome: Outcome): void {
  expect(outcome.kind).toBe("answer");
  if (outcome.kind !== "answer") return;
  const text = outcome.status === 200 ? eventData(outcome.text).at(-1) : outcome.text;
  expect(errorFault(text ?? "")).toBeUndefined();
}

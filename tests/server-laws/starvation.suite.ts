import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { HttpClient, type Outcome, type Question } from "./http-client.js";
import { expectCleanLog, expectSettled } from "./server-laws.js";
import { ServerUnderTest, sleep } from "./server-under-test.js";

/** How large attacks are: bodies of so many bytes, so many requests at once. */
export interface StarvationSizes {
  readonly bodyBytes: number;
  readonly numRequests: number;
  /** Of bodies that come together, as many as there are places. Default: that law is left out. */
  readonly numAtOnce?: number;
}

/** What either process may have of memory, however much comes: about four times what bodies may have in all. */
const maxProcessBytes = 1.5e9;

/** A stranger's request is admitted within so many graphs of the engine, whatever others ask for. */
const maxGraphs = 64;
/** Places among those that run, which are given in the order of coming, and the tokens of a long answer, each of which has one. */
const numPlaces = 32;
const numLongTokens = 40;

/** Those that are not just refused: they go on while the stranger is served. */
const longAttacks = new Set(["digits at /v1/tokenize", "one word at /v1/tokenize", "passages to index"]);

/** Requests that are all legal and large, of ten kinds. */
function attacks({ bodyBytes, numRequests }: StarvationSizes): Readonly<Record<string, readonly Question[]>> {
  const fill = (text: string, bytes = bodyBytes) => text.repeat(Math.floor(bytes / (JSON.stringify(text).length - 2)));
  const many = (question: (i: number) => Question, count = numRequests) =>
    Array.from({ length: count }, (_, i) => question(i));
  const tokenize = (text: string): Question => ({ path: "/v1/tokenize", body: { text } });
  const completion = (body: object): Question => ({ path: "/v1/completions", body: { temperature: 0, ...body } });
  const messages = (count: number) =>
    Array.from({ length: count }, (_, i) => ({
      role: i % 2 === 0 ? "user" : "assistant",
      content: fill("ab c ", bodyBytes / count - 50),
    }));
  return {
    "digits at /v1/tokenize": many(() => tokenize(fill("1234567890"))),
    "one word at /v1/tokenize": many(() => tokenize(fill("a")), Math.ceil(numRequests / 4)),
    "64 answers to a long prompt": many(() => completion({ prompt: fill("word "), n: 64 }), 2),
    "a prompt of short lines": many(() => completion({ prompt: fill("a\n") })),
    "a conversation of many messages": many(() => ({
      path: "/v1/chat/completions",
      body: { messages: messages(1023) },
    })),
    "very many documents": many(() => ({
      path: "/v1/chat/completions",
      body: {
        documents: Array.from({ length: 1024 }, () => ({ title: "t", text: fill("ab ", bodyBytes / 1024 - 50) })),
        messages: [{ role: "user", content: "Why?" }],
      },
    })),
    "very many token ids": many(() => completion({ prompt: new Array(Math.floor(bodyBytes / 2)).fill(1) })),
    "echoes with log-probabilities": many(
      () => completion({ prompt: "The red key. ".repeat(20), n: 8, echo: true, logprobs: 20, max_tokens: 2 }),
      4,
    ),
    "passages to index": many(
      (k) => ({
        path: "/v1/blocks",
        body: { passages: Array.from({ length: 24 }, (_, i) => `passage ${k} ${i} ${"of some length ".repeat(40)}`) },
      }),
      4,
    ),
    "long answers": many((i) => completion({ prompt: `Tell me ${i}`, max_tokens: numLongTokens, n: 4 })),
  };
}

export function registerStarvationTests(sizes: StarvationSizes): void {
  describe("no valid request keeps strangers waiting", () => {
    let server: ServerUnderTest;
    beforeAll(async () => {
      server = await ServerUnderTest.start();
    });
    afterAll(async () => {
      await expectSettled(server, undefined, 60_000);
      expect((await server.metrics()).value("block_attention_engine_restarts_total")).toBe(0);
      await server[Symbol.asyncDispose]();
      expectCleanLog(server.stderr);
    });

    for (const [name, questions] of Object.entries(attacks(sizes))) {
      test(name, async () => {
        using attacker = new HttpClient(server);
        using stranger = new HttpClient(server);
        let numOver = 0;
        const attack = questions.map((question) =>
          attacker.send(question).then((outcome) => {
            numOver += 1;
            return outcome;
          }),
        );
        const before = await numGraphs(server);
        const small = { path: "/v1/completions", body: { prompt: "a b", max_tokens: 1, temperature: 0 } };
        const [health, answer] = await Promise.all([stranger.send({ path: "/health" }), stranger.send(small)]);
        const numOverBefore = numOver;
        const numBetween = (await numGraphs(server)) - before;
        expect(statusOf(health)).toBe(200);
        expect(statusOf(answer)).toBe(200);
        const numTurns = name === "long answers" ? Math.floor((4 * questions.length) / numPlaces) : 0;
        expect(numBetween).toBeLessThanOrEqual(maxGraphs + numTurns * numLongTokens);
        for (const outcome of await Promise.all(attack)) expect([200, 400]).toContain(statusOf(outcome));
        // The stranger did not wait for the attack to be over.
        if (longAttacks.has(name)) expect(numOverBefore).toBeLessThan(questions.length);
      });
    }

    const { numAtOnce = 0, bodyBytes } = sizes;
    test.skipIf(numAtOnce === 0)(`${numAtOnce} large bodies at once fill no memory`, async () => {
      using attacker = new HttpClient(server);
      const ofBytes = (text: string, bytes: number) => text.repeat(Math.floor(bytes / text.length));
      const bodies = {
        "/v1/tokenize": { text: ofBytes("1234567890", bodyBytes) },
        "/v1/completions": { prompt: new Array(64).fill(ofBytes("word ", bodyBytes / 64 - 10)) },
        "/generate": { blocks: new Array(1024).fill(ofBytes("w ", bodyBytes / 1024 - 10)) },
        "/v1/blocks": { passages: [{ text: "x", metadata: { a: ofBytes("m", bodyBytes - 100) } }] },
      };
      for (const [path, body] of Object.entries(bodies)) {
        const payload = Buffer.from(JSON.stringify(body));
        let numLeft = numAtOnce;
        const attack = Array.from({ length: numAtOnce }, async () => {
          const outcome = await attacker.send({ path, body: payload });
          numLeft -= 1;
          return outcome;
        });
        let mostBytes = 0;
        while (numLeft > 0) {
          mostBytes = Math.max(mostBytes, server.rssBytes(), server.engineProcess()?.rssBytes ?? 0);
          await sleep(50);
        }
        for (const outcome of await Promise.all(attack)) expect([200, 400, 503]).toContain(statusOf(outcome));
        expect(mostBytes, path).toBeLessThan(maxProcessBytes);
      }
    });
  });
}

function statusOf(outcome: Outcome): number | string {
  return outcome.kind === "answer" ? outcome.status : outcome.kind;
}

async function numGraphs(server: ServerUnderTest): Promise<number> {
  return (await server.metrics()).sum("block_attention_engine_graphs_total");
}

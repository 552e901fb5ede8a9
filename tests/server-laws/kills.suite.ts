import { expect, test } from "vitest";
import { Random } from "../models/random.js";
import { errorFault, eventData, HttpClient } from "./http-client.js";
import { expectCleanLog, expectSettled, readAccounts } from "./server-laws.js";
import { killProcess, ServerUnderTest, sleep, until } from "./server-under-test.js";

const documents = [
  { title: "Selma", text: "Selma was a Swedish novelist. She was born in Värmland." },
  { title: "Edvard", text: "Edvard was a Norwegian composer. He was born in Bergen." },
];
const probe = {
  messages: [{ role: "user", content: "Where was Edvard born?" }],
  documents,
  temperature: 0,
  max_tokens: 24,
};

/** A request ends that soon, whatever happens to the engine, in ms. */
const requestLimitMs = 20_000;
/** The engine is there again that soon, back-off included, in ms. */
const restartLimitMs = 60_000;

/** The engine's process is killed under load: no request hangs, the server lives, answers are right afterwards. */
export function killsSuite(numKills: number): void {
  // From the ninth death on, the back-off is 30 s.
  const timed = { timeout: 60_000 + numKills * 40_000 };
  test.skipIf(process.platform === "win32")(
    "serve: the engine's process is killed again and again",
    timed,
    async () => {
      await using server = await ServerUnderTest.start();
      using client = new HttpClient(server, undefined, requestLimitMs);
      const answer = async () => {
        const { choices } = await client.json<{ choices: { message: { content: string } }[] }>({
          path: "/v1/chat/completions",
          body: probe,
        });
        return choices[0]?.message.content;
      };
      const expected = await answer();
      const random = new Random(20, "kills");
      const ends = { answered: 0, refused: 0, died: 0, cut: 0 };
      const faults: string[] = [];
      let isOver = false;

      const runClient = async (index: number) => {
        using client = new HttpClient(server, undefined, requestLimitMs);
        const drawn = new Random(index, "kills");
        while (!isOver) {
          const stream = drawn.below(2) === 0;
          // Long answers: a kill finds requests in every state.
          const body = { ...probe, stream, max_tokens: 1 + drawn.below(400), logit_bias: { "1": -100 } };
          const outcome = await client.send({ path: "/v1/chat/completions", body });
          if (outcome.kind !== "answer") faults.push(outcome.kind === "broken" ? outcome.message : outcome.kind);
          else if (outcome.status === 503) ends.refused++;
          else if (outcome.status === 500) ends.died++;
          else if (outcome.status !== 200) faults.push(`status ${outcome.status}: ${outcome.text}`);
          else if (!stream || eventData(outcome.text).at(-1) === "[DONE]") ends.answered++;
          else {
            ends.cut++;
            // In mid-stream the error is the last that comes.
            const wrong = errorFault(eventData(outcome.text).at(-1) ?? "");
            if (wrong !== undefined) faults.push(wrong);
          }
          if (outcome.kind === "answer" && outcome.status !== 200) {
            const wrong = errorFault(outcome.text);
            if (wrong !== undefined) faults.push(wrong);
            await sleep(20);
          }
        }
      };
      const clients = Array.from({ length: 6 }, (_, i) => runClient(i));

      try {
        for (let kill = 1; kill <= numKills; kill++) {
          await sleep(200 + random.below(400));
          const engine = server.engineProcess();
          expect(engine).toBeDefined();
          expect(killProcess(engine?.pid ?? 0)).toBe(true);
          let wasUnready = false;
          await until("the engine is there again", restartLimitMs, async () => {
            const { status } = await client.ask({ path: "/ready" });
            wasUnready ||= status === 503;
            return wasUnready && status === 200;
          });
          expect((await client.ask({ path: "/health" })).status).toBe(200);
          expect(readAccounts(await server.metrics()).restarts).toBe(kill);
          expect(server.engineProcess()?.pid).not.toBe(engine?.pid);
        }
      } finally {
        isOver = true;
        await Promise.all(clients);
      }
      expect(faults).toEqual([]);
      console.log(`${numKills} kills: ${JSON.stringify(ends)}`);
      expect(ends.answered).toBeGreaterThan(0);
      expect(ends.died + ends.cut).toBeGreaterThan(0);
      expect(await answer()).toBe(expected);
      await expectSettled(server);
      expectCleanLog(server.stderr, { mayFail: true });
      expect(await server.stop()).toEqual({ code: 0, signal: null });
    },
  );
}

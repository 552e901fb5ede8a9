import fc from "fast-check";
import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { FrameReplacedError, type JsonPatchOperation, StateSession } from "../../src/index.js";
import { LawModels, lawEngine, noEnd } from "./law-models.js";

interface Player {
  seat: number;
  name: string;
  chips: { bet: number; remain: number };
}

export interface Table {
  board: string[];
  history: string[];
  players: Player[];
  pot: number;
}

const player = fc.record({
  seat: fc.nat(9),
  name: fc.constantFrom("Ann", "Bo", "Cleo", "Dan"),
  chips: fc.record({ bet: fc.nat(10_000), remain: fc.nat(100_000) }),
});
const table: fc.Arbitrary<Table> = fc.record({
  board: fc.uniqueArray(fc.constantFrom("Ah", "Kd", "2c", "9s", "Td"), { maxLength: 5 }),
  history: fc.array(fc.constantFrom("Ann folds", "Bo calls 40", "Cleo raises to 120"), { maxLength: 6 }),
  players: fc.uniqueArray(player, { minLength: 2, maxLength: 6, selector: ({ seat }) => seat }),
  pot: fc.nat(10_000),
});

/** One edit of a table, as a function of it. */
const edit = fc.oneof(
  fc.nat(100_000).map((pot) => ({ kind: "pot", pot }) as const),
  fc.record({ kind: fc.constant("bet" as const), at: fc.nat(), bet: fc.nat(1_000_000) }),
  fc.record({ kind: fc.constant("join" as const), at: fc.nat(), player }),
  fc.record({ kind: fc.constant("leave" as const), at: fc.nat() }),
  fc.constantFrom("Ann folds", "Dan checks").map((line) => ({ kind: "history", line }) as const),
);
type Edit = typeof edit extends fc.Arbitrary<infer E> ? E : never;

function edited(before: Table, change: Edit): Table {
  const after = structuredClone(before);
  const { players } = after;
  switch (change.kind) {
    case "pot":
      after.pot = change.pot;
      return after;
    case "bet":
      if (players.length > 0) (players[change.at % players.length] as Player).chips.bet = change.bet;
      return after;
    case "join":
      if (!players.some(({ seat }) => seat === change.player.seat)) {
        players.splice(change.at % (players.length + 1), 0, change.player);
      }
      return after;
    case "leave":
      if (players.length > 1) players.splice(change.at % players.length, 1);
      return after;
    case "history":
      after.history.push(change.line);
      return after;
    default:
      return change satisfies never;
  }
}

const few = { maxTokens: 3, logitBias: noEnd };

/** What a session must hold, whatever becomes of a state. */
export function stateSessionSuite(numRuns: number): void {
  const models = new LawModels();
  const model = () => models.huggingFace({ architecture: "llama", contextLength: 4096, seed: 71 });

  test("StateSession: only new texts are computed, put together they are the state, and answers equal an engine's without a store", async () => {
    await using engine = await lawEngine(model());
    await using bare = await lawEngine(model(), { storeBytes: 0, keepPrefixes: false });
    await fc.assert(
      fc.asyncProperty(table, fc.array(edit, { minLength: 1, maxLength: 4 }), async (first, edits) => {
        const options = { keyFields: ["seat"], salt: String(Math.random()) };
        await using session = new StateSession(engine, options);
        await using other = new StateSession(bare, options);
        let state = first;
        let texts: readonly string[] = [];
        // A text that comes back is still there: there are fewer frames than are kept.
        const seen = new Set<string>();
        for (const change of [undefined, ...edits]) {
          if (change) state = edited(state, change);
          const before = new Set(texts);
          const report = session.update({ state });
          other.update({ json: JSON.stringify(state) });
          texts = session.texts;
          expect(JSON.parse(texts.join(""))).toEqual(state);
          expect(other.texts).toEqual(texts);
          // The same text twice is one block.
          const numNew = new Set(texts.filter((text) => !before.has(text))).size;
          expect(report.numNewBlocks).toBeGreaterThanOrEqual(numNew);
          if (change && change.kind !== "history") expect(numNew).toBeLessThanOrEqual(3);
          const [answer, again, wanted] = await Promise.all([
            session.ask("Who leads?", few),
            session.ask("Who acts, and what is the pot?", few),
            other.ask("Who leads?", few),
          ]);
          // The template's text before the state is a block too, of the first frame.
          const isFirst = change === undefined;
          const numComputed = new Set([...answer.blocks, ...again.blocks].flatMap(({ id, hit }) => (hit ? [] : [id])))
            .size;
          const numUnseen = new Set(texts.filter((text) => !seen.has(text))).size;
          for (const text of texts) seen.add(text);
          expect(numComputed).toBe(numUnseen + (isFirst ? 1 : 0));
          expect(answer.tokenIds).toEqual(wanted.tokenIds);
          expect(answer.computed.tokens).toBe(
            answer.blocks.reduce((sum, { hit, tokens }) => sum + (hit ? 0 : tokens), 0),
          );
        }
      }),
      { numRuns },
    );
  });

  test("StateSession: a patch and the whole state it makes are the same frame", async () => {
    await using engine = await lawEngine(model());
    await using session = new StateSession(engine, { keyFields: ["seat"] });
    const state = {
      players: [
        { seat: 1, bet: 5 },
        { seat: 2, bet: 5 },
      ],
      pot: 10,
    };
    const patch: JsonPatchOperation[] = [
      { op: "replace", path: "/players/0/bet", value: 15 },
      { op: "add", path: "/players/-", value: { seat: 3, bet: 0 } },
    ];
    session.update({ state });
    const { changes, frame } = session.update({ patch });
    expect([frame, changes]).toEqual([
      2,
      [
        { kind: "changed", path: "/players/0/bet" },
        { kind: "added", path: "/players/2" },
      ],
    ]);
    // The caller's own state may change after it was handed over.
    state.pot = 99;
    expect(JSON.parse(session.texts.join(""))).toEqual({
      players: [
        { seat: 1, bet: 15 },
        { seat: 2, bet: 5 },
        { seat: 3, bet: 0 },
      ],
      pot: 10,
    });
    const texts = session.texts;
    expect(() =>
      session.update({
        patch: [
          { op: "remove", path: "/pot" },
          { op: "remove", path: "/pot" },
        ],
      }),
    ).toThrow(/operation 2/);
    expect(session.texts).toBe(texts);
  });

  test("StateSession: blocks that left the state are deleted, those that others computed and those that are new stay", async () => {
    await using engine = await lawEngine(model());
    const numBlocks = () => engine.stats().store.numBlocks;
    const stateAt = (pot: number) => ({
      players: Array.from({ length: 4 }, (_, seat) => ({ seat, bet: 1000 + seat })),
      pot,
    });
    const other = new StateSession(engine, { keyFields: ["seat"] });
    other.update({ state: stateAt(0) });
    await other.ask("Who leads?", few);
    const base = numBlocks();
    {
      await using session = new StateSession(engine, { keyFields: ["seat"], keepFrames: 3 });
      for (let pot = 0; pot < 12; pot++) {
        session.update({ state: stateAt(pot) });
        const { computed } = await session.ask("Who leads?", few);
        expect(computed.blocks).toBe(pot === 0 ? 0 : 1);
        expect(numBlocks()).toBe(base + Math.min(pot, pot < 3 ? 2 : 3));
      }
    }
    expect(numBlocks()).toBe(base);
    await other[Symbol.asyncDispose]();
    expect(numBlocks()).toBe(0);
  });

  test("StateSession: the newest frame replaces what is asked about the one before, or waits for it", async () => {
    await using engine = await lawEngine(model());
    const long = { maxTokens: 1500, logitBias: noEnd };
    await using newest = new StateSession(engine, { onUpdate: "newest" });
    newest.update({ state: { pot: 1 } });
    const [running, cancelled] = [
      newest.ask("Who?", long),
      newest.ask("Who?", { ...long, signal: AbortSignal.abort() }),
    ];
    const replaced = expect(running).rejects.toThrow(FrameReplacedError);
    await expect(cancelled).rejects.toThrow(/abort/i);
    newest.update({ state: { pot: 2 } });
    expect((await newest.ask("Who?", few)).frame).toBe(2);
    await replaced;

    await using queue = new StateSession(engine);
    queue.update({ state: { pot: 1 } });
    const order: number[] = [];
    const note = (answer: { frame: number }) => order.push(answer.frame);
    const first = queue.ask("Who?", { ...few, maxTokens: 40 }).then(note);
    queue.update({ state: { pot: 2 } });
    const second = queue.ask("Who?", few).then(note);
    queue.update({ state: { pot: 3 } });
    await Promise.all([queue.ask("Who?", few).then(note), second, first]);
    expect(order).toEqual([1, 2, 3]);
  });

  test("StateSession: what it cannot do is a one-line error, and closing ends what runs", async () => {
    await using engine = await lawEngine(model());
    expect(() => new StateSession({} as LocalEngine)).toThrow(
      /^Cannot begin a session: the engine is \{\}, wanted an Engine$/,
    );
    expect(() => new StateSession(engine, { keepFrames: 0 })).toThrow(RangeError);
    const session = new StateSession(engine);
    await expect(session.ask("Who?")).rejects.toThrow("Cannot ask: there is no state, wanted update() before");
    expect(() => session.update({ patch: [] })).toThrow("Cannot patch a state: there is none yet");
    expect(() => session.update({} as never)).toThrow("the frame has 0 of state, json and patch, wanted one");
    expect(() => session.update({ state: 1, json: "1" } as never)).toThrow("the frame has 2 of");
    expect(() => session.update({ json: '{"a":1,"a":2}' })).toThrow(/the key "a" stands twice/);
    expect(() => session.update({ json: `${"[".repeat(10_000)}${"]".repeat(10_000)}` })).toThrow(
      /^Cannot read the state: /,
    );
    expect(() => session.update({ json: "{" })).toThrow(/^Cannot read the state: it is no JSON/);
    expect(session.texts).toEqual([]);
    session.update({ state: { pot: 1 } });
    await expect(session.ask("")).rejects.toThrow(/^Cannot ask: the question is "", wanted text$/);
    await expect(session.ask("Who?", { n: 2 } as never)).rejects.toThrow(/there is no option "n"/);
    await expect(session.ask("Who?", { onEvent: () => Promise.reject(new Error("Cannot show")) })).rejects.toThrow(
      "Cannot show",
    );
    const running = expect(session.ask("Who?", { maxTokens: 1500, logitBias: noEnd })).rejects.toThrow(
      "the session was closed",
    );
    await session[Symbol.asyncDispose]();
    await running;
    await expect(session.ask("Who?")).rejects.toThrow("Cannot ask: the session was closed");
    expect(() => session.update({ state: 1 })).toThrow("Cannot update the state: the session was closed");
  });
}

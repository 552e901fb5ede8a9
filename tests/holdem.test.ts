import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import fc from "fast-check";
import { type Browser, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { createHoldemServer } from "../examples/holdem/server.mjs";
import { bestHand, type HoldemState, HoldemTable, seededRandom } from "../examples/holdem/table.mjs";
import type { Engine } from "../src/engine/engine.js";
import { buildDist, projectRoot } from "./build-dist.js";
import { chromiumPath } from "./server/chromium.js";

const chipsOf = ({ players }: HoldemState) => players.reduce((sum, { chips }) => sum + chips.remain, 0);

/** Plays a hand by the drawn numbers, each of which chooses an action. */
function playHand(
  table: HoldemTable,
  draws: readonly number[],
  onStep: (state: HoldemState) => void = () => undefined,
) {
  for (let i = 0; !table.isHandOver; i++) {
    const legal = table.legal();
    expect(legal.length).toBeGreaterThan(1);
    // A raise now and then, so that hands end.
    table.act((legal[(draws[i % draws.length] as number) % legal.length] ?? legal[0]) as string);
    onStep(table.state());
    // The smallest raises over and over take some hundreds.
    if (i > 5000) throw new Error("the hand does not end");
  }
}

test("HoldemTable: no chip is won or lost but by the rules, whoever plays", () => {
  const draws = fc.array(fc.nat(), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 9 }),
      fc.nat(),
      fc.array(draws, { minLength: 1, maxLength: 6 }),
      (numPlayers, seed, hands) => {
        const table = new HoldemTable({ numPlayers, random: seededRandom(seed) });
        for (const [i, hand] of hands.entries()) {
          if (i > 0) table.nextHand();
          // Blinds that are all a player has may end a hand at once: then the pot is won already.
          const start = chipsOf(table.state()) + (table.state().round === "over" ? 0 : table.pot);
          expect(start % 1000).toBe(0);
          playHand(table, hand, (state) => {
            expect(chipsOf(state) + (state.round === "over" ? 0 : state.pot)).toBe(start);
            const cards = [
              ...state.board,
              ...Array.from({ length: numPlayers }, (_, seat) => table.cardsOf(seat + 1)).flat(),
            ];
            expect(new Set(cards).size).toBe(cards.length);
          });
          expect(table.state().history.some((line) => / wins \d+/.test(line))).toBe(true);
        }
      },
    ),
    { numRuns: 100, examples: [[2, 0, [[2147483642], [0], [0]]]] },
  );
});

test("HoldemTable: nobody wins more from another than was put in", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 9 }),
      fc.nat(),
      fc.array(fc.nat(), { minLength: 5 }),
      (numPlayers, seed, draws) => {
        const table = new HoldemTable({ numPlayers, random: seededRandom(seed) });
        // Unequal stacks.
        for (let i = 0; i < 4; i++) {
          playHand(table, [...draws, i]);
          table.nextHand();
        }
        const before = table.state().players.map(({ chips }) => chips.bet + chips.remain);
        playHand(table, draws);
        const after = table.state().players.map(({ chips }) => chips.remain);
        for (const [seat, chips] of after.entries()) {
          const mine = before[seat] as number;
          const most = before.reduce((sum, others) => sum + Math.min(mine, others), 0);
          expect(chips).toBeLessThanOrEqual(most);
        }
      },
    ),
    { numRuns: 100 },
  );
});

test("HoldemTable: blinds, turns and raises as in the rules", () => {
  const two = new HoldemTable({ numPlayers: 2, random: seededRandom(1) });
  // With two players the button has the small blind and acts first, and after the flop last.
  expect(two.state()).toMatchObject({ button: "Ann", toAct: "Ann", history: ["Ann posts 5", "Bo posts 10"] });
  expect(two.legal()).toEqual(["fold", "call 5", "raise to 20", "raise to 30", "all in 1000"]);
  two.act("call 5");
  expect(two.legal()).toEqual(["check", "raise to 20", "raise to 30", "all in 1000"]);
  two.act("check");
  expect(two.state()).toMatchObject({ round: "flop", pot: 20, toAct: "Bo" });
  two.act("bet 10");
  two.act("raise to 20");
  // A raise is at least as large as the one before.
  expect(two.legal()).toContain("raise to 30");
  expect(() => two.act("raise to 29")).toThrow(/^Cannot act: "raise to 29" is none of \["fold"/);
  two.act("all in 990");
  two.act("call 970");
  expect(two.state()).toMatchObject({ round: "over", pot: 2000, toAct: null });
  expect(two.state().board).toHaveLength(5);
  expect(() => two.act("check")).toThrow("Cannot act");
  expect(() => new HoldemTable({ numPlayers: 10 })).toThrow("Cannot lay a table: there are 10 players, wanted 2 to 9");
  expect(bestHand(["Ah", "Kh"], ["Qh", "Jh", "Th"])).toBe("a royal flush");
  expect(bestHand(["Ah", "Ad"], ["2c", "7d", "9h"])).toBe("a pair");
  expect(bestHand(["Ah", "Kd"], [])).toBe("a high card");
});

test("questions.mjs: the same seed makes the same lines, no state is of two splits, and answers follow from the state", async () => {
  await buildDist();
  const folder = mkdtempSync(join(tmpdir(), "block-attention-holdem-"));
  try {
    const make = async (name: string, ...args: string[]) => {
      const output = join(folder, name);
      const script = join(projectRoot, "examples", "holdem", "questions.mjs");
      await promisify(execFile)(process.execPath, [script, "--rows", "70", "--output", output, ...args]);
      return readFileSync(output, "utf8");
    };
    const [test, again, dev, train] = await Promise.all([
      ...[make("a"), make("b")],
      ...["dev", "train"].map((split) => make(split, "--split", split)),
    ]);
    expect(again).toBe(test);
    const linesOf = (text: string | undefined): Question[] =>
      text
        ?.trim()
        .split("\n")
        .map((line) => JSON.parse(line)) ?? [];
    const states = new Set(linesOf(test).map(({ documents }) => documents.join("")));
    expect(states.size).toBe(70);
    for (const { documents } of linesOf(dev)) states.add(documents.join(""));
    for (const { documents } of linesOf(train)) states.add(documents.join(""));
    expect(states.size).toBe(210);
    const answered = new Map<string, number>();
    for (const { kind, question, answers, documents } of linesOf(test)) {
      const state: HoldemState = JSON.parse(documents.join(""));
      const paid = state.players.map(({ chips }) => chips.bet);
      const named = state.players.find(({ name }) => question.includes(name));
      const own = state.players.find(({ name }) => name === state.toAct)?.chips.bet ?? 0;
      const wanted: Record<string, () => unknown> = {
        turn: () => state.toAct,
        pot: () => state.pot,
        chips: () => named?.chips.remain,
        call: () => Math.max(...paid) - own,
        changed: () => state.history.filter((line) => !line.startsWith("the ")).at(-1),
        hand: () => {
          const [, first, second] = /holds (\w\w) and (\w\w)/.exec(question) ?? [];
          return bestHand([first as string, second as string], state.board).replace(/^a (pair)?/, (_, pair) =>
            pair ? "one pair" : "",
          );
        },
        "who can call": () => {
          const highest = Math.max(...paid);
          const able = state.players.filter(
            ({ status, chips: { bet, remain } }) => status === "in" && bet < highest && bet + remain >= highest,
          );
          return able.map(({ name }) => name).join(", ");
        },
      };
      expect(answers, `${question} ${documents.join("")}`).toEqual([String(wanted[kind]?.())]);
      answered.set(kind, (answered.get(kind) ?? 0) + 1);
    }
    expect([...answered.values()]).toEqual([10, 10, 10, 10, 10, 10, 10]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 60_000);

interface Question {
  readonly kind: string;
  readonly question: string;
  readonly answers: readonly string[];
  readonly documents: readonly string[];
}

type PlayEvent =
  | {
      readonly kind: "frame" | "turn";
      readonly view: { readonly state: HoldemState; readonly legal: readonly string[] };
    }
  | { readonly kind: "said"; readonly who: string }
  | {
      readonly kind: "asked";
      readonly who: string;
      readonly computed: { readonly blocks: number };
      readonly blocks: readonly { readonly text: string }[];
    };

const executablePath = chromiumPath();
const reason = executablePath === undefined ? " (skipped: no Chromium here; CHROMIUM_PATH names one)" : "";

describe("npm run holdem", () => {
  let engine: Engine;
  let server: Server;
  let url = "";
  beforeAll(async () => {
    await buildDist();
    const load = (path: string) => import(pathToFileURL(join(projectRoot, path)).href);
    engine = await (await load("dist/index.js")).Engine.load({
      model: join(projectRoot, "models/tiny-rag"),
      threads: 1,
    });
    const { createHoldemServer: create }: { createHoldemServer: typeof createHoldemServer } =
      await load("examples/holdem/server.mjs");
    server = create(engine).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }, 120_000);
  afterAll(async () => {
    server?.closeAllConnections();
    server?.close();
    await engine?.[Symbol.asyncDispose]();
  });

  /** A table's id. */
  const lay = async (players: number) => ((await (await post("/api/tables", { players })).json()) as { id: string }).id;
  const post = (path: string, body: unknown, headers = { "content-type": "application/json" }) =>
    fetch(url + path, { method: "POST", headers, body: typeof body === "string" ? body : JSON.stringify(body) });

  test("plays a hand: the model's actions are legal, and of a frame only what changed is computed", async () => {
    const id = await lay(3);
    const events: PlayEvent[] = [];
    let body: object = {};
    let state: HoldemState | undefined;
    for (let i = 0; i < 40; i++) {
      const text = await (await post(`/api/tables/${id}/play`, body)).text();
      events.push(
        ...text
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line)),
      );
      const last = events.at(-1);
      if (last?.kind !== "turn") throw new Error(`the answer ends with ${JSON.stringify(last)}`);
      state = last.view.state;
      if (state.round === "over") break;
      body = { action: last.view.legal.find((action) => /^(check|call)/.test(action)) };
    }
    expect(state?.round).toBe("over");
    const acted = /^Bo (folds|checks|calls|bets|raises|goes all in)/;
    expect(state?.history.filter((line) => acted.test(line)).length).toBeGreaterThan(0);
    expect(events.flatMap((event) => (event.kind === "said" ? [event.who] : []))).toContain("Waiter");
    const asked = events.flatMap((event) => (event.kind === "asked" ? [event] : []));
    expect(asked.filter(({ computed, blocks }) => computed.blocks < blocks.length).length).toBeGreaterThan(0);
    // The waiter is asked about the commentator's frame.
    expect(asked.at(-1)).toMatchObject({ who: "Waiter", computed: { blocks: 0, tokens: 0 } });
    for (const { blocks } of asked) expect(() => JSON.parse(blocks.map(({ text }) => text).join(""))).not.toThrow();
  });

  test("refuses what is no move, and plays a table once at a time", async () => {
    const refusal = async (answer: Promise<Response>) => {
      return [(await answer).status, ((await (await answer).json()) as { error: string }).error] as const;
    };
    const id = await lay(2);
    expect(await refusal(post("/api/tables", { players: 10 }))).toEqual([
      400,
      "Cannot lay a table: wanted 2 to 9 players",
    ]);
    expect((await refusal(post("/api/tables/none/play", {})))[0]).toBe(404);
    expect((await refusal(post(`/api/tables/${id}/play`, { action: "cheat" })))[1]).toMatch(/^Cannot act: /);
    expect((await refusal(post(`/api/tables/${id}/play`, { next: true })))[0]).toBe(409);
    expect((await refusal(post(`/api/tables/${id}/play`, "{")))[0]).toBe(400);
    expect((await refusal(post("/api/tables", "x=1", { "content-type": "text/plain" })))[0]).toBe(415);
    expect((await refusal(post("/api/tables", `{"a":"${"x".repeat(5000)}"}`)))[0]).toBe(413);
    const both = await Promise.all([
      post(`/api/tables/${id}/play`, { action: "fold" }),
      post(`/api/tables/${id}/play`, {}),
    ]);
    expect(both.map(({ status }) => status).sort()).toEqual([200, 409]);
    await Promise.all(both.map((answer) => answer.text()));
  });

  test("ends on Ctrl-C, and says in a line what is wrong", async () => {
    const started = (...args: string[]) =>
      spawn(process.execPath, [join(projectRoot, "examples/holdem/play.mjs"), ...args]);
    const running = started("--port", "0", "--model", join(projectRoot, "models/tiny-rag"));
    const [line] = await once(running.stdout, "data");
    expect(String(line)).toMatch(/^Playing with tiny-rag at http:\/\/127\.0\.0\.1:\d+\n$/);
    running.kill("SIGINT");
    expect(await once(running, "exit")).toEqual([0, null]);
    for (const [args, message] of [
      [["--port", "x"], /^Cannot listen: the port is "x", wanted 0 to 65535\n$/],
      [["--nonsense"], /^Cannot play: Unknown option '--nonsense'.*\n$/],
      [["--model", "no such model"], /^Cannot .*no such model.*\n$/],
      [
        ["--port", new URL(url).port, "--model", join(projectRoot, "models/tiny-rag")],
        /^Cannot play: listen EADDRINUSE.*\n$/,
      ],
    ] as const) {
      const failing = started(...args);
      const [[said], [code]] = await Promise.all([once(failing.stderr, "data"), once(failing, "exit")]);
      expect([code, String(said)]).toEqual([1, expect.stringMatching(message)]);
    }
  }, 60_000);

  test.skipIf(executablePath === undefined)(`in Chromium, by keyboard alone${reason}`, async () => {
    const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
    const browser: Browser = await chromium.launch({ executablePath: executablePath as string, args });
    try {
      const page = await browser.newPage();
      page.setDefaultTimeout(20_000);
      const troubles: string[] = [];
      page.on("console", (message) => message.type() === "error" && troubles.push(message.text()));
      page.on("pageerror", (error) => troubles.push(String(error)));
      await page.goto(url);
      const actions = page.getByRole("group", { name: /Your turn|The hand is over/ }).getByRole("button");
      for (let i = 0; i < 30; i++) {
        await page.locator("#actions button:enabled").first().waitFor();
        if ((await page.locator("#you-title").textContent()) === "The hand is over") break;
        // Check or call: the first button, or the second where the first is fold.
        await page.keyboard.press((await actions.first().textContent()) === "fold" ? "2" : "1");
        await page.locator("#actions button:enabled").first().waitFor();
      }
      expect(await page.locator("#you-title").textContent()).toBe("The hand is over");
      expect(await page.getByRole("list", { name: "Players" }).getByRole("listitem").count()).toBe(6);
      expect(await page.getByRole("log").textContent()).toMatch(/Waiter: .* wins \d+/);
      expect(await page.locator("#measured").textContent()).toMatch(
        /^Frame \d+, asked by Waiter: 0 of the blocks computed/,
      );
      const blocks = page.getByRole("list", { name: "The state, block by block" }).getByRole("listitem");
      expect(await blocks.count()).toBeGreaterThan(5);
      expect(await blocks.first().textContent()).toMatch(/^from the store, \d+ tokens/);
      // The next decision has the focus: Enter deals.
      await page.waitForFunction('document.activeElement?.textContent === "Next hand"');
      await page.keyboard.press("Enter");
      await page.getByText(/^Hand 2, preflop/).waitFor();
      expect(troubles).toEqual([]);
    } finally {
      await browser.close();
    }
  });
});

// The tables of one server: each has a session of its own over one engine. A request plays on until the human is to act, and streams
// what happens as lines of JSON.
import { randomUUID } from "node:crypto";
import { StateSession } from "block-attention";
import { createPageServer, HttpError, noRoute, readBody, sendJson, startLines } from "../page-server.mjs";
import { HoldemTable } from "./table.mjs";

const maxTables = 32;
const maxBody = 4096;
const humanSeat = 1;
const modelSeat = 2;
const system = "You follow a game of Texas Hold'em, whose state is given as JSON. Answer in one short sentence.";

/** A table, and what the model is asked about it. */
class Game {
  isPlaying = false;
  lastUsed = Date.now();

  constructor(engine, numPlayers) {
    this.table = new HoldemTable({ numPlayers });
    this.session = new StateSession(engine, { system, keyFields: ["seat"], onUpdate: "newest" });
  }

  /** What the human sees. */
  view() {
    const { table } = this;
    const isHumansTurn = table.toAct === humanSeat;
    return {
      state: table.state(),
      cards: table.cardsOf(humanSeat),
      legal: isHumansTurn ? table.legal() : [],
      you: table.nameOf(humanSeat),
      model: table.nameOf(modelSeat),
    };
  }

  /** Asks about the frame, and reports its blocks. */
  async #ask(who, question, options, send) {
    const startMs = performance.now();
    const answer = await this.session.ask(question, { temperature: 0.7, ...options });
    const { blocks, computed, usage, frame } = answer;
    // The state's blocks come last, after the system message and what the template has before it.
    const own = blocks.slice(-this.session.texts.length);
    send({
      kind: "asked",
      who,
      frame,
      computed,
      cachedTokens: usage.cachedTokens,
      promptTokens: usage.promptTokens,
      firstTokenMs: answer.timings.ttftMs ?? performance.now() - startMs,
      blocks: own.map(({ hit, tokens }, i) => ({ hit, tokens, text: this.session.texts[i] })),
    });
    return answer.text.trim();
  }

  #frame(send) {
    const { changes } = this.session.update({ state: this.table.state() });
    send({ kind: "frame", changes, view: this.view() });
  }

  /** Plays on until the human is to act, or the hand is over. */
  async play(action, isNext, send, signal) {
    const { table } = this;
    if (isNext) {
      if (!table.isHandOver) throw new HttpError(409, "Cannot deal: the hand is not over");
      table.nextHand();
    }
    if (action !== undefined) {
      if (table.toAct !== humanSeat) throw new HttpError(409, "Cannot act: it is not your turn");
      if (!table.legal().includes(action)) {
        throw new HttpError(400, `Cannot act: ${JSON.stringify(action)} is none of ${table.legal().join(", ")}`);
      }
      table.act(action);
    }
    this.#frame(send);
    while (!table.isHandOver && table.toAct !== humanSeat) {
      signal.throwIfAborted();
      const { round } = table.state();
      const seat = table.toAct;
      table.act(seat === modelSeat ? await this.#modelAction(send, signal) : table.botAction());
      this.#frame(send);
      if (table.state().round !== round && !table.isHandOver) await this.#comment(send, signal);
    }
    if (table.isHandOver) await this.#comment(send, signal);
    send({ kind: "turn", view: this.view() });
  }

  async #modelAction(send, signal) {
    const { table } = this;
    const legal = table.legal();
    const name = table.nameOf(modelSeat);
    const question = `You are ${name} and hold ${table.cardsOf(modelSeat).join(" ")}. It is your turn. Choose one: ${legal.join(", ")}.`;
    const constraint = { type: "choice", choices: legal };
    const text = await this.#ask(name, question, { constraint, maxTokens: 24, signal }, send);
    // An answer cut at its longest length is the beginning of one.
    const action = legal.find((one) => one === text) ?? legal.find((one) => one.startsWith(text)) ?? legal[0];
    signal.throwIfAborted();
    return action;
  }

  /** The commentator, and a waiter once the hand is over, over the same frame: what the one has computed the other has from the store. */
  async #comment(send, signal) {
    const say = async (who, question) => {
      const text = await this.#ask(who, question, { maxTokens: 40, stop: ["\n"], signal }, send);
      send({ kind: "said", who, text });
    };
    await say("Commentator", "Say in one short sentence, as a commentator, what just happened at the table.");
    if (this.table.isHandOver)
      await say("Waiter", "You are the waiter. Say one short sentence to the winner of this hand.");
  }
}

/** An HTTP server over an engine, which stays its caller's. */
export function createHoldemServer(engine) {
  const games = new Map();

  const gameOf = (id) => {
    const game = games.get(id);
    if (game === undefined) throw new HttpError(404, "Cannot play: there is no such table, lay a new one");
    game.lastUsed = Date.now();
    return game;
  };
  /** Makes room by the table that was not used for longest. */
  const addGame = async (numPlayers) => {
    const game = new Game(engine, numPlayers);
    const idle = [...games]
      .filter(([, { isPlaying }]) => !isPlaying)
      .sort(([, a], [, b]) => a.lastUsed - b.lastUsed)[0];
    if (games.size >= maxTables) {
      if (idle === undefined) throw new HttpError(503, `Cannot lay a table: ${maxTables} are in play`);
      games.delete(idle[0]);
      await idle[1].session[Symbol.asyncDispose]();
    }
    const id = randomUUID();
    games.set(id, game);
    return { id, view: game.view() };
  };

  const playGame = async (game, body, response) => {
    if (game.isPlaying) throw new HttpError(409, "Cannot play: the table is in play elsewhere");
    const { action, next = false } = body;
    if ((action !== undefined && typeof action !== "string") || typeof next !== "boolean") {
      throw new HttpError(400, "Cannot play: wanted an action as text, or next");
    }
    const { send, signal } = startLines(response);
    game.isPlaying = true;
    try {
      await game.play(action, next, send, signal);
    } finally {
      game.isPlaying = false;
    }
    response.end();
  };

  const answer = async (request, response, pathname) => {
    const [, id, what] = /^\/api\/tables(?:\/([\w-]+))?(\/play)?$/.exec(pathname) ?? [];
    if (
      !pathname.startsWith("/api/tables") ||
      request.method !== "POST" ||
      (id === undefined) !== (what === undefined)
    ) {
      throw noRoute(request, pathname);
    }
    const body = await readBody(request, maxBody);
    if (id !== undefined) return await playGame(gameOf(id), body, response);
    const { players = 6 } = body;
    if (!Number.isInteger(players) || players < 2 || players > 9)
      throw new HttpError(400, "Cannot lay a table: wanted 2 to 9 players");
    sendJson(response, 200, await addGame(players));
  };

  const pathOf = ({ url }) => new URL(url, "http://localhost").pathname;
  return createPageServer(import.meta.url, answer, { failedStatus: 500, pathOf });
}

// A table of Texas Hold'em for two to nine players: no limit, blinds, side pots. @poker-apprentice/hand-evaluator ranks the hands.
import { compare, evaluateHoldem } from "@poker-apprentice/hand-evaluator";

const names = ["Ann", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo"];
const rounds = ["preflop", "flop", "turn", "river"];
/** Cards on the board in each round. */
const boardSizes = [0, 3, 4, 5];
const ranks = "23456789TJQKA";
/** Of `evaluateHoldem()`'s strengths. */
const handNames = [
  "a high card",
  "a pair",
  "two pair",
  "three of a kind",
  "a straight",
  "a flush",
  "a full house",
  "four of a kind",
  "a straight flush",
  "a royal flush",
];
/** Numbers from 0 to below 1, the same for the same seed (mulberry32). */
export function seededRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The name of the best hand that cards make with the board: "a pair". */
export function bestHand(cards, board) {
  return handNames[evaluateHoldem({ holeCards: cards, communityCards: board }).strength];
}

export class HoldemTable {
  #random;
  #options;
  #hand = 0;
  #button = -1;
  #players;
  #deck = [];
  #history = [];
  #round = 0;
  /** Seats that must still act in this round, from 0 on. */
  #pending = new Set();
  /** Seats that may raise: not those that acted since the last full raise. */
  #mayRaise = new Set();
  #turn = 0;
  #minRaise = 0;
  #isOver = true;

  /** @param options numPlayers from 2 to 9; random gives numbers from 0 to below 1, of which cards and bots are made. */
  constructor({ numPlayers = 6, buyIn = 1_000, smallBlind = 5, bigBlind = 10, random = Math.random } = {}) {
    if (!Number.isInteger(numPlayers) || numPlayers < 2 || numPlayers > names.length) {
      throw new RangeError(`Cannot lay a table: there are ${numPlayers} players, wanted 2 to ${names.length}`);
    }
    this.#random = random;
    this.#options = { buyIn, smallBlind, bigBlind };
    this.#players = names.slice(0, numPlayers).map((name) => ({ name, stack: buyIn }));
    this.nextHand();
  }

  get numPlayers() {
    return this.#players.length;
  }

  get isHandOver() {
    return this.#isOver;
  }

  /** The seat whose turn it is, from 1 on; undefined when the hand is over. */
  get toAct() {
    return this.#isOver ? undefined : this.#turn + 1;
  }

  /** All that was bet in this hand. */
  get pot() {
    return this.#players.reduce((sum, { paid }) => sum + paid, 0);
  }

  get #board() {
    return this.#deck.slice(0, boardSizes[this.#round]);
  }

  get #highest() {
    return Math.max(...this.#players.map(({ bet }) => bet));
  }

  nameOf(seat) {
    return this.#players[seat - 1].name;
  }

  /** The two cards of a seat: its own, which the state does not show. */
  cardsOf(seat) {
    return [...this.#players[seat - 1].cards];
  }

  nextHand() {
    if (!this.#isOver) throw new Error("Cannot deal: the hand is not over");
    const { buyIn, smallBlind, bigBlind } = this.#options;
    const { length } = this.#players;
    this.#hand += 1;
    this.#history = [];
    this.#round = 0;
    this.#isOver = false;
    this.#button = (this.#button + 1) % length;
    // The board is dealt from the front, hands from the back.
    this.#deck = [...ranks].flatMap((rank) => [...`cdhs`].map((suit) => rank + suit));
    for (let i = this.#deck.length - 1; i > 0; i--) {
      const other = Math.floor(this.#random() * (i + 1));
      [this.#deck[i], this.#deck[other]] = [this.#deck[other], this.#deck[i]];
    }
    for (const player of this.#players) {
      if (player.stack === 0) {
        player.stack = buyIn;
        this.#history.push(`${player.name} buys in again`);
      }
      Object.assign(player, { bet: 0, paid: 0, isFolded: false, isShown: false, cards: this.#deck.splice(-2) });
    }
    // With two players the button has the small blind.
    const small = length === 2 ? this.#button : (this.#button + 1) % length;
    for (const [seat, blind] of [
      [small, smallBlind],
      [(small + 1) % length, bigBlind],
    ]) {
      const player = this.#players[seat];
      this.#pay(player, Math.min(blind, player.stack));
      this.#history.push(`${player.name} posts ${player.bet}`);
    }
    this.#openRound((small + 1) % length);
  }

  #pay(player, chips) {
    player.stack -= chips;
    player.bet += chips;
    player.paid += chips;
  }

  /** @param before the seat before the one that acts first. */
  #openRound(before) {
    this.#minRaise = this.#options.bigBlind;
    this.#pending = new Set(this.#seats((seat) => this.#canAct(seat)));
    this.#mayRaise = new Set(this.#pending);
    this.#turn = before;
    this.#goOn();
  }

  #seats(is) {
    return [...this.#players.keys()].filter(is);
  }

  #canAct(seat) {
    const { isFolded, stack } = this.#players[seat];
    return !isFolded && stack > 0;
  }

  /** Plays on to the next decision, or to the hand's end. */
  #goOn() {
    const inHand = this.#seats((seat) => !this.#players[seat].isFolded);
    if (inHand.length === 1) return this.#end();
    const able = inHand.filter((seat) => this.#canAct(seat));
    // Who is alone with chips, and owes none, has nothing to decide.
    if (able.length === 1 && this.#players[able[0]].bet >= this.#highest) this.#pending.clear();
    if (this.#pending.size > 0) {
      do this.#turn = (this.#turn + 1) % this.#players.length;
      while (!this.#pending.has(this.#turn));
      return;
    }
    if (this.#round === rounds.length - 1) return this.#end();
    for (const player of this.#players) player.bet = 0;
    const shown = this.#board.length;
    this.#round += 1;
    this.#history.push(`the ${rounds[this.#round]} brings ${this.#board.slice(shown).join(" ")}`);
    this.#openRound(this.#button);
  }

  /** What the seat to act may do, as texts for act(): "fold", "call 20", "raise to 60", "all in 980". */
  legal() {
    return [...this.#legal().keys()];
  }

  /** By text, what the player's bet of this round becomes; undefined where it folds. */
  #legal() {
    const choices = new Map();
    if (this.#isOver) return choices;
    const { bet, stack } = this.#players[this.#turn];
    const highest = this.#highest;
    const most = bet + stack;
    if (bet === highest) choices.set("check", bet);
    else choices.set("fold", undefined).set(`call ${Math.min(highest, most) - bet}`, Math.min(highest, most));
    // Raising is for those whom somebody can answer.
    const canBeAnswered = this.#seats((seat) => seat !== this.#turn && this.#canAct(seat)).length > 0;
    if (most <= highest || !canBeAnswered || !this.#mayRaise.has(this.#turn)) return choices;
    const least = highest + this.#minRaise;
    const potAfterCall = this.pot + highest - bet;
    for (const size of [least, highest + Math.ceil(potAfterCall / 2), highest + potAfterCall]) {
      if (size >= least && size < most) choices.set(highest === 0 ? `bet ${size}` : `raise to ${size}`, size);
    }
    return choices.set(`all in ${most}`, most);
  }

  /** Does one of legal()'s for the seat to act, and plays on to the next decision, or to the hand's end. */
  act(text) {
    const choices = this.#legal();
    if (!choices.has(text)) {
      throw new RangeError(`Cannot act: ${JSON.stringify(text)} is none of ${JSON.stringify([...choices.keys()])}`);
    }
    const player = this.#players[this.#turn];
    const size = choices.get(text);
    const raise = (size ?? 0) - this.#highest;
    this.#pending.delete(this.#turn);
    this.#mayRaise.delete(this.#turn);
    if (size === undefined) player.isFolded = true;
    else this.#pay(player, size - player.bet);
    if (raise > 0) {
      this.#pending = new Set(this.#seats((seat) => seat !== this.#turn && this.#canAct(seat)));
      // An all-in of less than a full raise lets nobody raise who has acted.
      if (raise >= this.#minRaise) this.#mayRaise = new Set(this.#pending);
      this.#minRaise = Math.max(this.#minRaise, raise);
    }
    this.#history.push(`${player.name} ${text.replace(/^\w+/, (verb) => (verb === "all" ? "goes all" : `${verb}s`))}`);
    this.#goOn();
  }

  /** Pays the pots out: each to the best hands of those who paid into it. */
  #end() {
    this.#isOver = true;
    const inHand = this.#seats((seat) => !this.#players[seat].isFolded);
    for (const seat of inHand) this.#players[seat].isShown = inHand.length > 1;
    const won = new Map();
    let paidOut = 0;
    for (const level of [...new Set(inHand.map((seat) => this.#players[seat].paid))].sort((a, b) => a - b)) {
      const pot = this.#players.reduce((sum, { paid }) => sum + Math.min(paid, level), 0) - paidOut;
      paidOut += pot;
      const winners = this.#best(inHand.filter((seat) => this.#players[seat].paid >= level));
      // The chips that cannot be shared go to the first after the button.
      for (const [i, seat] of winners.entries()) {
        const share = Math.floor(pot / winners.length) + (i < pot % winners.length ? 1 : 0);
        won.set(seat, (won.get(seat) ?? 0) + share);
      }
    }
    // What folded players paid beyond all others.
    const rest = this.pot - paidOut;
    if (rest > 0) won.set([...won.keys()].at(-1), won.get([...won.keys()].at(-1)) + rest);
    for (const [seat, chips] of won) {
      const player = this.#players[seat];
      player.stack += chips;
      const hand = player.isShown ? ` with ${bestHand(player.cards, this.#board)}` : "";
      this.#history.push(`${player.name} wins ${chips}${hand}`);
    }
    for (const player of this.#players) player.bet = 0;
  }

  /** The seats with the best hand, the first after the button first. */
  #best(seats) {
    if (seats.length === 1) return seats;
    const { length } = this.#players;
    const hands = seats
      .sort((a, b) => ((a - this.#button - 1 + length) % length) - ((b - this.#button - 1 + length) % length))
      .map((seat) => ({
        seat,
        hand: evaluateHoldem({ holeCards: this.#players[seat].cards, communityCards: this.#board }),
      }));
    return hands.filter(({ hand }) => hands.every((other) => compare(hand, other.hand) !== 1)).map(({ seat }) => seat);
  }

  /** What every player can see, as JSON: as the paper's appendix has it. */
  state() {
    const { smallBlind, bigBlind } = this.#options;
    return {
      table: { game: "Texas Hold'em", hand: this.#hand, blinds: { small: smallBlind, big: bigBlind } },
      button: this.nameOf(this.#button + 1),
      round: this.#isOver ? "over" : rounds[this.#round],
      board: this.#board,
      pot: this.pot,
      toAct: this.#isOver ? null : this.nameOf(this.#turn + 1),
      players: this.#players.map(({ name, stack, bet, isFolded, isShown, cards }, seat) => ({
        seat: seat + 1,
        name,
        status: isFolded ? "folded" : stack === 0 && !this.#isOver ? "all in" : "in",
        chips: { bet, remain: stack },
        ...(isShown && { cards }),
      })),
      history: [...this.#history],
    };
  }

  /** What a bot does in the place of the seat to act: more with better cards, and now and then something else. */
  botAction() {
    const legal = this.legal();
    const cards = this.cardsOf(this.toAct);
    const [first, second] = cards.map(([rank]) => ranks.indexOf(rank));
    const board = this.#board;
    const strength =
      board.length === 0
        ? (first + second) / 24 + (first === second ? 0.5 : 0)
        : handNames.indexOf(bestHand(cards, board)) / 3 + Math.max(first, second) / 60;
    const mood = strength + (this.#random() - 0.5) * 0.6;
    const passive = legal.find((action) => /^(check|call)/.test(action));
    const larger = legal.filter((action) => /^(bet|raise)/.test(action));
    if (mood > 0.9 && larger.length > 0) return larger[Math.floor(this.#random() * larger.length)];
    if (mood > 1.2) return legal.at(-1);
    return mood > 0.35 || passive === "check" ? passive : "fold";
  }
}

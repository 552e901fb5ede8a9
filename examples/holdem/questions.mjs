// States of Texas Hold'em with questions whose answers are computed, as lines for `eval rag` and `data convert`:
// node examples/holdem/questions.mjs --rows 2000 --split test --output data/holdem_test.jsonl
// The state's blocks are a line's documents. A state is of one split, by its hash: no seed brings one of the test into training.
import { createHash } from "node:crypto";
import { renameSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { jsonStateBlocks } from "block-attention";
import { bestHand, HoldemTable, seededRandom } from "./table.mjs";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "2000" },
    seed: { type: "string", default: "1" },
    split: { type: "string", default: "test" },
    output: { type: "string" },
  },
});
/** Of each eight states. */
const splits = ["test", "dev", "train", "train", "test", "train", "train", "train"];
const numRows = whole("rows", 1, 100_000);
const random = seededRandom(whole("seed", 0, 2 ** 32 - 1));
if (!splits.includes(values.split)) fail(`the split is ${JSON.stringify(values.split)}, wanted test, dev or train`);
if (values.output === undefined) fail("wanted --output FILE");

function whole(name, min, max) {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  fail(`${name} is ${JSON.stringify(values[name])}, wanted a whole number from ${min} to ${max}`);
}

function fail(message) {
  console.error(`Cannot make questions: ${message}`);
  process.exit(2);
}

const draw = (list) => list[Math.floor(random() * list.length)];

/** Each kind of question, of a table: undefined where it cannot be asked about this one. */
const kinds = {
  turn: ({ state: { toAct } }) => toAct && ["Who is to act?", toAct],
  pot: ({ state: { pot } }) => ["How many chips are in the pot?", String(pot)],
  chips: ({ state: { players } }) => {
    const { name, chips } = draw(players);
    return [`How many chips does ${name} have left?`, String(chips.remain)];
  },
  call: ({ state: { toAct, players } }) => {
    const bets = players.map(({ chips }) => chips.bet);
    const owed = Math.max(...bets) - (players.find(({ name }) => name === toAct)?.chips.bet ?? 0);
    return toAct && owed > 0 && [`How many chips must ${toAct} add to have the highest bet?`, String(owed)];
  },
  "who can call": ({ state: { toAct, players } }) => {
    const highest = Math.max(...players.map(({ chips }) => chips.bet));
    const able = players.filter(({ status, chips }) => {
      return status === "in" && chips.bet < highest && chips.bet + chips.remain >= highest;
    });
    if (!toAct || able.length === 0 || able.length > 3) return undefined;
    const question = `Which players who have not folded bet less than ${highest} and can pay the rest of it? Name them in the order of their seats.`;
    return [question, able.map(({ name }) => name).join(", ")];
  },
  hand: ({ table, state: { board, toAct } }) => {
    if (!toAct || board.length < 3) return undefined;
    const cards = table.cardsOf(table.toAct);
    // "a pair" would stand in "two pair".
    const best = bestHand(cards, board)
      .replace(/^an? /, "")
      .replace(/^pair$/, "one pair");
    return [`${toAct} holds ${cards.join(" and ")}. What is the best hand that ${toAct} has with the board?`, best];
  },
  changed: ({ state: { history, players } }) => {
    const last = history.findLast((line) => players.some(({ name }) => line.startsWith(`${name} `)));
    return last && ["What did the last player who acted do? Answer with the name and the action.", last];
  },
};

const lines = [];
const counts = {};
const seen = new Set();
let table;
for (let row = 0; row < numRows; ) {
  if (table === undefined || random() < 0.05)
    table = new HoldemTable({ numPlayers: 2 + Math.floor(random() * 8), random });
  if (table.isHandOver) table.nextHand();
  else table.act(table.botAction());
  const state = table.state();
  const documents = jsonStateBlocks(state, { keyFields: ["seat"] });
  const hash = createHash("sha256").update(documents.join("")).digest("hex");
  const split = splits[Number.parseInt(hash.slice(0, 8), 16) % splits.length];
  if (split !== values.split || seen.has(hash)) continue;
  const kind = Object.keys(kinds)[row % Object.keys(kinds).length];
  const made = kinds[kind]({ table, state });
  if (!made) continue;
  seen.add(hash);
  const [question, answer] = made;
  lines.push(JSON.stringify({ id: `${values.split}-${row}`, kind, question, answers: [answer], documents }));
  counts[kind] = (counts[kind] ?? 0) + 1;
  row += 1;
}
try {
  writeFileSync(`${values.output}.part`, `${lines.join("\n")}\n`);
  renameSync(`${values.output}.part`, values.output);
} catch (error) {
  fail(error.message);
}
console.log(
  `${numRows} questions over as many states: ${Object.entries(counts)
    .map(([kind, n]) => `${n} ${kind}`)
    .join(", ")}`,
);

// A game's state of 300 blocks goes to the model each frame; one value changes, first in value, then in length. How long
// does the next frame's first token take in full mode and in block mode?
// `npm run bench -- game-frame`

import { Engine } from "../src/engine/engine.js";
import { jsonStateBlocks } from "../src/state/json-state.js";
import { benchModel } from "./shared/models.js";
import { describeRun, median, printTable } from "./shared/report.js";

interface Player {
  chips: number;
  bet: number;
}

const state = {
  table: "seven",
  players: Array.from({ length: 299 }, (_, i): Player => ({ chips: 1000 + i, bet: 10 })),
};
const question = "\nIt is your turn. Name one action: fold, call or raise.\nAction:";

await using engine = await Engine.load({ model: await benchModel("135m") });
console.log(`Game frame, ${engine.model.backend.threads} threads, ${describeRun()}\n`);
const blocksOf = () => [...jsonStateBlocks(state, { paths: ["table", "players.*"] }), question];
const ask = (mode: "full" | "block") =>
  engine.complete({ blocks: blocksOf() }, { mode, maxTokens: 1, keepPrefixes: false });

const first = await ask("block");
const rows: (string | number)[][] = [
  ["first frame", first.timings.ttftMs?.toFixed(0) ?? "", "", first.usage.promptTokens, 0],
];
const changes: readonly (readonly [string, (player: Player, i: number) => void])[] = [
  ["a value changed", (player, i) => Object.assign(player, { chips: 1000 + ((player.chips + 7 * (i + 1)) % 1000) })],
  ["a length changed", (player, i) => Object.assign(player, { chips: player.chips * 10 ** (i + 1) })],
];
for (const [what, change] of changes) {
  const block: number[] = [];
  let cached = 0;
  let prompt = 0;
  for (let i = 0; i < 5; i++) {
    change(state.players[50 * i] as Player, i);
    const frame = await ask("block");
    block.push(frame.timings.ttftMs as number);
    cached = frame.usage.cachedTokens;
    prompt = frame.usage.promptTokens;
  }
  const full = await ask("full");
  rows.push([what, median(block).toFixed(0), full.timings.ttftMs?.toFixed(0) ?? "", prompt, cached]);
}
printTable(["frame", "block ms", "full ms", "prompt tokens", "from the store"], rows);
console.log(`\n${first.blocks.length} blocks before the final one`);

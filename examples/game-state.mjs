// A game's state as JSON, frame after frame: only the value that changed is computed again, whatever its length.
import { Engine, jsonStateBlocks } from "block-attention";

const state = {
  pot: 1_200,
  board: ["9h", "Td", "Jc"],
  players: Array.from({ length: 6 }, (_, seat) => ({ seat, name: `player ${seat}`, chips: 10_000, bet: 200 })),
};

const engine = await Engine.load({ threads: 1 }); // a model this small gains nothing from more
try {
  const play = async (what) => {
    const blocks = [...jsonStateBlocks(state, { paths: ["pot", "board", "players.*"] }), "\nWho leads?"];
    const result = await engine.complete({ blocks }, { maxTokens: 1 });
    const computed = result.blocks.filter(({ hit }) => !hit).length;
    console.log(
      `${what}: ${computed} of ${result.blocks.length} blocks computed, ${result.usage.cachedTokens} tokens from the store`,
    );
  };
  await play("first frame");
  state.players[3].bet = 400;
  await play("player 3 bets 400");
  state.players[3].chips = 9_600;
  state.pot = 1_400;
  await play("chips and pot follow");
} finally {
  await engine[Symbol.asyncDispose]();
}

// A game's state as JSON, frame after frame: only what changed is computed, once for all questions about a frame.
import { Engine, StateSession } from "block-attention";

const state = {
  pot: 1_200,
  board: ["9h", "Td", "Jc"],
  players: Array.from({ length: 6 }, (_, seat) => ({
    seat,
    name: `player ${seat}`,
    chips: { bet: 200, remain: 10_000 },
  })),
};

const engine = await Engine.load({ threads: 1 }); // a model this small gains nothing from more
const session = new StateSession(engine, { keyFields: ["seat"] });
try {
  const ask = async (question) => {
    const { blocks, computed, usage } = await session.ask(question, { maxTokens: 1 });
    console.log(
      `  "${question}": ${computed.blocks} of ${blocks.length} blocks computed, ${usage.cachedTokens} tokens from the store`,
    );
  };
  const frame = (what, next) => {
    const { changes } = session.update(next);
    console.log(`${what}: ${changes.map(({ kind, path }) => `${path || "all"} ${kind}`).join(", ")}`);
  };
  frame("first frame", { state });
  await ask("Who leads?");
  await ask("Who is to act?");
  frame("player 3 bets 400", {
    patch: [
      { op: "replace", path: "/players/3/chips", value: { bet: 400, remain: 9_800 } },
      { op: "replace", path: "/pot", value: 1_400 },
    ],
  });
  await ask("Who leads?");
  frame("player 6 sits down", {
    patch: [{ op: "add", path: "/players/-", value: { seat: 6, name: "player 6", chips: { bet: 0, remain: 5_000 } } }],
  });
  await ask("Who leads?");
} finally {
  await session[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
}

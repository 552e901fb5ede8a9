import { expect, test } from "vitest";
import type { GenerateResult } from "../../engine/results.js";
import { mapChoices } from "./gather.js";

test("mapChoices(): in order, each choice with log-probabilities in a turn of its own", async () => {
  let turn = 0;
  let isOver = false;
  const nextTurn = (): void => {
    turn += 1;
    if (!isOver) setImmediate(nextTurn);
  };
  nextTurn();
  const token = { id: 1, text: "a", bytes: [97], logprob: -1, top: [] };
  const choice = (tokens: number, echo = 0) => ({
    text: "",
    opensReasoning: false,
    tokens: new Array(tokens).fill(token),
    echo: new Array(echo).fill(token),
    result: {} as GenerateResult,
  });
  const made = await mapChoices([choice(1), choice(0, 1), choice(2), choice(0)], (_, index) => [index, turn]);
  isOver = true;
  expect(made.map(([index]) => index)).toEqual([0, 1, 2, 3]);
  expect(new Set(made.map(([, at]) => at)).size).toBe(3);
});

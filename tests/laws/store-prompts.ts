import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { Random } from "../models/random.js";
import { drawIds, noEnd } from "./law-models.js";

/** Prompts over the same passages in other orders, each with a question of its own, of a whole page and some tokens. */
export function promptsOf(random: Random): { blockTokenIds: number[][] }[] {
  const passages = [13, 40, 5, 65].map((length) => drawIds(random, length));
  return [
    [0, 1, 2],
    [3, 2, 1],
    [1, 0],
  ].map((order) => ({ blockTokenIds: [...order.map((i) => passages[i] as number[]), drawIds(random, 70)] }));
}

export async function answers(engine: LocalEngine, prompts: readonly { blockTokenIds: number[][] }[], repair?: string) {
  const all = [];
  for (const prompt of prompts) {
    const { tokenIds, blocks, usage } = await engine.complete(prompt, {
      mode: "block",
      maxTokens: 5,
      logitBias: noEnd,
      ...(repair && { repair }),
    });
    all.push({ tokenIds, hits: blocks.map(({ hit }) => hit), cached: usage.cachedTokens });
  }
  return all;
}

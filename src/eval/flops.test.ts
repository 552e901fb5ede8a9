import { expect, test } from "vitest";
import type { ModelConfig } from "../model/config.js";
import { fullFlops, storedFlops } from "./ttft-table.js";

/** Llama-3-8B's sizes. */
const llama = {
  hiddenSize: 4096,
  intermediateSize: 14_336,
  numLayers: 32,
  numHeads: 32,
  numKvHeads: 8,
  headSize: 128,
  vocabSize: 128_256,
} as ModelConfig;

test("fullFlops(): the paper's figure at 32K, and the attention that it leaves out", () => {
  const flops = fullFlops(llama, 32_768);
  const attention = 4 * ((32_768 * 32_769) / 2) * 128 * 32 * 32;
  // docs/reference.md "Figures of the paper": 4.9e14 without attention, 2.8e14 more with it.
  expect(attention).toBeCloseTo(2.8e14, -13);
  // The paper counts the embedding's and the head's rows too, 7.5e9 parameters where the layers have 6.98e9.
  expect((flops - attention) / 32_768 / 2).toBeCloseTo(6.98e9, -7);
});

test("storedFlops(): the final block alone, over all keys", () => {
  expect(storedFlops(llama, 50, 50)).toBe(fullFlops(llama, 50));
  const more = storedFlops(llama, 32_768, 50) - fullFlops(llama, 50);
  // Each of 50 rows sees 32,718 keys more.
  expect(more).toBe(4 * 50 * 32_718 * 128 * 32 * 32);
});

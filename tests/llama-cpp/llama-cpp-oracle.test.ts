import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { writeRandomGguf } from "../models/random-gguf.js";
import { makeOracleCases } from "../oracles/oracle-cases.js";
import { expectSameOracles } from "./compare-oracles.js";
import { llamaCppGreedy, llamaCppScores, llamaCppTimings, whyNoLlamaCpp } from "./llama-cpp-oracle.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-llama-cpp-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const reason = await whyNoLlamaCpp();

// One of each architecture; the soak test has all.
for (const name of ["llama-biases-head-24", "mistral-head-32", "qwen2-yarn-mha", "qwen3-head-32-gqa"]) {
  test(`llamaCppScores(): equals PyTorch on ${name}`, { timeout: 120_000 }, async ({ skip }) => {
    if (reason !== undefined) skip(reason);
    await expectSameOracles(name, folder);
  });
}

test("llamaCppGreedy(): its steps are what llamaCppScores() holds likeliest", async ({ skip }) => {
  if (reason !== undefined) skip(reason);
  const path = join(folder, "greedy.gguf");
  writeRandomGguf(path, { architecture: "llama" });
  const prompt = makeOracleCases(256, 1)[0]!.blockTokenIds.flat();
  const [steps] = await llamaCppGreedy(path, [prompt], 8);
  const tokens = steps!.map(({ token }) => token);
  const [scored] = await llamaCppScores(path, [prompt], tokens);
  expect(scored!.map(({ token }) => token)).toEqual(tokens);
  expect(scored![3]!.logprob).toBeCloseTo(steps![3]!.top[0]![1], 4);
});

test("llamaCppTimings(): a number for each part that was asked for", async ({ skip }) => {
  if (reason !== undefined) skip(reason);
  const path = join(folder, "timings.gguf");
  writeRandomGguf(path, { architecture: "llama" });
  const sizes = { prefillTokens: 100, decodeTokens: 4, finalTokens: 0, repeats: 2 };
  const found = await llamaCppTimings(path, sizes, { flashAttention: true, kvType: "F16", batchSize: 64 }, 30_000);
  expect(found).toMatchObject({ batchSize: 64, flashAttention: true });
  expect(found.prefillMs).toBeGreaterThan(0);
  expect(found.decodeMs).toBeGreaterThan(0);
  expect(found.finalMs).toBeUndefined();
});

test("llamaCppGreedy(): a missing model and no time are one-line errors", async ({ skip }) => {
  if (reason !== undefined) skip(reason);
  const missing = join(folder, "missing.gguf");
  await expect(llamaCppGreedy(missing, [[1]], 1)).rejects.toThrow(/^Cannot ask llama\.cpp: [^\n]+$/);
  await expect(llamaCppGreedy(missing, [[1]], 1, {}, 1)).rejects.toThrow("Cannot ask llama.cpp: no answer within 1 ms");
});

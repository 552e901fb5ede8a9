import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import type { ModelSource } from "../src/model/model-source.js";
import { openModel } from "../src/model/open-model.js";
import { llamaCppScores, whyNoLlamaCpp } from "./llama-cpp/llama-cpp-oracle.js";
import { Random } from "./models/random.js";
import { writeRandomGguf } from "./models/random-gguf.js";
import { distanceFromOracle, logprobBounds, type OracleAnswer, oracleAnswer } from "./oracles/compare-engine.js";
import { expectOnlyRight, type OraclePrompt } from "./oracles/faults.js";
import { OnePassModel } from "./oracles/one-pass.js";
import { readOracleFixture, writeOracleModel } from "./oracles/oracle-fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-windows-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Expects the answer within the bound of the right window's, and beyond it of windows of one place more and one less. */
function expectWindow(source: ModelSource, prompt: OraclePrompt, answer: OracleAnswer, bound: number): void {
  const { architecture } = source;
  const distance = (more: number) => {
    const window: typeof architecture.window = (config, layer) => {
      const size = architecture.window(config, layer);
      return size === undefined ? undefined : size + more;
    };
    const model = new OnePassModel({ ...source, architecture: { ...architecture, window } });
    const { logprobs, top } = oracleAnswer(model.score(prompt), prompt);
    return distanceFromOracle(
      { logprobs, top: top.map((row) => row.map(([id, logprob]) => ({ id, logprob }))) },
      answer,
    );
  };
  expectOnlyRight(bound, distance(0), { "rows see one place more": distance(1), "one place less": distance(-1) });
}

test.each(["gemma3-windows", "qwen2-window-layers"])("windows of %s end where Transformers' do", async (name) => {
  const model = join(folder, name);
  const cases = writeOracleModel(name, model);
  const fixture = readOracleFixture(name, model, cases);
  const index = cases.findIndex((one) => one.name === "full mode");
  const prompt = { ...cases[index]!, blockTokenIds: [cases[index]!.blockTokenIds.flat()] };
  expectWindow(await openModel(model), prompt, fixture.cases[index]!, logprobBounds.f32);
});

test("windows of gemma3 end where llama.cpp's do", async ({ skip }) => {
  const reason = await whyNoLlamaCpp();
  if (reason !== undefined) skip(reason);
  const path = join(folder, "gemma3.gguf");
  writeRandomGguf(path, { architecture: "gemma3_text", slidingWindow: 8, tied: true, seed: 41 });
  const random = new Random(41, "windows");
  const draw = (length: number) => Array.from({ length }, () => random.below(250));
  const prompt = { blockTokenIds: [draw(60)], continuationTokenIds: draw(12) };
  const [steps] = await llamaCppScores(path, prompt.blockTokenIds, prompt.continuationTokenIds);
  const answer = { logprobs: steps!.map(({ logprob }) => logprob), top: steps!.map(() => []) };
  // llama.cpp's GELU comes from a table of 16-bit floats.
  expectWindow(await openModel(path), prompt, answer, 1e-2);
});

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { Engine } from "../src/engine/engine.js";
import type { ScoreResult } from "../src/engine/results.js";
import { writeGguf } from "../src/files/gguf-writer.js";
import { findGgmlDirectory, loadGgml } from "../src/ggml/library.js";
import type { ModelConfig } from "../src/model/config.js";
import { ggufModelEntries, ggufTensors } from "../src/model/gguf-export.js";
import type { ModelSource } from "../src/model/model-source.js";
import { openModel } from "../src/model/open-model.js";
import { ggufTokenizerEntries } from "../src/tokenizer/gguf-export.js";
import { readHuggingFaceFiles } from "../src/tokenizer/load-tokenizer.js";
import { Random } from "./models/random.js";
import { writeRandomModel } from "./models/random-model.js";
import { askEngine, distanceFromOracle, logprobBounds, oracleAnswer } from "./oracles/compare-engine.js";
import { OnePassModel } from "./oracles/one-pass.js";

// What adding an architecture takes: a line in the table.
vi.mock("../src/model/architectures/registry.js", async (importOriginal) => {
  const { architectures } = await importOriginal<typeof import("../src/model/architectures/registry.js")>();
  const { fusedScaled } = await import("./models/fused-scaled.js");
  return { architectures: [...architectures, fusedScaled] };
});

const folder = mkdtempSync(join(tmpdir(), "block-attention-architectures-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const [written, gguf] = [join(folder, "model"), join(folder, "model.gguf")];
const settings = {
  hidden_act: "swish",
  embedding_multiplier: 3,
  residual_multiplier: 0.6,
  attention_multiplier: 0.2,
  logits_scaling: 1.5,
  rope_local_base_freq: 100,
  local_window: 12,
};

beforeAll(async () => {
  writeRandomModel(written, { architecture: "fused_scaled", numLayers: 4, settings, seed: 71 });
  // As convert does.
  const source = await openModel(written);
  const { entries } = ggufTokenizerEntries(await readHuggingFaceFiles(written), source.config.vocabSize);
  const metadata = new Map([...ggufModelEntries(source, "keep"), ...entries]);
  await writeGguf(gguf, metadata, ggufTensors(loadGgml(await findGgmlDirectory("cpu")), source, "keep"));
});

const random = new Random(71, "architectures");
const draw = (length: number) => Array.from({ length }, () => random.below(250));
const blockTokenIds = [30, 7, 45, 20].map(draw);
const continuationTokenIds = draw(6);

/** What each of the oracle's answers to the prompt is, the source changed or not. */
function answer(source: ModelSource, mode: "block" | "full") {
  const model = new OnePassModel(source);
  const blocks = mode === "full" ? [blockTokenIds.flat()] : blockTokenIds;
  return oracleAnswer(model.score({ blockTokenIds: blocks, continuationTokenIds }), { continuationTokenIds });
}

test.each([
  ["a Hugging Face folder", written],
  ["GGUF", gguf],
])("Engine.score(): an architecture of a test file equals llama with equal weights, from %s", async (_, model) => {
  const source = await openModel(model);
  await using engine = await Engine.load({ model, threads: 1, kvType: "f32" });
  const { vocabSize } = source.config;
  for (const mode of ["block", "full"] as const) {
    const expected = answer(source, mode);
    // Each matters: layers without RoPE and with another, and those that do not see far.
    const wrong = [{ rope: ({ rope }: ModelConfig) => rope }, { window: () => undefined }].map((change) =>
      answer({ ...source, architecture: { ...source.architecture, ...change } }, mode),
    );
    for (const stepwise of [false, true]) {
      const found = await askEngine(engine, { blockTokenIds, continuationTokenIds }, { mode, stepwise, vocabSize });
      expect(distanceFromOracle(found, expected), `${mode}, ${stepwise}`).toBeLessThan(logprobBounds.f32);
      for (const other of wrong) expect(distanceFromOracle(found, other), `${mode}, ${stepwise}`).toBeGreaterThan(0.1);
    }
    // Beside another one, a continuation has its window over the prompt and itself.
    const beside = [continuationTokenIds.toReversed(), continuationTokenIds];
    const [, { logprobs }] = (await engine.scoreEach({ blockTokenIds }, beside, { mode })) as [unknown, ScoreResult];
    const alone = await engine.score({ blockTokenIds }, continuationTokenIds, { mode });
    for (const [i, logprob] of logprobs.entries()) {
      expect(Math.abs(logprob - alone.logprobs[i]!), `${mode}, token ${i}`).toBeLessThan(logprobBounds.f32);
    }
  }
});

test("ggufModelEntries(): an architecture's own metadata come back", async () => {
  const [before, after] = await Promise.all([openModel(written), openModel(gguf)]);
  expect(before.config).toMatchObject({
    embeddingMultiplier: 3,
    logitsScaling: 1.5,
    localRope: { theta: 100 },
    localWindow: 12,
  });
  const rounded = ({ config }: ModelSource) =>
    JSON.parse(JSON.stringify(config, (_, value) => (typeof value === "number" ? Math.fround(value) : value)));
  expect(rounded(after)).toEqual(rounded(before));
});

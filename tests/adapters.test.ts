import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Engine } from "../src/engine/engine.js";
import type { EngineOptions } from "../src/engine/engine-options.js";
import type { ScoreResult, ServedBlock } from "../src/engine/results.js";
import { expectError } from "../src/files/test-files.suite.js";
import type { AdapterInput } from "../src/model/adapters.js";
import { openModel } from "../src/model/open-model.js";
import { llamaCppScores, whyNoLlamaCpp } from "./llama-cpp/llama-cpp-oracle.js";
import { architectureModels } from "./models/architecture-models.js";
import { ggmlQuantizer } from "./models/ggml-quantizer.js";
import {
  randomAdapter,
  sharedFactors,
  writeGgufAdapter,
  writeMerged,
  writePeftAdapter,
} from "./models/random-adapter.js";
import { writeRandomGguf } from "./models/random-gguf.js";
import { writeRandomModel } from "./models/random-model.js";
import { askEngine, distanceFromOracle, logprobBounds, oracleAnswer } from "./oracles/compare-engine.js";
import { OnePassModel } from "./oracles/one-pass.js";
import { runCli } from "./run-cli.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-adapters-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const blockTokenIds = [
  [5, 6, 7, 8, 9, 10],
  [30, 31, 32, 33],
  [40, 41, 42, 43, 44],
];
const prompt = { blockTokenIds, continuationTokenIds: [50, 51, 52] };
const modes = ["block", "full"] as const;

/** A model in both formats, two adapters in both, and the model with them merged. The first adapter changes the embedding too. */
async function writeAll(name: string, { embedding = true } = {}) {
  const at = (what: string) => join(folder, `${name}-${what}`);
  const [model, gguf, merged] = [at("model"), at("model.gguf"), at("merged")];
  writeRandomModel(model, architectureModels[name]!);
  writeRandomGguf(gguf, architectureModels[name]!);
  const adapters = [
    { adapter: await randomAdapter(model, { seed: 1, embedding }), scale: 1 },
    { adapter: await randomAdapter(model, { seed: 2, rank: 3, alpha: 2 }), scale: -0.5 },
  ];
  await writeMerged(merged, model, adapters);
  const peftAdapters: AdapterInput[] = [];
  const ggufAdapters: AdapterInput[] = [];
  for (const [i, { adapter, scale }] of adapters.entries()) {
    writePeftAdapter(at(`peft-${i}`), adapter);
    await writeGgufAdapter(at(`${i}.gguf`), model, adapter);
    peftAdapters.push({ path: at(`peft-${i}`), scale });
    ggufAdapters.push({ path: at(`${i}.gguf`), scale });
  }
  return { model, gguf, merged, peftAdapters, ggufAdapters };
}

/** Answers in block mode and in full mode. */
async function ask(options: EngineOptions): Promise<ScoreResult[]> {
  await using engine = await Engine.load({ threads: 1, kvType: "f32", ...options });
  const { vocabSize } = engine.info;
  return await Promise.all(modes.map((mode) => askEngine(engine, prompt, { mode, vocabSize })));
}

/** How far answers are from what the merged model's are. */
async function distancesFrom(merged: string): Promise<(answers: readonly ScoreResult[]) => number> {
  const oracle = new OnePassModel(await openModel(merged));
  const expected = modes.map((mode) => {
    const blocks = mode === "full" ? [blockTokenIds.flat()] : blockTokenIds;
    return oracleAnswer(oracle.score({ ...prompt, blockTokenIds: blocks }), prompt);
  });
  return (answers) => Math.max(...answers.map((answer, i) => distanceFromOracle(answer, expected[i]!)));
}

for (const name of Object.keys(architectureModels)) {
  test(`Engine.load(): ${name} with two adapters of either kind computes as the merged model`, async () => {
    const { model, gguf, merged, peftAdapters, ggufAdapters } = await writeAll(name);
    const distance = await distancesFrom(merged);
    const mixed = [
      [peftAdapters[0]!, ggufAdapters[1]!],
      [ggufAdapters[0]!, peftAdapters[1]!],
    ];
    for (const base of [model, gguf]) {
      for (const adapters of mixed) {
        const mapWeights = base === gguf;
        expect(distance(await ask({ model: base, adapters, mapWeights }))).toBeLessThan(logprobBounds.f32);
      }
    }
    for (const adapters of [peftAdapters.slice(1), [peftAdapters[0]!, { ...peftAdapters[1]!, scale: 1 }]]) {
      expect(distance(await ask({ model, adapters }))).toBeGreaterThan(0.1);
    }
  });
}

test("Engine.load(): a PEFT adapter of experts that are one parameter computes as the merged model", async () => {
  const { model, gguf, merged } = await writeAll("qwen3_moe");
  const adapter = sharedFactors(await randomAdapter(model, { seed: 4 }));
  await writeMerged(merged, model, [{ adapter, scale: 0.5 }]);
  const path = join(folder, "parameters");
  writePeftAdapter(path, adapter, { target_parameters: ["experts.gate_up_proj", "experts.down_proj"] });
  const distance = await distancesFrom(merged);
  for (const base of [model, gguf]) {
    expect(distance(await ask({ model: base, adapters: [{ path, scale: 0.5 }] }))).toBeLessThan(logprobBounds.f32);
  }
  expect(distance(await ask({ model, adapters: [{ path }] }))).toBeGreaterThan(0.1);
  await expectError(
    ask({ model, adapters: [{ path, scale: 1e300 }] }),
    /^Cannot merge adapters into "blk.*": a number/,
  );
});

test("Engine.load(): weights with an adapter are quantized as those of the merged model", async () => {
  const { model, gguf, merged, peftAdapters: adapters } = await writeAll("llama");
  const distance = ([one, other]: readonly ScoreResult[][]) =>
    Math.max(
      ...one!.flatMap(({ logprobs }, i) => logprobs.map((logprob, j) => Math.abs(logprob - other![i]!.logprobs[j]!))),
    );
  const asked = await Promise.all([ask({ model: merged, weights: "q8_0" }), ask({ model, adapters, weights: "q8_0" })]);
  // A sum that is rounded otherwise turns a last bit here and there.
  expect(distance(asked)).toBeLessThan(2e-2);
  writeRandomGguf(gguf, { ...architectureModels.llama!, type: "Q8_0", quantizeRows: await ggmlQuantizer() });
  const kept = await ask({ model: gguf, adapters });
  expect(distance([kept, asked[0]])).toBeLessThan(0.2);
  expect(distance([await ask({ model: gguf }), asked[0]])).toBeGreaterThan(0.5);
});

test("LocalEngine.encode(): block ids tell adapters apart, by their values, scales and order, whatever form they have", async () => {
  const { model, peftAdapters, ggufAdapters } = await writeAll("qwen3");
  const [a, b] = peftAdapters.map(({ path }) => path) as [string, string];
  const idWith = async (adapters?: readonly AdapterInput[]) => {
    await using engine = await Engine.load({ model, threads: 1, ...(adapters && { adapters }) });
    return ((await engine.encode(["a passage"])).blocks[0] as ServedBlock).id;
  };
  const plain = await idWith();
  expect(await idWith([{ path: a, scale: 0 }])).toBe(plain);
  expect(await idWith([{ path: a, scale: 1 }])).toBe(await idWith([{ path: a }]));
  const others = [
    [{ path: a }],
    [{ path: b }],
    [{ path: a, scale: 0.5 }],
    [{ path: a }, { path: b, scale: 0.5 }],
    [{ path: b }, { path: a, scale: 0.5 }],
    [{ path: b, scale: 0.5 }, { path: a }],
  ];
  const ids = [plain];
  for (const adapters of others) ids.push(await idWith(adapters));
  expect(new Set(ids).size).toBe(others.length + 1);
  expect(await idWith([{ path: ggufAdapters[0]!.path }])).toBe(ids[1]);
});

test("convert: a model with adapters becomes the merged model", async () => {
  const { model, merged, peftAdapters } = await writeAll("smollm3");
  const output = join(folder, "converted.gguf");
  const flags = peftAdapters.flatMap(({ path, scale }) => ["--adapter", path, "--adapter-scale", String(scale)]);
  const done = await runCli(["convert", "--model", model, ...flags, "--to", "gguf", "--output", output]);
  expect(done).toMatchObject({ code: 0, error: undefined });
  const distance = await distancesFrom(merged);
  expect(distance(await ask({ model: output }))).toBeLessThan(logprobBounds.f32);
  const into = ["convert", "--model", model, ...flags, "--to", "gguf", "--force", "--output"];
  const overAdapter = await runCli([...into, join(peftAdapters[0]!.path, "adapter_model.safetensors")]);
  expect(overAdapter.error?.message).toMatch(/^Cannot write /);
});

test("info: tells adapters, their scales and how many weights they change", async () => {
  const { model, ggufAdapters } = await writeAll("qwen3");
  const [path, other] = ggufAdapters.map((adapter) => adapter.path) as [string, string];
  const flags = ["--adapter", path, "--adapter", other, "--adapter-scale", "0.25"];
  const { stdout } = await runCli(["info", "--model", model, ...flags, "--json"]);
  expect(JSON.parse(stdout).adapters).toEqual([
    { path, scale: 1, weights: 15 },
    { path: other, scale: 0.25, weights: 14 },
  ]);
});

test.each(["llama", "qwen2", "phi3", "qwen3_moe"])(
  "Engine.score(): %s with GGUF adapters equals llama.cpp",
  async (name) => {
    const reason = await whyNoLlamaCpp();
    if (reason !== undefined) return expect(reason).toMatch(/llama/i);
    const { gguf, ggufAdapters: adapters } = await writeAll(name, { embedding: false });
    const { continuationTokenIds } = prompt;
    const [steps] = await llamaCppScores(gguf, [blockTokenIds.flat()], continuationTokenIds, { adapters });
    const distance = ([, full]: readonly ScoreResult[]) =>
      Math.max(...steps!.map(({ logprob }, i) => Math.abs(full!.logprobs[i]! - logprob)));
    expect(distance(await ask({ model: gguf, adapters }))).toBeLessThan(logprobBounds.f32);
    expect(distance(await ask({ model: gguf }))).toBeGreaterThan(0.1);
  },
);

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Engine } from "../src/engine/engine.js";
import type { ScoreOptions } from "../src/engine/engine-options.js";
import { loadTokenizer } from "../src/engine/model.js";
import { modelIdentity } from "../src/engine/model-identity.js";
import { readGguf } from "../src/files/gguf.js";
import { readRange } from "../src/files/read-range.js";
import { findGgmlDirectory, loadGgml } from "../src/ggml/library.js";
import type { ModelSource, WeightEntry } from "../src/model/model-source.js";
import { openModel } from "../src/model/open-model.js";
import { buildDist, projectRoot } from "./build-dist.js";
import { expectLlamaCpp } from "./llama-cpp/compare-engine.js";
import { whyNoLlamaCpp } from "./llama-cpp/llama-cpp-oracle.js";
import { architectureModels } from "./models/architecture-models.js";
import { Random } from "./models/random.js";
import { type RandomModelOptions, writeRandomModel } from "./models/random-model.js";
import { countTokens } from "./models/random-tokenizer.js";
import { expectSameLogprobs } from "./oracles/compare-engine.js";

beforeAll(buildDist, 120_000);

const folder = mkdtempSync(join(tmpdir(), "block-attention-convert-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const noLlamaCpp = await whyNoLlamaCpp();

const blockAttention = { version: 1, prefix: "[Block-Attention]", modes: ["block", "full"] } as const;
const models: Readonly<Record<string, RandomModelOptions>> = {
  ...architectureModels,
  llama: { architecture: "llama", rope: "llama3", attentionBias: true, tied: true, blockAttention, seed: 51 },
  mistral: { architecture: "mistral", headSize: 32, dtype: "BF16", seed: 52 },
  qwen2: { architecture: "qwen2", theta: 1_000_000, shards: 2, seed: 53 },
  // The first layer sees everything.
  "qwen2-sliding": {
    architecture: "qwen2",
    settings: { use_sliding_window: true, sliding_window: 70, max_window_layers: 1 },
    seed: 57,
  },
  olmo2: { architecture: "olmo2", dtype: "F16", seed: 56 },
};
/**
 * Sums run in another order where rows of a head change places; processors without products of BF16 round what is multiplied
 * with such weights to 8 bits first, so that a last bit may turn.
 */
const bounds = { F32: 1e-4, F16: 1e-3, BF16: 5e-3 };

function convert(...args: readonly string[]) {
  return convertTo("gguf", ...args);
}

function convertTo(format: string, ...args: readonly string[]) {
  const main = join(projectRoot, "dist", "cli", "main.js");
  return spawnSync(process.execPath, [main, "convert", "--to", format, ...args], { encoding: "utf8" });
}

function prompts(seed: number): number[][] {
  const random = new Random(seed, "convert");
  return [40, 7, 9].map((length) => Array.from({ length }, () => random.below(countTokens())));
}

async function scores(model: string, weights: "keep" | "q8_0", how: ScoreOptions = {}): Promise<readonly number[]> {
  await using engine = await Engine.load({ model, kvType: "f32", threads: 1, weights });
  const blockTokenIds = prompts(1);
  return (await engine.score({ blockTokenIds }, blockTokenIds[1]!, { mode: "block", ...how })).logprobs;
}

for (const [name, options] of Object.entries(models)) {
  test(`convert: ${name} as GGUF is the same model here`, async () => {
    const source = join(folder, name);
    const output = join(folder, `${name}.gguf`);
    writeRandomModel(source, options);
    const told = convert("--model", source, "--output", output);
    expect(told).toMatchObject({ status: 0, stdout: `Written: ${output}\n` });

    const [before, after] = await Promise.all([openModel(source, {}), openModel(output, {})]);
    // Mistral's files are llama's; RoPE has other pairs, and llama3 scaling becomes factors.
    const comparable = ({ config: { architecture, rope, localRope, ...rest } }: ModelSource) =>
      JSON.parse(
        JSON.stringify({ ...rest, thetas: [rope.theta, localRope?.theta] }, (_, value) =>
          typeof value === "number" ? Math.fround(value) : value,
        ),
      );
    expect(comparable(after)).toEqual(comparable(before));
    expect(after.config.slidingLayers).toEqual(before.config.slidingLayers);
    expect([...after.endTokenIds].sort()).toEqual([...before.endTokenIds].sort());
    await expectSameLogprobs(bounds[options.dtype ?? "F32"], await scores(output, "keep"), (how) =>
      scores(source, "keep", how),
    );
  });

  test(`convert: llama.cpp equals the folder that ${name} came from`, { timeout: 120_000 }, async ({ skip }) => {
    if (noLlamaCpp !== undefined) skip(noLlamaCpp);
    // The folder's name becomes the model's, and llama.cpp wants Phi 3's tokens in one whose name says so.
    const source = join(folder, `there-${options.seed}`);
    const output = `${source}.gguf`;
    writeRandomModel(source, options);
    expect(convert("--model", source, "--output", output).status).toBe(0);
    await using engine = await Engine.load({ model: source, kvType: "f32", threads: 1 });
    const how = { numSteps: 24, threads: 1 };
    const { numCounted } = await expectLlamaCpp(engine, output, prompts(2), how);
    expect(numCounted).toBeGreaterThan(8);
  });
}

const toFolders: Readonly<Record<string, RandomModelOptions>> = {
  // Its rows lie in pairs in GGUF.
  llama: { architecture: "llama", attentionBias: true, tied: true, blockAttention, dtype: "BF16", seed: 61 },
  qwen2: { architecture: "qwen2", theta: 1_000_000, dtype: "BF16", seed: 62 },
};
for (const [name, options] of Object.entries(toFolders)) {
  test(`convert --to hf: ${name} comes back from GGUF byte for byte, with its tokenizer`, async () => {
    const [source, gguf, output] = ["", ".gguf", "-back"].map((end) => join(folder, `back-${name}${end}`)) as [
      string,
      string,
      string,
    ];
    writeRandomModel(source, options);
    // Norms and biases are F32 in GGUF, which BF16 holds whole where they came from it.
    expect(convert("--model", source, "--output", gguf).status).toBe(0);
    const told = convertTo("hf", "--model", gguf, "--output", output);
    expect(told).toMatchObject({ status: 0, stdout: `Written: ${output}\n` });
    const [before, after] = await Promise.all([openModel(source), openModel(output)]);
    expect({ ...after.config, rmsNormEps: 0 }).toEqual({ ...before.config, rmsNormEps: 0 });
    expect(after.config.rmsNormEps).toBeCloseTo(before.config.rmsNormEps, 12);
    expect([...after.endTokenIds].sort()).toEqual([...before.endTokenIds].sort());
    for (const [weight, entry] of before.tensors) {
      const bytes = await Promise.all([entry, after.tensors.get(weight)].map((one) => bytesOf(one as WeightEntry)));
      expect(Buffer.compare(...(bytes as [Buffer, Buffer])), weight).toBe(0);
    }
    const [ggml, cacheDir] = [loadGgml(await findGgmlDirectory("cpu")), join(folder, "cache")];
    const identities = [before, await openModel(gguf), after].map((one) =>
      modelIdentity(ggml, one, "keep", { cacheDir }),
    );
    expect(new Set(await Promise.all(identities)).size).toBe(1);
    const [one, other] = await Promise.all([loadTokenizer(gguf), loadTokenizer(output)]);
    const text = "- Title: Ünïcode 東京 123\n\nDon't  stop.\n";
    expect([...other.encode(text, "all")]).toEqual([...one.encode(text, "all")]);
    expect(other.chatTemplate).toBe(one.chatTemplate);
    expect(convertTo("hf", "--model", gguf, "--output", output).stderr).toContain("there is such a folder");
    expect(convertTo("hf", "--model", output, "--output", `${output}-2`).stderr).toContain("it is a folder already");
  });
}

async function bytesOf({ parts }: WeightEntry): Promise<Buffer> {
  return Buffer.concat(await Promise.all(parts.map((one) => readRange(one.path, one.offset, one.byteLength))));
}

test("convert --to hf: what a folder would not say is refused, and nothing is written", () => {
  const [source, gguf, output] = [join(folder, "refused"), join(folder, "refused.gguf"), join(folder, "refused-back")];
  writeRandomModel(source, { architecture: "llama", rope: "llama3", seed: 63 });
  expect(convert("--model", source, "--output", gguf).status).toBe(0);
  expect(convertTo("hf", "--model", gguf, "--output", output)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("config.json is not written for what this llama model has"),
  });
  expect(existsSync(output) || existsSync(`${output}.partial`)).toBe(false);
});

test("convert --weights q8_0: the file holds what --weights makes at load", async () => {
  const source = join(folder, "to-q8");
  const output = join(folder, "q8.gguf");
  writeRandomModel(source, models.mistral as RandomModelOptions);
  const { status, stdout } = convert("--model", source, "--weights", "q8_0", "--output", output, "--json");
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ output, warnings: [] });
  const opened = await openModel(output, {});
  expect(opened.tensors.get("blk.0.attn_q.weight")?.type).toBe("Q8_0");
  await expectSameLogprobs(1e-3, await scores(output, "keep"), (how) => scores(source, "q8_0", how));
});

const quantizer = join(homedir(), ".cache/block-attention/llama-server/build/bin/llama-quantize");
// llama.cpp's name of a file, ours of a type.
const quantized = [
  ["Q8_0", "q8_0"],
  ["Q6_K", "q6_k"],
  ["Q5_1", "q5_1"],
  ["Q4_K_S", "q4_k"],
  ["Q4_1", "q4_1"],
  ["Q3_K_S", "q3_k"],
  ["IQ4_XS", "iq4_xs"],
  ["IQ3_S", "iq3_s"],
  ["TQ1_0", "tq1_0"],
  ["MXFP4_MOE", "mxfp4"],
] as const;

test("convert --weights: writes llama-quantize's bytes, of rows too that the type does not hold", {
  timeout: 120_000,
}, async ({ skip }) => {
  if (!existsSync(quantizer)) skip(`${quantizer} is not there: node bench/build-llama-server.mjs`);
  const uneven = join(folder, "uneven");
  writeRandomModel(uneven, { architecture: "llama", hiddenSize: 256, intermediateSize: 352, seed: 58 });
  for (const source of [join(projectRoot, "models/tiny-rag"), uneven]) {
    const [whole, theirs, ours] = ["whole", "theirs", "ours"].map((name) => join(folder, `${name}.gguf`)) as [
      string,
      string,
      string,
    ];
    convert("--model", source, "--output", whole, "--force");
    for (const [name, weights] of quantized) {
      const { status, stderr } = spawnSync(quantizer, ["--pure", whole, theirs, name, "1"], { encoding: "utf8" });
      expect(status, stderr).toBe(0);
      convert("--model", source, "--weights", weights, "--output", ours, "--force");
      const [wanted, found] = await Promise.all([readGguf(theirs), readGguf(ours)]);
      expect([...found.tensors.keys()].sort()).toEqual([...wanted.tensors.keys()].sort());
      for (const [tensor, written] of wanted.tensors) {
        const both = [written, found.tensors.get(tensor)!].map((of) => (of.kind === "readable" ? of.entry : undefined));
        expect(both[1]?.type, `${name} ${tensor}`).toBe(both[0]?.type);
        const [a, b] = await Promise.all(both.map((of) => readRange(of!.path, of!.offset, of!.byteLength)));
        expect(Buffer.compare(a!, b!), `${name} ${tensor}`).toBe(0);
      }
    }
  }
});

test("convert: a head of its own beside a tied embedding is used here and there, with a warning", async () => {
  const [source, output] = [join(folder, "own-head"), join(folder, "own-head.gguf")];
  writeRandomModel(source, { architecture: "llama", seed: 57 });
  const wanted = await scores(source, "keep");
  const path = join(source, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), tie_word_embeddings: true }));
  const warnings: string[] = [];
  await using engine = await Engine.load({ model: source, threads: 1, onWarning: (warning) => warnings.push(warning) });
  expect(engine.model.source.config.tiedHead).toBe(false);
  expect(warnings.pop()).toBe(engine.info.reuseNote);
  expect(warnings).toEqual([expect.stringMatching(/^"[^\n]*config.json" ties the head[^\n]*its own head is used$/)]);
  expect(await scores(source, "keep")).toEqual(wanted);
  const { status, stdout, stderr } = convert("--model", source, "--output", output, "--json");
  expect({ status, warnings: JSON.parse(stdout).warnings }).toEqual({ status: 0, warnings });
  expect(stderr).toContain("Warning: ");
  await expectSameLogprobs(bounds.F32, await scores(output, "keep"), (how) => scores(source, "keep", how));
});

test("convert: a tokenizer that GGUF cannot say is refused with a text that would get other ids", () => {
  const source = join(folder, "newlines");
  writeRandomModel(source, { architecture: "llama", seed: 55 });
  const path = join(source, "tokenizer.json");
  const tokenizer = JSON.parse(readFileSync(path, "utf8"));
  tokenizer.normalizer = { type: "Replace", pattern: { String: "\n" }, content: "\n " };
  writeFileSync(path, JSON.stringify(tokenizer));
  const { status, stderr } = convert("--model", source, "--output", join(folder, "none.gguf"));
  expect(status).toBe(1);
  expect(stderr).toContain("llama.cpp knows no way to cut text as it does, for instance");
});

test("convert: what cannot be used", () => {
  const source = join(folder, "plain");
  writeRandomModel(source, { architecture: "qwen2", rope: "llama3", seed: 56 });
  const taken = join(folder, "taken.gguf");
  writeFileSync(taken, "mine");
  expect(convert("--model", source, "--output", taken)).toMatchObject({ status: 2, stdout: "" });
  expect(readFileSync(taken, "utf8")).toBe("mine");
  const scaled = convert("--model", source, "--output", taken, "--force");
  expect(scaled.stderr).toContain("GGUF has no llama3 RoPE scaling for qwen2, only for llama");
  expect(readFileSync(taken, "utf8")).toBe("mine");
  const nowhere = convert("--model", source, "--output", join(folder, "no", "such", "folder.gguf"), "--prefix", "x");
  expect(nowhere.status).toBe(1);
  for (const [setting, reason] of [
    [{ norm_topk_prob: false }, "GGUF has no weights of experts that do not add up to 1 for qwen3moe"],
    [{ mlp_only_layers: [1] }, "GGUF has no layers without experts for qwen3moe"],
  ] as const) {
    const shape = architectureModels.qwen3_moe!;
    const other = join(folder, Object.keys(setting)[0]!);
    writeRandomModel(other, { ...shape, settings: { ...shape.settings, ...setting } });
    expect(convert("--model", other, "--output", `${other}.gguf`).stderr).toContain(reason);
  }
});

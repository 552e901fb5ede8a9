import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { architectureModels } from "../../tests/models/architecture-models.js";
import { randomAdapter, writeGgufAdapter, writePeftAdapter } from "../../tests/models/random-adapter.js";
import { type RandomModelOptions, writeRandomModel } from "../../tests/models/random-model.js";
import type { WeightsConversion } from "../files/element-types.js";
import { writeGguf } from "../files/gguf-writer.js";
import { Backend } from "../ggml/backend.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import type { ModelConfig } from "../model/config.js";
import { ggufModelEntries, ggufTensors } from "../model/gguf-export.js";
import type { ModelSource } from "../model/model-source.js";
import { type ModelOverride, openModel } from "../model/open-model.js";
import { loadWeights } from "../model/weights.js";
import { countedBy, identitySettings, modelIdentity } from "./model-identity.js";
import { Scheduler } from "./scheduler.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const folder = mkdtempSync(join(tmpdir(), "block-attention-identity-"));
afterAll(() => rmSync(folder, { recursive: true }));
const cacheDir = join(folder, "cache");

function identityOf(source: ModelSource, conversion: WeightsConversion = "keep"): Promise<string> {
  return modelIdentity(ggml, source, conversion, { cacheDir });
}

async function open(path: string, override?: ModelOverride, conversion?: WeightsConversion): Promise<string> {
  return identityOf(await openModel(path, override), conversion);
}

/** A random model as a folder, and what it becomes in GGUF. */
async function bothForms(name: string, options: RandomModelOptions, conversion: WeightsConversion = "keep") {
  const [model, gguf] = [join(folder, name), join(folder, `${name}.gguf`)] as const;
  writeRandomModel(model, options);
  const source = await openModel(model);
  await writeGguf(gguf, ggufModelEntries(source, conversion), ggufTensors(ggml, source, conversion), () => {});
  return { model, gguf };
}

for (const [name, shape] of Object.entries(architectureModels)) {
  test(`modelIdentity(): of ${name}, a folder and a GGUF file of the same numbers have one`, async () => {
    for (const dtype of ["F16", "F32"] as const) {
      const { model, gguf } = await bothForms(`${name}-${dtype}`, { ...shape, dtype });
      expect(await open(gguf)).toBe(await open(model));
    }
  });
}

test("modelIdentity(): the width of floats does not count, what rounding makes of them does", async () => {
  // BF16's smallest numbers are below F16's steps, so that some of many are rounded.
  const options = { architecture: "llama", hiddenSize: 256, tied: true, seed: 5 } as const;
  const { model, gguf } = await bothForms("bf16", { ...options, dtype: "BF16" }, "f16");
  const wide = await bothForms("wide", { ...options, dtype: "BF16" }, "f32");
  expect(await open(wide.gguf)).toBe(await open(model));
  expect(await open(gguf)).not.toBe(await open(model));
});

test("modelIdentity(): every number of every tensor counts, and their types where they are quantized", async () => {
  const { gguf } = await bothForms("changed", { architecture: "qwen3", attentionBias: true, seed: 6 }, "q8_0");
  const source = await openModel(gguf);
  const found = new Set([await identityOf(source)]);
  const bytes = readFileSync(gguf);
  for (const { parts, byteLength } of source.tensors.values()) {
    for (const at of [0, Math.floor(byteLength / 2), byteLength - 1]) {
      const changed = Buffer.from(bytes);
      changed[parts[0]!.offset + at]! ^= 1;
      const path = join(folder, `changed-${found.size}.gguf`);
      writeFileSync(path, changed);
      found.add(await open(path));
    }
  }
  expect(found.size).toBe(1 + 3 * source.tensors.size);
});

test("modelIdentity(): pairs of rows laid otherwise are another model, a head that is the embedding is none", async () => {
  const { model, gguf } = await bothForms("tied", { architecture: "llama", tied: true, seed: 7 });
  const source = await openModel(gguf);
  const { config, tensors } = source;
  const other = { ...source, config: { ...config, rope: { ...config.rope, pairs: "half" as const } } };
  expect(await identityOf(other)).not.toBe(await identityOf(source));
  const embedding = tensors.get("token_embd.weight")!;
  const withHead = (head: typeof embedding): ModelSource => ({
    ...source,
    config: { ...config, tiedHead: false },
    tensors: new Map([...tensors, ["output.weight", head]]),
  });
  expect(await identityOf(withHead(embedding))).toBe(await open(model));
  const [part] = embedding.parts;
  const next = { ...embedding, parts: [{ ...part!, offset: part!.offset + 4 }] };
  expect(await identityOf(withHead(next))).not.toBe(await open(model));
});

test("modelIdentity(): adapters count by values, scale and order, whatever form they have", async () => {
  const { model, gguf } = await bothForms("adapted", { architecture: "llama", seed: 8 });
  const paths = await Promise.all(
    [1, 2].map(async (seed) => {
      const adapter = await randomAdapter(model, { seed });
      const [peft, ggufAdapter] = [join(folder, `peft-${seed}`), join(folder, `adapter-${seed}.gguf`)];
      await writePeftAdapter(peft, adapter);
      await writeGgufAdapter(ggufAdapter, model, adapter);
      return { peft, gguf: ggufAdapter };
    }),
  );
  const [one, two] = paths as [(typeof paths)[0], (typeof paths)[0]];
  const identities = await Promise.all(
    [[], [one.peft], [two.peft], [one.peft, two.peft], [two.peft, one.peft]].map((adapters) =>
      open(model, { adapters: adapters.map((path) => ({ path })) }),
    ),
  );
  const scaled = await open(model, { adapters: [{ path: one.peft, scale: 0.5 }] });
  expect(new Set([...identities, scaled]).size).toBe(6);
  expect(await open(gguf, { adapters: [{ path: one.gguf }] })).toBe(identities[1]);
  const copy = join(folder, "peft-copy");
  cpSync(one.peft, copy, { recursive: true });
  expect(await open(model, { adapters: [{ path: copy, scale: 1 }] })).toBe(identities[1]);
});

/** Another value of each field of a config; undefined: one that other weights go with. */
const otherValues: { readonly [Field in keyof typeof countedBy]: undefined | ((config: never) => unknown) } = {
  architecture: undefined,
  vocabSize: undefined,
  numLayers: undefined,
  hiddenSize: undefined,
  intermediateSize: undefined,
  numHeads: undefined,
  numKvHeads: undefined,
  headSize: undefined,
  rmsNormEps: () => 1e-3,
  rope: ({ rope }: ModelConfig) => ({ ...rope, theta: rope.theta * 2 }),
  localRope: ({ localRope }: ModelConfig) => localRope && { ...localRope, theta: localRope.theta * 2 },
  layersWithoutRope: () => [0],
  slidingWindow: () => 7,
  slidingLayers: ({ slidingLayers }: ModelConfig) => slidingLayers?.map((slides) => !slides),
  contextLength: ({ contextLength }: ModelConfig) => contextLength - 1,
  tiedHead: undefined,
  blockAttention: () => ({ version: 1, prefix: "[Block]", modes: ["block"] }),
  qkvBias: undefined,
  outputBias: undefined,
  mlpBias: undefined,
  qkNorm: undefined,
  queryScalar: () => 5,
  attentionMultiplier: () => 0.5,
  embeddingMultiplier: () => 2,
  residualMultiplier: () => 2,
  logitsScaling: () => 2,
  numExperts: undefined,
  numExpertsUsed: () => 1,
  expertSize: undefined,
  normalizesExperts: () => false,
  expertStep: undefined,
  denseLayers: undefined,
};

/** The bytes of a block, encoded with this config. */
async function blockBytes(backend: Backend, source: ModelSource): Promise<Buffer> {
  using weights = await loadWeights(backend, source, { conversion: "keep" });
  const { architecture, config } = source;
  const decoder = { ggml, architecture, config, weights, device: backend.policy };
  const scheduler = new Scheduler(backend, decoder, "f32");
  const tokens = Int32Array.from({ length: 60 }, (_, i) => (i * 37) % 300);
  for await (const block of scheduler.encode([tokens], { payer: "", signal: new AbortController().signal })) {
    using own = block;
    return Buffer.from(own.read());
  }
  throw new Error("no block");
}

for (const [name, shape] of Object.entries(architectureModels)) {
  test(`modelIdentity(): of ${name}, just those settings count that change keys or values`, async () => {
    const model = join(folder, `settings-${name}`);
    // What the last layer attends to changes no block's rows.
    writeRandomModel(model, { ...shape, numLayers: 4, dtype: "F32" });
    const source = await openModel(model);
    using backend = new Backend(ggml, { threads: 1 });
    const [settings, bytes] = [identitySettings(source), await blockBytes(backend, source)];
    for (const field of Object.keys(source.config)) {
      expect(countedBy, "a new field wants a place in the table").toHaveProperty(field);
      const other = otherValues[field as keyof typeof otherValues]?.(source.config as never);
      if (other === undefined) continue;
      const changed = { ...source, config: { ...source.config, [field]: other } };
      const isOther = !bytes.equals(await blockBytes(backend, changed));
      expect([field, identitySettings(changed) !== settings]).toEqual([field, isOther]);
    }
  });
}

test("identitySettings(): shapes of heads count, and fields that are not known", async () => {
  const model = join(folder, "settings-llama");
  const { architecture, config } = await openModel(model);
  const others = [{ numHeads: 8 }, { numKvHeads: 1 }, { headSize: 8 }, { somethingNew: 1 }];
  const found = [{}, ...others].map((other) => identitySettings({ architecture, config: { ...config, ...other } }));
  expect(new Set(found).size).toBe(5);
});

test("modelIdentity(): how weights are converted counts, and the types of rows that do not fit", async () => {
  const { model } = await bothForms("converted", { architecture: "llama", hiddenSize: 96, seed: 9 });
  const found = await Promise.all((["keep", "f16", "q8_0", "q4_k"] as const).map((to) => open(model, {}, to)));
  expect(new Set(found).size).toBe(4);
});

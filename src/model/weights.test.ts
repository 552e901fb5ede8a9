import { readFileSync } from "node:fs";
import { mkdir, truncate, utimes } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { dequantizeRows, isSlowlyMade, quantizeRows } from "../../tests/models/ggml-quantizer.js";
import { writeRandomGguf } from "../../tests/models/random-gguf.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { loadTokenizer } from "../engine/model.js";
import { type TensorType, type WeightsConversion, weightsConversions } from "../files/element-types.js";
import { expectError, splitGguf, temporaryFolder } from "../files/test-files.suite.js";
import { Backend } from "../ggml/backend.js";
import { Graph } from "../ggml/graph.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import type { FilePart } from "./model-source.js";
import { openModel } from "./open-model.js";
import { conversionNotes, convertedType, estimateWeightBytes, type LoadProgress, loadWeights } from "./weights.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
afterEach(() => expect(ggml.live).toEqual({ contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 }));

async function smallModel(hiddenSize = 256) {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "qwen2", hiddenSize, intermediateSize: 256, dtype: "BF16", rope: "llama3" });
  return { folder, source: await openModel(folder) };
}

/**
 * The greatest error of a weight of deviation 1. Weights reach 5: types of 4 bits and more round by 5 / 8 and less, those of fewer
 * bits keep their signs, and less than 4 is lost.
 */
function greatestError(conversion: WeightsConversion): number {
  const exact: Partial<Record<WeightsConversion, number>> = { keep: 0, f32: 0, bf16: 0, f16: 1e-2, q8_0: 4e-2 };
  return exact[conversion] ?? (/^(i?q[456]|mxfp4|nvfp4)/.test(conversion) ? 0.7 : 4);
}

const quickConversions = weightsConversions.filter((conversion) => !isSlowlyMade(conversion));

test.each(quickConversions)(
  "loadWeights(): --weights %s gives that type, near the file's numbers",
  async (conversion) => {
    const { source } = await smallModel();
    using backend = new Backend(ggml, { threads: 2 });
    const progress: number[] = [];
    using weights = await loadWeights(backend, source, {
      conversion,
      onProgress: ({ loadedBytes, totalBytes }) => progress.push(loadedBytes / totalBytes),
    });
    const type = conversion === "keep" ? "BF16" : conversion.toUpperCase();
    const matrices = [...weights.tensors.values()].filter(({ ne }) => ne[1] > 1);
    expect([...new Set(matrices.map((matrix) => matrix.type))]).toEqual([type]);
    const embedding = weights.tensors.get("token_embd.weight")!;
    expect(embedding).toMatchObject({ type, ne: [256, 352, 1, 1] });
    expect(weights.tensors.get("blk.1.attn_q.bias")).toMatchObject({ type: "F32", ne: [256, 1, 1, 1] });
    expect(weights.ropes).toHaveLength(2);
    expect(weights.ropes[0]).toBe(weights.ropes[1]);
    expect(weights.ropes[0]!.frequencyFactors).toMatchObject({ type: "F32", ne: [32, 1, 1, 1] });
    expect(progress.at(-1)).toBe(1);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
    // Padding of each tensor, and RoPE's factors.
    const estimate = estimateWeightBytes(source, conversion);
    expect(weights.byteLength).toBeGreaterThanOrEqual(estimate);
    expect(weights.byteLength).toBeLessThan(estimate + 64 * 64);
    using plain = await loadWeights(backend, source, { conversion: "f32" });
    const wanted = backend.readFloats(plain.tensors.get("token_embd.weight")!);
    const found = dequantizeRows(ggml, embedding.type, backend.read(embedding));
    const [rowLength] = embedding.ne;
    const distance = (elementsOn: number) =>
      wanted.reduce((most, x, i) => Math.max(most, Math.abs(found[(i + elementsOn) % found.length]! - x)), 0);
    // The types that lose nothing have no error at all.
    const bound = greatestError(conversion) + Number.MIN_VALUE;
    expectOnlyRight(bound, distance(0), {
      "rows are the next ones": distance(rowLength!),
      "a number is left out": distance(1),
    });
  },
);

test("convertedType(): rows that do not fill a type's blocks become what llama.cpp makes of them", () => {
  const of = (rowLength: number, conversion: WeightsConversion) =>
    convertedType({ type: "F32", shape: [8, rowLength] }, conversion);
  expect(of(256, "q4_k")).toBe("Q4_K");
  expect(of(96, "q4_k")).toBe("Q5_0");
  expect(of(96, "q6_k")).toBe("Q8_0");
  expect(of(96, "iq3_s")).toBe("IQ4_NL");
  expect(of(96, "tq2_0")).toBe("Q4_0");
  expect(of(40, "q4_k")).toBe("F16");
  expect(of(40, "q8_0")).toBe("F16");
  expect(of(96, "q1_0")).toBe("F16");
  expect(of(40, "keep")).toBe("F32");
  expect(convertedType({ type: "F32", shape: [256] }, "q4_k")).toBe("F32");
  expect(convertedType({ type: "BF16", shape: [8, 256], isPrecise: true }, "q4_k")).toBe("F32");
});

test("convertedType(): what the device does not take becomes a type that loses no more", () => {
  const without =
    (...types: readonly string[]) =>
    (type: string) =>
      !types.includes(type);
  const of = (type: TensorType, ...types: readonly string[]) =>
    convertedType({ type, shape: [8, 256] }, "keep", without(...types));
  expect(of("TQ1_0", "TQ2_0")).toBe("TQ1_0");
  expect(of("TQ1_0", "TQ1_0")).toBe("Q8_0");
  expect(of("Q8_0", "Q8_0")).toBe("F16");
  expect(of("NVFP4", "NVFP4", "Q8_0", "F16")).toBe("F32");
  expect(of("BF16", "BF16")).toBe("F32");
  expect(of("F16", "F16")).toBe("F32");
});

test.each(["Q8_0", "Q4_K", "F16"] as const)(
  "loadWeights(): mapped weights are the file's, and all others are read as ever, %s",
  async (type) => {
    const path = join(await temporaryFolder(), "mapped.gguf");
    const written = { architecture: "llama", type, mixed: type === "Q4_K", hiddenSize: 256 } as const;
    writeRandomGguf(path, { ...written, quantizeRows: (...of) => quantizeRows(ggml, ...of) });
    const source = await openModel(path);
    using backend = new Backend(ggml, { threads: 2 });
    using read = await loadWeights(backend, source, { conversion: "keep" });
    const progress: number[] = [];
    const onProgress = (at: LoadProgress) => progress.push(at.loadedBytes / at.totalBytes);
    using mapped = await loadWeights(backend, source, { conversion: "keep", mapWeights: true, onProgress });
    expect(read.mappedBytes).toBe(0);
    expect(mapped.mappedBytes).toBeGreaterThan(0);
    expect(progress.at(-1)).toBe(1);
    let mappedBytes = 0;
    for (const [name, tensor] of mapped.tensors) {
      const { parts, shape, type: typeInFile } = source.tensors.get(name)!;
      const use = name === "token_embd.weight" ? "lookup" : tensor.ne[1] > 1 ? "product" : "other";
      // What lies in another order cannot be read back.
      if (backend.policy.weightPlace(tensor.type, [...shape].reverse(), use).isWrittenWhole) continue;
      const bytes = backend.read(tensor);
      expect(typeInFile).toBe(tensor.type);
      expect(Buffer.compare(bytes, backend.read(read.tensors.get(name)!)), name).toBe(0);
      const [{ offset, byteLength }] = parts as [FilePart];
      expect(Buffer.compare(bytes, readFileSync(path).subarray(offset, offset + byteLength)), name).toBe(0);
      mappedBytes += byteLength;
    }
    expect(mapped.mappedBytes).toBe(mappedBytes);
    using converted = await loadWeights(backend, source, { conversion: "f32", mapWeights: true });
    expect(converted.mappedBytes).toBeLessThan(mapped.mappedBytes / 10);
  },
);

test("loadWeights(): of safetensors, what begins at no multiple of 32 is read", async () => {
  const { source } = await smallModel();
  using backend = new Backend(ggml, { threads: 1 });
  using mapped = await loadWeights(backend, source, { conversion: "keep", mapWeights: true });
  const aligned = [...source.tensors.values()].filter(({ type, shape, parts }) => {
    return convertedType({ type, shape }, "keep") === type && (parts[0]?.offset ?? 1) % 32 === 0;
  });
  expect(mapped.mappedBytes).toBe(aligned.reduce((sum, { byteLength }) => sum + byteLength, 0));
});

test("loadWeights(): what the device does not take mapped is read", async () => {
  const path = join(await temporaryFolder(), "read.gguf");
  writeRandomGguf(path, { architecture: "llama", type: "F16" });
  const source = await openModel(path);
  using backend = new Backend(ggml, { threads: 1 });
  vi.spyOn(backend, "map").mockReturnValue(undefined);
  using weights = await loadWeights(backend, source, { conversion: "keep", mapWeights: true });
  expect(weights.mappedBytes).toBe(0);
  const { parts, byteLength } = source.tensors.get("blk.0.attn_q.weight")!;
  const { path: file, offset } = parts[0] as FilePart;
  const wanted = readFileSync(file).subarray(offset, offset + byteLength);
  expect(Buffer.from(backend.read(weights.tensors.get("blk.0.attn_q.weight")!)).equals(wanted)).toBe(true);
});

test("loadWeights(): where one tensor cannot be read, those that are loaded beside it are the last", async () => {
  const path = join(await temporaryFolder(), "cut.gguf");
  writeRandomGguf(path, { architecture: "llama", type: "F16", numLayers: 8 });
  const source = await openModel(path);
  const first = source.tensors.values().next().value!;
  const gone = { ...first, parts: [{ ...first.parts[0]!, offset: 2 ** 40 }] };
  const tensors = new Map(
    [...source.tensors.keys()].map((name, i) => [name, i === 0 ? gone : source.tensors.get(name)!]),
  );
  using backend = new Backend(ggml, { threads: 4 });
  const onProgress = vi.fn();
  await expectError(
    loadWeights(backend, { ...source, tensors }, { conversion: "keep", onProgress }),
    /the file ends at/,
  );
  expect(onProgress.mock.calls.length).toBeLessThan(source.tensors.size / 4);
});

test("loadWeights(): once a mapped file was written to, no graph is computed", async () => {
  const path = join(await temporaryFolder(), "changed.gguf");
  writeRandomGguf(path, { architecture: "llama", type: "F32" });
  using backend = new Backend(ggml, { threads: 1 });
  using _weights = await loadWeights(backend, await openModel(path), { conversion: "keep", mapWeights: true });
  const onChanged = vi.spyOn(backend, "onFilesChanged");
  using graph = new Graph(ggml);
  const x = graph.input("x", "F32", [1], Float32Array.of(2));
  const sum = graph.output(graph.add(x, x));
  const compute = () => backend.compute(graph, () => [...backend.readFloats(sum)]);
  expect(await compute()).toEqual([4]);
  await utimes(path, 1, 1);
  await expectError(
    compute(),
    /^Cannot go on with the weights of ".*changed\.gguf": it was written to while it was mapped/,
  );
  await expectError(compute(), "it was written to");
  expect(onChanged).toHaveBeenCalledTimes(1);
});

test("loadWeights(): what the device does not take is converted, and said once a type", async () => {
  const path = join(await temporaryFolder(), "ternary.gguf");
  const written = { architecture: "llama", type: "TQ1_0", headType: "Q6_K", hiddenSize: 256 } as const;
  writeRandomGguf(path, { ...written, quantizeRows: (...of) => quantizeRows(ggml, ...of) });
  const source = await openModel(path);
  using backend = new Backend(ggml, { threads: 1 });
  const taken = vi
    .spyOn(backend.policy, "takesWeights")
    .mockImplementation((type, _, use) => type !== "TQ1_0" || use === "lookup");
  const warnings: string[] = [];
  const onWarning = (warning: string) => void warnings.push(warning);
  using weights = await loadWeights(backend, source, { conversion: "keep", onWarning });
  expect(warnings).toEqual([
    'Device "CPU" does not compute with weights of type TQ1_0: they become Q8_0 while loading',
  ]);
  expect(["token_embd", "blk.0.attn_q", "output"].map((name) => weights.tensors.get(`${name}.weight`)?.type)).toEqual([
    "TQ1_0",
    "Q8_0",
    "Q6_K",
  ]);
  expect([...conversionNotes(backend, source, "keep")]).toEqual(warnings);
  taken.mockRestore();
  using kept = await loadWeights(backend, source, { conversion: "keep", onWarning });
  expect(warnings).toHaveLength(1);
  const [exact, converted] = [kept, weights].map(({ tensors }) => {
    const tensor = tensors.get("blk.0.attn_output.weight")!;
    return dequantizeRows(ggml, tensor.type, backend.read(tensor));
  });
  expectOnlyRight(
    2e-3,
    exact!.reduce((most, x, i) => Math.max(most, Math.abs(converted![i]! - x)), 0),
    {
      "numbers are the next ones": exact!.reduce(
        (most, x, i) => Math.max(most, Math.abs((converted![i + 1] ?? 0) - x)),
        0,
      ),
    },
  );
});

test("loadWeights(): of a folder with a split file, the bytes of the whole; the model's files are all parts", async () => {
  const folder = await temporaryFolder();
  const whole = join(folder, "whole.gguf");
  writeRandomGguf(whole, { architecture: "qwen3", type: "BF16" });
  const source = await openModel(whole);
  await mkdir(join(folder, "split"));
  const parts = await splitGguf(whole, join(folder, "split/m"), [0, 9, source.tensors.size - 9]);
  using backend = new Backend(ggml, { threads: 1 });
  using wanted = await loadWeights(backend, source, { conversion: "keep" });
  for (const path of [join(folder, "split"), ...parts]) {
    const split = await openModel(path);
    expect(split.files).toEqual(parts);
    expect(split.config).toEqual(source.config);
    expect((await loadTokenizer(path)).digest).toBe((await loadTokenizer(whole)).digest);
    using weights = await loadWeights(backend, split, { conversion: "keep" });
    for (const [name, tensor] of wanted.tensors) {
      expect(Buffer.compare(backend.read(weights.tensors.get(name)!), backend.read(tensor)), name).toBe(0);
    }
  }
});

test("loadWeights(): a file that was cut since its header was read leaves nothing", async () => {
  const { folder, source } = await smallModel();
  await truncate(join(folder, "model.safetensors"), 300_000);
  using backend = new Backend(ggml, { threads: 1 });
  await expectError(loadWeights(backend, source, { conversion: "keep" }), /the file ends at byte \d+, \d+ are wanted/);
  await expectError(loadWeights(backend, source, { conversion: "q8_0" }), /the file ends at byte \d+, \d+ are wanted/);
  expect(ggml.live.buffers).toBe(0);
});

test("loadWeights(): an abort leaves nothing", async () => {
  const { source } = await smallModel();
  using backend = new Backend(ggml, { threads: 2 });
  for (const conversion of quickConversions) {
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error("Cannot go on: enough"));
    const loading = loadWeights(backend, source, { conversion, onProgress, signal: controller.signal });
    await expectError(loading, "enough");
    expect(ggml.live.buffers).toBe(0);
  }
});

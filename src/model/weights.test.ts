import { truncate } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { dequantizeRows } from "../../tests/models/ggml-quantizer.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { weightsConversions } from "../files/element-types.js";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import { Backend } from "../ggml/backend.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { openModel } from "./open-model.js";
import { convertedType, estimateWeightBytes, loadWeights } from "./weights.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
afterEach(() => expect(ggml.live).toEqual({ contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 }));

async function smallModel(hiddenSize = 256) {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "qwen2", hiddenSize, intermediateSize: 256, dtype: "BF16", rope: "llama3" });
  return { folder, source: await openModel(folder) };
}

/** The greatest error of a weight of deviation 1, by type. */
const errors = { keep: 0, f32: 0, bf16: 0, f16: 1e-2, q8_0: 4e-2, q4_0: 0.6, q4_k: 0.6 };

test.each(weightsConversions)(
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
    const found = await dequantizeRows(ggml, embedding.type, backend.read(embedding));
    const [rowLength] = embedding.ne;
    const distance = (elementsOn: number) =>
      wanted.reduce((most, x, i) => Math.max(most, Math.abs(found[(i + elementsOn) % found.length]! - x)), 0);
    // The types that lose nothing have no error at all.
    const bound = errors[conversion] + Number.MIN_VALUE;
    expectOnlyRight(bound, distance(0), {
      "rows are the next ones": distance(rowLength!),
      "a number is left out": distance(1),
    });
  },
);

test("convertedType(): rows that do not fill a type's blocks get the next best type", () => {
  const entry = { name: "w", type: "F32", byteLength: 0, parts: [] } as const;
  expect(convertedType({ ...entry, shape: [8, 256] }, "q4_k")).toBe("Q4_K");
  expect(convertedType({ ...entry, shape: [8, 96] }, "q4_k")).toBe("Q8_0");
  expect(convertedType({ ...entry, shape: [8, 40] }, "q4_k")).toBe("F16");
  expect(convertedType({ ...entry, shape: [8, 40] }, "keep")).toBe("F32");
  expect(convertedType({ ...entry, shape: [256] }, "q4_k")).toBe("F32");
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
  for (const conversion of weightsConversions) {
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error("Cannot go on: enough"));
    const loading = loadWeights(backend, source, { conversion, onProgress, signal: controller.signal });
    await expectError(loading, "enough");
    expect(ggml.live.buffers).toBe(0);
  }
});

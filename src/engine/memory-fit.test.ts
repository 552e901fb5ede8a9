import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { quantizeRows } from "../../tests/models/ggml-quantizer.js";
import { writeRandomGguf } from "../../tests/models/random-gguf.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { weightsConversions } from "../files/element-types.js";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import { Backend } from "../ggml/backend.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { openModel } from "../model/open-model.js";
import { loadWeights } from "../model/weights.js";
import { leastShare, usableMemory } from "./byte-budget.js";
import { LocalEngine } from "./local-engine.js";
import { type FitOptions, measureFit, memoryOf, requireFit } from "./memory-fit.js";
import { embeddedModelPath } from "./model.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const KiB = 2 ** 10;
const MiB = 2 ** 20;
const programBytes = 400 * KiB;
beforeEach(() => {
  const [heapTotal, external] = [programBytes - 1000, 1000];
  vi.spyOn(process, "memoryUsage").mockReturnValue({ rss: 0, heapTotal, heapUsed: 0, external, arrayBuffers: 0 });
});
afterEach(() => {
  vi.restoreAllMocks();
  expect(ggml.live).toEqual({ contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 });
});

async function smallModel(type: "F16" | "Q4_K" | "F32") {
  const path = join(await temporaryFolder(), "model.gguf");
  const written = { architecture: "llama", type, hiddenSize: 256, intermediateSize: 512 } as const;
  writeRandomGguf(path, { ...written, quantizeRows: (...of) => quantizeRows(ggml, ...of) });
  return await openModel(path);
}

test.each(["F16", "Q4_K"] as const)("measureFit(): weights are what loading takes, mapped or not, %s", async (type) => {
  const source = await smallModel(type);
  using backend = new Backend(ggml, { threads: 1 });
  for (const conversion of ["keep", "q8_0", "f32"] as const) {
    for (const mapWeights of [false, true]) {
      const fit = measureFit(backend, source, { conversion, mapWeights });
      using weights = await loadWeights(backend, source, { conversion, mapWeights });
      expect(fit.mappedBytes).toBe(weights.mappedBytes);
      const allocated = weights.byteLength - weights.mappedBytes;
      expect(fit.weightBytes).toBeLessThanOrEqual(allocated);
      // Padding of each tensor.
      expect(allocated - fit.weightBytes).toBeLessThan(64 * 64);
    }
  }
});

test("measureFit(): what is asked for of blocks and contexts counts up to their least share", async () => {
  const source = await smallModel("F16");
  using backend = new Backend(ggml, { threads: 1 });
  const of = (storeBytes?: number, contextBytes?: number) =>
    measureFit(backend, source, { conversion: "keep", storeBytes, contextBytes }, 64 * MiB, 0);
  const least = leastShare(64 * MiB);
  expect(of()).toMatchObject({ leastStoreBytes: least, leastContextBytes: least, fits: true });
  expect(of(0, 1000)).toMatchObject({ leastStoreBytes: 0, leastContextBytes: 1000 });
  expect(of(2 ** 40, 2 ** 40)).toEqual(of());
  // Of a large machine's memory, what 2,048 tokens take.
  const { numLayers, numKvHeads, headSize } = source.config;
  const large = measureFit(backend, source, { conversion: "keep" }, 2 ** 40, 0);
  const leastBytes = 2 * 2 * numLayers * numKvHeads * headSize * Math.min(2048, source.config.contextLength);
  expect(large).toMatchObject({ leastStoreBytes: leastBytes, leastContextBytes: leastBytes });
});

test.each(["tiny-rag", "qwen3_moe"])("measureFit(): graphs take about what it says, %s", async (name) => {
  const model = name === "tiny-rag" ? embeddedModelPath() : await temporaryFolder();
  const settings = { num_experts: 16, num_experts_per_tok: 8, moe_intermediate_size: 96 };
  if (name !== "tiny-rag") {
    writeRandomModel(model, { architecture: name, hiddenSize: 128, numLayers: 2, contextLength: 2048, settings });
  }
  await using engine = await LocalEngine.load({ threads: 1, model });
  const { backend, source } = engine.model;
  const { graphBytes } = measureFit(backend, source, { conversion: "keep" });
  const blockTokenIds = [Array.from({ length: 900 }, (_, i) => 5 + (i % 200))];
  await engine.complete({ blockTokenIds }, { maxTokens: 1, mode: "full" });
  const { computeBytes } = engine.stats();
  expect(computeBytes).toBeLessThan(1.1 * graphBytes);
  expect(computeBytes).toBeGreaterThan(0.6 * graphBytes);
});

test("requireFit(): what is missing and what has room, in numbers", async () => {
  const source = await smallModel("F32");
  using backend = new Backend(ggml, { threads: 1 });
  const keep = { conversion: "keep" } as const;
  const fitOf = (options: FitOptions, availableBytes: number, swapBytes: number) =>
    requireFit(backend, source, options, measureFit(backend, source, options, availableBytes, swapBytes));
  const fit = measureFit(backend, source, keep);
  const sizes = weightsConversions.map((conversion) => measureFit(backend, source, { conversion }).weightBytes);
  const room = fit.graphBytes + programBytes + 700 * KiB;
  const available = (weightBytes: number) => Math.ceil((weightBytes + room) * (16 / 15));
  const refusal = (weightBytes: number, options = {}) =>
    expectError(
      Promise.resolve().then(() => fitOf({ ...keep, ...options }, available(weightBytes), 0)),
      /^Cannot load ".*model\.gguf": it needs at least [\d.]+ MiB \(weights [\d.]+ MiB, contexts \d+ KiB, blocks \d+ KiB, graphs [\d.]+ MiB, the program 400 KiB.*\); there is [\d.]+ MiB \(all of this machine\); /,
    );
  vi.spyOn(process, "constrainedMemory").mockReturnValue(0);
  expect(fitOf(keep, available(fit.weightBytes), 0)).toBeUndefined();
  const noMapping = vi.spyOn(backend.policy, "weightPlace");
  const [plain] = [backend.policy.weightPlace("F32", [256, 256], "other")];
  noMapping.mockReturnValue({ ...plain, takesMapped: false });
  expect(await refusal(fit.weightBytes * 0.7)).toMatch(/; --weights f16 has room, with weights of [\d.]+ MiB$/);
  expect(await refusal(-room / 2)).toMatch(
    /; no --weights that keeps it good makes it small enough: a smaller model or more memory is wanted$/,
  );
  const justTooLittle = (fit.weightBytes + fit.graphBytes + programBytes) * (16 / 15) - 10 * KiB;
  expect(fitOf(keep, justTooLittle, 20 * KiB)).toMatch(
    /there is .* and 20\.0 KiB of swap: not all of it stays there, and answers wait for the disk$/,
  );
  expect(() => fitOf(keep, justTooLittle, 0)).toThrow(/; --context-bytes and --store-bytes of \d+ KiB each have room$/);
  expect(Math.min(...sizes)).toBeLessThan(fit.weightBytes / 5);
  noMapping.mockRestore();
  expect(await refusal(fit.weightBytes * 0.7)).toMatch(/; --map-weights true has room \(mapWeights in the library\)$/);
  expect(fitOf({ ...keep, mapWeights: true }, available(fit.weightBytes * 0.7), 0)).toMatch(
    /^The model needs at least .* of weights are mapped from the file\); there is .*: not all of it stays there, and answers wait for the disk$/,
  );
});

test("memoryOf(): what a device has free when its backend starts, whatever it had when ggml was loaded", () => {
  const cpu = ggml.devices.find(({ kind }) => kind === "cpu")!;
  const device = { ...cpu, kind: "gpu" as const, memoryBytes: { free: 8 * MiB, total: 9 * MiB } };
  const told = vi.spyOn(ggml.symbols, "ggml_backend_dev_memory").mockImplementation((_, free, total) => {
    Object.assign(free as number[], [3 * MiB]);
    Object.assign(total as number[], [9 * MiB]);
    return 0n;
  });
  using backend = new Backend(ggml, { threads: 1 });
  told.mockRestore();
  expect(memoryOf({ device, freeBytes: backend.freeBytes })).toBe(3 * MiB);
  expect(memoryOf(backend)).toBe(usableMemory());
});

test("LocalEngine.load(): a model that does not fit into the container is refused before it is loaded", async () => {
  vi.spyOn(process, "constrainedMemory").mockReturnValue(4 * MiB);
  const loading = vi.fn();
  const refused = LocalEngine.load({ threads: 1, onProgress: loading });
  await expectError(
    refused,
    /^Cannot load ".*tiny-rag": it needs at least .*; there is 4\.0 MiB \(the container's or service's limit\); /,
  );
  expect(loading).not.toHaveBeenCalled();
});

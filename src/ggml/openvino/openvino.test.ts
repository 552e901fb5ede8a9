import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import { expect, test, vi } from "vitest";
import { openVinoSkipped, testOpenVino } from "../../../tests/openvino-place.js";
import { elementTypes } from "../../files/element-types.js";
import { temporaryFolder } from "../../files/test-files.suite.js";
import { type AttentionMask, causalMask } from "../attention-mask.js";
import { Backend } from "../backend.js";
import { Graph } from "../graph.js";
import { findGgmlDirectory, loadGgml } from "../library.js";
import { dequantizeInto } from "../quantize.js";
import type { Pointer } from "../symbols.js";
import { byteLength } from "../tensor.js";
import { findOpenVino, loadOpenVino, openVinoVariable } from "./library.js";
import { OpenVinoProduct, OpenVinoProducts } from "./products.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const openVinoTest = test.skipIf(testOpenVino === undefined);

const noise = (length: number, step: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * step + step));

function newBackend(threads = 2): Backend {
  return new Backend(ggml, { threads, device: "CPU", openVino: loadOpenVino(testOpenVino as string) });
}

test("findOpenVino(): the folder that is named, or the package's in the cache; none where it is said so", async () => {
  const [folder, cache] = [await temporaryFolder(), await temporaryFolder()];
  const find = (named?: string) => findOpenVino(named === undefined ? {} : { [openVinoVariable]: named }, cache);
  expect(find()).toBeUndefined();
  for (const [libs, file] of [
    ["site-packages/openvino/libs", "libopenvino_c.so.2640"],
    ["package/libs", "openvino_c.dll"],
    ["bare/.", "libopenvino_c.so"],
  ] as const) {
    const named = join(folder, libs.split("/")[0] as string);
    mkdirSync(join(folder, libs), { recursive: true });
    expect(() => find(named)).toThrow(`Cannot find OpenVINO: ${openVinoVariable} is "${named}", a folder with`);
    writeFileSync(join(folder, libs, file), "");
    expect(find(named)).toBe(join(folder, libs));
  }
  mkdirSync(join(cache, "openvino", "libs"), { recursive: true });
  writeFileSync(join(cache, "openvino", "libs", "libopenvino_c.2640.dylib"), "");
  expect(find()).toBe(join(cache, "openvino", "libs"));
  expect(find("none")).toBeUndefined();
});

test("loadOpenVino(): a folder without the library, and a file that is none, are named", async () => {
  const folder = await temporaryFolder();
  expect(() => loadOpenVino(folder)).toThrow(`Cannot load OpenVINO: "${folder}" holds no library openvino_c`);
  writeFileSync(join(folder, "libopenvino_c.so"), "no library");
  expect(() => loadOpenVino(folder)).toThrow(
    new RegExp(`^Cannot load OpenVINO in "${folder}": .+; version 2026.4 or newer is wanted$`),
  );
});

/** A product by way of a graph of rows, as models are computed. */
async function multiply(
  backend: Backend,
  weights: Pointer,
  { size, numOut }: { readonly size: number; readonly numOut: number },
  rows: Float32Array,
): Promise<Float32Array> {
  using graph = new Graph(ggml);
  const tensor = { pointer: weights, name: "w", type: "Q8_0" as const, ne: [size, numOut, 1, 1] as const };
  const nb = [34, (size / 32) * 34, (size / 32) * 34 * numOut, (size / 32) * 34 * numOut] as const;
  const x = graph.input("x", "F32", [size, rows.length / size], rows);
  // A node before and one behind it, which ggml computes.
  const product = backend.policy.kernels(graph, "rows").product({ ...tensor, nb }, graph.scale(x, 2));
  const out = graph.output(graph.scale(product, 0.5));
  expect(graph.outerNodes.size).toBe(1);
  return await backend.compute(graph, () => backend.readFloats(out));
}

openVinoTest(
  `OpenVinoProducts: products are right, and a row's bytes are the same among any others${openVinoSkipped}`,
  async () => {
    using backend = newBackend();
    const products = backend.policy.products!;
    for (const [size, numOut] of [
      [64, 96],
      [576, 1536],
      [1536, 576],
      [896, 128],
    ] as const) {
      const values = noise(size * numOut, 0.37);
      const bytes = new Uint8Array((values.length / 32) * 34);
      ggml.symbols.ggml_quantize_chunk(8, values, bytes, 0, numOut, size, null);
      dequantizeInto(ggml, "Q8_0", bytes, values);
      using storage = backend.allocate([{ name: "w", type: "Q8_0", ne: [size, numOut] }]);
      const weights = storage.get("w");
      backend.set(weights, bytes);
      await products.add(weights, bytes);
      const numRows = 131;
      const rows = noise(size * numRows, 0.11);
      const all = await multiply(backend, weights.pointer, { size, numOut }, rows);
      // Rows become whole numbers of 8 bits, in groups of 32: each is off by half a step of a 127th of its group's largest at most, evenly
      // spread. Of sines, that makes 1 / (127 * sqrt(12) * sqrt(1/2)) = 0.0032 of what the terms are, added as if by chance.
      let [error, terms] = [0, 0];
      for (const row of [0, 1, 64, 130]) {
        for (let n = 0; n < numOut; n++) {
          let sum = 0;
          for (let i = 0; i < size; i++) {
            const term = (rows[row * size + i] as number) * (values[n * size + i] as number);
            sum += term;
            terms += term ** 2;
          }
          error += ((all[row * numOut + n] as number) - sum) ** 2;
        }
      }
      expect(Math.sqrt(error / terms)).toBeLessThan(0.005);
      for (const [first, count] of [
        [0, 1],
        [3, 2],
        [7, 4],
        [1, 17],
        [64, 33],
        [2, 65],
        [0, 130],
      ] as const) {
        const some = rows.slice(first * size, (first + count) * size);
        const part = await multiply(backend, weights.pointer, { size, numOut }, some);
        expect(part).toEqual(all.slice(first * numOut, (first + count) * numOut));
      }
    }
  },
);

test("OpenVinoProducts: weights that are more precise than 8 bits, and experts', stay ggml's", () => {
  const takes = OpenVinoProducts.prototype.takes;
  expect(takes("Q4_K", [256, 64])).toBe(true);
  expect(takes("Q8_0", [64, 7])).toBe(true);
  expect(takes("F16", [256, 64])).toBe(false);
  expect(takes("F32", [256, 64])).toBe(false);
  expect(takes("Q4_0", [256, 64, 8])).toBe(false);
});

/** Attention over what rows see, by the book: q [T, H, D], k and v [H', N, D]. */
function plainAttention(
  [q, k, v]: readonly Float32Array[],
  mask: AttentionMask,
  { headSize: d, numHeads, numKvHeads }: { headSize: number; numHeads: number; numKvHeads: number },
): number[] {
  const out: number[] = [];
  for (let t = 0; t < mask.numRows; t++) {
    for (let h = 0; h < numHeads; h++) {
      const base = Math.floor(h / (numHeads / numKvHeads)) * mask.numKeys * d;
      const seen = mask.visible(t).flatMap(([first, end]) => Array.from({ length: end - first }, (_, i) => first + i));
      const weights = seen.map((s) => {
        let score = 0;
        for (let i = 0; i < d; i++) score += q![(t * numHeads + h) * d + i]! * k![base + s * d + i]!;
        return Math.exp(score / Math.sqrt(d));
      });
      const total = weights.reduce((a, b) => a + b, 0);
      for (let i = 0; i < d; i++) {
        out.push(seen.reduce((sum, s, at) => sum + (weights[at]! / total) * v![base + s * d + i]!, 0));
      }
    }
  }
  return out;
}

openVinoTest(
  `OpenVinoAttention: equals attention by the book within 1e-5, also over 16-bit keys and behind gaps${openVinoSkipped}`,
  async () => {
    using backend = newBackend();
    const windows: AttentionMask = {
      numRows: 150,
      numKeys: 200,
      id: "windows",
      visible: (row) =>
        row < 20
          ? [[0, row + 51]]
          : [
              [0, 4],
              [row - 10, row + 51],
            ],
    };
    for (const [numHeads, numKvHeads, headSize, mask] of [
      [4, 2, 32, causalMask(5, 0)],
      [9, 3, 64, causalMask(150, 33)],
      [6, 6, 24, windows],
      [8, 1, 16, causalMask(1, 70)],
      [4, 2, 32, causalMask(5, 290)],
      [4, 2, 16, causalMask(1, 600)],
    ] as const) {
      for (const type of ["F32", "F16"] as const) {
        const { numRows, numKeys } = mask;
        // Keys and values have room for numbers of rows of their own.
        const capacities = { keys: numKeys + 7, values: numKeys + 3 };
        const q = noise(numRows * numHeads * headSize, 0.31);
        // Of numbers that 16 bits hold.
        const stored = (step: number) =>
          noise(numKvHeads * numKeys * headSize, step).map((n) => Math.round(n * 64) / 64);
        const [k, v] = [stored(0.17), stored(0.23)];
        using graph = new Graph(ggml);
        using storage = backend.allocate(
          Object.entries(capacities).map(([name, capacity]) => ({ name, type, ne: [headSize, capacity, numKvHeads] })),
        );
        const memory = (name: keyof typeof capacities, data: Float32Array) => {
          const capacity = capacities[name];
          const spread = new Float32Array(numKvHeads * capacity * headSize).fill(9);
          for (let h = 0; h < numKvHeads; h++) {
            spread.set(data.subarray(h * numKeys * headSize, (h + 1) * numKeys * headSize), h * capacity * headSize);
          }
          const whole = storage.get(name);
          const bytes = new Uint8Array(byteLength(whole));
          const { id } = elementTypes[type];
          ggml.symbols.ggml_quantize_chunk(id, spread, bytes, 0, numKvHeads * capacity, headSize, null);
          backend.set(whole, bytes);
          return graph.view(whole, [headSize, numKeys, numKvHeads], [whole.nb[1], whole.nb[2]]);
        };
        const kernels = backend.policy.kernels(graph, "rows");
        const queries = graph.input("q", "F32", [headSize, numHeads, numRows], q);
        const out = graph.output(
          kernels.attention(queries, memory("keys", k), memory("values", v), mask, 1 / Math.sqrt(headSize)),
        );
        expect(graph.outerNodes.size).toBe(Math.ceil(numRows / 128));
        const found = await backend.compute(graph, () => backend.readFloats(out));
        const wanted = plainAttention([q, k, v], mask, { headSize, numHeads, numKvHeads });
        expect(found.length).toBe(wanted.length);
        const largest = found.reduce((most, n, i) => Math.max(most, Math.abs(n - wanted[i]!)), 0);
        expect(largest).toBeLessThan(1e-5);
      }
    }
  },
);

openVinoTest(
  `Backend.compute(): an abort between two parts ends the graph, and the next one is computed${openVinoSkipped}`,
  async () => {
    using backend = newBackend();
    const mask = causalMask(300, 0);
    const build = (graph: Graph) => {
      const x = graph.input("x", "F32", [32, 4, 300], noise(32 * 4 * 300, 0.1));
      const kv = graph.permute(x, [0, 2, 1, 3]);
      return graph.output(backend.policy.kernels(graph, "rows").attention(x, kv, kv, mask, 0.2));
    };
    using stopped = new Graph(ggml);
    const ending = new AbortController();
    const out = build(stopped);
    expect(stopped.outerNodes.size).toBe(3);
    for (const pointer of stopped.outerNodes.keys()) {
      const compute = stopped.outerNodes.get(pointer)!;
      stopped.computedBy({ ...out, pointer }, async (addressOf) => {
        ending.abort(new Error("enough"));
        await compute(addressOf);
      });
      break;
    }
    await expect(backend.compute(stopped, () => backend.readFloats(out), ending.signal)).rejects.toThrow("enough");
    using whole = new Graph(ggml);
    const result = build(whole);
    const values = await backend.compute(whole, () => backend.readFloats(result));
    expect(values.every(Number.isFinite)).toBe(true);
  },
);

openVinoTest(
  `OpenVinoProducts.check(): this processor is fit; one whose rows depend on their number is not${openVinoSkipped}`,
  async () => {
    using backend = newBackend();
    const products = backend.policy.products as OpenVinoProducts;
    await products.check();
    const { multiply: right } = OpenVinoProduct.prototype;
    const spied = vi.spyOn(OpenVinoProduct.prototype, "multiply");
    try {
      spied.mockImplementation(async function (this: OpenVinoProduct, x, out, numRows) {
        await right.call(this, x, out, numRows);
        if (numRows === 17) new Float32Array(koffi.view(out, 4))[0]! *= 1.0001;
      });
      await expect(products.check()).rejects.toThrow(/: a row among 17 has other bytes than among 300$/);
      spied.mockImplementation(async () => undefined);
      await expect(products.check()).rejects.toThrow(/: a product is .+ off, at most 1\/127 is wanted$/);
    } finally {
      spied.mockRestore();
    }
  },
);

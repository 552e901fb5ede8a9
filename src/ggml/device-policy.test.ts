import { afterAll, expect, test } from "vitest";
import { dequantizeRows, quantizeRows } from "../../tests/models/ggml-quantizer.js";
import { Random } from "../../tests/models/random.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { deviceBound, testBackend, testDevice, testedTypes, testGgml } from "../../tests/test-device.js";
import { Graph } from "./graph.js";
import { fusedTokenAttention } from "./token-attention.js";

const ggml = testGgml;
const backend = testBackend();
afterAll(() => backend[Symbol.dispose]());

test.each(testedTypes)(
  "DevicePolicy.weightPlace(): of %s rows are looked up, and products equal those of the numbers, repacked or plain",
  async (type) => {
    const { policy } = backend;
    const cosines = Float32Array.from({ length: 1024 }, (_, i) => Math.cos(i));
    const values = Float32Array.from({ length: 256 * 32 }, (_, i) => Math.sin(i * 0.7));
    const ne = [256, 32] as const;
    const taken = (["lookup", "product"] as const).every((use) => policy.takesWeights(type, ne, use));
    // Other devices get what they do not take as another type.
    if (testDevice === "CPU") expect(taken).toBe(true);
    if (!taken) return;
    const places = (["lookup", "product"] as const).map((use) => policy.weightPlace(type, ne, use));
    if (testDevice === "CPU") expect(places[0]).toBe(policy.weightPlace("F32", [256], "other"));
    if (testDevice === "CPU" && type === "F32") expect(places[1]).toBe(places[0]);
    const bytes = quantizeRows(ggml, type, values, 256);
    const exact = dequantizeRows(ggml, type, bytes);
    for (const place of new Set(places)) {
      using storage = backend.allocate([{ name: "w", type, ne }], place);
      const weights = storage.get("w");
      await backend.write(weights, bytes);
      using graph = new Graph(ggml);
      const products = graph.output(graph.mulMat(weights, graph.input("x", "F32", [256, 4], cosines)));
      const ids = () => graph.input("ids", "I32", [2], Int32Array.of(31, 7));
      const rows = place === places[0] ? graph.output(graph.getRows(weights, ids())) : undefined;
      const [found, looked] = await backend.compute(graph, () =>
        [products, rows].map((tensor) => tensor && backend.readFloats(tensor)),
      );
      if (looked)
        expect(looked, type).toEqual(
          Float32Array.from([31, 7].flatMap((row) => [...exact.subarray(row * 256, row * 256 + 256)])),
        );
      for (let i = 0; i < 4 * 32; i++) {
        const [row, column] = [Math.floor(i / 32), i % 32];
        let sum = 0;
        for (let k = 0; k < 256; k++) sum += exact[column * 256 + k]! * cosines[row * 256 + k]!;
        expect(Math.abs(found![i]! - sum), type).toBeLessThan(0.3);
      }
    }
  },
);

const [headSize, numKvHeads, group] = [16, 2, 3] as const;

test.each([
  ["each sequence's own keys", []],
  ["two pieces that all sequences share", [32, 16]],
] as const)("fusedTokenAttention(): values as rows, over %s, is attention as it is written", async (_, shared) => {
  const random = new Random(5, `${shared}`);
  const draw = (...ne: number[]) =>
    Float32Array.from({ length: ne.reduce((a, b) => a * b) }, () => random.below(2001) / 1000 - 1);
  const [numSequences, numOwn] = [2, 24];
  const numShared = shared.reduce((sum: number, count) => sum + count, 0);
  const numKeys = numShared + numOwn;
  /** Keys or values of one piece: [D, N, H', S]. */
  const pieces = [...shared.map((count) => [count, 1] as const), [numOwn, numSequences] as const].map(
    ([count, sequences]) => ({
      count,
      keys: draw(headSize, count, numKvHeads, sequences),
      values: draw(headSize, count, numKvHeads, sequences),
    }),
  );
  const queries = draw(headSize, numKvHeads * group, numSequences);
  // The second sequence does not see the last five keys.
  const seen = [numKeys, numKeys - 5];
  const mask = Uint16Array.from({ length: numKeys * numSequences }, (_, i) =>
    i % numKeys < seen[Math.floor(i / numKeys)]! ? 0 : 0xfc00,
  );
  // In the device's memory, as contexts are: a graph of inputs alone is computed on the CPU.
  const shapes = pieces.map(({ count }, i) => [headSize, count, numKvHeads, i < shared.length ? 1 : numSequences]);
  using storage = backend.allocate(
    shapes.flatMap((ne, i) => ["k", "v"].map((name) => ({ name: `${name}${i}`, type: "F32", ne }) as const)),
  );
  const tensors = pieces.map(({ keys, values }, i) => {
    const [k, v] = [storage.get(`k${i}`), storage.get(`v${i}`)];
    backend.set(k, new Uint8Array(keys.buffer));
    backend.set(v, new Uint8Array(values.buffer));
    return { keys: k, decodeValues: v, isTransposed: false };
  });
  using graph = new Graph(ggml);
  const out = graph.output(
    fusedTokenAttention(graph, {
      ...tensors.at(-1)!,
      shared: tensors.slice(0, -1),
      queries: graph.input("q", "F32", [headSize, numKvHeads * group, numSequences], queries),
      mask: graph.input(
        "mask",
        "F16",
        shared.length > 0 ? [numKeys, numSequences] : [numKeys, 1, 1, numSequences],
        mask,
      ),
      scale: 0.5,
    }),
  );
  const found = await backend.compute(graph, () => backend.readFloats(out));

  /** Slow and obvious. @param offset of the values' row from the key's. */
  const attention = (numSeen: readonly number[], offset = 0): number[] =>
    Array.from({ length: numSequences }, (_, s) =>
      Array.from({ length: numKvHeads * group }, (_, head) => {
        const kvHead = Math.floor(head / group);
        const query = queries.subarray((s * numKvHeads * group + head) * headSize).subarray(0, headSize);
        const rows = pieces
          .flatMap(({ count, keys, values }, i) =>
            Array.from({ length: count }, (_, n) => {
              const at = (row: number) =>
                (((i < shared.length ? 0 : s) * numKvHeads + kvHead) * count + row) * headSize;
              const value = (n + offset) % count;
              return {
                score: 0.5 * query.reduce((sum, x, d) => sum + x * keys[at(n) + d]!, 0),
                value: values.subarray(at(value), at(value) + headSize),
              };
            }),
          )
          .slice(0, numSeen[s]);
        const weights = rows.map(({ score }) => Math.exp(score));
        const total = weights.reduce((a, b) => a + b);
        return Array.from({ length: headSize }, (_, d) =>
          rows.reduce((sum, { value }, n) => sum + (weights[n]! / total) * value[d]!, 0),
        );
      }).flat(),
    ).flat();
  const distance = (expected: number[]) => Math.max(...expected.map((x, i) => Math.abs(x - found[i]!)));
  expectOnlyRight(deviceBound(1e-5, 0.01, 2e-5), distance(attention(seen)), {
    "hidden keys are seen": distance(attention([numKeys, numKeys])),
    "values are the next row's": distance(attention(seen, 1)),
  });
});

import { afterAll, expect, test } from "vitest";
import { expectOnlyRight } from "../../../tests/oracles/faults.js";
import { type AttentionMask, causalMask, MaskTensors } from "../attention-mask.js";
import { Backend } from "../backend.js";
import { Graph } from "../graph.js";
import { findGgmlDirectory, loadGgml } from "../library.js";
import { fusedTokenAttention, tokenAttention } from "../token-attention.js";
import { tiledAttention } from "./attention.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const backend = new Backend(ggml, { threads: 1 });
afterAll(() => backend[Symbol.dispose]());

const noise = (length: number, step: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * step + step));

/** [rows][heads * D], by the book. */
function plainAttention(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  mask: AttentionMask,
  o: { readonly headSize: number; readonly numHeads: number; readonly numKvHeads: number; readonly scale: number },
): number[] {
  const { headSize: d, numHeads, numKvHeads } = o;
  const { numRows, numKeys } = mask;
  const out: number[] = [];
  for (let t = 0; t < numRows; t++) {
    for (let h = 0; h < numHeads; h++) {
      const base = Math.floor(h / (numHeads / numKvHeads)) * numKeys * d;
      const seen = mask.visible(t);
      const weights = Array.from({ length: numKeys }, (_, s) => {
        if (!seen.some(([first, end]) => first <= s && s < end)) return 0;
        let score = 0;
        for (let i = 0; i < d; i++) score += q[(t * numHeads + h) * d + i]! * k[base + s * d + i]!;
        return Math.exp(score * o.scale);
      });
      const total = weights.reduce((a, b) => a + b, 0);
      for (let i = 0; i < d; i++) {
        out.push(weights.reduce((sum, weight, s) => sum + (weight / total) * v[base + s * d + i]!, 0));
      }
    }
  }
  return out;
}

/** The same with faults that a test of attention must catch: masks that are one key off, and another key's values. */
function wrongAttention(...[q, k, v, mask, o]: Parameters<typeof plainAttention>): Record<string, number[]> {
  const { numRows, numKeys } = mask;
  const visible = (row: number, more: number): (readonly [number, number])[] => {
    const seen = [...mask.visible(row)];
    const [first, end] = seen.pop()!;
    const other: readonly [number, number] = [first, Math.min(end + more, numKeys)];
    return other[1] > first ? [...seen, other] : seen.length > 0 ? seen : [[first, end]];
  };
  const wrong: Record<string, number[]> = {};
  for (const [fault, more] of [
    ["rows see one key more", 1],
    ["rows see one key less", -1],
  ] as const) {
    const other = { ...mask, visible: (row: number) => visible(row, more) };
    // The last row has no key more, and a row's only key stays.
    const isOther = Array.from({ length: numRows }, (_, row) => row).some(
      (row) => JSON.stringify(other.visible(row)) !== JSON.stringify(mask.visible(row)),
    );
    if (isOther) wrong[fault] = plainAttention(q, k, v, other, o);
  }
  const rolled = Float32Array.of(...v.subarray(o.headSize), ...v.subarray(0, o.headSize));
  if (numKeys > 1) wrong["values are the next key's"] = plainAttention(q, k, rolled, mask, o);
  return wrong;
}

function expectAttention(found: Float32Array, wanted: readonly number[], wrong: Record<string, number[]>): void {
  const distance = (from: readonly number[]) => Math.max(...from.map((x, i) => Math.abs(found[i]! - x)));
  const distances = Object.entries(wrong).map(([fault, from]) => [fault, distance(from)]);
  if (distances.length > 0) expectOnlyRight(1e-4, distance(wanted), Object.fromEntries(distances));
  // A row that has one key can see no other.
  else expect(distance(wanted)).toBeLessThan(1e-4);
}

/** Each row sees the first three keys and a window that ends with its own, which may have a gap. */
function windowMask(numRows: number, past: number): AttentionMask {
  const own = (row: number) => past + row;
  const visible = (row: number): [number, number][] =>
    own(row) < 12
      ? [[0, own(row) + 1]]
      : [
          [0, 3],
          [own(row) - 7, own(row) - 2],
          [own(row), own(row) + 1],
        ];
  // Room past the last key that a row sees, which no node needs to read.
  return { numRows, numKeys: past + numRows + 9, id: "window", visible };
}

test.each([
  [1, 0, 4, 2],
  [3, 5, 4, 1],
  [16, 100, 8, 2],
  [63, 1, 4, 4],
  [64, 0, 2, 1],
  [130, 70, 6, 2],
])(
  "tiledAttention(): %i rows over %i more equal plain attention, %i heads over %i",
  async (numRows, past, heads, kv) => {
    for (const mask of [causalMask(numRows, past), windowMask(numRows, past)]) {
      const { numKeys } = mask;
      const q = noise(numRows * heads * 8, 0.37);
      const [k, v] = [noise(numKeys * kv * 8, 0.71), noise(numKeys * kv * 8, 0.13)];
      const shape = { numHeads: heads, numKvHeads: kv, headSize: 8, scale: 0.4 };
      const wanted = plainAttention(q, k, v, mask, shape);
      const wrong = wrongAttention(q, k, v, mask, shape);
      for (const maxNodeFlops of [1e9, 1, 5e5]) {
        for (const threads of [1, 2, 7]) {
          using graph = new Graph(ggml);
          const out = graph.output(
            tiledAttention(
              new MaskTensors(graph),
              graph.input("q", "F32", [8, heads, numRows], q),
              graph.input("k", "F32", [8, numKeys, kv], k),
              graph.input("v", "F32", [8, numKeys, kv], v),
              mask,
              shape.scale,
              { threads, maxNodeFlops },
            ),
          );
          expect(out.ne).toEqual([8 * heads, numRows, 1, 1]);
          const found = await backend.compute(graph, () => backend.readFloats(out));
          expectAttention(found, wanted, wrong);
        }
      }
    }
  },
);

test("MaskTensors.part(): rows read keys up to the last that one of them sees", () => {
  const mask = windowMask(40, 10);
  using graph = new Graph(ggml);
  const masks = new MaskTensors(graph);
  for (const [first, count] of [
    [0, 1],
    [5, 20],
    [39, 1],
  ] as const) {
    expect(masks.part(mask, first, count).numKeys).toBe(10 + first + count);
  }
  const blind = { ...mask, id: "blind", visible: () => [] };
  expect(() => masks.part(blind, 0, 1)).toThrow("Cannot attend: row 0 sees keys up to 0, wanted 1 to 59");
});

test("tokenAttention(): each sequence's row sees its own keys, as many as its mask shows", async () => {
  const [d, numHeads, kv, numKeys] = [8, 6, 2, 37];
  const options = { numHeads, numKvHeads: kv, headSize: d, scale: 0.4 };
  const seen = [37, 20];
  const draw = (size: number) => seen.map((_, s) => noise(size, 0.1 + 0.3 * s));
  const [qs, ks, vs] = [draw(numHeads * d), draw(numKeys * kv * d), draw(numKeys * kv * d)] as const;
  const transposed = vs.map((v) => {
    const turned = new Float32Array(v.length);
    for (let h = 0; h < kv; h++) {
      for (let s = 0; s < numKeys; s++) {
        for (let i = 0; i < d; i++) turned[(h * d + i) * numKeys + s] = v[(h * numKeys + s) * d + i]!;
      }
    }
    return turned;
  });
  const join = (parts: readonly Float32Array[]) => Float32Array.from(parts.flatMap((part) => [...part]));
  const mask = new Uint16Array(2 * numKeys);
  mask.fill(0xfc00, numKeys + 20);
  for (const kernel of ["by head", "by KV head", "fused"] as const) {
    using graph = new Graph(ggml);
    const heads = {
      queries: graph.input("q", "F32", [d, numHeads, 2], join(qs)),
      keys: graph.input("k", "F32", [d, numKeys, kv, 2], join(ks)),
      decodeValues:
        kernel === "fused"
          ? graph.input("v", "F32", [d, numKeys, kv, 2], join(vs))
          : graph.input("v", "F32", [numKeys, d, kv, 2], join(transposed)),
      isTransposed: kernel !== "fused",
      mask: graph.input("mask", "F16", [numKeys, 1, 1, 2], mask),
      scale: options.scale,
      shared: [],
    };
    const out = graph.output(
      kernel === "fused" ? fusedTokenAttention(graph, heads) : tokenAttention(graph, heads, kernel === "by head"),
    );
    const found = await backend.compute(graph, () => backend.readFloats(out));
    for (const [s, count] of seen.entries()) {
      const first = (x: Float32Array) =>
        join(Array.from({ length: kv }, (_, h) => x.subarray(h * numKeys * d, (h * numKeys + count) * d)));
      const asked = [qs[s]!, first(ks[s]!), first(vs[s]!), causalMask(1, count - 1), options] as const;
      const own = found.subarray(s * numHeads * d, (s + 1) * numHeads * d);
      expectAttention(own, plainAttention(...asked), wrongAttention(...asked));
    }
  }
});

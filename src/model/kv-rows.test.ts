import { afterAll, expect, test } from "vitest";
import { testBackend, testGgml } from "../../tests/test-device.js";
import { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import { KVRows, rowElements, transposeValues } from "./kv-rows.js";

const ggml = testGgml;
const backend = testBackend();
afterAll(() => backend[Symbol.dispose]());

const shape = { numLayers: 3, numKvHeads: 2, headSize: 4 };
const [capacity, offset, numSequences] = [7, 10, 2];
const stride = rowElements(shape, capacity) + 6;

/** Memory in which each element holds its index. */
function memory() {
  const size = offset + stride * numSequences;
  const storage = backend.allocate([{ name: "memory", type: "F32", ne: [size] }]);
  const tensor = storage.get("memory");
  backend.set(tensor, new Uint8Array(Float32Array.from({ length: size }, (_, i) => i).buffer));
  const rows = (layout: "rows" | "transposed") => new KVRows(shape, { tensor, offset, capacity }, layout);
  return { storage, tensor, rows };
}

async function read(window: (graph: Graph) => Tensor): Promise<number[]> {
  using graph = new Graph(ggml);
  const found = graph.output(graph.contiguous(window(graph)));
  return [...(await backend.compute(graph, () => backend.readFloats(found)))];
}

/** Where element d of a row of a head lies, by the book. */
const at = (sequence: number, layer: number, head: number, row: number, d: number) =>
  offset + sequence * stride + ((layer * shape.numKvHeads + head) * capacity + row) * shape.headSize + d;
const transposedAt = (sequence: number, layer: number, head: number, row: number, d: number) =>
  offset + sequence * stride + ((layer * shape.numKvHeads + head) * shape.headSize + d) * capacity + row;
const range = (end: number, first = 0) => Array.from({ length: end - first }, (_, i) => first + i);
const [heads, elements, sequences] = [range(2), range(4), range(2)];

test("KVRows: each window shows the elements of its rows, in its order", async () => {
  const { storage, rows } = memory();
  using _ = storage;
  const keys = rows("rows");
  const values = rows("transposed");
  const some = range(5, 2);
  for (const layer of range(3)) {
    expect(await read((graph) => keys.layer(graph, layer, 2, 3))).toEqual(
      heads.flatMap((h) => some.flatMap((row) => elements.map((d) => at(0, layer, h, row, d)))),
    );
    expect(await read((graph) => keys.sideBySide(2, stride).layer(graph, layer, 2, 3))).toEqual(
      sequences.flatMap((s) =>
        heads.flatMap((h) => some.flatMap((row) => elements.map((d) => at(s, layer, h, row, d)))),
      ),
    );
    expect(await read((graph) => values.sideBySide(2, stride).layer(graph, layer, 2, 3))).toEqual(
      sequences.flatMap((s) =>
        heads.flatMap((h) => elements.flatMap((d) => some.map((row) => transposedAt(s, layer, h, row, d)))),
      ),
    );
    expect(await read((graph) => values.sideBySide(2, stride).scattered(graph, layer))).toEqual(
      sequences.flatMap((s) =>
        heads.flatMap((h) => elements.flatMap((d) => range(7).map((row) => transposedAt(s, layer, h, row, d)))),
      ),
    );
  }
  const all = range(3).flatMap((layer) => heads.map((h) => [layer, h] as const));
  expect(await read((graph) => keys.packed(graph, 2, 3))).toEqual(
    all.flatMap(([layer, h]) => some.flatMap((row) => elements.map((d) => at(0, layer, h, row, d)))),
  );
  expect(await read((graph) => keys.asOneLayer(graph, 2, 3))).toEqual(
    some.flatMap((row) => all.flatMap(([layer, h]) => elements.map((d) => at(0, layer, h, row, d)))),
  );
  expect(await read((graph) => keys.asOneLayer(graph, 2, 3, { firstLayer: 1, numLayers: 2 }))).toEqual(
    some.flatMap((row) => all.slice(2).flatMap(([layer, h]) => elements.map((d) => at(0, layer, h, row, d)))),
  );
});

test("KVRows: clearing and transposing touch the rows that are named, and no other element", async () => {
  const { storage, tensor, rows } = memory();
  using _ = storage;
  const before = backend.readFloats(tensor);
  const clear = async (into: KVRows) => {
    using graph = new Graph(ggml);
    into.clear(graph, 2, 3);
    await backend.compute(graph, () => undefined);
  };
  for (const [layout, place] of [
    ["rows", at],
    ["transposed", transposedAt],
  ] as const) {
    await clear(rows(layout));
    const named = new Set(
      range(3).flatMap((l) =>
        heads.flatMap((h) => range(5, 2).flatMap((row) => elements.map((d) => place(0, l, h, row, d)))),
      ),
    );
    const found = backend.readFloats(tensor);
    for (const [i, x] of found.entries()) expect(x).toBe(named.has(i) ? 0 : before[i]);
    backend.set(tensor, new Uint8Array(before.buffer));
  }
  using other = backend.allocate([{ name: "transposed", type: "F32", ne: [rowElements(shape, capacity)] }]);
  other.clear();
  const into = new KVRows(shape, { tensor: other.get("transposed"), offset: 0, capacity }, "transposed");
  using graph = new Graph(ggml);
  transposeValues(graph, rows("rows"), into, { first: 1, end: 3 }, 5);
  await backend.compute(graph, () => undefined);
  const found = backend.readFloats(other.get("transposed"));
  let numSet = 0;
  for (const layer of range(3, 1)) {
    for (const h of heads) {
      for (const row of range(5)) {
        for (const d of elements) {
          expect(found[transposedAt(0, layer, h, row, d) - offset]).toBe(at(0, layer, h, row, d));
          numSet += 1;
        }
      }
    }
  }
  expect(found.filter((x) => x !== 0)).toHaveLength(numSet);
});

test("KVRows: what does not fit is refused", () => {
  const { storage, tensor, rows } = memory();
  using _ = storage;
  expect(() => rows("rows").sideBySide(3, stride)).toThrow("Cannot lay out rows: they end at element");
  expect(() => new KVRows(shape, { tensor, offset: offset + 2 * stride - 167, capacity })).toThrow(
    "Cannot lay out rows",
  );
  using graph = new Graph(ggml);
  expect(() => rows("rows").layer(graph, 0, 5, 3)).toThrow("Cannot use rows 5 to 8: there is room for 7");
});

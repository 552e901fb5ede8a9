import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { Backend } from "../ggml/backend.js";
import { CpuPolicy } from "../ggml/cpu/cpu-policy.js";
import { Graph } from "../ggml/graph.js";
import { maxGraphTensors } from "../ggml/graph-frame.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import type { TensorStorage } from "../ggml/memory.js";
import { DecodeStep } from "./decode-step.js";
import { type Decoder, forward } from "./decoder.js";
import { GraphSizes, partsOfGraphs } from "./graph-sizes.js";
import { KVRows } from "./kv-rows.js";
import { openModel } from "./open-model.js";
import { type Rows, spansFrom } from "./rows.js";
import { loadWeights } from "./weights.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const backend = new Backend(ggml, { threads: 1 });
const capacity = 2048;
let decoder: Decoder;
let storage: TensorStorage;

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-sizes-"));
  try {
    writeRandomModel(folder, { architecture: "qwen3", numLayers: 3 });
    const { architecture, config } = await openModel(folder);
    const weights = await loadWeights(backend, await openModel(folder), { conversion: "keep" });
    decoder = { ggml, architecture, config, weights, device: backend.policy };
    const ne = [3 * config.numKvHeads * config.headSize * capacity];
    storage = backend.allocate(["keys", "values"].map((name) => ({ name, type: "F32", ne })));
  } finally {
    await rm(folder, { recursive: true });
  }
});

afterAll(() => {
  storage[Symbol.dispose]();
  decoder.weights[Symbol.dispose]();
  backend[Symbol.dispose]();
});

const rowsOf = (name: string, layout?: "transposed") =>
  new KVRows(decoder.config, { tensor: storage.get(name), offset: 0, capacity }, layout);
const block = (numTokens: number): Rows => {
  return {
    tokenIds: new Int32Array(numTokens),
    positions: 0,
    block: { keys: rowsOf("keys"), values: rowsOf("values") },
  };
};
const behind = (numBefore: number, numTokens: number): Rows => {
  return { ...block(numTokens), before: { keys: rowsOf("keys"), values: rowsOf("values"), length: numBefore } };
};
/** @param shared lengths of what its context begins with. */
const piece = (numTokens: number, past: number, ...lengths: number[]): Rows => {
  const shared = lengths.map((length) => ({ keys: rowsOf("keys"), values: rowsOf("values", "transposed"), length }));
  const context = { shared, keys: rowsOf("keys"), values: rowsOf("values") };
  return { tokenIds: new Int32Array(numTokens), positions: past, context, places: past };
};

/** Continuations of so many tokens after a prompt of `past`: the first ones are computed already. */
const continuations = (past: number, computed: number, ...lengths: number[]): Rows => {
  let from = past;
  const spans = lengths.map((numRows) => {
    const span = { kind: "local", numRows, preamble: past, from } as const;
    from += numRows;
    return span;
  });
  const left = spansFrom(spans, computed);
  return { ...piece(from - past - computed, past + computed), spans: left };
};

test.each([1, 16, 0.001])(
  "GraphSizes: graphs hold no more than was counted for them, %s threads' work a node",
  (work) => {
    const device = new CpuPolicy(ggml, backend.device, Math.max(1, work), Math.min(3e9, 3e9 * work));
    const split = { ...decoder, device };
    const sizes = new GraphSizes(split, "F32");
    for (const all of [
      [block(1)],
      [block(5), block(17), block(64), block(9)],
      [behind(40, 5), block(5), behind(40, 130)],
      [piece(64, 1500)],
      [block(3), piece(40, 100), piece(1, 20)],
      [piece(40, 100, 30, 70), piece(3, 90, 90)],
      [continuations(1000, 0, 5, 40, 3, 10)],
      [continuations(1000, 50, 5, 40, 30, 10), continuations(300, 7, 5, 20)],
    ]) {
      const counted = all.reduce((sum, { tokenIds: { length }, places, context, before, spans }) => {
        if (context === undefined) return sum + sizes.ofBlock(length, before?.length);
        const shared = context.shared.map((rows) => rows.length);
        return sum + sizes.ofPiece(length, places as number, false, shared, spans);
      }, maxGraphTensors - sizes.room);
      using graph = forward(split, all, [{ rows: 0, row: 0 }]).graph;
      expect(graph.numTensors).toBeLessThanOrEqual(counted);
      expect(graph.numTensors).toBeGreaterThan(0.8 * counted);
    }
  },
);

test.each([0, 2])(
  "GraphSizes.maxRuns(): so many runs that begin with %i pieces fit a graph, and one more does not",
  (numShared) => {
    const most = new GraphSizes(decoder, "F32").maxRuns(numShared);
    const own = { numKeys: 64, keys: rowsOf("keys"), decodeValues: rowsOf("values", "transposed") };
    const run = { ...own, rowsEach: 4, shared: Array(numShared).fill({ ...own, length: 40 }) };
    using step = new DecodeStep(decoder, Array(most).fill(run));
    expect(step.graph.numTensors).toBeGreaterThan(maxGraphTensors - 250);
    expect(() => new DecodeStep(decoder, Array(most + 1).fill(run))).toThrow("as many as it has room for");
  },
);

test("partsOfGraphs(): parts share graphs in their order, as many as fit", () => {
  const calls: number[] = [];
  const part = (i: number, size: number) => (graph: Graph) => {
    let x = graph.input("x", "F32", [1], new Float32Array(1));
    for (let t = 1; t < size; t++) x = graph.reshape(x, [1]);
    if (graph.numTensors !== size) calls.push(i);
  };
  const half = maxGraphTensors / 2;
  const graphs = partsOfGraphs(
    ggml,
    [half, half, 1, maxGraphTensors, 2].map((size, i) => part(i, size)),
  );
  const sizes = graphs.map((fill) => {
    using graph = new Graph(ggml);
    fill(graph);
    return graph.numTensors;
  });
  expect(sizes).toEqual([maxGraphTensors, 1, maxGraphTensors, 2]);
  expect(calls).toEqual([1]);
});

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { Backend } from "../ggml/backend.js";
import { CpuPolicy } from "../ggml/cpu/cpu-policy.js";
import { plainPolicy } from "../ggml/device-policy.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import type { TensorStorage } from "../ggml/memory.js";
import { type Decoder, forward } from "./decoder.js";
import { KVRows } from "./kv-rows.js";
import { openModel } from "./open-model.js";
import type { Rows } from "./rows.js";
import { loadWeights, type ModelWeights } from "./weights.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const backend = new Backend(ggml, { threads: 1 });
let weights: ModelWeights;
let decoder: Decoder;
let storage: TensorStorage;
const capacity = 2048;

beforeAll(async () => {
  const made = await loadModel();
  ({ weights, decoder } = made);
  const ne = [2 * 2 * 16 * capacity];
  storage = backend.allocate([
    { name: "keys", type: "F32", ne },
    { name: "values", type: "F32", ne },
  ]);
  storage.clear();
});

async function loadModel() {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-decoder-"));
  try {
    writeRandomModel(folder, { architecture: "qwen3", numLayers: 2 });
    const source = await openModel(folder);
    const loaded = await loadWeights(backend, source, { conversion: "keep" });
    return {
      weights: loaded,
      decoder: {
        ggml,
        architecture: source.architecture,
        config: source.config,
        weights: loaded,
        device: backend.policy,
      },
    };
  } finally {
    await rm(folder, { recursive: true });
  }
}

afterAll(() => {
  storage[Symbol.dispose]();
  weights[Symbol.dispose]();
  backend[Symbol.dispose]();
  expect(ggml.live).toEqual({ contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 });
});

const rows = (name: "keys" | "values", room = capacity) =>
  new KVRows(decoder.config, { tensor: storage.get(name), offset: 0, capacity: room });
const tokens = (numRows: number) => ({ tokenIds: new Int32Array(numRows), positions: 0 });
const block = (numRows: number, room = capacity): Rows => ({
  ...tokens(numRows),
  block: { keys: rows("keys", room), values: rows("values", room) },
});
const context = () => ({ shared: [], keys: rows("keys"), values: rows("values") });
const piece = (numRows: number, places: number | Int32Array, more: Partial<Rows> = {}): Rows => ({
  ...tokens(numRows),
  context: context(),
  places,
  ...more,
});
const shared = () => ({ ...context(), shared: [{ keys: rows("keys"), values: rows("values"), length: 64 }] });

test.each<readonly [string, () => readonly Rows[], string]>([
  ["no rows", () => [], "no rows are given"],
  ["an empty block", () => [block(0)], "rows are empty"],
  ["a block past its room", () => [block(65, 64)], "Cannot write 65 rows of keys: there is room for 64"],
  ["a piece past its room", () => [piece(3, capacity - 2)], `there is room for ${capacity}`],
  ["a row past its room", () => [piece(2, Int32Array.of(1, capacity))], `there is room for ${capacity}`],
  ["a row without a place", () => [piece(2, Int32Array.of(1))], "2 rows have a list of 1"],
  [
    "a place in rows of others",
    () => [piece(2, 63, { context: shared() })],
    "row 63 is one of 64 that others hold too",
  ],
  ["a row in no span", () => [piece(2, 0, { spans: [{ kind: "global", numRows: 1 }] })], "spans have 1 rows of 2"],
  ["rows left out of a block", () => [{ ...block(3), kept: { fromLayer: 1, rows: Int32Array.of(2) } }], "alone"],
  ["places without a context", () => [{ ...block(3), places: 4 }], "rows without a context"],
  ["a kept row that is none", () => [piece(3, 0, { kept: { fromLayer: 1, rows: Int32Array.of(3) } })], "no such rows"],
])("forward(): %s is an error, and leaves nothing", (_, spans, part) => {
  const before = { ...ggml.live };
  expect(() => forward(decoder, spans(), [])).toThrow(part);
  expect(ggml.live).toEqual(before);
});

test("forward(): logits of a row that is left out are refused", () => {
  const left = piece(3, 0, { kept: { fromLayer: 1, rows: Int32Array.of(1, 2) } });
  expect(() => forward(decoder, [left], [{ rows: 0, row: 0 }])).toThrow(
    "Cannot use row 0 of rows 0: it is not computed",
  );
});

test("forward(): a device that splits everything and one that splits nothing give the same logits", async () => {
  const cpu = backend.device;
  const logits: Float32Array[] = [];
  for (const device of [new CpuPolicy(ggml, cpu, 2, 1e5), plainPolicy(ggml, cpu, cpu), backend.policy]) {
    const built = forward({ ...decoder, device }, [block(150), piece(90, 200)], [{ rows: 1, row: 89 }]);
    using graph = built.graph;
    logits.push(await backend.compute(graph, () => backend.readFloats(built.logits!)));
  }
  for (const other of logits.slice(0, 2)) {
    for (const [id, x] of other.entries()) expect(Math.abs(x - (logits[2]![id] as number))).toBeLessThan(1e-4);
  }
});

test("DevicePolicy.minRows: a graph has so many rows at least, and the padding changes no logits", async () => {
  const cpu = backend.device;
  const device = plainPolicy(ggml, cpu, cpu);
  const logits: Float32Array[] = [];
  for (const [minRows, numRows] of [
    [1, 4],
    [device.minRows, 16],
  ]) {
    const built = forward({ ...decoder, device: { ...device, minRows: minRows! } }, [block(3)], [{ rows: 0, row: 2 }]);
    using graph = built.graph;
    expect(graph.inputs.find(({ tensor }) => tensor.name === "tokens")?.tensor.ne[0]).toBe(numRows);
    logits.push(await backend.compute(graph, () => backend.readFloats(built.logits!)));
  }
  for (const [id, x] of logits[0]!.entries()) expect(Math.abs(x - logits[1]![id]!)).toBeLessThan(1e-4);
});

test("DevicePolicy.graphRows(): whole row groups, fewer where weights are large", () => {
  for (const threads of [1, 2, 64]) {
    const policy = new CpuPolicy(ggml, backend.device, threads);
    expect(policy.graphRows(1e6)).toBe(512);
    for (const weights of [1e7, 1e8, 8192 * 28672]) {
      const count = policy.graphRows(weights);
      expect(count % policy.rowGroup).toBe(0);
      expect(count % policy.pieceStep).toBe(0);
      if (threads === 1 && weights > 1e8) expect(count).toBe(policy.pieceStep);
    }
  }
});

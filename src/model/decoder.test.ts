import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { Backend, type TensorStorage } from "../ggml/backend.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { type Decoder, forward, pieceRows, type RowSpan, rowGroup } from "./decoder.js";
import { KVRows } from "./kv-rows.js";
import { openModel } from "./open-model.js";
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
      decoder: { ggml, architecture: source.architecture, config: source.config, weights: loaded, threads: 1 },
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
const block = (numRows: number, room = capacity): RowSpan => ({
  kind: "block",
  tokenIds: new Int32Array(numRows),
  keys: rows("keys", room),
  values: rows("values", room),
});
const piece = (numRows: number, past: number): RowSpan => ({
  kind: "piece",
  tokenIds: new Int32Array(numRows),
  position: past,
  past,
  keys: rows("keys"),
  values: rows("values"),
});

test.each<readonly [string, () => readonly RowSpan[], string]>([
  ["no spans", () => [], "no rows are given"],
  ["an empty span", () => [block(0)], "a span has no rows"],
  ["a block after a piece", () => [piece(3, 0), block(3)], "blocks come before other rows"],
  ["a block past its room", () => [block(65, 64)], "Cannot write 65 rows of keys: there is room for 64"],
  ["a piece past its room", () => [piece(3, capacity - 2)], `there is room for ${capacity}`],
])("forward(): %s is an error, and leaves nothing", (_, spans, part) => {
  const before = { ...ggml.live };
  expect(() => forward(decoder, spans(), [])).toThrow(part);
  expect(ggml.live).toEqual(before);
});

test("pieceRows(): a multiple of 64 and of the rows that kernels take together", () => {
  for (const threads of [1, 2, 64]) {
    const count = pieceRows({ ...decoder, threads });
    expect(count % 64).toBe(0);
    expect(count % rowGroup).toBe(0);
    const { config } = decoder;
    const huge = { ...decoder, threads, config: { ...config, hiddenSize: 8192, intermediateSize: 28672 } };
    if (threads === 1) expect(pieceRows(huge)).toBe(64);
  }
});

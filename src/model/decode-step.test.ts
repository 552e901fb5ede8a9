import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { deviceBound, testBackend, testGgml } from "../../tests/test-device.js";
import { plainPolicy } from "../ggml/device-policy.js";
import { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import { transfersOf } from "../ggml/transfers.suite.js";
import { DecodeStep, type StepTokens, type TokenRun } from "./decode-step.js";
import { type Decoder, forward } from "./decoder.js";
import { KVRows, rowElements, transposeValues } from "./kv-rows.js";
import { openModel } from "./open-model.js";
import { loadWeights } from "./weights.js";

const ggml = testGgml;
const backend = testBackend();
let decoder: Decoder;

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-step-"));
  try {
    writeRandomModel(folder, { architecture: "qwen3", numLayers: 2 });
    const source = await openModel(folder);
    const weights = await loadWeights(backend, source, { conversion: "keep" });
    decoder = { ggml, architecture: source.architecture, config: source.config, weights, device: backend.policy };
  } finally {
    await rm(folder, { recursive: true });
  }
});

afterAll(() => {
  decoder.weights[Symbol.dispose]();
  backend[Symbol.dispose]();
});

const capacity = 128;
const lengths = [70, 5, 33];
const ids = (length: number, seed: number) => Int32Array.from({ length }, (_, i) => (i * 31 + seed * 17) % 250);

/** Contexts of these lengths side by side, full of NaN past them but for what clearRows() sets. */
async function contexts(type: "F16" | "F32") {
  const { config } = decoder;
  const stride = rowElements(config, capacity);
  const ne = [stride * lengths.length];
  const storage = backend.allocate(["keys", "values", "decoded"].map((name) => ({ name, type, ne })));
  const garbage = new Uint8Array(storage.byteLength / 3).fill(0xff);
  for (const name of ["keys", "values", "decoded"]) {
    const { tensor } = { tensor: storage.get(name) };
    backend.set(tensor, garbage.subarray(0, ne[0]! * tensor.nb[0]));
  }
  const rows = (name: string, slot: number) => {
    const place = { tensor: storage.get(name), offset: slot * stride, capacity };
    return new KVRows(config, place, name === "decoded" ? backend.policy.decodeLayout : "rows");
  };
  for (const [slot, length] of lengths.entries()) {
    const [keys, values] = [rows("keys", slot), rows("values", slot)];
    const tokenIds = ids(length, slot);
    using graph = forward(decoder, [{ tokenIds, positions: 0, context: { shared: [], keys, values } }], []).graph;
    await backend.compute(graph, () => undefined);
    using tail = new Graph(ggml);
    const into = rows("decoded", slot);
    transposeValues(tail, values, into, { first: 0, end: config.numLayers }, length);
    for (const cleared of [keys, into]) cleared.clear(tail, length, capacity - length);
    await backend.compute(tail, () => undefined);
  }
  const run = (first: number, numSequences: number, numKeys: number): TokenRun => {
    const all = (name: string) => rows(name, first).sideBySide(numSequences, stride);
    return { shared: [], numKeys, keys: all("keys"), decodeValues: all("decoded") };
  };
  return { storage, rows, run };
}

/** The logits after token 9 of each context, or after the last of some, as a piece of a prompt gives them. */
async function asPieces(
  made: Awaited<ReturnType<typeof contexts>>,
  { shift = 0, tokenIds = [9] as readonly number[] } = {},
): Promise<Float32Array[]> {
  const all: Float32Array[] = [];
  for (const [slot, past] of lengths.entries()) {
    const [keys, values] = [made.rows("keys", slot), made.rows("values", slot)];
    const context = { shared: [], keys, values };
    const rows = { tokenIds: Int32Array.from(tokenIds), positions: past + shift, context, places: past };
    const built = forward(decoder, [rows], [{ rows: 0, row: tokenIds.length - 1 }]);
    using graph = built.graph;
    all.push(await backend.compute(graph, () => backend.readFloats(built.logits!)));
  }
  return all;
}

const token = (past: number): StepTokens => ({ tokenIds: [9], position: past, past });

test.each([
  ["F32", deviceBound(1e-4)],
  ["F16", deviceBound(2e-2)],
] as const)("DecodeStep: each of several sequences gets what it would alone, contexts of %s", async (type, bound) => {
  const made = await contexts(type);
  using _ = made.storage;
  const moved = await asPieces(made, { shift: 1 });
  const expected = await asPieces(made);
  const plans: [TokenRun[], number[]][] = [
    [[made.run(0, 3, 128)], [0, 1, 2]],
    [
      [made.run(0, 1, 128), made.run(1, 2, 64)],
      [0, 1, 2],
    ],
    [[made.run(1, 1, 64)], [1]],
    [
      [made.run(2, 1, 64), made.run(0, 1, 71)],
      [2, 0],
    ],
  ];
  for (const [runs, slots] of plans) {
    using step = new DecodeStep(decoder, runs);
    using prepared = backend.prepare(step.graph);
    // Again over the same keys, with another graph in between.
    for (let time = 0; time < 2; time++) {
      step.set(slots.map((slot) => token(lengths[slot]!)));
      const logits = await backend.compute(prepared, () => backend.readFloats(step.logits));
      await asPieces(made);
      for (const [i, slot] of slots.entries()) {
        const row = logits.subarray(i * decoder.config.vocabSize, (i + 1) * decoder.config.vocabSize);
        const distance = (from: Float32Array) => Math.max(...from.map((x, id) => Math.abs(row[id]! - x)));
        expectOnlyRight(bound, distance(expected[slot]!), {
          "the token is a position too far": distance(moved[slot]!),
          "the keys and values are another sequence's": distance(expected[(slot + 1) % lengths.length]!),
        });
      }
    }
  }
});

test.each([
  ["F32", deviceBound(1e-4)],
  ["F16", deviceBound(2e-2)],
] as const)(
  "DecodeStep: tokens of a sequence that follow each other each see those before them, contexts of %s",
  async (type, bound) => {
    if (backend.policy.decodeLayout !== "transposed") return;
    const made = await contexts(type);
    using _ = made.storage;
    const tokenIds = [9, 17, 4];
    const expected: Float32Array[][] = [];
    for (const i of tokenIds.keys()) expected.push(await asPieces(made, { tokenIds: tokenIds.slice(0, i + 1) }));
    const unseen: Float32Array[][] = [];
    for (const id of tokenIds) unseen.push(await asPieces(made, { tokenIds: [id] }));
    // A context that others begin with too: what its first rows hold, then none of its own.
    const { rows, run } = made;
    const base = { keys: rows("keys", 0), decodeValues: rows("decoded", 0), length: lengths[0]!, numKeys: 128 };
    const plans: [TokenRun[], { slot: number; past: number }[]][] = [
      [[{ ...run(0, 3, 128), rowsEach: 4 }], [0, 1, 2].map((slot) => ({ slot, past: lengths[slot]! }))],
      [[run(0, 1, 128), { ...run(1, 2, 64), rowsEach: 8 }], [0, 1, 2].map((slot) => ({ slot, past: lengths[slot]! }))],
      [
        [{ ...run(1, 2, 64), rowsEach: 4, shared: [base] }],
        [
          { slot: 0, past: 0 },
          { slot: 0, past: 0 },
        ],
      ],
    ];
    for (const [runs, sequences] of plans) {
      using step = new DecodeStep(decoder, runs);
      using prepared = backend.prepare(step.graph);
      const rowsOf = runs.flatMap(({ rowsEach = 1, keys }) => Array<number>(keys.numSequences).fill(rowsEach));
      step.set(
        sequences.map(({ slot, past }, i) => {
          return { tokenIds: tokenIds.slice(0, rowsOf[i]!), position: lengths[slot]!, past };
        }),
      );
      const logits = await backend.compute(prepared, () => backend.readFloats(step.logits));
      let first = 0;
      for (const [i, { slot }] of sequences.entries()) {
        for (const row of tokenIds.slice(0, rowsOf[i]!).keys()) {
          const at = (first + row) * decoder.config.vocabSize;
          const found = logits.subarray(at, at + decoder.config.vocabSize);
          const distance = (from: Float32Array) => Math.max(...from.map((x, id) => Math.abs(found[id]! - x)));
          expectOnlyRight(bound, distance(expected[row]![slot]!), {
            "the sequence is another one": distance(expected[row]![(slot + 1) % lengths.length]!),
            ...(row > 0 && { "the tokens before it are not seen": distance(unseen[row]![slot]!) }),
          });
        }
        first += rowsOf[i]!;
      }
    }
  },
);

test("DecodeStep: what sequences begin with is read by as many products for all of them as for one", async () => {
  const made = await contexts("F32");
  using _ = made.storage;
  const shared = [{ ...made.run(0, 1, 128), length: 70 }];
  const [one, two] = [1, 2].map((count) => {
    using step = new DecodeStep(decoder, [{ ...made.run(1, count, 64), shared }]);
    return step.graph.numTensors;
  });
  expect(two).toBe(one);
});

test("DecodeStep on a device: rows that sequences begin with are read as they lie, where they fill their room with their values transposed", async () => {
  const made = await contexts("F16");
  using _ = made.storage;
  const { config } = decoder;
  using turned = backend.allocate([{ name: "turned", type: "F16", ne: [rowElements(config, capacity)] }]);
  const transposed = new KVRows(config, { tensor: turned.get("turned"), offset: 0, capacity }, "transposed");
  using graph = new Graph(ggml);
  transposeValues(graph, made.rows("values", 0), transposed, { first: 0, end: config.numLayers }, lengths[0]!);
  transposed.clear(graph, lengths[0]!, capacity - lengths[0]!);
  for (const [slot, length] of lengths.entries()) made.rows("values", slot).clear(graph, length, capacity - length);
  await backend.compute(graph, () => undefined);
  const onDevice = {
    ...decoder,
    device: plainPolicy(ggml, backend.device, ggml.devices.find(({ kind }) => kind === "cpu")!),
  };
  const own = (slot: number) => ({ keys: made.rows("keys", slot), values: made.rows("values", slot) });
  const base = { keys: made.rows("keys", 0), length: lengths[0]!, numKeys: capacity };
  const shared = [{ ...own(0), length: lengths[0]! }];
  const wanted = async (slot: number, seen = shared) => {
    const past = lengths[slot]! + seen.reduce((sum, { length }) => sum + length, 0);
    const rows = { tokenIds: Int32Array.of(9), positions: 200, context: { shared: seen, ...own(slot) }, places: past };
    const built = forward(decoder, [rows], [{ rows: 0, row: 0 }]);
    using piece = built.graph;
    return await backend.compute(piece, () => backend.readFloats(built.logits!));
  };
  for (const [decodeValues, perLayer] of [
    // Their own keys and values.
    [transposed, 2],
    // And the shared values.
    [made.rows("values", 0), 3],
  ] as const) {
    const copied = vi.spyOn(Graph.prototype, "contiguous");
    // Values as rows in place of those that decoding on this device has.
    const all = (name: string) => made.rows(name, 1).sideBySide(2, rowElements(config, capacity));
    const run = { shared: [{ ...base, decodeValues }], numKeys: 64, keys: all("keys"), decodeValues: all("values") };
    using step = new DecodeStep(onDevice, [run]);
    // Keys and values are the tensors of that type.
    const numCopied = copied.mock.calls.filter(([x]) => x.type === "F16").length;
    copied.mockRestore();
    expect(numCopied).toBe(config.numLayers * perLayer);
    using prepared = backend.prepare(step.graph);
    step.set([1, 2].map((slot) => ({ tokenIds: [9], position: 200, past: lengths[slot]! })));
    const logits = await backend.compute(prepared, () => backend.readFloats(step.logits));
    for (const slot of [1, 2]) {
      const row = logits.subarray((slot - 1) * config.vocabSize, slot * config.vocabSize);
      const distance = (from: Float32Array) => Math.max(...from.map((x, id) => Math.abs(row[id]! - x)));
      expectOnlyRight(2e-2, distance(await wanted(slot)), {
        "the shared rows are left out": distance(await wanted(slot, [])),
        "the sequences are swapped": distance(await wanted(3 - slot)),
      });
    }
  }
});

test("transfers: a decoded token and a piece of a prompt take one upload, that the device queues, one read, and are one part", async () => {
  const made = await contexts("F16");
  using _ = made.storage;
  // The CPU as if it had memory of its own: it is copied to then.
  const own = vi.spyOn(ggml.symbols, "ggml_backend_buft_is_host").mockReturnValue(0n);
  onTestFinished(() => own.mockRestore());
  using fresh = testBackend();
  using step = new DecodeStep(decoder, [made.run(0, 3, 128)]);
  using greedy = new DecodeStep(decoder, [made.run(0, 3, 128)], true);
  const readBytes = 4 * decoder.config.vocabSize;
  const decode = ({ graph }: DecodeStep, wanted: Tensor) =>
    transfersOf(ggml, async () => {
      using prepared = fresh.prepare(graph);
      step.set(lengths.map(token));
      await fresh.compute(prepared, () => fresh.readFloats(wanted));
    });
  const once = { set: 0, queued: 1, waits: 0, read: 1, parts: 1 };
  expect(await decode(step, step.logits)).toEqual({ ...once, readBytes: 3 * readBytes });
  expect(await decode(greedy, greedy.greatest!)).toEqual({ ...once, readBytes: 3 * 12 });
  const [keys, values] = [made.rows("keys", 0), made.rows("values", 0)];
  const rows = { tokenIds: ids(20, 3), positions: 70, context: { shared: [], keys, values }, places: 70 };
  const built = forward(decoder, [rows], [{ rows: 0, row: 19 }]);
  using graph = built.graph;
  const prefilled = await transfersOf(ggml, () => fresh.compute(graph, () => fresh.readFloats(built.logits!)));
  expect(prefilled).toEqual({ ...once, readBytes });
});

test("DecodeStep: what does not fit is refused before the device is asked", async () => {
  const made = await contexts("F32");
  using _ = made.storage;
  const before = { ...ggml.live };
  expect(() => new DecodeStep(decoder, [])).toThrow("no sequence is given");
  expect(() => new DecodeStep(decoder, [made.run(0, 1, 129)])).toThrow("Cannot decode over 129 keys");
  expect(() => made.run(2, 2, 64)).toThrow("Cannot lay out rows: they end at element");
  expect(ggml.live).toEqual(before);
  using step = new DecodeStep(decoder, [made.run(0, 2, 64)]);
  expect(() => step.set([token(3)])).toThrow("Cannot decode tokens of 1 sequences: the graph has 2");
  expect(() => step.set([token(3), token(64)])).toThrow("over 64 keys: the graph has 1 rows, and reads 64 keys");
  const two = { tokenIds: [9, 9], position: 3, past: 3 };
  expect(() => step.set([two, token(3)])).toThrow("Cannot decode 2 tokens over 3 keys: the graph has 1 rows");
});

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectBound, expectOnlyRight, type Fault } from "../../tests/oracles/faults.js";
import { OnePassModel } from "../../tests/oracles/one-pass.js";
import { deviceBound, testBackend, testGgml } from "../../tests/test-device.js";
import { Graph } from "../ggml/graph.js";
import type { TensorStorage } from "../ggml/memory.js";
import type { RopeParameters } from "../ggml/tensor.js";
import { type Decoder, forward, type WantedLogits } from "./decoder.js";
import { KVRows, rowElements } from "./kv-rows.js";
import { openModel } from "./open-model.js";
import type { ContextRows, RowSpan, Rows } from "./rows.js";
import { loadWeights } from "./weights.js";

const ggml = testGgml;
const backend = testBackend();
let decoder: Decoder;
/** The same of one layer: what a row sees is then known by its keys alone. */
let shallow: Decoder;
let oracle: OnePassModel;
const memories: TensorStorage[] = [];
const capacity = 128;

/** Of log-probabilities, as in the law of one pass. */
const bounds = { F32: deviceBound(1e-3), F16: deviceBound(5e-2) } as const;
type LogprobRows = readonly ArrayLike<number>[];
type ContextType = keyof typeof bounds;
const types = ["F32", "F16"] as const;

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-rows-"));
  const load = async (numLayers: number): Promise<Decoder> => {
    const path = join(folder, String(numLayers));
    writeRandomModel(path, { architecture: "qwen3", numLayers, rope: "yarn", seed: 8 });
    const source = await openModel(path);
    if (numLayers > 1) oracle = new OnePassModel(source);
    const weights = await loadWeights(backend, source, { conversion: "keep" });
    return { ggml, architecture: source.architecture, config: source.config, weights, device: backend.policy };
  };
  try {
    [decoder, shallow] = [await load(3), await load(1)];
  } finally {
    await rm(folder, { recursive: true });
  }
});

afterAll(() => {
  for (const owned of [...memories, decoder.weights, shallow.weights, backend]) owned[Symbol.dispose]();
});

/** An empty context, full of what is no number. */
function newContext(type: ContextType, model = decoder): ContextRows {
  const ne = [rowElements(model.config, capacity)];
  const storage = backend.allocate(["keys", "values"].map((name) => ({ name, type, ne })));
  memories.push(storage);
  const rows = (name: string) => {
    const tensor = storage.get(name);
    backend.set(tensor, new Uint8Array(ne[0]! * tensor.nb[0]).fill(0xff));
    return new KVRows(model.config, { tensor, offset: 0, capacity });
  };
  return { shared: [], keys: rows("keys"), values: rows("values") };
}

const ids = (length: number, seed: number) => Int32Array.from({ length }, (_, i) => (i * 31 + seed * 17 + 3) % 250);
const range = (first: number, count: number) => Int32Array.from({ length: count }, (_, i) => first + i);
const all = (rows: readonly Rows[]): WantedLogits[] =>
  rows.flatMap(({ tokenIds }, i) => Array.from(tokenIds, (_, row) => ({ rows: i, row })));

/** The log-probabilities after each wanted row. */
async function compute(rows: readonly Rows[], wanted = all(rows), model = decoder): Promise<number[][]> {
  const built = forward(model, rows, wanted);
  using graph = built.graph;
  const logits = await backend.compute(graph, () => (built.logits ? backend.readFloats(built.logits) : undefined));
  const { vocabSize } = model.config;
  return wanted.map((_, i) => {
    const row = [...logits!.subarray(i * vocabSize, (i + 1) * vocabSize)];
    const max = row.reduce((a, b) => Math.max(a, b));
    const log = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
    return row.map((x) => x - log);
  });
}

function expectNear(found: LogprobRows, wanted: LogprobRows, type: ContextType): void {
  expect(distanceOf(found, wanted)).toBeLessThan(bounds[type]);
}

function distanceOf(found: LogprobRows, wanted: LogprobRows): number {
  expect(found).toHaveLength(wanted.length);
  let most = 0;
  for (const [i, row] of wanted.entries()) {
    for (let id = 0; id < row.length; id++) {
      const difference = Math.abs(found[i]![id]! - row[id]!);
      if (!(difference <= most)) most = difference;
    }
  }
  return most;
}

const asPrompt = (blocks: readonly Int32Array[]) => ({
  blockTokenIds: blocks.map((block) => [...block]),
  continuationTokenIds: [0],
});

/** After every row of a prompt of these blocks. */
function oracleRows(blocks: readonly Int32Array[], fault?: Fault): LogprobRows {
  return oracle.rows(asPrompt(blocks), fault);
}

const blocks = [12, 1, 30, 7].map((length, i) => ids(length, i));
const starts = [0, 12, 13, 43];
const prompt = Int32Array.from(blocks.flatMap((block) => [...block]));

test.each(types)("forward(): a block-mode prompt in one call equals one pass with the block mask, %s", async (type) => {
  const apart = newContext(type);
  const asRows = blocks.map((tokenIds, i): Rows => {
    const kind = i === blocks.length - 1 ? "global" : "local";
    const numRows = tokenIds.length;
    return { tokenIds, positions: starts[i]!, context: apart, places: starts[i]!, spans: [{ kind, numRows }] };
  });
  const spans = asRows.flatMap(({ spans }) => spans as RowSpan[]);
  const found = {
    "a part for each block": await compute(asRows),
    "one part": await compute([{ tokenIds: prompt, positions: 0, context: newContext(type), spans }]),
  };
  const cases = Object.entries(found).map(([name, rows]) => ({
    name,
    prompt: asPrompt(blocks),
    distance: (fault?: Fault) => distanceOf(rows, oracleRows(blocks, fault)),
  }));
  expectBound(bounds[type], cases);
});

test.each(types)("forward(): a block-mode prompt in one call equals the road over stored blocks, %s", async (type) => {
  const { config } = decoder;
  const context = newContext(type);
  for (const [i, tokenIds] of blocks.slice(0, -1).entries()) {
    const block = newContext(type);
    await computeOnly([{ tokenIds, positions: 0, block }]);
    using graph = new Graph(ggml);
    for (const part of ["keys", "values"] as const) {
      const into = context[part].packed(graph, starts[i]!, tokenIds.length);
      graph.expand(graph.copy(block[part].packed(graph, 0, tokenIds.length), into));
    }
    const positions = graph.input("positions", "I32", [tokenIds.length], range(starts[i]!, tokenIds.length));
    const turned = context.keys.asOneLayer(graph, starts[i]!, tokenIds.length);
    graph.expand(graph.rope(turned, positions, decoder.weights.ropes[0] as RopeParameters, true));
    await backend.compute(graph, () => undefined);
  }
  const final = (over: ContextRows): Rows => ({ tokenIds: blocks[3]!, positions: 43, context: over, places: 43 });
  const stored = await compute([final(context)]);
  const spans = blocks.map(({ length }, i): RowSpan => ({ kind: i === 3 ? "global" : "local", numRows: length }));
  const once = await compute([{ tokenIds: prompt, positions: 0, context: newContext(type), spans }]);
  expectNear(once.slice(43), stored, type);
  expect(config.numLayers).toBeGreaterThan(1);
});

async function computeOnly(rows: readonly Rows[]): Promise<void> {
  using graph = forward(decoder, rows, []).graph;
  await backend.compute(graph, () => undefined);
}

test.each(types)("forward(): continuations side by side after one prompt equal each alone, %s", async (type) => {
  const context = newContext(type);
  await computeOnly([{ tokenIds: prompt, positions: 0, context }]);
  const continuations = [3, 1, 6].map((length, i) => ids(length, 20 + i));
  const joined = await compute([
    {
      tokenIds: Int32Array.from(continuations.flatMap((ids) => [...ids])),
      positions: Int32Array.from(continuations.flatMap(({ length }) => [...range(prompt.length, length)])),
      context,
      places: prompt.length,
      spans: continuations.map(({ length }) => ({ kind: "local", numRows: length, preamble: prompt.length })),
    },
  ]);
  const wanted = continuations.flatMap((ids) =>
    oracleRows([Int32Array.from([...prompt, ...ids])]).slice(prompt.length),
  );
  expectNear(joined, wanted, type);
});

test.each(types)("forward(): recomputing all rows of a context, scattered, equals prefilling it, %s", async (type) => {
  const wanted = oracleRows([prompt]);
  const context = newContext(type);
  await computeOnly([{ tokenIds: ids(prompt.length, 99), positions: 5, context }]);
  const some = (first: number) => range(0, prompt.length).filter((place) => place % 2 === first);
  const rows = [0, 1].map((first): Rows => {
    const places = some(first);
    return { tokenIds: places.map((place) => prompt[place]!), positions: places, context, places };
  });
  const found = await compute(rows);
  const order = [...some(0), ...some(1)];
  expectNear(
    found,
    order.map((place) => wanted[place]!),
    type,
  );
  // And they were written where they belong.
  const rest: Rows = { tokenIds: Int32Array.of(7, 8), positions: prompt.length, context, places: prompt.length };
  expectNear(await compute([rest]), oracleRows([Int32Array.from([...prompt, 7, 8])]).slice(-2), type);
});

test.each(types)(
  "forward(): rows that later layers leave out leave the others as in the full pass, %s",
  async (type) => {
    const context = newContext(type);
    const full = await compute([{ tokenIds: prompt, positions: 0, context }]);
    const again = (places: Int32Array, fromLayer: number, rows: Int32Array): Rows => {
      return {
        tokenIds: places.map((place) => prompt[place]!),
        positions: places,
        context,
        places,
        kept: { fromLayer, rows },
      };
    };
    const rows = [
      again(Int32Array.of(2, 9, 10, 11, 30), 1, Int32Array.of(1, 4)),
      again(Int32Array.of(0, 1, 40, 49), 2, Int32Array.of(3)),
      // None of these is left out, so they stand elsewhere in each stage's graph.
      { tokenIds: prompt.subarray(20, 23), positions: 20, context, places: 20 },
    ];
    const wanted = [
      { rows: 0, row: 1, place: 9 },
      { rows: 0, row: 4, place: 30 },
      { rows: 1, row: 3, place: 49 },
      { rows: 2, row: 2, place: 22 },
    ];
    const found = await compute(rows, wanted);
    expectNear(
      found,
      wanted.map(({ place }) => full[place]!),
      type,
    );
  },
);

test("forward(): rows that are left out of a layer write nothing there", async () => {
  const context = newContext("F32");
  await computeOnly([{ tokenIds: prompt, positions: 0, context }]);
  const before = backend.readFloats(context.keys.tensor);
  const places = Int32Array.of(3, 5);
  const kept = { fromLayer: 2, rows: Int32Array.of(1) };
  await computeOnly([{ tokenIds: Int32Array.of(1, 2), positions: places, context, places, kept }]);
  const after = backend.readFloats(context.keys.tensor);
  const { numKvHeads, headSize } = decoder.config;
  const isWritten = (layer: number, row: number) => {
    const at = (layer * numKvHeads * capacity + row) * headSize;
    return after[at] !== before[at];
  };
  expect([0, 1, 2].map((layer) => [3, 4, 5].map((row) => isWritten(layer, row)))).toEqual([
    [true, false, true],
    [true, false, true],
    [false, false, true],
  ]);
});

test("forward(): a window shows the last rows, and a preamble always", async () => {
  const tokens = ids(40, 5);
  const window = 9;
  // Of one layer: a row less changes little.
  const bound = deviceBound(1e-3, 0.02);
  const context = newContext("F32", shallow);
  const run = (rows: Rows) => compute([rows], undefined, shallow);
  const spans: RowSpan[] = [{ kind: "global", numRows: 40, window }];
  const found = await run({ tokenIds: tokens, positions: 0, context, spans });
  const alone = async (row: number, first: number) =>
    (await run({ tokenIds: tokens.subarray(first, row + 1), positions: first })).slice(-1);
  for (const row of [3, 8, 9, 39]) {
    const first = Math.max(0, row + 1 - window);
    const distance = async (from: number) => distanceOf([found[row]!], await alone(row, from));
    expectOnlyRight(bound, await distance(first), { "the window is a row less": await distance(first + 1) });
  }
  // Rows 0 to 3 are the preamble of a local span from row 10 on.
  const local: RowSpan[] = [
    { kind: "global", numRows: 10 },
    { kind: "local", numRows: 30, preamble: 4, window },
  ];
  const behind = await run({ tokenIds: tokens, positions: 0, context, spans: local });
  for (const row of [10, 13, 18, 19, 39]) {
    const own = range(Math.max(10, row + 1 - window), row + 1 - Math.max(10, row + 1 - window));
    const seen = Int32Array.from([0, 1, 2, 3, ...own]);
    const same = await run({ tokenIds: seen.map((place) => tokens[place]!), positions: seen });
    expectNear([behind[row]!], same.slice(-1), "F32");
  }
});

test.each(types)("forward(): a local span sees its preamble and itself alone, wherever it stands, %s", async (type) => {
  const context = newContext(type);
  await computeOnly([{ tokenIds: prompt, positions: 0, context }]);
  const tokens = ids(5, 60);
  const spans: RowSpan[] = [{ kind: "local", numRows: 5, preamble: 8 }];
  const found = await compute([{ tokenIds: tokens, positions: 70, context, places: 80, spans }]);
  const alone = await compute([
    {
      tokenIds: Int32Array.from([...prompt.subarray(0, 8), ...tokens]),
      positions: Int32Array.from([...range(0, 8), ...range(70, 5)]),
      context: newContext(type),
    },
  ]);
  expectNear(found, alone.slice(8), type);
  // Two rows of it again: it begins where it began.
  const again: Rows = {
    tokenIds: tokens.subarray(3),
    positions: 73,
    context,
    places: 83,
    spans: [{ kind: "local", numRows: 2, from: 80, preamble: 8 }],
  };
  expectNear(await compute([again]), alone.slice(11), type);
});

test.each([undefined, 12, 3, 1])(
  "forward(): rows without a context see those before them, in a window of %s",
  async (window) => {
    const context = newContext("F32", shallow);
    await compute([{ tokenIds: prompt.subarray(0, 10), positions: 0, context }], undefined, shallow);
    const before = { keys: context.keys, values: context.values, length: 10 };
    const tokens = ids(7, 61);
    const spans: RowSpan[] = [{ kind: "global", numRows: 7, window }];
    const together = [
      { tokenIds: tokens, positions: 10, before, spans },
      { tokenIds: ids(3, 62), positions: 0 },
    ];
    const found = await compute(together, all(together.slice(0, 1)), shallow);
    const over = await compute([{ tokenIds: tokens, positions: 10, places: 10, context, spans }], undefined, shallow);
    expectNear(found, over, "F32");
  },
);

test("forward(): a block that is encoded over a context has the keys before RoPE and the values that it has alone", async () => {
  const [alone, inPieces, context] = [newContext("F32"), newContext("F32"), newContext("F32")];
  const tokens = blocks[2]!;
  await computeOnly([{ tokenIds: tokens, positions: 0, block: alone }]);
  for (const [first, end] of [
    [0, 18],
    [18, 30],
  ] as const) {
    const block = { keys: inPieces.keys, values: inPieces.values, first };
    await computeOnly([{ tokenIds: tokens.subarray(first, end), positions: first, context, places: first, block }]);
  }
  for (const part of ["keys", "values"] as const) {
    const [a, b] = [alone, inPieces].map((made) => backend.readFloats(made[part].tensor));
    const written = [...a!.keys()].filter((i) => !Number.isNaN(a![i]!));
    expect(written).toHaveLength(rowElements(decoder.config, 30));
    const distance = (from: readonly number[], elementsOn: number) =>
      Math.max(...from.map((i) => Math.abs(b![i + elementsOn]! - a![i]!)));
    const { headSize } = decoder.config;
    const others = written.filter((i) => !Number.isNaN(b![i + headSize]!));
    expectOnlyRight(deviceBound(1e-4), distance(written, 0), {
      "rows stand a place too far": distance(others, headSize),
    });
  }
});

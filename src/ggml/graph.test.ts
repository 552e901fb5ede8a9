import { afterAll, expect, onTestFinished, test, vi } from "vitest";
import { testBackend, testDevice, testGgml } from "../../tests/test-device.js";
import { plainPlace } from "./device-policy.js";
import { Graph } from "./graph.js";
import { maxGraphTensors } from "./graph-frame.js";
import { addGreatest } from "./greatest.js";
import type { Tensor } from "./tensor.js";

const ggml = testGgml;
const backend = testBackend();
afterAll(() => {
  backend[Symbol.dispose]();
  expect(ggml.live).toEqual({ contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 });
});

function floats(graph: Graph, ne: readonly number[], from: (i: number) => number = (i) => i): Tensor {
  const count = ne.reduce((product, n) => product * n, 1);
  return graph.input(
    "x",
    "F32",
    ne,
    Float32Array.from({ length: count }, (_, i) => from(i)),
  );
}

/** A tensor of any type, its bytes zero. */
function zeros(graph: Graph, type: Tensor["type"], ne: readonly number[], byteLength: number): Tensor {
  return graph.input("zeros", type, ne, new Uint8Array(byteLength));
}

async function run(build: (graph: Graph) => Tensor): Promise<number[]> {
  using graph = new Graph(ggml);
  const out = graph.output(build(graph));
  return [...(await backend.compute(graph, () => backend.readFloats(out)))];
}

test("Graph: products, sums, norms and gates are what they say", async () => {
  // Rows of weights by rows of x.
  expect(await run((g) => g.mulMat(floats(g, [2, 3]), floats(g, [2, 2])))).toEqual([1, 3, 5, 3, 13, 23]);
  expect(
    await run((g) =>
      g.add(
        floats(g, [2, 2]),
        floats(g, [2], () => 10),
      ),
    ),
  ).toEqual([10, 11, 12, 13]);
  expect(await run((g) => g.mul(floats(g, [2, 2]), floats(g, [2])))).toEqual([0, 1, 0, 3]);
  const normed = await run((g) =>
    g.rmsNorm(
      floats(g, [2], (i) => 3 + i),
      0,
    ),
  );
  expect(normed[0]).toBeCloseTo(3 / Math.sqrt(12.5), 6);
  const gated = await run((g) =>
    g.swiglu(
      floats(g, [1], () => 2),
      floats(g, [1], () => 3),
    ),
  );
  expect(gated[0]).toBeCloseTo((2 / (1 + Math.exp(-2))) * 3, 3);
  const halves = await run((g) => g.swigluHalves(floats(g, [2, 2], (i) => 2 + i)));
  expect(halves[1]).toBeCloseTo((4 / (1 + Math.exp(-4))) * 5, 3);
  expect(
    await run((g) =>
      g.div(
        floats(g, [2, 2]),
        floats(g, [2], (i) => 1 + i),
      ),
    ),
  ).toEqual([0, 0.5, 2, 1.5]);
  expect(await run((g) => g.scale(floats(g, [3]), 2, -1))).toEqual([-1, 1, 3]);
  expect(await run((g) => g.getRows(floats(g, [2, 3]), g.input("ids", "I32", [2], Int32Array.of(2, 0))))).toEqual([
    4, 5, 0, 1,
  ]);
  const tables = (g: Graph) => g.getRows(floats(g, [2, 2, 2]), g.input("ids", "I32", [1, 2], Int32Array.of(1, 0)));
  expect(await run(tables)).toEqual([2, 3, 4, 5]);
  const soft = await run((g) => g.softmax(floats(g, [2]), undefined, 1));
  expect(soft[1]).toBeCloseTo(1 / (1 + Math.exp(-1)), 6);
});

test("Graph: views, permutations, padding and concatenation move the elements they say", async () => {
  expect(await run((g) => g.contiguous(g.view(floats(g, [4, 2]), [2, 2], [16], 4)))).toEqual([1, 2, 5, 6]);
  expect(await run((g) => g.contiguous(g.permute(floats(g, [2, 3]), [1, 0, 2, 3])))).toEqual([0, 2, 4, 1, 3, 5]);
  expect(await run((g) => g.pad(floats(g, [1, 2]), [1, 1]))).toEqual([0, 0, 1, 0, 0, 0]);
  expect(await run((g) => g.concat(floats(g, [1, 2]), floats(g, [1, 1]), 1))).toEqual([0, 1, 0]);
  expect(await run((g) => g.reshape(g.pad(floats(g, [2, 2]), [0]), [4]))).toEqual([0, 1, 2, 3]);
});

test("Graph.mulMatId(), topK(): each row by the matrices that its largest numbers name", async () => {
  const scores = (g: Graph) => g.input("scores", "F32", [3, 2], Float32Array.of(5, 9, 7, 2, 1, 0));
  const chosen = await run((g) => g.toF32(g.getRows(g.reshape(scores(g), [1, 3, 2]), g.topK(scores(g), 2))));
  expect([chosen.slice(0, 2).sort(), chosen.slice(2).sort()]).toEqual([
    [7, 9],
    [1, 2],
  ]);
  const byExpert = (g: Graph, x: Tensor) =>
    g.mulMatId(floats(g, [1, 2, 3]), x, g.input("ids", "I32", [2, 2], Int32Array.of(2, 0, 1, 2)));
  expect(
    await run((g) =>
      byExpert(
        g,
        floats(g, [1, 1, 2], (i) => 10 ** i),
      ),
    ),
  ).toEqual([4, 5, 0, 1, 20, 30, 40, 50]);
  expect(
    await run((g) =>
      byExpert(
        g,
        floats(g, [1, 2, 2], (i) => 10 ** i),
      ),
    ),
  ).toEqual([4, 5, 0, 10, 200, 300, 4000, 5000]);
});

const rope = {
  headSize: 4,
  rotatedSize: 4,
  theta: 10_000,
  pairs: "half",
  frequencyFactors: undefined,
  attentionFactor: 1,
} as const;

test("Graph.rope(): keys [1, 0] at position 1 are [cos 1, sin 1]", async () => {
  const [x, y] = await run((g) =>
    g.rope(
      floats(g, [2, 1, 1], (i) => 1 - i),
      g.input("at", "I32", [1], Int32Array.of(1)),
      { ...rope, headSize: 2, rotatedSize: 2 },
    ),
  );
  expect(x).toBeCloseTo(Math.cos(1), 6);
  expect(y).toBeCloseTo(Math.sin(1), 6);
});

test("Graph.rope(): what lies past the turned elements stays", async () => {
  const found = await run((g) =>
    g.rope(floats(g, [4, 1, 1]), g.input("at", "I32", [1], Int32Array.of(1)), { ...rope, rotatedSize: 2 }),
  );
  expect(found.map((x) => x.toFixed(5))).toEqual([-Math.sin(1), Math.cos(1), 2, 3].map((x) => x.toFixed(5)));
});

const ids = (g: Graph, ...ne: number[]) => zeros(g, "I32", ne, 4 * ne.reduce((product, n) => product * n, 1));
const turned = (g: Graph) => g.permute(floats(g, [4, 2]), [1, 0, 2, 3]);
const strided = (g: Graph) => g.view(floats(g, [4, 4]), [2, 4], [16]);

test.each<readonly [string, (g: Graph) => unknown, string]>([
  ["input of other bytes", (g) => g.input("x", "F32", [3], new Float32Array(2)), "8 bytes given, 12 wanted"],
  ["input of no size", (g) => g.input("x", "F32", [0], new Float32Array(0)), "positive integers are wanted"],
  ["input of half a block", (g) => zeros(g, "Q4_0", [16], 9), "Q4_0's block of 32"],
  ["mulMat of other inner sizes", (g) => g.mulMat(floats(g, [3, 2]), floats(g, [2, 2])), "inner sizes are 2 and 3"],
  ["mulMat of no multiples", (g) => g.mulMat(floats(g, [2, 2, 2]), floats(g, [2, 2, 3])), "no multiples"],
  ["mulMat of F16 rows", (g) => g.mulMat(floats(g, [2, 2]), zeros(g, "F16", [2], 4)), "F32 is wanted"],
  ["mulMat by turned weights", (g) => g.mulMat(turned(g), floats(g, [2, 2])), "side by side"],
  ["mulMat of turned rows", (g) => g.mulMat(floats(g, [2, 2]), turned(g)), "side by side"],
  ["add of other sizes", (g) => g.add(floats(g, [2, 2]), floats(g, [3])), "does not repeat"],
  ["add of F16", (g) => g.add(floats(g, [2]), zeros(g, "F16", [2], 4)), "F32 is wanted"],
  ["add to turned rows", (g) => g.add(turned(g), floats(g, [2])), "side by side"],
  ["mul by turned rows", (g) => g.mul(floats(g, [2, 4]), turned(g)), "side by side"],
  ["rmsNorm of turned rows", (g) => g.rmsNorm(turned(g), 1e-5), "side by side"],
  ["swiglu of other sizes", (g) => g.swiglu(floats(g, [2]), floats(g, [3])), "shapes or types differ"],
  ["swiglu with gaps", (g) => g.swiglu(strided(g), floats(g, [2, 4])), "gaps"],
  ["swigluHalves of odd rows", (g) => g.swigluHalves(floats(g, [3])), "even size"],
  ["swigluHalves with gaps", (g) => g.swigluHalves(strided(g)), "gaps"],
  ["scale with gaps", (g) => g.scale(strided(g), 2), "gaps"],
  ["scale of F16", (g) => g.scale(zeros(g, "F16", [2], 4), 2), "F32 is wanted"],
  ["div by other sizes", (g) => g.div(floats(g, [2, 2]), floats(g, [3])), "does not repeat"],
  ["getRows by floats", (g) => g.getRows(floats(g, [2, 2]), floats(g, [2])), "I32 is wanted"],
  ["getRows by a matrix", (g) => g.getRows(floats(g, [2, 2]), ids(g, 2, 2)), "a list for each table"],
  ["getRows of a cube", (g) => g.getRows(floats(g, [2, 2, 2]), ids(g, 2)), "a list for each table"],
  [
    "mulMatId by floats",
    (g) => g.mulMatId(floats(g, [2, 2, 2]), floats(g, [2, 1, 2]), floats(g, [1, 2])),
    "I32 is wanted",
  ],
  [
    "mulMatId of other sizes",
    (g) => g.mulMatId(floats(g, [2, 2, 2]), floats(g, [4, 1, 2]), ids(g, 1, 2)),
    "sizes differ",
  ],
  [
    "mulMatId of other rows",
    (g) => g.mulMatId(floats(g, [2, 2, 2]), floats(g, [2, 1, 3]), ids(g, 1, 2)),
    "sizes differ",
  ],
  [
    "mulMatId of other uses",
    (g) => g.mulMatId(floats(g, [2, 2, 2]), floats(g, [2, 2, 2]), ids(g, 1, 2)),
    "sizes differ",
  ],
  ["topK of more than there are", (g) => g.topK(floats(g, [2, 2]), 3), "1 to 2 are wanted"],
  ["topK of none", (g) => g.topK(floats(g, [2, 2]), 0), "1 to 2 are wanted"],
  ["rope to other positions", (g) => g.rope(floats(g, [4, 1, 2]), ids(g, 3), rope), "3 positions of heads of 4"],
  ["rope of other heads", (g) => g.rope(floats(g, [6, 1, 2]), ids(g, 2), rope), "heads of 4 are wanted"],
  ["rope to floats", (g) => g.rope(floats(g, [4, 1, 2]), floats(g, [2]), rope), "I32 is wanted"],
  ["rope of I32", (g) => g.rope(ids(g, 4, 1, 2), ids(g, 2), rope), "F32 or F16 is wanted"],
  [
    "rope of turned rows",
    (g) => g.rope(g.permute(floats(g, [2, 4, 2]), [1, 0, 2, 3]), ids(g, 2), rope),
    "side by side",
  ],
  [
    "rope with other factors",
    (g) => g.rope(floats(g, [4, 1, 2]), ids(g, 2), { ...rope, frequencyFactors: floats(g, [3]) }),
    "should hold 2 factors",
  ],
  [
    "rope with F16 factors",
    (g) => g.rope(floats(g, [4, 1, 2]), ids(g, 2), { ...rope, frequencyFactors: zeros(g, "F16", [2], 4) }),
    "F32 is wanted",
  ],
  ["softmax with gaps", (g) => g.softmax(strided(g), undefined, 1), "gaps"],
  ["softmax by another mask", (g) => g.softmax(floats(g, [2, 2]), floats(g, [3, 2]), 1), "sizes differ"],
  ["softmax by ids", (g) => g.softmax(floats(g, [2, 2]), ids(g, 2, 2), 1), "F32 is wanted"],
  ["softmax by a mask with gaps", (g) => g.softmax(floats(g, [2, 2]), strided(g), 1), "gaps"],
  [
    "flashAttention of mixed types",
    (g) => g.flashAttention(floats(g, [4, 2, 2]), floats(g, [4, 3]), zeros(g, "F16", [4, 3], 24), undefined, 1),
    "keys are F32 and values F16",
  ],
  [
    "flashAttention over BF16",
    (g) => {
      const k = zeros(g, "BF16", [4, 3], 24);
      return g.flashAttention(floats(g, [4, 2, 2]), k, k, undefined, 1);
    },
    "F32 is wanted",
  ],
  [
    "flashAttention of other heads",
    (g) => g.flashAttention(floats(g, [4, 2, 3]), floats(g, [4, 3, 2]), floats(g, [4, 3, 2]), undefined, 1),
    "Cannot attend",
  ],
  [
    "flashAttention of other sequences",
    (g) => g.flashAttention(floats(g, [4, 2, 2, 2]), floats(g, [4, 3]), floats(g, [4, 3]), undefined, 1),
    "Cannot attend",
  ],
  [
    "flashAttention by a short mask",
    (g) => g.flashAttention(floats(g, [4, 2]), floats(g, [4, 3]), floats(g, [4, 3]), zeros(g, "F16", [3, 1], 6), 1),
    "3 keys and 2 rows are wanted",
  ],
  ["reshape with gaps", (g) => g.reshape(strided(g), [8]), "gaps"],
  ["reshape to other numbers", (g) => g.reshape(floats(g, [4]), [3]), "the numbers of elements differ"],
  ["view past the end", (g) => g.view(floats(g, [4]), [4], [], 4), "bytes 4 to 20 of 16"],
  ["view before the start", (g) => g.view(floats(g, [4]), [2], [], -4), "whole numbers from 0 on"],
  ["view of nothing", (g) => g.view(floats(g, [4]), [0]), "positive integers"],
  ["view of half a row", (g) => g.view(floats(g, [4]), [2, 2], [0.5]), "whole numbers from 0 on"],
  ["permute twice the same", (g) => g.permute(floats(g, [4]), [0, 0, 2, 3]), "by [0, 0, 2, 3]"],
  ["copy of other numbers", (g) => g.copy(floats(g, [4]), floats(g, [3])), "the numbers of elements differ"],
  ["copy of floats to ids", (g) => g.copy(floats(g, [4]), ids(g, 4)), "F32, F16 or BF16 is wanted"],
  ["copy into blocks", (g) => g.copy(floats(g, [32]), zeros(g, "Q8_0", [32], 34)), "F32, F16 or BF16 is wanted"],
  ["concat of other shapes", (g) => g.concat(floats(g, [2]), floats(g, [3]), 1), "shapes or types differ"],
  ["concat of blocks", (g) => g.concat(zeros(g, "Q8_0", [32], 34), zeros(g, "Q8_0", [32], 34), 1), "in blocks"],
  ["argmax of ids", (g) => g.argmax(ids(g, 4)), "F32 is wanted"],
  ["argmax of more than rows", (g) => g.argmax(floats(g, [2, 2, 2])), "rows are wanted"],
  ["sums of windows", (g) => g.sumRows(g.view(floats(g, [4, 2]), [2, 2], [16])), "gaps"],
  ["steps of ids", (g) => g.step(ids(g, 4)), "F32 is wanted"],
  ["pad of ids", (g) => g.pad(ids(g, 4), [1]), "F32 is wanted"],
  ["pad by less than nothing", (g) => g.pad(floats(g, [4]), [-1]), "from 0 on are wanted"],
  ["contiguous blocks", (g) => g.contiguous(zeros(g, "Q8_0", [32], 34)), "in blocks"],
])("Graph: %s is an error before any native call", (_, build, part) => {
  using graph = new Graph(ggml);
  expect(() => build(graph)).toThrow(part);
  expect(() => build(graph)).toThrow(/^Cannot [^\n]*[^.\n]$/);
});

test("Graph: as many tensors as it has room for compute, one more is an error", async () => {
  using graph = new Graph(ggml);
  let x = floats(graph, [4]);
  while (graph.numTensors < maxGraphTensors) x = graph.reshape(x, [4]);
  const message = `it holds ${maxGraphTensors} tensors, as many as it has room for`;
  expect(() => graph.reshape(x, [2, 2])).toThrow(message);
  expect(() => floats(graph, [4])).toThrow(message);
  graph.output(x);
  expect(await backend.compute(graph, () => [...backend.readFloats(x)])).toEqual([0, 1, 2, 3]);
});

test("addGreatest(): where the largest number stands, that number, and how many are less: not all others where some are as large, or NaN", async () => {
  const rows = [
    [1, 5, -3, 2],
    [-4, -2, -1e30, Number.NEGATIVE_INFINITY],
    [7, 1, 7, 0],
    [1, Number.NaN, 2, 3],
    [0, 1e-30, 0, 0],
  ];
  const found = await run((g) =>
    addGreatest(
      g,
      floats(g, [4, rows.length], (i) => rows[i >> 2]![i & 3]!),
    ),
  );
  const [a, b, tie, nan, tiny] = rows.map((_, i) => found.slice(3 * i, 3 * i + 3));
  expect(a).toEqual([1, 5, 3]);
  expect(b).toEqual([1, -2, 3]);
  expect(tie?.slice(1)).toEqual([7, 2]);
  expect([0, 2]).toContain(tie?.[0]);
  expect(nan?.[2]).toBeLessThan(3);
  expect(tiny).toEqual([1, Math.fround(1e-30), 3]);
});

test.each([
  ["of the device as it is", undefined],
  ["that is copied to, as if the device had its own,", 0n],
])(
  "GraphInputs: memory %s has the data as they are when a graph is computed, until a larger one takes its place",
  async (_, isHost) => {
    if (isHost !== undefined) {
      const own = vi.spyOn(ggml.symbols, "ggml_backend_buft_is_host").mockReturnValue(isHost);
      onTestFinished(() => own.mockRestore());
    }
    using fresh = testBackend();
    using graph = new Graph(ggml);
    const data = [Float32Array.of(1, 2, 3), Float32Array.of(10, 20, 30)] as const;
    const [a, b] = data.map((numbers) => graph.input("x", "F32", [3], numbers)) as [Tensor, Tensor];
    const sum = graph.output(graph.add(graph.view(a, [2], [], 4), graph.view(b, [2])));
    const compute = () => fresh.compute(graph, () => [...fresh.readFloats(sum)]);
    expect(await compute()).toEqual([12, 23]);
    data[1][0] = 5;
    expect(await compute()).toEqual([7, 23]);
    using larger = new Graph(ggml);
    const ones = larger.output(
      larger.scale(
        floats(larger, [50_000], () => 1),
        2,
      ),
    );
    expect((await fresh.compute(larger, () => fresh.readFloats(ones))).every((x) => x === 2)).toBe(true);
    await expect(compute()).rejects.toThrow(
      "Cannot compute a graph again: its inputs' memory was given to a larger one",
    );
    expect(fresh.computeBytes).toBeGreaterThan(200_000);
  },
);

test("GraphInputs: what the CPU looks rows up with lies in its memory", async (context) => {
  if (testDevice === "CPU") context.skip("the device is the CPU");
  const cpu = ggml.devices.find(({ kind }) => kind === "cpu")!;
  using storage = backend.allocate([{ name: "table", type: "F32", ne: [2, 3] }], plainPlace(ggml, cpu));
  const table = storage.get("table");
  backend.set(table, new Uint8Array(Float32Array.of(0, 1, 2, 3, 4, 5).buffer));
  using graph = new Graph(ggml);
  const rows = graph.getRows(table, graph.input("ids", "I32", [2], Int32Array.of(2, 0)));
  const sum = graph.output(
    graph.add(
      rows,
      floats(graph, [2, 2], () => 10),
    ),
  );
  expect(graph.inputs.map(({ isOnHost }) => isOnHost)).toEqual([true, false]);
  expect(await backend.compute(graph, () => [...backend.readFloats(sum)])).toEqual([14, 15, 10, 11]);
});

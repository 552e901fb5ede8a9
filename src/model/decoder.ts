import { Graph, type RopeParameters } from "../ggml/graph.js";
import type { Ggml } from "../ggml/library.js";
import type { Tensor } from "../ggml/tensor.js";
import { type AttentionOptions, MaskCache, planAttention, singleRowAttention, tiledAttention } from "./attention.js";
import type { ModelConfig } from "./config.js";
import { attentionFactor } from "./rope.js";
import type { LayerWeights, Linear, ModelWeights } from "./weights.js";

/**
 * Keys or values of all layers in one tensor of a device, as [L, H, capacity, D] outermost first: what a block KV or an
 * assembled context is made of.
 */
export interface LayeredRows {
  /** One size, all elements. */
  readonly tensor: Tensor;
  /** Where they start in the tensor, in elements. */
  readonly offset: number;
  /** Rows that each head has room for. */
  readonly capacity: number;
}

/** Values once more, each element's rows side by side, [L, H, D, capacity]: what decoding multiplies along. */
export type TransposedRows = LayeredRows;

/** Rows whose keys and values are written where they are given, and what the rows see beside themselves. */
export type RowSpan =
  /** A block being encoded: its rows see each other alone. Keys are written before RoPE. */
  | {
      readonly kind: "block";
      readonly tokenIds: Int32Array;
      readonly keys: LayeredRows;
      readonly values: LayeredRows;
    }
  /** A piece of a prompt over an assembled context: its rows see the first `past` rows and each other, causally. Keys are written after RoPE. */
  | {
      readonly kind: "piece";
      readonly tokenIds: Int32Array;
      /** The first row's position; the others follow. */
      readonly position: number;
      readonly past: number;
      readonly keys: LayeredRows;
      readonly values: LayeredRows;
    }
  /** One decoded token over an assembled context: as a piece of one row, its value written transposed. */
  | {
      readonly kind: "token";
      readonly tokenIds: Int32Array;
      readonly position: number;
      readonly past: number;
      readonly keys: LayeredRows;
      readonly valuesTransposed: TransposedRows;
    };

/** Rows of a span whose logits are wanted, from its first row. */
export interface WantedLogits {
  readonly span: number;
  readonly row: number;
}

/** How a model computes on one device. */
export interface Decoder {
  readonly ggml: Ggml;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly threads: number;
}

/**
 * Rows of blocks and pieces start at multiples of this, and their number is one: then every product's kernel sums a row
 * alike wherever it stands (ggml's repacked kernels take rows by four, others choose by whether there is more than one).
 */
export const rowGroup = 4;

/** The most work of one node on one thread, in floating-point operations: some 30 to 80 ms. */
const nodeFlopsPerThread = 3e9;
const maxPieceRows = 512;

/** How many rows a graph computes at a time so that no product's node takes long: a multiple of 64, up to 512. */
export function pieceRows(decoder: Decoder): number {
  const { hiddenSize, intermediateSize, numHeads, headSize } = decoder.config;
  const largest = hiddenSize * Math.max(intermediateSize, numHeads * headSize);
  const rows = (nodeFlopsPerThread * decoder.threads) / (2 * largest);
  return Math.min(maxPieceRows, Math.max(64, Math.floor(rows / 64) * 64));
}

/** RoPE as graphs take it. */
export function ropeParameters(decoder: Pick<Decoder, "config" | "weights">): RopeParameters {
  const { rope } = decoder.config;
  return {
    headSize: rope.headSize,
    theta: rope.theta,
    pairs: rope.pairs,
    frequencyFactors: decoder.weights.frequencyFactors,
    attentionFactor: attentionFactor(rope),
  };
}

/** The rows [rows, D] of one head of one layer start here, in elements. */
function headOffset(rows: LayeredRows, config: ModelConfig, layer: number): number {
  return rows.offset + layer * config.numKvHeads * rows.capacity * config.headSize;
}

/**
 * Rows first..first + count of one layer as [D, count, H'].
 */
export function layerRows(
  graph: Graph,
  rows: LayeredRows,
  config: ModelConfig,
  layer: number,
  first: number,
  count: number,
): Tensor {
  const { headSize, numKvHeads } = config;
  const size = rows.tensor.nb[0];
  const offset = (headOffset(rows, config, layer) + first * headSize) * size;
  return graph.view(
    rows.tensor,
    [headSize, count, numKvHeads],
    [headSize * size, rows.capacity * headSize * size],
    offset,
  );
}

/** Rows first..first + count of one layer's transposed values as [count, D, H']. */
function layerColumns(
  graph: Graph,
  rows: TransposedRows,
  config: ModelConfig,
  layer: number,
  first: number,
  count: number,
): Tensor {
  const { headSize, numKvHeads } = config;
  const size = rows.tensor.nb[0];
  const offset = (headOffset(rows, config, layer) + first) * size;
  return graph.view(
    rows.tensor,
    [count, headSize, numKvHeads],
    [rows.capacity * size, rows.capacity * headSize * size],
    offset,
  );
}

/** Adds to a graph what writes the first `count` rows of values transposed as well. */
export function transposeValues(
  graph: Graph,
  config: ModelConfig,
  values: LayeredRows,
  into: TransposedRows,
  count: number,
): void {
  for (let layer = 0; layer < config.numLayers; layer++) {
    const from = graph.permute(layerRows(graph, values, config, layer, 0, count), [1, 0, 2, 3]);
    graph.expand(graph.copy(from, layerColumns(graph, into, config, layer, 0, count)));
  }
}

interface PlacedSpan {
  readonly span: RowSpan;
  /** The span's first row in the graph. */
  readonly firstRow: number;
  readonly numRows: number;
}

/**
 * The one primitive: rows of tokens, each at its position, each seeing a stated part of a context, their keys and values
 * written in place. A block being encoded is that over nothing; a piece of a prompt and a decoded token are that over an
 * assembled context. Blocks must come first, so that they stand at multiples of four rows.
 *
 * The graph is computed and disposed by the caller. Ids and positions must have been checked.
 *
 * @param wanted rows whose logits are computed.
 * @returns the graph, and its logits [vocabulary, wanted rows] where any are wanted.
 * @throws RangeError for spans that are empty, do not fit their memory, or come in the wrong order.
 */
export function forward(
  decoder: Decoder,
  spans: readonly RowSpan[],
  wanted: readonly WantedLogits[],
): { graph: Graph; logits: Tensor | undefined } {
  const { config, weights } = decoder;
  const placed = placeSpans(spans);
  const lastSpan = placed.at(-1) as PlacedSpan;
  const end = lastSpan.firstRow + lastSpan.numRows;
  const numRows = spans.every((span) => span.kind === "token") ? end : roundUp(end, rowGroup);
  const graph = new Graph(decoder.ggml, nodeBound(decoder, placed, numRows));
  try {
    const tokens = new Int32Array(numRows);
    const positions = new Int32Array(numRows);
    for (const { span, firstRow } of placed) {
      tokens.set(span.tokenIds, firstRow);
      const start = span.kind === "block" ? 0 : span.position;
      for (let t = 0; t < span.tokenIds.length; t++) positions[firstRow + t] = start + t;
    }
    const build: Build = {
      graph,
      decoder,
      placed,
      positions: graph.input("positions", "I32", [numRows], positions),
      masks: new MaskCache(),
      rope: ropeParameters(decoder),
      attention: {
        numHeads: config.numHeads,
        numKvHeads: config.numKvHeads,
        headSize: config.headSize,
        threads: decoder.threads,
        maxNodeFlops: nodeFlopsPerThread * decoder.threads,
      },
    };
    let x = graph.getRows(weights.tokenEmbedding, graph.input("tokens", "I32", [numRows], tokens));
    for (const [index, layer] of weights.layers.entries()) {
      const isLast = index === weights.layers.length - 1;
      x = addLayer(build, layer, index, x, isLast && wanted.length === 0);
    }
    if (wanted.length === 0) return { graph, logits: undefined };
    const rows = Int32Array.from(wanted, ({ span, row }) => (placed[span] as PlacedSpan).firstRow + row);
    const chosen = graph.getRows(x, graph.input("wanted", "I32", [rows.length], rows));
    const normed = graph.mul(graph.rmsNorm(chosen, config.rmsNormEps), weights.outputNorm);
    return { graph, logits: graph.output(product(build, { weight: weights.head, bias: undefined }, normed)) };
  } catch (error) {
    graph[Symbol.dispose]();
    throw error;
  }
}

interface Build {
  readonly graph: Graph;
  readonly decoder: Decoder;
  readonly placed: readonly PlacedSpan[];
  readonly positions: Tensor;
  readonly masks: MaskCache;
  readonly rope: RopeParameters;
  readonly attention: AttentionOptions;
}

/** One layer over x [hidden, rows]. Where nothing reads its output, only keys and values are computed. */
function addLayer(build: Build, layer: LayerWeights, index: number, x: Tensor, keysAndValuesOnly: boolean): Tensor {
  const { graph, decoder, placed, positions } = build;
  const { config } = decoder;
  const { headSize, numHeads, numKvHeads, rmsNormEps } = config;
  const numRows = x.ne[1];
  const normed = graph.mul(graph.rmsNorm(x, rmsNormEps), layer.attentionNorm);
  const heads = (linear: Linear, count: number, norm: Tensor | undefined): Tensor => {
    const split = graph.reshape(product(build, linear, normed), [headSize, count, numRows]);
    return norm ? graph.mul(graph.rmsNorm(split, rmsNormEps), norm) : split;
  };
  const keys = heads(layer.key, numKvHeads, layer.keyNorm);
  const values = heads(layer.value, numKvHeads, undefined);
  const turnedKeys = graph.rope(keys, positions, build.rope);

  for (const place of placed) writeRows(build, place, index, keys, turnedKeys, values);
  if (keysAndValuesOnly) return x;

  const queries = graph.rope(heads(layer.query, numHeads, layer.queryNorm), positions, build.rope);
  let attended: Tensor | undefined;
  for (const place of placed) {
    const out = attend(build, place, index, queries, turnedKeys, values);
    attended = attended === undefined ? out : graph.concat(attended, out, 1);
    const end = place.firstRow + place.numRows;
    const next = placed.find((other) => other.firstRow >= end)?.firstRow ?? numRows;
    if (next > end) attended = graph.pad(attended, [0, next - end]);
  }
  const afterAttention = graph.add(x, product(build, layer.output, attended as Tensor));
  const mlpInput = graph.mul(graph.rmsNorm(afterAttention, rmsNormEps), layer.mlpNorm);
  const gated = graph.swiglu(product(build, layer.gate, mlpInput), product(build, layer.up, mlpInput));
  return graph.add(afterAttention, product(build, layer.down, gated));
}

/** x [in, rows] to [out, rows], plus the bias; split by rows where one node would take long. */
function product(build: Build, { weight, bias }: Linear, x: Tensor): Tensor {
  const { graph } = build;
  const maxRows = productRows(build.attention.maxNodeFlops, weight);
  let out: Tensor | undefined;
  for (let row = 0; row < x.ne[1]; row += maxRows) {
    const count = Math.min(maxRows, x.ne[1] - row);
    const part = graph.mulMat(
      weight,
      count === x.ne[1] ? x : graph.view(x, [x.ne[0], count], [x.nb[1]], row * x.nb[1]),
    );
    out = out === undefined ? part : graph.concat(out, part, 1);
  }
  return bias ? graph.add(out as Tensor, bias) : (out as Tensor);
}

function productRows(maxNodeFlops: number, weight: Tensor): number {
  return Math.max(64, Math.floor(maxNodeFlops / (2 * weight.ne[0] * weight.ne[1]) / 64) * 64);
}

/** Rows firstRow..firstRow + count of x [D, heads, rows] as a window. */
function rowsOf(graph: Graph, x: Tensor, firstRow: number, count: number): Tensor {
  return graph.view(x, [x.ne[0], x.ne[1], count], [x.nb[1], x.nb[2]], firstRow * x.nb[2]);
}

function writeRows(
  build: Build,
  { span, firstRow, numRows }: PlacedSpan,
  layer: number,
  keys: Tensor,
  turnedKeys: Tensor,
  values: Tensor,
): void {
  const { graph, decoder } = build;
  const { config } = decoder;
  const byHead = (x: Tensor) => graph.permute(rowsOf(graph, x, firstRow, numRows), [0, 2, 1, 3]);
  const write = (x: Tensor, into: LayeredRows, first: number) =>
    graph.expand(graph.copy(byHead(x), layerRows(graph, into, config, layer, first, numRows)));
  switch (span.kind) {
    case "block":
      write(keys, span.keys, 0);
      write(values, span.values, 0);
      return;
    case "piece":
      write(turnedKeys, span.keys, span.past);
      write(values, span.values, span.past);
      return;
    case "token": {
      write(turnedKeys, span.keys, span.past);
      const row = graph.permute(rowsOf(graph, values, firstRow, 1), [1, 2, 0, 3]);
      graph.expand(graph.copy(row, layerColumns(graph, span.valuesTransposed, config, layer, span.past, 1)));
      return;
    }
    default:
      throw new TypeError(`Cannot write rows: ${(span satisfies never as RowSpan).kind} is no kind of span`);
  }
}

/** The rows' attention, [D * H, rows]. */
function attend(
  build: Build,
  { span, firstRow, numRows }: PlacedSpan,
  layer: number,
  queries: Tensor,
  turnedKeys: Tensor,
  values: Tensor,
): Tensor {
  const { graph, decoder, masks, attention } = build;
  const { config } = decoder;
  const q = rowsOf(graph, queries, firstRow, numRows);
  switch (span.kind) {
    case "block": {
      // Over the rows' own keys and values before they are rounded to the block's type.
      const byHead = (x: Tensor) => graph.permute(rowsOf(graph, x, firstRow, numRows), [0, 2, 1, 3]);
      return tiledAttention(graph, q, byHead(turnedKeys), byHead(values), { numRows, past: 0 }, masks, attention);
    }
    case "piece": {
      const all = (rows: LayeredRows) => layerRows(graph, rows, config, layer, 0, span.past + numRows);
      return tiledAttention(graph, q, all(span.keys), all(span.values), { numRows, past: span.past }, masks, attention);
    }
    case "token": {
      const numKeys = span.past + 1;
      const k = layerRows(graph, span.keys, config, layer, 0, numKeys);
      const v = layerColumns(graph, span.valuesTransposed, config, layer, 0, numKeys);
      return singleRowAttention(graph, graph.reshape(graph.contiguous(q), [config.headSize, config.numHeads]), k, v);
    }
    default:
      throw new TypeError(`Cannot attend: ${(span satisfies never as RowSpan).kind} is no kind of span`);
  }
}

function placeSpans(spans: readonly RowSpan[]): PlacedSpan[] {
  if (spans.length === 0) throw new RangeError("Cannot build a graph: no rows are given");
  const placed: PlacedSpan[] = [];
  let next = 0;
  for (const span of spans) {
    const numRows = span.tokenIds.length;
    if (numRows === 0) throw new RangeError("Cannot build a graph: a span has no rows");
    if (span.kind === "token" && numRows !== 1)
      throw new RangeError(`Cannot decode ${numRows} tokens at once: one is wanted`);
    if (span.kind === "block" && placed.some((other) => other.span.kind !== "block")) {
      throw new RangeError("Cannot build a graph: blocks come before other rows");
    }
    const end = (span.kind === "block" ? 0 : span.past) + numRows;
    if (end > span.keys.capacity)
      throw new RangeError(`Cannot write ${end} rows of keys: there is room for ${span.keys.capacity}`);
    if (span.kind !== "token") next = roundUp(next, rowGroup);
    placed.push({ span, firstRow: next, numRows });
    next += numRows;
  }
  return placed;
}

/** An upper bound on the tensors of a graph, split nodes included. */
function nodeBound(decoder: Decoder, placed: readonly PlacedSpan[], numRows: number): number {
  const { config, threads, weights } = decoder;
  const maxNodeFlops = nodeFlopsPerThread * threads;
  const first = weights.layers[0] as LayerWeights;
  const products = [first.query, first.key, first.value, first.output, first.gate, first.up, first.down];
  let perLayer = 30;
  for (const { weight } of products) perLayer += 4 * Math.ceil(numRows / productRows(maxNodeFlops, weight));
  for (const { span, numRows: rows } of placed) {
    const numKeys = rows + (span.kind === "block" ? 0 : span.past);
    const { numHeads, numKvHeads, headSize } = config;
    const plan = planAttention(
      { numRows: rows, past: numKeys - rows },
      { numHeads, numKvHeads, headSize, threads, maxNodeFlops },
    );
    perLayer += 24 + 16 * Math.ceil(rows / plan.rows) * (numHeads / plan.heads);
  }
  const head = 8 + 4 * Math.ceil(numRows / productRows(maxNodeFlops, weights.head));
  return head + config.numLayers * perLayer + 4 * placed.length * Math.ceil(numRows / 64) + 64;
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

import { causalMask } from "../ggml/attention-mask.js";
import { type AttentionOptions, MaskCache, tiledAttention } from "../ggml/cpu/attention.js";
import { Graph } from "../ggml/graph.js";
import type { Ggml } from "../ggml/library.js";
import type { Tensor } from "../ggml/tensor.js";
import type { Architecture, ModelBuild } from "./architecture.js";
import type { ModelConfig } from "./config.js";
import type { KVRows } from "./kv-rows.js";
import type { ModelWeights } from "./weights.js";

/** Rows whose keys and values are written where they are given, and what the rows see beside themselves. */
export type RowSpan =
  /** A block being encoded: its rows see each other alone. Keys are written before RoPE. */
  | {
      readonly kind: "block";
      readonly tokenIds: Int32Array;
      readonly keys: KVRows;
      readonly values: KVRows;
    }
  /** A piece of a prompt over an assembled context: its rows see the first `past` rows and each other, causally. Keys are written after RoPE. */
  | {
      readonly kind: "piece";
      readonly tokenIds: Int32Array;
      /** The first row's position; the others follow. */
      readonly position: number;
      readonly past: number;
      readonly keys: KVRows;
      readonly values: KVRows;
      /** A block that is encoded in pieces over a context of its own: its keys before RoPE and its values go here too. */
      readonly block?: { readonly keys: KVRows; readonly values: KVRows } | undefined;
    };

/** Rows of a span whose logits are wanted, from its first row. */
export interface WantedLogits {
  readonly span: number;
  readonly row: number;
}

/** How a model computes on one device. */
export interface Decoder {
  readonly ggml: Ggml;
  readonly architecture: Architecture;
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

interface PlacedSpan {
  readonly span: RowSpan;
  /** The span's first row in the graph. */
  readonly firstRow: number;
  readonly numRows: number;
}

/**
 * The one primitive: rows of tokens, each at its position, each seeing a stated part of a context, their keys and values
 * written in place. A block being encoded is that over nothing; a piece of a prompt is that over an assembled context, and
 * so is a decoded token, many of them at a time, in decode-step.ts. Blocks must come first, so that they stand at multiples of four rows.
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
  const { architecture, config } = decoder;
  const placed = placeSpans(spans);
  const lastSpan = placed.at(-1) as PlacedSpan;
  const end = lastSpan.firstRow + lastSpan.numRows;
  const numRows = roundUp(end, rowGroup);
  const graph = new Graph(decoder.ggml);
  try {
    const tokens = new Int32Array(numRows);
    const positions = new Int32Array(numRows);
    for (const { span, firstRow } of placed) {
      tokens.set(span.tokenIds, firstRow);
      const start = span.kind === "block" ? 0 : span.position;
      for (let t = 0; t < span.tokenIds.length; t++) positions[firstRow + t] = start + t;
    }
    const build = startBuild(decoder, graph, positions);
    const masks = new MaskCache();
    const attention: LayerAttention = {
      write: (index, rows) => {
        for (const place of placed) writeRows(build, place, index, rows);
      },
      attend: (index, rows) => {
        let attended: Tensor | undefined;
        for (const place of placed) {
          const out = attend(build, masks, place, index, rows);
          attended = attended === undefined ? out : graph.concat(attended, out, 1);
          const end = place.firstRow + place.numRows;
          const next = placed.find((other) => other.firstRow >= end)?.firstRow ?? numRows;
          if (next > end) attended = graph.pad(attended, [0, next - end]);
        }
        return attended as Tensor;
      },
    };
    let x = architecture.embed(build, graph.input("tokens", "I32", [numRows], tokens));
    for (let layer = 0; layer < config.numLayers; layer++) {
      const isLast = layer === config.numLayers - 1;
      x = addLayer(build, attention, layer, x, isLast && wanted.length === 0);
    }
    if (wanted.length === 0) return { graph, logits: undefined };
    const rows = Int32Array.from(wanted, ({ span, row }) => (placed[span] as PlacedSpan).firstRow + row);
    const chosen = graph.getRows(x, graph.input("wanted", "I32", [rows.length], rows));
    return { graph, logits: graph.output(architecture.head(build, chosen)) };
  } catch (error) {
    graph[Symbol.dispose]();
    throw error;
  }
}

/** A graph under construction. */
export interface Build extends ModelBuild {
  readonly decoder: Decoder;
  readonly positions: Tensor;
  readonly attention: AttentionOptions;
}

/** @param positions of every row of the graph. */
export function startBuild(decoder: Decoder, graph: Graph, positions: Int32Array): Build {
  const { config, threads, weights } = decoder;
  const { numHeads, numKvHeads, headSize } = config;
  const maxNodeFlops = nodeFlopsPerThread * threads;
  const weight = (name: string): Tensor => {
    const found = weights.tensors.get(name);
    if (found === undefined) throw new RangeError(`Cannot build a graph: the model has no weight "${name}"`);
    return found;
  };
  return {
    graph,
    config,
    decoder,
    positions: graph.input("positions", "I32", [positions.length], positions),
    attention: {
      numHeads,
      numKvHeads,
      headSize,
      scale: decoder.architecture.attentionScale(config),
      threads,
      maxNodeFlops,
    },
    weight,
    product: (name, x) => {
      const out = product(graph, weight(`${name}.weight`), x, maxNodeFlops);
      const bias = weights.tensors.get(`${name}.bias`);
      return bias ? graph.add(out, bias) : out;
    },
  };
}

/** All rows of one layer, [D, heads, rows] each. */
export interface LayerRows {
  /** Before RoPE. */
  readonly keys: Tensor;
  readonly turnedKeys: Tensor;
  readonly values: Tensor;
}

/** What rows leave behind in each layer, and what they see: the one part that depends on what the rows are for. */
export interface LayerAttention {
  write(layer: number, rows: LayerRows): void;
  /** @returns [D * H, rows]. */
  attend(layer: number, rows: LayerRows & { readonly queries: Tensor }): Tensor;
}

/** One layer over x [hidden, rows]. Where nothing reads its output, only keys and values are computed. */
export function addLayer(
  build: Build,
  attention: LayerAttention,
  layer: number,
  x: Tensor,
  keysAndValuesOnly: boolean,
): Tensor {
  const { graph, decoder, positions, weight, product } = build;
  const rope = decoder.weights.ropes[layer];
  const turn = (heads: Tensor) => (rope ? graph.rope(heads, positions, rope) : heads);
  const out = decoder.architecture.layer(
    {
      ...build,
      layer,
      weight: (name) => weight(`blk.${layer}.${name}`),
      product: (name, rows) => product(`blk.${layer}.${name}`, rows),
      attend: ({ queries, keys, values }) => {
        const rows = { keys, turnedKeys: turn(keys), values };
        attention.write(layer, rows);
        return keysAndValuesOnly ? undefined : attention.attend(layer, { ...rows, queries: turn(queries) });
      },
    },
    x,
  );
  return out ?? x;
}

/** Weights [in, out] times x [in, rows]: [out, rows]; split by rows where one node would take long. */
function product(graph: Graph, weight: Tensor, x: Tensor, maxNodeFlops: number): Tensor {
  const maxRows = productRows(maxNodeFlops, weight);
  let out: Tensor | undefined;
  for (let row = 0; row < x.ne[1]; row += maxRows) {
    const count = Math.min(maxRows, x.ne[1] - row);
    const part = graph.mulMat(
      weight,
      count === x.ne[1] ? x : graph.view(x, [x.ne[0], count], [x.nb[1]], row * x.nb[1]),
    );
    out = out === undefined ? part : graph.concat(out, part, 1);
  }
  return out as Tensor;
}

function productRows(maxNodeFlops: number, weight: Tensor): number {
  return Math.max(64, Math.floor(maxNodeFlops / (2 * weight.ne[0] * weight.ne[1]) / 64) * 64);
}

/** Rows firstRow..firstRow + count of x [D, heads, rows] as a window. */
function rowsOf(graph: Graph, x: Tensor, firstRow: number, count: number): Tensor {
  return graph.view(x, [x.ne[0], x.ne[1], count], [x.nb[1], x.nb[2]], firstRow * x.nb[2]);
}

function writeRows(build: Build, { span, firstRow, numRows }: PlacedSpan, layer: number, rows: LayerRows): void {
  const { graph } = build;
  const byHead = (x: Tensor) => graph.permute(rowsOf(graph, x, firstRow, numRows), [0, 2, 1, 3]);
  const write = (x: Tensor, into: KVRows, first: number) =>
    graph.expand(graph.copy(byHead(x), into.layer(graph, layer, first, numRows)));
  if (span.kind === "block") {
    write(rows.keys, span.keys, 0);
    write(rows.values, span.values, 0);
    return;
  }
  write(rows.turnedKeys, span.keys, span.past);
  write(rows.values, span.values, span.past);
  if (span.block === undefined) return;
  write(rows.keys, span.block.keys, span.past);
  write(rows.values, span.block.values, span.past);
}

/** The rows' attention, [D * H, rows]. */
function attend(
  build: Build,
  masks: MaskCache,
  { span, firstRow, numRows }: PlacedSpan,
  layer: number,
  { queries, turnedKeys, values }: LayerRows & { readonly queries: Tensor },
): Tensor {
  const { graph, attention } = build;
  const q = rowsOf(graph, queries, firstRow, numRows);
  switch (span.kind) {
    case "block": {
      // Over the rows' own keys and values before they are rounded to the block's type.
      const byHead = (x: Tensor) => graph.permute(rowsOf(graph, x, firstRow, numRows), [0, 2, 1, 3]);
      return tiledAttention(graph, q, byHead(turnedKeys), byHead(values), causalMask(numRows, 0), masks, attention);
    }
    case "piece": {
      const all = (rows: KVRows) => rows.layer(graph, layer, 0, span.past + numRows);
      return tiledAttention(
        graph,
        q,
        all(span.keys),
        all(span.values),
        causalMask(numRows, span.past),
        masks,
        attention,
      );
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
    if (span.kind === "block" && placed.some((other) => other.span.kind !== "block")) {
      throw new RangeError("Cannot build a graph: blocks come before other rows");
    }
    const end = (span.kind === "block" ? 0 : span.past) + numRows;
    const parts = span.kind === "piece" && span.block ? [span, span.block] : [span];
    const room = Math.min(...parts.map(({ keys }) => keys.capacity));
    if (end > room) throw new RangeError(`Cannot write ${end} rows of keys: there is room for ${room}`);
    next = roundUp(next, rowGroup);
    placed.push({ span, firstRow: next, numRows });
    next += numRows;
  }
  return placed;
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

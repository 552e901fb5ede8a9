import { singleRowAttention } from "../ggml/cpu/attention.js";
import { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import type { ModelConfig } from "./config.js";
import { addLayer, type Decoder, type LayeredRows, layerOffset, layerRows, startBuild } from "./decoder.js";

/** Values once more, each element's rows side by side, [L, H, D, capacity]: what decoding multiplies along. */
export type TransposedRows = LayeredRows;

/** Sequences whose contexts lie side by side in one piece of memory, and are attended over in one go. */
export interface TokenRun {
  readonly numSequences: number;
  /** Keys that are read: more than each sequence has, with those past its own masked. */
  readonly numKeys: number;
  /** From one sequence's first element to the next one's, in keys and in values alike. */
  readonly stride: number;
  /** The first sequence's. */
  readonly keys: LayeredRows;
  readonly valuesTransposed: TransposedRows;
}

/** One sequence's token to compute. */
export interface StepToken {
  readonly tokenId: number;
  readonly position: number;
  /** How many keys its context holds: its own is written after them. */
  readonly past: number;
}

const visible = 0;
/** Minus infinity as a 16-bit float. */
const hidden = 0xfc00;

/**
 * One token of each of several sequences, over their contexts, which its key and value join: a graph that is built once and
 * computed for step after step, while the sequences stay and their keys fit. Weights are read once for all.
 *
 * It owns the graph. Whatever the runs name must outlive it.
 */
export class DecodeStep implements Disposable {
  readonly graph: Graph;
  /** [vocabulary, sequences]. */
  readonly logits: Tensor;
  readonly numSequences: number;
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  /** Where keys and values are written, as rows of each sequence's context. */
  readonly #rows: Int32Array;
  readonly #masks: readonly { readonly run: TokenRun; readonly data: Uint16Array }[];

  /** @throws RangeError for runs that do not fit their memory, or none. */
  constructor(decoder: Decoder, runs: readonly TokenRun[]) {
    this.numSequences = runs.reduce((sum, { numSequences }) => sum + numSequences, 0);
    if (this.numSequences === 0) throw new RangeError("Cannot build a graph: no sequence is given");
    for (const run of runs) requireFits(run);
    this.#tokens = new Int32Array(this.numSequences);
    this.#positions = new Int32Array(this.numSequences);
    this.#rows = new Int32Array(this.numSequences);
    this.#masks = runs.map((run) => ({ run, data: new Uint16Array(run.numKeys * run.numSequences) }));
    const { numLayers } = decoder.config;
    this.graph = new Graph(decoder.ggml, numLayers * (48 + 24 * runs.length) + 32 + runs.length);
    try {
      this.logits = this.#build(decoder);
    } catch (error) {
      this.graph[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Sets what the next computation computes.
   * @param tokens one for each sequence, in the order of the runs.
   * @throws RangeError if they are not as many, or a context is full.
   */
  set(tokens: readonly StepToken[]): void {
    if (tokens.length !== this.numSequences) {
      throw new RangeError(`Cannot decode ${tokens.length} tokens: the graph has ${this.numSequences} sequences`);
    }
    let row = 0;
    for (const { run, data } of this.#masks) {
      data.fill(hidden);
      for (let i = 0; i < run.numSequences; i++) {
        const { tokenId, position, past } = tokens[row] as StepToken;
        if (past >= run.numKeys) {
          throw new RangeError(
            `Cannot decode over ${past} keys: the graph reads ${run.numKeys}, the token's own among them`,
          );
        }
        this.#tokens[row] = tokenId;
        this.#positions[row] = position;
        this.#rows[row] = past;
        data.fill(visible, i * run.numKeys, i * run.numKeys + past + 1);
        row += 1;
      }
    }
  }

  [Symbol.dispose](): void {
    this.graph[Symbol.dispose]();
  }

  #build(decoder: Decoder): Tensor {
    const { graph, numSequences } = this;
    const { architecture, config } = decoder;
    const build = startBuild(decoder, graph, this.#positions);
    const places = graph.input("rows", "I32", [numSequences], this.#rows);
    let first = 0;
    const placed = this.#masks.map(({ run, data }) => {
      const at = first;
      first += run.numSequences;
      const mask = graph.input("mask", "F16", [run.numKeys, 1, 1, run.numSequences], data);
      const rows = graph.view(places, [1, 1, run.numSequences], [4, 4], 4 * at);
      return { run, first: at, mask, rows };
    });
    const { numHeads, numKvHeads, headSize } = config;
    const window = (x: Tensor, ne: readonly number[], strides: readonly number[], at: number) =>
      graph.view(x, ne, strides, at * x.nb[2]);
    let x = architecture.embed(build, graph.input("tokens", "I32", [numSequences], this.#tokens));
    for (let index = 0; index < config.numLayers; index++) {
      const attention = {
        write: (_: number, { turnedKeys, values }: { readonly turnedKeys: Tensor; readonly values: Tensor }) => {
          for (const { run, first: at, rows } of placed) {
            const { numSequences: count } = run;
            const [size, head, sequence] = turnedKeys.nb;
            const key = window(turnedKeys, [headSize, 1, numKvHeads, count], [head, head, sequence], at);
            graph.expand(graph.setRows(runKeys(graph, run, config, index, run.keys.capacity), key, rows));
            const value = window(values, [1, 1, headSize * numKvHeads, count], [size, size, sequence], at);
            graph.expand(graph.setRows(runElements(graph, run, config, index), value, rows));
          }
        },
        attend: (_: number, { queries }: { readonly queries: Tensor }) => {
          let attended: Tensor | undefined;
          for (const { run, first: at, mask } of placed) {
            const q = window(queries, [headSize, numHeads, run.numSequences], queries.nb.slice(1, 3), at);
            const k = runKeys(graph, run, config, index, run.numKeys);
            const out = singleRowAttention(graph, q, k, runColumns(graph, run, config, index), mask);
            attended = attended === undefined ? out : graph.concat(attended, out, 1);
          }
          return attended as Tensor;
        },
      };
      x = addLayer(build, attention, index, x, false);
    }
    return graph.output(architecture.head(build, x));
  }
}

/** One layer's keys of a run, [D, count, H', S]. */
function runKeys(
  graph: Graph,
  { keys, stride, numSequences }: TokenRun,
  config: ModelConfig,
  layer: number,
  count: number,
): Tensor {
  const { headSize, numKvHeads } = config;
  const size = keys.tensor.nb[0];
  const strides = [headSize * size, keys.capacity * headSize * size, stride * size];
  const ne = [headSize, count, numKvHeads, numSequences];
  return graph.view(keys.tensor, ne, strides, layerOffset(keys, config, layer) * size);
}

/** One layer's transposed values of a run, [N, D, H', S]. */
function runColumns(graph: Graph, run: TokenRun, config: ModelConfig, layer: number): Tensor {
  const { valuesTransposed: rows, stride, numSequences, numKeys } = run;
  const { headSize, numKvHeads } = config;
  const size = rows.tensor.nb[0];
  const strides = [rows.capacity * size, rows.capacity * headSize * size, stride * size];
  const ne = [numKeys, headSize, numKvHeads, numSequences];
  return graph.view(rows.tensor, ne, strides, layerOffset(rows, config, layer) * size);
}

/** The same, as rows of one element each to write to: [1, capacity, D * H', S]. */
function runElements(graph: Graph, run: TokenRun, config: ModelConfig, layer: number): Tensor {
  const { valuesTransposed: rows, stride, numSequences } = run;
  const { headSize, numKvHeads } = config;
  const size = rows.tensor.nb[0];
  const strides = [size, rows.capacity * size, stride * size];
  const ne = [1, rows.capacity, headSize * numKvHeads, numSequences];
  return graph.view(rows.tensor, ne, strides, layerOffset(rows, config, layer) * size);
}

function requireFits({ numKeys, keys, valuesTransposed }: TokenRun): void {
  const capacity = Math.min(keys.capacity, valuesTransposed.capacity);
  if (numKeys > capacity) throw new RangeError(`Cannot decode over ${numKeys} keys: there is room for ${capacity}`);
}

/** Elements that one node transposes: some 20 ms on one thread. */
const maxElementsPerNode = 1 << 22;

/** Adds to a graph what writes the first `count` rows of some layers' values transposed as well. */
export function transposeValues(
  graph: Graph,
  config: ModelConfig,
  values: LayeredRows,
  into: TransposedRows,
  layers: { readonly first: number; readonly end: number },
  count: number,
): void {
  const step = Math.max(256, Math.floor(maxElementsPerNode / (config.numKvHeads * config.headSize)));
  for (let layer = layers.first; layer < layers.end; layer++) {
    for (let row = 0; row < count; row += step) {
      const rows = Math.min(step, count - row);
      const from = graph.permute(layerRows(graph, values, config, layer, row, rows), [1, 0, 2, 3]);
      graph.expand(graph.copy(from, layerColumns(graph, into, config, layer, row, rows)));
    }
  }
}

/** Adds to a graph what sets rows first..first + count to zero, for decoding reads hidden rows, and they must be finite. */
export function clearRows(
  graph: Graph,
  config: ModelConfig,
  keys: LayeredRows,
  valuesTransposed: TransposedRows,
  first: number,
  count: number,
): void {
  const { numLayers, numKvHeads, headSize } = config;
  const { type } = keys.tensor;
  const elements = headSize * count * numKvHeads;
  const data = type === "F16" ? new Uint16Array(elements) : new Float32Array(elements);
  const zeros = graph.input("zeros", type, [elements], data);
  for (let layer = 0; layer < numLayers; layer++) {
    const rows = graph.reshape(zeros, [headSize, count, numKvHeads]);
    graph.expand(graph.copy(rows, layerRows(graph, keys, config, layer, first, count)));
    const columns = graph.reshape(zeros, [count, headSize, numKvHeads]);
    graph.expand(graph.copy(columns, layerColumns(graph, valuesTransposed, config, layer, first, count)));
  }
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
  return graph.view(
    rows.tensor,
    [count, headSize, numKvHeads],
    [rows.capacity * size, rows.capacity * headSize * size],
    (layerOffset(rows, config, layer) + first) * size,
  );
}

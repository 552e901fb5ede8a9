import { rowBytes } from "../files/element-types.js";
import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";

/** The sizes of one row of keys, or of values, over all layers. A model's config and a block's shape have them. */
export interface RowShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
}

/** The number of elements of so many rows of keys, or of values, over all layers. */
export function rowElements({ numLayers, numKvHeads, headSize }: RowShape, numRows: number): number {
  return numLayers * numKvHeads * headSize * numRows;
}

/** Where the keys, or the values, of one sequence or of several side by side lie in a device's memory. */
interface RowPlace {
  /** One size, all elements. */
  readonly tensor: Tensor;
  /** Where the first sequence starts in the tensor, in elements. */
  readonly offset: number;
  /** How many rows each head has room for. */
  readonly capacity: number;
  /** From one sequence's first element to the next one's. Default: there is one sequence. */
  readonly stride?: number | undefined;
  readonly numSequences?: number | undefined;
}

/**
 * Where keys or values of all layers lie, and every window that graphs open on them: the one place that computes their
 * strides and offsets.
 *
 * Keys and values are [S, L, H, capacity, D], outermost first; values that decoding multiplies along are
 * [S, L, H, D, capacity], each element's rows side by side. Sequences may have gaps between them.
 *
 * It owns no memory: the owner of the tensor's memory keeps it while graphs use it.
 */
export class KVRows {
  readonly shape: RowShape;
  readonly tensor: Tensor;
  readonly offset: number;
  readonly capacity: number;
  readonly isTransposed: boolean;
  readonly numSequences: number;
  readonly #stride: number;

  /** @throws RangeError for rows that end past the tensor. */
  constructor(shape: RowShape, place: RowPlace, layout: "rows" | "transposed" = "rows") {
    const { tensor, offset, capacity, numSequences = 1 } = place;
    this.shape = { numLayers: shape.numLayers, numKvHeads: shape.numKvHeads, headSize: shape.headSize };
    this.tensor = tensor;
    this.offset = offset;
    this.capacity = capacity;
    this.isTransposed = layout === "transposed";
    this.numSequences = numSequences;
    const perSequence = rowElements(shape, capacity);
    this.#stride = place.stride ?? perSequence;
    const end = offset + (numSequences - 1) * this.#stride + perSequence;
    if (end > tensor.ne[0]) {
      throw new RangeError(
        `Cannot lay out rows: they end at element ${end} of "${tensor.name}", which has ${tensor.ne[0]}`,
      );
    }
  }

  /** This sequence and those that follow it in memory, as one. */
  sideBySide(numSequences: number, stride: number): KVRows {
    const { tensor, offset, capacity } = this;
    const place = { tensor, offset, capacity, stride, numSequences };
    return new KVRows(this.shape, place, this.isTransposed ? "transposed" : "rows");
  }

  /** Rows first..first + count of one layer: [D, count, H, S] of rows, [count, D, H, S] of transposed ones. */
  layer(graph: Graph, layer: number, first: number, count: number): Tensor {
    this.#requireRows(first, count);
    const { headSize, numKvHeads } = this.shape;
    return this.isTransposed
      ? this.#view(graph, [count, headSize, numKvHeads], [this.capacity, this.#head], this.#layer(layer) + first)
      : this.#view(graph, [headSize, count, numKvHeads], [headSize, this.#head], this.#layer(layer) + first * headSize);
  }

  /**
   * One layer to write rows to, at places that a list names: [D, capacity, H, S] of rows; of transposed ones, whose
   * elements lie apart, [1, capacity, D * H, S].
   */
  scattered(graph: Graph, layer: number): Tensor {
    const { headSize, numKvHeads } = this.shape;
    return this.isTransposed
      ? this.#view(graph, [1, this.capacity, headSize * numKvHeads], [1, this.capacity], this.#layer(layer))
      : this.#view(graph, [headSize, this.capacity, numKvHeads], [headSize, this.#head], this.#layer(layer));
  }

  /** Rows first..first + count of all layers' heads, each head's side by side: [D * count, L * H]. Of one sequence, not transposed. */
  packed(graph: Graph, first: number, count: number): Tensor {
    this.#requireRows(first, count);
    const { headSize, numKvHeads, numLayers } = this.shape;
    const offset = this.offset + first * headSize;
    return this.#view(graph, [headSize * count, numLayers * numKvHeads], [this.#head], offset);
  }

  /** The same rows of some layers, with their heads as one layer's, so that RoPE computes a row's angles once: [D, L * H, count]. */
  asOneLayer(
    graph: Graph,
    first: number,
    count: number,
    { firstLayer = 0, numLayers = this.shape.numLayers }: { firstLayer?: number; numLayers?: number } = {},
  ): Tensor {
    this.#requireRows(first, count);
    const { headSize, numKvHeads } = this.shape;
    const offset = this.#layer(firstLayer) + first * headSize;
    return this.#view(graph, [headSize, numLayers * numKvHeads, count], [this.#head, headSize], offset);
  }

  /** Adds nodes to a graph that set rows first..first + count of one sequence to zero. */
  clear(graph: Graph, first: number, count: number): void {
    const { type } = this.tensor;
    const { headSize, numKvHeads, numLayers } = this.shape;
    const elements = headSize * count * numKvHeads;
    const zeros = graph.input("zeros", type, [elements], () =>
      type === "F32" ? new Float32Array(elements) : new Uint16Array(elements),
    );
    for (let layer = 0; layer < numLayers; layer++) {
      const window = this.layer(graph, layer, first, count);
      graph.expand(graph.copy(graph.reshape(zeros, window.ne), window));
    }
  }

  /** Elements of one head, all its rows. */
  get #head(): number {
    return this.capacity * this.shape.headSize;
  }

  #layer(layer: number): number {
    return this.offset + layer * this.shape.numKvHeads * this.#head;
  }

  /** @param strides from the second size on, and offset: in elements. The sequences are the fourth size where there are several. */
  #view(graph: Graph, ne: readonly number[], strides: readonly number[], offset: number): Tensor {
    const { type } = this.tensor;
    const sizes = this.numSequences === 1 ? ne : [...ne, this.numSequences];
    const all = this.numSequences === 1 ? strides : [...strides, this.#stride];
    const inBytes = all.map((stride) => rowBytes(type, stride));
    return graph.view(this.tensor, sizes, inBytes, rowBytes(type, offset));
  }

  #requireRows(first: number, count: number): void {
    if (first >= 0 && first + count <= this.capacity) return;
    throw new RangeError(`Cannot use rows ${first} to ${first + count}: there is room for ${this.capacity}`);
  }
}

/**
 * Adds nodes to a graph that write the first `count` rows of some layers' values as decoding wants them.
 * @param maxNodeElements of one node, where its device has a limit.
 */
export function transposeValues(
  graph: Graph,
  values: KVRows,
  into: KVRows,
  layers: { readonly first: number; readonly end: number },
  count: number,
  maxNodeElements = Number.POSITIVE_INFINITY,
): void {
  const { numKvHeads, headSize } = values.shape;
  const step = Math.max(1, Math.floor(maxNodeElements / (numKvHeads * headSize)));
  for (let layer = layers.first; layer < layers.end; layer++) {
    for (let row = 0; row < count; row += step) {
      const rows = Math.min(step, count - row);
      const from = values.layer(graph, layer, row, rows);
      const laid = into.isTransposed ? graph.permute(from, [1, 0, 2, 3]) : from;
      graph.expand(graph.copy(laid, into.layer(graph, layer, row, rows)));
    }
  }
}

/** Adds nodes to a graph that copy values of all layers, as rows or transposed, to rows. */
export function copyValues(
  graph: Graph,
  values: KVRows,
  from: number,
  into: KVRows,
  first: number,
  count: number,
): void {
  if (!values.isTransposed) {
    graph.expand(graph.copy(values.packed(graph, from, count), into.packed(graph, first, count)));
    return;
  }
  for (let layer = 0; layer < values.shape.numLayers; layer++) {
    const rows = graph.permute(values.layer(graph, layer, from, count), [1, 0, 2, 3]);
    graph.expand(graph.copy(rows, into.layer(graph, layer, first, count)));
  }
}

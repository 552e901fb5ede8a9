import type { GgmlType } from "../files/element-types.js";
import { Graph } from "../ggml/graph.js";
import { maxGraphTensors } from "../ggml/graph-frame.js";
import type { Ggml } from "../ggml/library.js";
import { planTensor } from "../ggml/tensor.js";
import { DecodeStep } from "./decode-step.js";
import { addForward, type Decoder } from "./decoder.js";
import { KVRows, rowElements } from "./kv-rows.js";
import type { RowSpan, Rows } from "./rows.js";

/** How many counts are kept. */
const maxKnown = 4096;

/** How much fits into a graph: the code that builds graphs runs without ggml, and the tensors are counted. */
export class GraphSizes {
  readonly #decoder: Decoder;
  readonly #contextType: "F16" | "F32";
  readonly #blockType: GgmlType;
  readonly #known = new Map<string, number>();
  /** Tensors that all rows of a graph share. */
  readonly #shared: number;
  readonly #maxRuns = new Map<number, number>();

  /** @param contextType of contexts' keys and values, and `blockType` of blocks'. */
  constructor(decoder: Decoder, contextType: "F16" | "F32", blockType: GgmlType = contextType) {
    this.#decoder = decoder;
    this.#contextType = contextType;
    this.#blockType = blockType;
    // Blocks of different lengths, so that they share no mask.
    const [few, more] = [this.#block(1), this.#block(2)];
    this.#shared = this.#count([few]) + this.#count([more]) - this.#count([few, more]);
  }

  /** Tensors that a graph of blocks and pieces has room for, beside those that all its rows share. */
  get room(): number {
    return maxGraphTensors - this.#shared;
  }

  /** Tensors that a block adds. @param numBefore rows that it sees before itself. */
  ofBlock(numTokens: number, numBefore = 0): number {
    return this.#added(`${numTokens} behind ${numBefore}`, () => {
      const before = numBefore > 0 ? { ...this.#rows(numBefore), length: numBefore } : undefined;
      return { ...this.#block(numTokens), before };
    });
  }

  /**
   * Tensors that a piece of a prompt adds, or of a block that is encoded in pieces.
   * @param shared the lengths of what its context begins with.
   * @param spans what its rows see. Default: each all before it.
   * @param isScattered whether rows before it are among its rows: `past` are those that are not.
   * @param isScaled whether places of its context have another share of attention.
   */
  ofPiece(
    numTokens: number,
    past: number,
    isOfBlock: boolean,
    shared: readonly number[] = [],
    spans?: readonly RowSpan[],
    isScattered = false,
    isScaled = false,
  ): number {
    const sight = spans?.every(({ kind, window }) => kind === "global" && window === undefined) ? undefined : spans;
    return this.#added(
      `${numTokens} after ${past} ${isOfBlock} ${shared} ${JSON.stringify(sight)} ${isScattered} ${isScaled}`,
      () => {
        const pieces = shared.map((length) => {
          return {
            keys: this.#kvRows(length),
            values: this.#kvRows(length, this.#decoder.device.decodeLayout),
            length,
          };
        });
        const scaled = isScaled ? { ranges: [], power: 1 } : undefined;
        const context = { shared: pieces, ...this.#rows(past + numTokens), scaled };
        const { tokenIds, block } = this.#block(numTokens);
        // However they are scattered, up to the last one: the others from the start on.
        const last = past + numTokens - 1;
        const places = isScattered ? Int32Array.from(tokenIds, (_, i) => (i < numTokens - 1 ? i : last)) : past;
        return { tokenIds, positions: past, context, places, spans: sight, block: isOfBlock ? block : undefined };
      },
    );
  }

  /** How many runs of sequences one graph decodes. @param numShared how many shared pieces each begins with. */
  maxRuns(numShared: number): number {
    const known = this.#maxRuns.get(numShared);
    if (known !== undefined) return known;
    const [one, two] = [this.#countRuns(1, numShared), this.#countRuns(2, numShared)];
    const most = Math.max(1, Math.floor((maxGraphTensors - (2 * one - two)) / (two - one)));
    this.#maxRuns.set(numShared, most);
    return most;
  }

  #added(key: string, rowsOf: () => Rows): number {
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const added = this.#count([rowsOf()]) - this.#shared;
    if (this.#known.size >= maxKnown) this.#known.clear();
    this.#known.set(key, added);
    return added;
  }

  /** Counts a graph that gives the logits of all of its first rows. */
  #count(all: readonly [Rows, ...Rows[]]): number {
    const graph = new Graph(this.#decoder.ggml, "counted");
    const wanted = Array.from(all[0].tokenIds, (_, row) => ({ rows: 0, row }));
    addForward(graph, this.#decoder, all, wanted);
    return graph.numTensors;
  }

  #countRuns(numRuns: number, numShared: number): number {
    const decodeValues = this.#kvRows(1, this.#decoder.device.decodeLayout);
    const own = { numKeys: 1, keys: this.#kvRows(1), decodeValues };
    // Runs of several rows a sequence have the most.
    const rowsEach = this.#decoder.device.decodeLayout === "transposed" ? 2 : 1;
    const run = { ...own, rowsEach, shared: Array(numShared).fill({ ...own, length: 1 }) };
    using step = new DecodeStep(this.#decoder, Array(numRuns).fill(run), true, "counted");
    return step.graph.numTensors;
  }

  #block(numTokens: number): Rows {
    return { tokenIds: new Int32Array(numTokens), positions: 0, block: this.#rows(numTokens, this.#blockType) };
  }

  #rows(capacity: number, type?: GgmlType): { readonly keys: KVRows; readonly values: KVRows } {
    return { keys: this.#kvRows(capacity, "rows", type), values: this.#kvRows(capacity, "rows", type) };
  }

  #kvRows(capacity: number, layout?: "rows" | "transposed", type: GgmlType = this.#contextType): KVRows {
    const { config } = this.#decoder;
    const tensor = planTensor("counted", type, [rowElements(config, capacity)]);
    return new KVRows(config, { tensor, offset: 0, capacity }, layout);
  }
}

/** Puts parts into as few graphs as hold them, in this order. @throws RangeError for a part that no graph holds. */
export function partsOfGraphs(ggml: Ggml, parts: readonly ((graph: Graph) => void)[]): ((graph: Graph) => void)[] {
  const groups: ((graph: Graph) => void)[][] = [[]];
  let size = 0;
  for (const part of parts) {
    const counted = new Graph(ggml, "counted");
    part(counted);
    size += counted.numTensors;
    if (size > maxGraphTensors) {
      groups.push([]);
      size = counted.numTensors;
    }
    groups.at(-1)?.push(part);
  }
  return groups.map((group) => (graph) => {
    for (const part of group) part(graph);
  });
}

import { elementTypes } from "../files/element-types.js";
import type { Graph, RopeParameters } from "../ggml/graph.js";
import type { BlockKV } from "../kv/block-kv.js";
import type { Decoder } from "../model/decoder.js";
import { partsOfGraphs } from "../model/graph-sizes.js";
import { KVRows, rowElements, transposeValues } from "../model/kv-rows.js";
import type { SharedRows } from "../model/rows.js";
import { type DecodeSlot, slotRows } from "./decode-slots.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import type { KVMemory, Region } from "./kv-memory.js";

/** Room in rows is rounded up to this. */
const capacityStep = 64;

/** What computes graphs of a request's own, in turn with others' work: the scheduler. */
export interface GraphRunner {
  /**
   * @param rows what the graph costs, as if it were so many rows of a prompt.
   * @throws the signal's reason; the device's error.
   */
  run(rows: number, fill: (graph: Graph) => void, signal?: AbortSignal): Promise<void>;
}

/** Rows that are laid out in about the time that one row of a prompt takes. */
const laidRowsPerRow = 16;
/** The same of transposing. */
const transposedRowsPerRow = 8;

/**
 * The rotated keys and the values of a request's blocks, side by side, and those of what is computed over them.
 *
 * Where tokens are decoded over it, its keys lie in a slot beside other sequences' from the start; `startDecoding()` puts
 * the values there too, transposed. Disposing it gives its memory back, but never under a graph: while a pin is out, the
 * memory stays.
 */
export class AssembledContext implements Disposable {
  readonly capacity: number;
  /** Rows before its own. */
  readonly shared: readonly SharedRows[] = [];
  readonly slot: DecodeSlot | undefined;
  readonly #memory: KVMemory;
  readonly #room: Disposable | undefined;
  /** Where there is no slot. */
  readonly #keys: Region | undefined;
  /** Freed when they are transposed. */
  #values: Region | undefined;
  #numPins = 0;
  #isDisposed = false;
  /** Rows that hold keys and values. */
  length = 0;
  /** In a slot, rows up to here are finite: those past `length` are zeros. */
  cleared = 0;

  /**
   * @param capacity rows to make room for, in tokens.
   * @param owned what becomes the context's own once it is made: the room taken from the budget, and the slot.
   * @throws Error if the device has not enough memory; what was given stays the caller's then.
   */
  constructor(
    memory: KVMemory,
    capacity: number,
    owned: { readonly room?: Disposable | undefined; readonly slot?: DecodeSlot | undefined } = {},
  ) {
    this.capacity = roundCapacity(capacity);
    this.slot = owned.slot;
    this.#memory = memory;
    const allocate = () => memory.allocate(memory.contextType, rowElements(memory.shape, this.capacity));
    this.#values = allocate();
    try {
      this.#keys = owned.slot ? undefined : allocate();
    } catch (error) {
      this.#values[Symbol.dispose]();
      throw error;
    }
    this.#room = owned.room;
  }

  get keys(): KVRows {
    return this.slot?.keys ?? this.#rows(this.#keys);
  }

  /** @throws Error once tokens are decoded. */
  get values(): KVRows {
    return this.#rows(this.#values);
  }

  /** Transposes the values of all rows so far; again does nothing. From then on rows come by decoding alone. */
  async startDecoding(runner: GraphRunner, signal?: AbortSignal): Promise<void> {
    if (this.#values === undefined) return;
    if (this.slot === undefined) throw new Error("Cannot decode: the context has no slot");
    const { valuesTransposed } = this.slot;
    const { numLayers, numKvHeads, headSize } = this.#memory.shape;
    const { maxNodeElements } = this.#memory.backend.policy;
    // Graphs are short as well, so that others' work comes in between.
    const perGraph = Math.max(
      1,
      Math.floor((2 * maxNodeElements) / (numKvHeads * headSize * Math.max(1, this.length))),
    );
    for (let first = 0; first < numLayers && this.length > 0; first += perGraph) {
      const layers = { first, end: Math.min(numLayers, first + perGraph) };
      const share = (layers.end - layers.first) / numLayers;
      await runner.run(
        Math.ceil((share * this.length) / transposedRowsPerRow),
        (graph) => transposeValues(graph, this.values, valuesTransposed, layers, this.length, maxNodeElements),
        signal,
      );
    }
    this.cleared = this.length;
    this.#values[Symbol.dispose]();
    this.#values = undefined;
  }

  /** Keeps the memory where it is until the pin is disposed, whoever disposes the context meanwhile. */
  pin(): Disposable {
    if (this.#isDisposed) throw new Error("Cannot compute over a context: it was disposed");
    this.#numPins += 1;
    let isOut = true;
    return {
      [Symbol.dispose]: () => {
        if (!isOut) return;
        isOut = false;
        this.#numPins -= 1;
        if (this.#isDisposed && this.#numPins === 0) this.#free();
      },
    };
  }

  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    if (this.#numPins === 0) this.#free();
  }

  #free(): void {
    for (const owned of [this.#values, this.#keys, this.slot, this.#room]) owned?.[Symbol.dispose]();
  }

  #rows(region: Region | undefined): KVRows {
    if (region === undefined) throw new Error("Cannot use a context's values: its tokens are being decoded");
    const { tensor, offset } = region;
    return new KVRows(this.#memory.shape, { tensor, offset, capacity: this.capacity });
  }
}

/** The bytes that a context of this many rows takes, with its slot if tokens are decoded over it. */
export function contextBytes({ shape, contextType }: KVMemory, capacity: number, decodes: boolean): number {
  const rows = roundCapacity(capacity);
  return elementTypes[contextType].typeSize * rowElements(shape, decodes ? rows + 2 * slotRows(rows) : 2 * rows);
}

/**
 * Lays blocks into an empty context, one after another from row 0 on, and turns their keys to their places: once, from
 * the stored copy, so that no rounding adds up.
 *
 * @param positions of every row; rows of a block follow each other.
 */
export async function assemble(
  runner: GraphRunner,
  decoder: Decoder,
  context: AssembledContext,
  blocks: readonly BlockKV<DeviceBlockMemory>[],
  positions: Int32Array,
  signal?: AbortSignal,
): Promise<void> {
  const { config, device } = decoder;
  const numRows = blocks.reduce((sum, { shape }) => sum + shape.numTokens, 0);
  if (context.length !== 0 || numRows !== positions.length || numRows > context.capacity) {
    throw new RangeError(
      `Cannot assemble ${numRows} rows at ${positions.length} positions: the context has room for ${context.capacity} and holds ${context.length}`,
    );
  }
  if (numRows === 0) return;
  const stepsOfRows = Math.max(1, Math.floor(device.maxNodeElements / rowElements(config, 1)));
  const runs = ropeRuns(decoder);
  const parts: ((graph: Graph) => void)[] = [];
  let row = 0;
  for (const { memory, shape } of blocks) {
    const { numTokens } = shape;
    const at = row;
    parts.push((graph) => {
      for (const part of ["keys", "values"] as const) {
        const into = context[part].packed(graph, at, numTokens);
        graph.expand(graph.copy(memory[part].packed(graph, 0, numTokens), into));
      }
    });
    row += numTokens;
  }
  for (let first = 0; first < numRows; first += stepsOfRows) {
    const count = Math.min(stepsOfRows, numRows - first);
    parts.push((graph) => {
      const at = graph.input("positions", "I32", [count], positions.subarray(first, first + count));
      for (const { rope, ...layers } of runs) {
        if (rope === undefined) continue;
        const keys = context.keys.asOneLayer(graph, first, count, layers);
        graph.expand(graph.rope(keys, at, rope, true));
      }
    });
  }
  const graphs = partsOfGraphs(decoder.ggml, parts);
  for (const fill of graphs) await runner.run(Math.ceil(numRows / laidRowsPerRow / graphs.length), fill, signal);
  context.length = numRows;
}

/** Layers one after another whose queries and keys are turned alike; undefined: not at all. */
interface RopeRun {
  readonly rope: RopeParameters | undefined;
  readonly firstLayer: number;
  readonly numLayers: number;
}

/** All layers in as few runs as there can be. */
function ropeRuns({ weights }: Pick<Decoder, "weights">): RopeRun[] {
  const runs: RopeRun[] = [];
  for (const [layer, rope] of weights.ropes.entries()) {
    const last = runs.at(-1);
    if (last?.rope === rope && last !== undefined) runs[runs.length - 1] = { ...last, numLayers: last.numLayers + 1 };
    else runs.push({ rope, firstLayer: layer, numLayers: 1 });
  }
  return runs;
}

function roundCapacity(rows: number): number {
  return Math.ceil(Math.max(rows, 1) / capacityStep) * capacityStep;
}

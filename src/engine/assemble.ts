import { elementTypes } from "../files/element-types.js";
import type { Graph, RopeParameters } from "../ggml/graph.js";
import type { BlockKV } from "../kv/block-kv.js";
import type { Decoder } from "../model/decoder.js";
import { partsOfGraphs } from "../model/graph-sizes.js";
import { type KVRows, rowElements } from "../model/kv-rows.js";
import { type ContextRows, sharedLength } from "../model/rows.js";
import { type DecodeSlot, slotRows } from "./decode-slots.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import { type GraphRunner, HeldRows, roundCapacity } from "./held-rows.js";
import type { KVMemory } from "./kv-memory.js";

/** Rows that are laid out in about the time that one row of a prompt takes. */
const laidRowsPerRow = 16;

/** What a context owns once it is made: the room taken from the budget, and the slot in which tokens are decoded. */
interface OwnedByContext {
  readonly room?: Disposable | undefined;
  readonly slot?: DecodeSlot | undefined;
}

/**
 * The rotated keys and the values of a request's blocks, side by side, and those of the tokens that are computed over them.
 *
 * It may begin with rows that others hold too: `fork()` makes contexts that continue this one's rows, which nobody writes from
 * then on. Rows of its own follow them.
 *
 * Where tokens are decoded over it, its own keys lie in a slot beside other sequences' from the start; `startDecoding()`
 * puts the values there too, transposed. Disposing it gives its memory back, but never under a graph: while a pin is out,
 * the memory stays.
 */
export class AssembledContext implements ContextRows, Disposable {
  #shared: readonly HeldRows[];
  /** Undefined once they are shared. */
  #own: HeldRows | undefined;
  #numPins = 0;
  #isDisposed = false;

  /**
   * @param capacity rows to make room for, in tokens.
   * @param options.shared what it begins with; it becomes one of their holders.
   * @param options.prefills whether prompts are computed over it. Default true.
   * @throws Error if the device has not enough memory; room and slot stay the caller's then.
   */
  constructor(
    private readonly memory: KVMemory,
    capacity: number,
    options: OwnedByContext & { readonly shared?: readonly HeldRows[]; readonly prefills?: boolean } = {},
  ) {
    const { shared = [], prefills = true } = options;
    this.#own = new HeldRows(memory, capacity - sharedLength({ shared }), options, prefills);
    this.#shared = shared.map((rows) => rows.hold());
  }

  /** Rows that others hold too, before its own. */
  get shared(): readonly HeldRows[] {
    return this.#shared;
  }

  get capacity(): number {
    return sharedLength(this) + (this.#own?.capacity ?? 0);
  }

  /** Rows that hold keys and values, those that others hold too among them. */
  get length(): number {
    return sharedLength(this) + this.ownLength;
  }

  set length(length: number) {
    this.#writable.length = length - sharedLength(this);
  }

  get ownLength(): number {
    return this.#own?.length ?? 0;
  }

  /** In a slot, its own rows up to here are finite. */
  get cleared(): number {
    return this.#writable.cleared;
  }

  set cleared(cleared: number) {
    this.#writable.cleared = cleared;
  }

  get slot(): DecodeSlot | undefined {
    return this.#own?.slot;
  }

  /** Of its own rows. */
  get keys(): KVRows {
    return this.#writable.keys;
  }

  /** Of its own rows. @throws Error once tokens are decoded. */
  get values(): KVRows {
    const { values } = this.#writable;
    if (values.isTransposed) throw new Error("Cannot use a context's values: its tokens are being decoded");
    return values;
  }

  /**
   * A context that begins with this one's rows. Both hold them from now on, and so do further forks: this one takes no more
   * rows, and memory and room are freed when the last holder is disposed.
   *
   * @param capacity rows to make room for, this one's among them.
   * @param options.prefills whether prompts are computed over the fork. Default: where it has no slot.
   * @throws RangeError for an empty context; Error while a graph is under way; else as the constructor.
   */
  fork(capacity: number, options: OwnedByContext & { readonly prefills?: boolean } = {}): AssembledContext {
    if (this.#numPins > 0) throw new Error("Cannot fork a context: a graph is under way");
    if (this.#isDisposed) throw new Error("Cannot fork a context: it was disposed");
    if (this.length === 0) throw new RangeError("Cannot fork a context: it is empty");
    const shared = this.#own === undefined || this.#own.length === 0 ? this.#shared : [...this.#shared, this.#own];
    const fork = new AssembledContext(this.memory, capacity, {
      prefills: options.slot === undefined,
      ...options,
      shared,
    });
    if (shared !== this.#shared) {
      this.#shared = shared;
      this.#own = undefined;
    }
    return fork;
  }

  /** Transposes the values of all rows so far; again does nothing. From then on only decoding adds rows of its own. */
  async startDecoding(runner: GraphRunner, signal?: AbortSignal): Promise<void> {
    if (this.slot === undefined) throw new Error("Cannot decode: the context has no slot");
    for (const shared of this.#shared) await shared.startSharedDecoding(runner, signal);
    await this.#writable.startDecoding(runner, signal);
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
    for (const held of [...this.#shared, this.#own]) held?.[Symbol.dispose]();
  }

  get #writable(): HeldRows {
    if (this.#own === undefined) throw new Error("Cannot compute over a context: others stand on its rows");
    return this.#own;
  }
}

/** What a context is for: it decides what it takes. */
export type ContextUse =
  /** Prompts are computed over it. */
  | "prefill"
  /** The same, and its forks decode. */
  | "shared"
  /** Tokens are decoded over it, after prompts. */
  | "answer"
  /** Tokens are decoded over it from the start: a fork. */
  | "fork";

/** The bytes that a context of this many rows takes: of a fork, its own rows. */
export function contextBytes({ shape, contextType }: KVMemory, capacity: number, use: ContextUse): number {
  const rows = roundCapacity(capacity);
  const held = { prefill: 2 * rows, shared: 3 * rows, answer: rows + 2 * slotRows(rows), fork: 2 * slotRows(rows) };
  return elementTypes[contextType].typeSize * rowElements(shape, held[use]);
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

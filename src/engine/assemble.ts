import { elementTypes, isInBlocks } from "../files/element-types.js";
import type { Graph } from "../ggml/graph.js";
import type { RopeParameters } from "../ggml/tensor.js";
import type { BlockKV } from "../kv/block-kv.js";
import type { Decoder } from "../model/decoder.js";
import { partsOfGraphs } from "../model/graph-sizes.js";
import { copyValues, type KVRows, rowElements } from "../model/kv-rows.js";
import { type ContextRows, type ScaledPlaces, type SharedRows, sharedLength } from "../model/rows.js";
import { type DecodeSlot, slotRows } from "./decode-slots.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import { type GraphRunner, HeldRows, roundCapacity } from "./held-rows.js";
import type { KVMemory } from "./kv-memory.js";

/** Rows that are laid out in about the time that one row of a prompt takes. */
const laidRowsPerRow = 16;

/** Elements of a type in blocks that are F32 on their way into a context, at a time: 16 MiB. */
const widenedElements = 1 << 22;

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
  /** Whose share of attention is changed. Forks have the same. */
  scaled?: ScaledPlaces | undefined;

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

  /** All its rows, those that others hold too first. */
  get segments(): readonly SharedRows[] {
    return this.#own === undefined ? this.#shared : [...this.#shared, this.#own];
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
    fork.scaled = this.scaled;
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

/** Rows of a block or a page, and where they go. */
export interface LaidRows {
  readonly block: BlockKV<DeviceBlockMemory>;
  /** How many of its first rows. */
  readonly numRows: number;
  /** Where the first one is laid in the context's own rows. */
  readonly place: number;
  /** To which position its key is turned; the others follow. Undefined for a page, whose keys are turned already. */
  readonly position?: number | undefined;
  /** What scores on its rows are divided by. Default 1. */
  readonly temperature?: number | undefined;
}

/**
 * Lays blocks and pages into a context, or into rows that contexts will share, and turns the blocks' keys to their places: once, from the
 * stored copy, so that no rounding adds up. The length is the caller's to set.
 *
 * @param pieces in the order of their places.
 * @throws RangeError for places that the context has no room for, or that are taken twice.
 */
export async function assemble(
  runner: GraphRunner,
  decoder: Decoder,
  context: Pick<AssembledContext, "keys" | "values" | "capacity">,
  pieces: readonly LaidRows[],
  signal?: AbortSignal,
): Promise<void> {
  const { config, device } = decoder;
  let end = 0;
  /** Rows to turn that follow each other, with their positions. */
  const stretches: { readonly first: number; readonly positions: number[] }[] = [];
  for (const { numRows, place, position } of pieces) {
    if (place < end || place + numRows > context.capacity) {
      throw new RangeError(
        `Cannot assemble ${numRows} rows at ${place}: rows before ${end} are taken, and the context has room for ${context.capacity}`,
      );
    }
    end = place + numRows;
    if (position === undefined) continue;
    const last = stretches.at(-1);
    const stretch = last && last.first + last.positions.length === place ? last : { first: place, positions: [] };
    if (stretch !== last) stretches.push(stretch);
    for (let row = 0; row < numRows; row++) stretch.positions.push(position + row);
  }
  const numLaid = pieces.reduce((sum, { numRows }) => sum + numRows, 0);
  if (numLaid === 0) return;
  const rowsOf = (elements: number) => Math.max(1, Math.floor(elements / rowElements(config, 1)));
  const stepOfRows = rowsOf(device.maxNodeElements);
  const parts: ((graph: Graph) => void)[] = [];
  for (const { block, numRows, place } of pieces) {
    const isWidened = isInBlocks(block.shape.type);
    const step = isWidened ? Math.min(stepOfRows, rowsOf(widenedElements)) : numRows;
    for (let row = 0; row < numRows; row += step) {
      const count = Math.min(step, numRows - row);
      parts.push((graph) => {
        for (const part of ["keys", "values"] as const) {
          const rows = block.memory[part].packed(graph, row, count);
          const into = context[part].packed(graph, place + row, count);
          graph.expand(graph.copy(isWidened ? graph.toF32(rows) : rows, into));
        }
      });
    }
  }
  const runs = ropeRuns(decoder);
  for (const { first, positions } of stretches) {
    for (let row = 0; row < positions.length; row += stepOfRows) {
      const some = Int32Array.from(positions.slice(row, row + stepOfRows));
      parts.push((graph) => {
        const at = graph.input("positions", "I32", [some.length], some);
        for (const { rope, ...layers } of runs) {
          if (rope === undefined) continue;
          const keys = context.keys.asOneLayer(graph, first + row, some.length, layers);
          graph.expand(graph.rope(keys, at, rope, true));
        }
      });
    }
  }
  for (const { numRows, place, temperature = 1 } of pieces) {
    if (temperature === 1) continue;
    for (let row = 0; row < numRows; row += stepOfRows) {
      parts.push((graph) => {
        const keys = context.keys.packed(graph, place + row, Math.min(stepOfRows, numRows - row));
        graph.expand(graph.copy(graph.scale(graph.toF32(keys), 1 / temperature), keys));
      });
    }
  }
  await runParts(runner, decoder, parts, numLaid, signal);
}

/** Rows of a context, and the page that they go to. */
export interface KeptRows {
  readonly memory: DeviceBlockMemory;
  /** The first row in the context. */
  readonly first: number;
  readonly numRows: number;
}

/** Copies rows of a context into pages as they are: what `assemble()` lays out again, to the last bit in the context's type. */
export async function copyRows(
  runner: GraphRunner,
  decoder: Decoder,
  context: AssembledContext,
  pages: readonly KeptRows[],
  signal?: AbortSignal,
): Promise<void> {
  const parts = pages.flatMap(({ memory, first, numRows }) =>
    segmentsOf(context, first, numRows).map(({ rows, from, count, into }) => (graph: Graph) => {
      graph.expand(graph.copy(rows.keys.packed(graph, from, count), memory.keys.packed(graph, into, count)));
      copyValues(graph, rows.values, from, memory.values, into, count);
    }),
  );
  const numRows = pages.reduce((sum, page) => sum + page.numRows, 0);
  await runParts(runner, decoder, parts, numRows, signal);
}

/** Where rows first..first + numRows of a context lie: among those that others hold too, and its own. */
function segmentsOf(context: AssembledContext, first: number, numRows: number) {
  let start = 0;
  return context.segments.flatMap((rows) => {
    const [from, end] = [Math.max(first, start), Math.min(first + numRows, start + rows.length)];
    const segment = { rows, from: from - start, count: end - from, into: from - first };
    start += rows.length;
    return end > from ? [segment] : [];
  });
}

async function runParts(
  runner: GraphRunner,
  { ggml }: Decoder,
  parts: readonly ((graph: Graph) => void)[],
  numRows: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const graphs = partsOfGraphs(ggml, parts);
  for (const fill of graphs) await runner.run(Math.ceil(numRows / laidRowsPerRow / graphs.length), fill, signal);
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

/** @throws RangeError where a context has no room for so many rows more. */
export function requireRoom(context: AssembledContext, numRows: number): void {
  if (context.length + numRows <= context.capacity) return;
  throw new RangeError(
    `Cannot compute ${numRows} rows: the context has room for ${context.capacity} and holds ${context.length}`,
  );
}

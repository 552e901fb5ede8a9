import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import { KVRows, rowElements, transposeValues } from "../model/kv-rows.js";
import type { SharedRows } from "../model/rows.js";
import type { DecodeSlot } from "./decode-slots.js";
import type { KVMemory, Region } from "./kv-memory.js";
import { unlessAborted } from "./task.js";

/** Computes graphs that a request builds itself, in turn with others' work: the scheduler. */
export interface GraphRunner {
  /**
   * @param rows how many rows of a prompt cost as much as the graph.
   * @throws the signal's reason; the device's error.
   */
  run(rows: number, fill: (graph: Graph) => void, signal?: AbortSignal): Promise<void>;
  /** The same. @returns the numbers of the tensor that `fill` returns. */
  read(rows: number, fill: (graph: Graph) => Tensor, signal?: AbortSignal): Promise<Float32Array>;
}

/** Rows that are transposed in about the time that one row of a prompt takes. */
const transposedRowsPerRow = 8;
/** Room in rows is rounded up to this, and so are the keys that decoding reads of shared rows. */
const capacityStep = 64;

export function roundCapacity(rows: number): number {
  return Math.ceil(Math.max(rows, 1) / capacityStep) * capacityStep;
}

/**
 * Turned keys and values of consecutive rows, in memory that is freed with the last of its holders.
 *
 * At first they belong to one context, which adds rows. Once shared, they are never written again, and have their values both
 * as rows, for prompts over them, and transposed, for decoding.
 */
export class HeldRows implements SharedRows, Disposable {
  readonly capacity: number;
  readonly slot: DecodeSlot | undefined;
  /** Rows that hold keys and values. */
  length = 0;
  /** Where tokens are decoded: rows up to here are finite, those past `length` zeros. */
  cleared = 0;
  readonly #room: Disposable | undefined;
  /** Where there is no slot. */
  readonly #keys: Region | undefined;
  /** Freed when they are transposed, but for shared rows. */
  #values: Region | undefined;
  /** Of shared rows without a slot. */
  #transposed: Region | undefined;
  #numHolders = 1;
  #isReady = false;
  #gettingReady: Promise<void> | undefined;

  /**
   * @param owned the room taken from the budget and the slot, which belong to these rows once they are made.
   * @param hasValues whether prompts are computed over them before tokens are decoded.
   * @throws Error if the device has not enough memory; `owned` stays the caller's then.
   */
  constructor(
    private readonly memory: KVMemory,
    capacity: number,
    owned: { readonly room?: Disposable | undefined; readonly slot?: DecodeSlot | undefined },
    hasValues: boolean,
  ) {
    this.capacity = roundCapacity(capacity);
    this.slot = owned.slot;
    this.#values = hasValues ? this.#allocate() : undefined;
    try {
      this.#keys = owned.slot ? undefined : this.#allocate();
    } catch (error) {
      this.#values?.[Symbol.dispose]();
      throw error;
    }
    this.#room = owned.room;
  }

  get keys(): KVRows {
    return this.slot?.keys ?? this.#rows(this.#keys as Region);
  }

  /** As rows, or transposed once they are kept in that form alone. */
  get values(): KVRows {
    return this.#values === undefined ? this.decodeValues : this.#rows(this.#values);
  }

  /** @throws Error where no tokens are decoded. */
  get decodeValues(): KVRows {
    if (this.slot !== undefined) return this.slot.decodeValues;
    if (this.#transposed === undefined) throw new Error("Cannot decode: the context has no slot");
    return this.#rows(this.#transposed, "transposed");
  }

  /** How many keys decoding reads of shared rows, zeros past their length among them. */
  get numKeys(): number {
    return roundCapacity(this.length);
  }

  /** One more holder. */
  hold(): this {
    this.#numHolders += 1;
    return this;
  }

  /** One holder less. The last one frees the memory. */
  [Symbol.dispose](): void {
    this.#numHolders -= 1;
    if (this.#numHolders > 0) return;
    for (const owned of [this.#values, this.#transposed, this.#keys, this.slot, this.#room]) owned?.[Symbol.dispose]();
  }

  /** Transposes the values of all rows so far, for one context; again does nothing. From then on only decoding adds rows. */
  async startDecoding(runner: GraphRunner, signal?: AbortSignal): Promise<void> {
    if (this.#values === undefined) return;
    await this.#transpose(runner, this.decodeValues, signal);
    this.cleared = this.length;
    this.#values[Symbol.dispose]();
    this.#values = undefined;
  }

  /** Makes shared rows ready for decoding, once, for all their holders: the first holder that needs it does it. */
  async startSharedDecoding(runner: GraphRunner, signal?: AbortSignal): Promise<void> {
    while (!this.#isReady) {
      if (this.#gettingReady === undefined) {
        this.#gettingReady = this.#getReady(runner, signal).finally(() => {
          this.#gettingReady = undefined;
        });
        await this.#gettingReady;
      } else {
        // If that holder is cancelled, this one does it.
        const done = this.#gettingReady.catch(() => undefined);
        await (signal ? unlessAborted(done, signal) : done);
      }
    }
  }

  async #getReady(runner: GraphRunner, signal: AbortSignal | undefined): Promise<void> {
    if (this.#values !== undefined) {
      if (this.slot === undefined) this.#transposed ??= this.#allocate();
      await this.#transpose(runner, this.decodeValues, signal);
    }
    const { length, numKeys } = this;
    if (length < numKeys) {
      const clear = (graph: Graph): void => {
        for (const rows of [this.keys, this.decodeValues]) rows.clear(graph, length, numKeys - length);
      };
      await runner.run(1, clear, signal);
    }
    this.#isReady = true;
  }

  async #transpose(runner: GraphRunner, into: KVRows, signal: AbortSignal | undefined): Promise<void> {
    const { length } = this;
    const { numLayers, numKvHeads, headSize } = this.memory.shape;
    const { maxNodeElements } = this.memory.backend.policy;
    // Graphs are short as well, so that others' work comes in between.
    const perGraph = Math.max(1, Math.floor((2 * maxNodeElements) / (numKvHeads * headSize * Math.max(1, length))));
    for (let first = 0; first < numLayers && length > 0; first += perGraph) {
      const layers = { first, end: Math.min(numLayers, first + perGraph) };
      const share = (layers.end - layers.first) / numLayers;
      await runner.run(
        Math.ceil((share * length) / transposedRowsPerRow),
        (graph) => transposeValues(graph, this.values, into, layers, length, maxNodeElements),
        signal,
      );
    }
  }

  #allocate(): Region {
    return this.memory.allocate(this.memory.contextType, rowElements(this.memory.shape, this.capacity));
  }

  #rows({ tensor, offset }: Region, layout: "rows" | "transposed" = "rows"): KVRows {
    return new KVRows(this.memory.shape, { tensor, offset, capacity: this.capacity }, layout);
  }
}

import type { Backend, PreparedGraph } from "../ggml/backend.js";
import { DecodeStep } from "../model/decode-step.js";
import type { Decoder } from "../model/decoder.js";
import type { DecodeSlot, SlotGroup } from "./decode-slots.js";

/** Graphs that are kept for the next step of the same sequences. */
const maxKept = 4;
/** What attending over a run costs beside its keys, in keys of one sequence. */
const runOverheadKeys = 512;
/** Numbers of keys go up in steps, so that a graph serves many tokens: small ones first. */
const smallStep = 64;
const largeStep = 256;
const largeFrom = 1024;

/** A sequence that waits for a token. */
interface Sequence {
  readonly slot: DecodeSlot;
  readonly context: { readonly length: number };
}

/** Sequences in neighbouring slots, which are attended over together. */
export interface PlannedRun<S extends Sequence = Sequence> {
  readonly works: S[];
  /** Keys that are read of each. */
  numKeys: number;
}

/** Puts sequences whose slots are neighbours together, unless one of them is so long that the others would wait for it. */
export function planRuns<S extends Sequence>(works: readonly S[]): PlannedRun<S>[] {
  const sorted = [...works].sort((a, b) => a.slot.group.id - b.slot.group.id || a.slot.index - b.slot.index);
  const runs: PlannedRun<S>[] = [];
  for (const work of sorted) {
    const numKeys = keysToRead(work.context.length + 1, work.slot.keys.capacity);
    const run = runs.at(-1);
    const last = run?.works.at(-1)?.slot;
    if (run && last?.group === work.slot.group && last.index + 1 === work.slot.index) {
      const count = run.works.length;
      const most = Math.max(run.numKeys, numKeys);
      if ((count + 1) * most <= count * run.numKeys + numKeys + runOverheadKeys) {
        run.works.push(work);
        run.numKeys = most;
        continue;
      }
    }
    runs.push({ works: [work], numKeys });
  }
  return runs;
}

function keysToRead(numKeys: number, capacity: number): number {
  const step = numKeys <= largeFrom ? smallStep : largeStep;
  return Math.min(capacity, Math.ceil(numKeys / step) * step);
}

interface KeptStep {
  readonly step: DecodeStep;
  readonly prepared: PreparedGraph;
  readonly groups: ReadonlySet<SlotGroup>;
}

/** The graphs of decoding: one that was built for the same slots and numbers of keys is taken again. */
export class DecodeSteps implements Disposable {
  readonly #backend: Backend;
  readonly #decoder: Decoder;
  /** Least recently used first. */
  readonly #kept = new Map<string, KeptStep>();
  #numBuilt = 0;

  constructor(backend: Backend, decoder: Decoder) {
    this.#backend = backend;
    this.#decoder = decoder;
  }

  /** How many were built so far. */
  get numBuilt(): number {
    return this.#numBuilt;
  }

  /** @throws Error if the device has not enough memory. */
  get(runs: readonly PlannedRun[]): KeptStep {
    const key = runs
      .map(({ works, numKeys }) => `${works[0]?.slot.group.id}:${works[0]?.slot.index}+${works.length}x${numKeys}`)
      .join(" ");
    const kept = this.#kept.get(key) ?? this.#build(runs);
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    const [oldest] = this.#kept;
    if (this.#kept.size > maxKept && oldest !== undefined) this.#drop(oldest[0]);
    return kept;
  }

  /** Drops the graphs over slots whose memory goes. */
  forget(group: SlotGroup): void {
    for (const [key, { groups }] of [...this.#kept]) if (groups.has(group)) this.#drop(key);
  }

  [Symbol.dispose](): void {
    for (const key of [...this.#kept.keys()]) this.#drop(key);
  }

  #build(runs: readonly PlannedRun[]): KeptStep {
    this.#numBuilt += 1;
    const step = new DecodeStep(
      this.#decoder,
      runs.map(({ works, numKeys }) => {
        const { group, keys, valuesTransposed } = (works[0] as Sequence).slot;
        return { numSequences: works.length, numKeys, stride: group.stride, keys, valuesTransposed };
      }),
    );
    try {
      const prepared = this.#backend.prepare(step.graph);
      return { step, prepared, groups: new Set(runs.map(({ works }) => (works[0] as Sequence).slot.group)) };
    } catch (error) {
      step[Symbol.dispose]();
      throw error;
    }
  }

  #drop(key: string): void {
    const kept = this.#kept.get(key);
    this.#kept.delete(key);
    kept?.prepared[Symbol.dispose]();
    kept?.step[Symbol.dispose]();
  }
}

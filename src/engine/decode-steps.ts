import type { Backend, PreparedGraph } from "../ggml/backend.js";
import { Graph } from "../ggml/graph.js";
import { greatestFields } from "../ggml/greatest.js";
import { MeasuredRate } from "../kv/measured-loads.js";
import { DecodeStep } from "../model/decode-step.js";
import type { Decoder } from "../model/decoder.js";
import { type GraphSizes, partsOfGraphs } from "../model/graph-sizes.js";
import type { KVRows } from "../model/kv-rows.js";
import type { AssembledContext } from "./assemble.js";
import type { DecodeSlot, SlotGroup } from "./decode-slots.js";
import { type Draft, maxDraftTokens, planRows, RowTimes, rowCounts } from "./drafts.js";
import type { HeldRows } from "./held-rows.js";
import type { LikelyToken } from "./results.js";
import { maxLogits } from "./row-graph.js";
import type { Sampler } from "./sampler.js";

/** Graphs that are kept for the next step of the same sequences. */
const maxKept = 4;
/** What attending over a run costs beside its keys, in keys of one sequence. */
const runOverheadKeys = 512;
/** Numbers of keys go up in steps, so that a graph serves many tokens: small ones first, where a graph is used for each of them. */
const smallStep = 64;
const largeStep = 256;
const largeFrom = 1024;

/** Rows of a context that are cleared together: a sequence needs it once for so many tokens. */
const rowsClearedAtATime = 256;

/** How much of a token's time a right guess saves, about. */
const savedShare = 0.4;

/** A sequence's next token. */
export interface DecodeWork {
  readonly context: Pick<AssembledContext, "slot" | "shared" | "length" | "ownLength" | "cleared" | "scaled">;
  readonly tokenId: number;
  readonly position: number;
  readonly sampleGreatest?: Sampler["sampleGreatest"];
  /** Guesses what may follow the token, at most so many tokens. */
  readonly draft?: ((maxTokens: number) => Draft | undefined) | undefined;
}

/** What came of a sequence's token. */
export interface DecodedRows {
  /** Tokens that were computed after it, in case that they follow it. */
  readonly draftIds: readonly number[];
  /** The logits of what follows the token, and then each of the draft's, [vocabulary], or what was chosen by them. */
  readonly next: readonly (Float32Array | LikelyToken)[];
}

/** Whether drafts are computed: where that is expected to be faster, or so many tokens wherever there is something to guess. */
export type DraftUse = "off" | "auto" | number;

/** A sequence in a step: with its draft, and how many rows the graph has for it. */
interface PlannedWork extends DecodeWork {
  readonly draftIds: readonly number[];
  readonly rows: number;
}

/** Sequences in neighbouring slots with as many rows, which begin with the same shared rows, if any: they are attended over together. */
interface PlannedRun {
  readonly works: PlannedWork[];
  /** The first one's. */
  readonly slot: DecodeSlot;
  /** Keys that are read of each. */
  numKeys: number;
}

/**
 * Puts sequences together whose slots are neighbours and who begin alike, unless one of them is so long that the others
 * would wait for it.
 */
export function planRuns(works: readonly PlannedWork[]): PlannedRun[] {
  const placed = works.map((work) => ({ work, slot: slotOf(work) }));
  placed.sort((a, b) => a.slot.group.id - b.slot.group.id || a.slot.index - b.slot.index);
  const runs: PlannedRun[] = [];
  for (const { work, slot } of placed) {
    const numKeys = keysToRead(work.context.ownLength + work.rows, slot.keys.capacity, work.rows > 1);
    const run = runs.at(-1);
    const isNeighbour = run && run.slot.group === slot.group && run.slot.index + run.works.length === slot.index;
    if (
      isNeighbour &&
      run.works[0]?.rows === work.rows &&
      beginAlike(run, work) &&
      !work.context.scaled &&
      !run.works[0]?.context.scaled
    ) {
      const count = run.works.length;
      const most = Math.max(run.numKeys, numKeys);
      if ((count + 1) * most <= count * run.numKeys + numKeys + runOverheadKeys) {
        run.works.push(work);
        run.numKeys = most;
        continue;
      }
    }
    runs.push({ works: [work], slot, numKeys });
  }
  return runs;
}

function beginAlike({ works }: PlannedRun, { context: { shared } }: DecodeWork): boolean {
  const of = sharedOf(works);
  return of.length === shared.length && of.every((rows, i) => rows === shared[i]);
}

function slotOf({ context }: DecodeWork): DecodeSlot {
  if (context.slot === undefined) throw new Error("Cannot decode: the context has no slot");
  return context.slot;
}

/** The keys that a sequence has, on average. */
function keysOf(works: readonly DecodeWork[]): number {
  return works.reduce((sum, { context }) => sum + context.length, 0) / works.length;
}

function sharedOf([first]: readonly DecodeWork[]): readonly HeldRows[] {
  return first?.context.shared ?? [];
}

function keysToRead(numKeys: number, capacity: number, isDraft: boolean): number {
  const step = numKeys <= largeFrom && !isDraft ? smallStep : largeStep;
  return Math.min(capacity, Math.ceil(numKeys / step) * step);
}

interface KeptStep {
  readonly step: DecodeStep;
  readonly prepared: PreparedGraph;
  readonly groups: ReadonlySet<SlotGroup>;
}

/** The graphs of decoding. One that was built for the same slots and numbers of keys is used again. */
export class DecodeSteps implements Disposable {
  /** Least recently used first. */
  readonly #kept = new Map<string, KeptStep>();
  readonly #times = new RowTimes();
  readonly #ids = new WeakMap<HeldRows, number>();
  #numIds = 0;
  #numBuilt = 0;
  /** What building a graph takes. */
  readonly #buildTime = new MeasuredRate();

  constructor(
    private readonly backend: Backend,
    private readonly decoder: Decoder,
    private readonly sizes: Pick<GraphSizes, "maxRuns">,
    private readonly drafts: DraftUse = "off",
  ) {}

  /** How many were built so far. */
  get numBuilt(): number {
    return this.#numBuilt;
  }

  /**
   * Computes a token of each sequence, and drafts; the token's key and value join the sequence's context, and the draft's stand behind its
   * length. Logits are read once, of all sequences of a graph, unless each of them chooses by the greatest.
   * @returns in the order of the works.
   * @throws the signal's reason; Error if the device fails: the contexts are as they were then.
   */
  async compute(works: readonly DecodeWork[], signal: AbortSignal): Promise<DecodedRows[]> {
    const planned = this.#planDrafts(works);
    const runs = planRuns(planned);
    await this.#clear(runs, signal);
    const maxRuns = this.sizes.maxRuns(Math.max(...works.map(({ context }) => context.shared.length)));
    const found = new Map<DecodeWork, DecodedRows>();
    for (let first = 0; first < runs.length; first += maxRuns) {
      const some = runs.slice(first, first + maxRuns);
      const { step, prepared, isNew } = this.#get(some);
      const ordered = some.flatMap((run) => run.works);
      step.set(
        ordered.map(({ tokenId, draftIds, position, context }) => {
          return { tokenIds: [tokenId, ...draftIds], position, past: context.ownLength };
        }),
      );
      const read = () => this.#greatest(step, ordered) ?? this.#logits(step);
      const from = performance.now();
      const all = await this.backend.compute(prepared, read, signal);
      if (this.drafts === "auto" && !isNew && runs.length <= maxRuns) {
        this.#times.add(step.numRows, keysOf(ordered), performance.now() - from);
      }
      let row = 0;
      for (const work of ordered) {
        const next = all.slice(row, row + 1 + work.draftIds.length);
        found.set(work, { draftIds: work.draftIds, next });
        row += work.rows;
      }
    }
    return planned.map((work) => {
      work.context.length += 1;
      return found.get(work) as DecodedRows;
    });
  }

  #planDrafts(works: readonly DecodeWork[]): PlannedWork[] {
    const { drafts } = this;
    if (drafts === "off") return works.map((work) => ({ ...work, rows: 1, draftIds: [] }));
    const numKeys = keysOf(works);
    // Graphs of drafts have to be built first: short answers end before that pays.
    const buildMs = drafts === "auto" ? (this.#buildTime.timeOf(1) ?? 0) : 0;
    const savedMs = savedShare * this.#times.timeOf(1, numKeys);
    const guessed = works.map(({ draft, context: { scaled, slot, ownLength } }) => {
      if (scaled !== undefined) return undefined;
      // The graph writes rows that make a draft's number up, too.
      const room = (slot?.keys.capacity ?? 0) - ownLength;
      const most = rowCounts.findLast((rows) => rows <= room) ?? 1;
      const guess = draft?.(Math.min(most - 1, drafts === "auto" ? maxDraftTokens : drafts));
      return guess && guess.numRight * savedMs >= buildMs ? guess : undefined;
    });
    const timeOf = drafts === "auto" ? (numRows: number) => this.#times.timeOf(numRows, numKeys) : undefined;
    const rows = planRows(guessed, Math.floor(maxLogits / this.decoder.config.vocabSize), timeOf);
    return works.map((work, i) => {
      const planned = rows[i] as number;
      return { ...work, rows: planned, draftIds: guessed[i]?.tokenIds.slice(0, planned - 1) ?? [] };
    });
  }

  /** What the greatest logits decide; undefined where they do not, of one row at least. */
  #greatest({ greatest }: DecodeStep, works: readonly PlannedWork[]): LikelyToken[] | undefined {
    if (greatest === undefined) return undefined;
    const all = this.backend.readFloats(greatest);
    const samplers = works.flatMap(
      ({ rows, sampleGreatest }) => Array(rows).fill(sampleGreatest) as [typeof sampleGreatest],
    );
    const chosen = samplers.map((sampleGreatest, i) => {
      const [id, logit, numLess] = all.subarray(i * greatestFields) as unknown as [number, number, number];
      return sampleGreatest?.({ id, logit, numLess });
    });
    return chosen.every((token) => token !== undefined) ? chosen : undefined;
  }

  #logits({ logits, numRows }: DecodeStep): Float32Array[] {
    const all = this.backend.readFloats(logits);
    const { vocabSize } = this.decoder.config;
    return Array.from({ length: numRows }, (_, i) => all.subarray(i * vocabSize, (i + 1) * vocabSize));
  }

  /** Drops the graphs over slots whose memory is freed. */
  forget(group: SlotGroup): void {
    for (const [key, { groups }] of [...this.#kept]) if (groups.has(group)) this.#drop(key);
  }

  [Symbol.dispose](): void {
    for (const key of [...this.#kept.keys()]) this.#drop(key);
  }

  /** Zeroes rows that a step reads past a context's length: hidden keys and values must be finite. */
  async #clear(runs: readonly PlannedRun[], signal: AbortSignal): Promise<void> {
    const tails = runs.flatMap(({ works, numKeys }) =>
      works
        .filter(({ context }) => context.cleared < numKeys)
        .map((work) => ({ ...work, slot: slotOf(work), numKeys })),
    );
    if (tails.length === 0) return;
    const ends = tails.map(({ slot, context, numKeys }) =>
      Math.min(slot.keys.capacity, Math.max(numKeys, context.cleared + rowsClearedAtATime)),
    );
    const clears = tails.map(({ slot, context }, i) => (graph: Graph) => {
      const count = (ends[i] as number) - context.cleared;
      for (const rows of [slot.keys, slot.decodeValues]) rows.clear(graph, context.cleared, count);
    });
    for (const fill of partsOfGraphs(this.decoder.ggml, clears)) {
      using graph = new Graph(this.decoder.ggml);
      fill(graph);
      await this.backend.compute(graph, () => undefined, signal);
    }
    for (const [i, { context }] of tails.entries()) context.cleared = ends[i] as number;
  }

  #get(runs: readonly PlannedRun[]): KeptStep & { readonly isNew: boolean } {
    const works = runs.flatMap((run) => run.works);
    const choosesGreatest =
      this.decoder.device.choosesGreatest && works.every(({ sampleGreatest }) => sampleGreatest !== undefined);
    const sequences = runs
      .map(({ works, slot, numKeys }) => {
        const shared = sharedOf(works).map((rows) => this.#idOf(rows));
        const { ranges = [], power } = works[0]?.context.scaled ?? {};
        const scaled = power === undefined ? "" : ` scaled ${power} in ${ranges.join()}`;
        return `${slot.group.id}:${slot.index}+${works.length}x${works[0]?.rows}x${numKeys} after ${shared.join()}${scaled}`;
      })
      .join(" ");
    const key = `${choosesGreatest ? "greatest" : "logits"} of ${sequences}`;
    const known = this.#kept.get(key);
    const kept = known ?? this.#build(runs, choosesGreatest);
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    const [oldest] = this.#kept;
    if (this.#kept.size > maxKept && oldest !== undefined) this.#drop(oldest[0]);
    return { ...kept, isNew: known === undefined };
  }

  /** A number for shared rows, so that no graph over freed rows is used for others in their memory. */
  #idOf(shared: HeldRows): number {
    const id = this.#ids.get(shared) ?? this.#numIds++;
    this.#ids.set(shared, id);
    return id;
  }

  #build(runs: readonly PlannedRun[], choosesGreatest: boolean): KeptStep {
    this.#numBuilt += 1;
    const from = performance.now();
    const step = new DecodeStep(
      this.decoder,
      runs.map(({ works, slot: { group, keys, decodeValues }, numKeys }) => {
        const shared = sharedOf(works);
        const all = (rows: KVRows) => rows.sideBySide(works.length, group.stride);
        const scaled = works[0]?.context.scaled;
        const rowsEach = works[0]?.rows;
        return { numKeys, rowsEach, keys: all(keys), decodeValues: all(decodeValues), shared, scaled };
      }),
      choosesGreatest,
    );
    try {
      const prepared = this.backend.prepare(step.graph);
      this.#buildTime.add(1, performance.now() - from);
      return { step, prepared, groups: new Set(runs.map(({ slot }) => slot.group)) };
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

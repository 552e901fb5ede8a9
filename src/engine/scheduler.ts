import { setImmediate as nextTurn } from "node:timers/promises";
import { elementTypeOf, type KVType } from "../files/element-types.js";
import type { Backend } from "../ggml/backend.js";
import { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import { BlockKV } from "../kv/block-kv.js";
import { MeasuredRate } from "../kv/measured-loads.js";
import { type Decoder, pieceRows } from "../model/decoder.js";
import { GraphSizes } from "../model/graph-sizes.js";
import { listOf, type RowSpan, spansFrom } from "../model/rows.js";
import type { Admission } from "./admission.js";
import { AssembledContext, requireRoom } from "./assemble.js";
import { DecodeSlots, type SlotGroup } from "./decode-slots.js";
import { type DecodedRows, DecodeSteps, type DraftUse } from "./decode-steps.js";
import { type Decoded, Decodings, type Stepped } from "./decodings.js";
import { blockShape, DeviceBlockMemory } from "./device-memory.js";
import type { GraphRunner, HeldRows } from "./held-rows.js";
import { KVMemory } from "./kv-memory.js";
import type { SchedulerStats } from "./results.js";
import { RowGraph } from "./row-graph.js";
import { type PrefillPart, RowQueue, type RowWork } from "./row-queue.js";
import { type AnyTask, inTurns, Task } from "./task.js";

/** The most rows of prompts and blocks in one graph while others decode, so that their tokens keep flowing. */
const maxRowsBesideDecoding = 128;
/** Longer blocks are encoded in pieces (`RowGraph`), so that they stop others' tokens for no longer than a prompt does. */
const longBlockRows = 512;

/** Whose work it is, and what gives it up. */
export interface WorkOf {
  /** Whose share of the machine it takes. Default "": nobody's in particular. */
  readonly payer?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Computes what all requests need, a step at a time, in a loop of its own that runs while there is work. `step()` explains
 * the engine. It is the one queue before the device, and the one place where computing is cancelled.
 *
 * A cancelled request's work leaves the queue at once. A graph that others need goes on, and the memory that it writes stays
 * until it has ended (`AssembledContext.pin()`); a graph that nobody needs any more is stopped.
 */
export class Scheduler implements Disposable {
  /** The keys and values of all blocks and contexts. */
  readonly memory: KVMemory;
  /** Room for the sequences that decode. */
  readonly slots: DecodeSlots;
  /** Whether drafts are computed. */
  readonly drafts: DraftUse;
  readonly #admission: Admission | undefined;
  readonly #steps: DecodeSteps;
  readonly #queue: RowQueue;
  readonly #sizes: GraphSizes;
  readonly #decodings = new Decodings(() => this.wake());
  #running: { readonly tasks: readonly AnyTask[]; readonly stop: AbortController } | undefined;
  #loop: Promise<void> | undefined;
  /** Of rows of blocks and prompts. Few of them take as long as some more. */
  readonly prefillRate = new MeasuredRate(32);
  readonly #stats = { decodeGraphs: 0, decodedTokens: 0, rowGraphs: 0, rows: 0, maxRowsBesideDecoding: 0 };

  /**
   * @param options.admission whose places are given away in each step.
   * @param options.contextCapBytes the most bytes of contexts: spare slots are made only up to there.
   * @param options.drafts whether drafts are computed. Default "off".
   */
  constructor(
    private readonly backend: Backend,
    private readonly decoder: Decoder,
    kvType: KVType,
    options: { readonly admission?: Admission; readonly contextCapBytes?: number; readonly drafts?: DraftUse } = {},
  ) {
    const { admission, contextCapBytes: capBytes = Number.POSITIVE_INFINITY, drafts = "off" } = options;
    this.drafts = drafts;
    this.memory = new KVMemory(backend, decoder.config, kvType);
    this.#sizes = new GraphSizes(decoder, this.memory.contextType, elementTypeOf(kvType));
    this.#steps = new DecodeSteps(backend, decoder, this.#sizes, drafts);
    const onFree = (group: SlotGroup) => this.#steps.forget(group);
    this.slots = new DecodeSlots(this.memory, { capBytes, onFree });
    // Fewer rows than a group are none.
    this.#queue = new RowQueue(Math.max(decoder.device.pieceStep, decoder.device.rowGroup));
    this.#admission = admission;
    if (admission) admission.onWaiting = () => this.wake();
  }

  get stats(): SchedulerStats {
    const { computed: draftTokens, accepted: acceptedDraftTokens } = this.#decodings.drafts;
    const decodedTokens = this.#stats.decodedTokens + acceptedDraftTokens;
    return { ...this.#stats, decodedTokens, draftTokens, acceptedDraftTokens, builtDecodeGraphs: this.#steps.numBuilt };
  }

  /**
   * One step of the engine: all requests advance, decoding by one graph, and blocks and prompts by another.
   *
   * Requests hand their work in by `decode()`, `encode()`, `prefill()` and `runnerOf()`, and wait for what comes of it.
   */
  async step(): Promise<void> {
    // Admit: answers that wait get free places, with memory. The first work of an admitted answer may join this step.
    if (this.#admission && this.#admission.admit() > 0) await nextTurn();
    // Decode: one token of every sequence in one graph, so that weights are read once for all; with it the tokens of drafts.
    const decoded = await this.#decode();
    // Encode and prefill: contexts are laid out, then blocks and pieces of prompts of several requests share one graph.
    // Meanwhile sequences sample their next tokens from the logits.
    await Promise.all([this.#encodeAndPrefill(), this.#decodings.sample(decoded)]);
  }

  /**
   * Decodes a sequence until it has enough.
   *
   * @throws the signal's reason, what `take` throws, or the device's error; the context is of no use then.
   */
  async decode(sequence: Stepped, { payer, signal }: WorkOf = {}): Promise<void> {
    await sequence.context.startDecoding(this.runnerOf(payer), signal);
    const task = this.#task<void>(signal);
    this.#decodings.add(task, sequence);
    this.wake();
    return task.promise;
  }

  /**
   * Encodes blocks, each attending to itself alone, and to what stands before each of them: its keys and values depend on these tokens and
   * the model alone, byte for byte (invariant I2), whatever stands in the graph beside it.
   *
   * @param blocks the tokens of each, none empty.
   * @param before a preamble's rows, turned to places from 0 on.
   * @yields the blocks, in order, as they are done; each belongs to the caller from then on.
   * @throws the signal's reason, or the device's error; blocks that were not yielded are freed.
   */
  async *encode(
    blocks: readonly Int32Array[],
    of: WorkOf = {},
    before?: HeldRows,
  ): AsyncGenerator<BlockKV<DeviceBlockMemory>> {
    const isLong = (block: Int32Array | undefined) => block !== undefined && block.length > longBlockRows;
    for (let next = 0; next < blocks.length; ) {
      if (isLong(blocks[next])) {
        yield await this.#encodeLong(blocks[next] as Int32Array, of, before);
        next += 1;
        continue;
      }
      const nextLong = blocks.findIndex((block, i) => i > next && isLong(block));
      const task = this.#task<BlockKV<DeviceBlockMemory>[]>(of.signal);
      const some = blocks.slice(next, nextLong < 0 ? undefined : nextLong);
      this.#enqueue({ kind: "encode", owner: of.payer ?? "", task, blocks: some, before });
      const made = await task.promise;
      next += made.length;
      let numGiven = 0;
      try {
        for (const block of made) {
          numGiven += 1;
          yield block;
        }
      } finally {
        for (const block of made.slice(numGiven)) block[Symbol.dispose]();
      }
    }
  }

  /**
   * Computes tokens over an assembled context, in pieces; their keys and values join the context.
   *
   * @param positions of each token, or of the first one: the others follow.
   * @param firstWanted the first token whose logits are wanted, counted from the first of these; the rest after it too.
   * @param spans what the tokens see, all of them in order. Default: each token sees all before it.
   * @param places where each is written, ascending: rows that the context holds are computed again there. Default: from its
   * length on.
   * @yields the logits of each wanted token [vocabulary], in order.
   * @throws the signal's reason or the device's error; the context is of no use then.
   */
  async *prefill(
    context: AssembledContext,
    tokenIds: Int32Array,
    positions: number | Int32Array,
    firstWanted: number,
    { payer: owner = "", signal }: WorkOf = {},
    spans: readonly RowSpan[] = [{ kind: "global", numRows: tokenIds.length }],
    places?: Int32Array,
  ): AsyncGenerator<Float32Array> {
    if (places === undefined) requireRoom(context, tokenIds.length);
    let place = context.length;
    const placed = spans.map((span) => {
      const from = place;
      place += span.numRows;
      return span.kind === "local" ? { from, ...span } : span;
    });
    const all = listOf(positions, tokenIds.length);
    for (let first = 0; first < tokenIds.length; ) {
      const task = this.#task<PrefillPart>(signal);
      this.#enqueue({
        kind: "prefill",
        owner,
        task,
        context,
        tokenIds: tokenIds.subarray(first),
        positions: all.subarray(first),
        places: places?.subarray(first),
        spans: spansFrom(placed, first),
        firstWanted: Math.max(0, firstWanted - first),
      });
      const { count, logits } = await task.promise;
      first += count;
      yield* inTurns(logits);
    }
  }

  /** Computes graphs that a request builds itself, for instance those that lay out its context. */
  runnerOf(owner = ""): GraphRunner {
    const run = (rows: number, fill: (graph: Graph) => Tensor | undefined, signal?: AbortSignal) => {
      const task = this.#task<Float32Array | undefined>(signal);
      this.#enqueue({ kind: "graph", owner, task, rows, fill });
      return task.promise;
    };
    return {
      run: async (rows, fill, signal) => {
        await run(
          rows,
          (graph) => {
            fill(graph);
            return undefined;
          },
          signal,
        );
      },
      read: async (...work) => (await run(...work)) as Float32Array,
    };
  }

  /** Starts the loop unless it runs: there is new work, a reader has room again, or answers wait for places. */
  wake(): void {
    this.#loop ??= this.#work().finally(() => {
      this.#loop = undefined;
      if (this.#hasWork) this.wake();
    });
  }

  /** Frees the graphs that it keeps. Only when it is idle. */
  [Symbol.dispose](): void {
    this.#steps[Symbol.dispose]();
  }

  /** Resolves once nothing is in line or under way. */
  async idle(): Promise<void> {
    while (this.#loop !== undefined) await this.#loop;
  }

  /** Encodes a block in pieces, so that it delays others' tokens by no more than a prompt does. */
  async #encodeLong(
    tokenIds: Int32Array,
    { payer: owner = "", signal }: WorkOf,
    before: HeldRows | undefined,
  ): Promise<BlockKV<DeviceBlockMemory>> {
    signal?.throwIfAborted();
    const shape = blockShape(this.decoder, this.memory.kvType, tokenIds.length);
    const kv = new BlockKV(shape, new DeviceBlockMemory(this.memory, shape));
    const block = { kv, place: before?.length ?? 0 };
    let isDone = false;
    // Freed with the context, and so not while a graph writes it.
    const unlessDone = { [Symbol.dispose]: () => (isDone ? undefined : kv[Symbol.dispose]()) };
    let context: AssembledContext;
    try {
      const shared = before === undefined ? [] : [before];
      context = new AssembledContext(this.memory, block.place + tokenIds.length, { room: unlessDone, shared });
    } catch (error) {
      unlessDone[Symbol.dispose]();
      throw error;
    }
    using scratch = context;
    while (scratch.length < block.place + tokenIds.length) {
      const task = this.#task<PrefillPart>(signal);
      const rest = tokenIds.subarray(scratch.length - block.place);
      const work = { context: scratch, tokenIds: rest, positions: scratch.length, firstWanted: rest.length, block };
      this.#enqueue({ kind: "prefill", owner, task, ...work });
      await task.promise;
    }
    isDone = true;
    return kv;
  }

  #task<T>(signal: AbortSignal | undefined): Task<T> {
    return new Task<T>(signal, (task) => this.#cancel(task));
  }

  #enqueue(work: RowWork): void {
    this.#queue.add(work);
    this.wake();
  }

  #cancel(task: AnyTask): void {
    if (task.state === "queued") {
      this.#queue.remove(task);
      task.fail(undefined);
    } else if (this.#running?.tasks.every(({ isCancelled }) => isCancelled)) {
      // Nobody needs the graph: it is stopped, and its requests go on once it writes no more.
      this.#running.stop.abort();
    } else {
      task.leave();
    }
    this.#decodings.forgetEnded();
  }

  get #hasWork(): boolean {
    return !this.#queue.isEmpty || this.#decodings.isDecoding || this.#admission?.hasWaiting === true;
  }

  async #work(): Promise<void> {
    // Work that is handed in at the same time shares the first graph.
    await nextTurn();
    while (this.#hasWork) {
      // What none of its parts took as its own failure would come again in every step: everybody gets it, once.
      await this.step().catch((error: unknown) => this.#failAll(error));
      await nextTurn();
    }
  }

  #failAll(error: unknown): void {
    for (const task of [...this.#queue.tasks, ...this.#decodings.tasks]) task.fail(error);
    this.#queue.clear();
    this.#decodings.clear();
  }

  async #decode(): Promise<Decoded[]> {
    const works = this.#decodings.works();
    const decoded: Decoded[] = [];
    if (works.length > 0) {
      this.#stats.decodeGraphs += 1;
      this.#stats.decodedTokens += works.length;
      await this.#whileRunning(works, async (signal) => {
        const all = await this.#steps.compute(works, signal);
        for (const [i, { task, sequence }] of works.entries()) {
          decoded.push({ task, sequence, ...(all[i] as DecodedRows) });
          task.rest();
        }
      });
      for (const { pin } of works) pin[Symbol.dispose]();
    }
    this.#decodings.forgetEnded();
    return decoded;
  }

  /** Computes graphs that requests build themselves while they are first in line, then one of blocks and pieces of prompts. Never throws. */
  async #encodeAndPrefill(): Promise<void> {
    const isBesideDecoding = this.#decodings.isDecoding;
    const full = pieceRows(this.decoder);
    let left = isBesideDecoding ? Math.min(full, maxRowsBesideDecoding) : full;
    for (let own = this.#queue.takeOwnGraph(); own; own = left > 0 ? this.#queue.takeOwnGraph() : undefined) {
      left -= own.rows;
      await this.#computeOwn(own);
      // The request whose context is laid out now hands in its prompt.
      await nextTurn();
    }
    if (left <= 0) return;
    const graph = new RowGraph(this.decoder, this.memory, this.#sizes);
    const shares = this.#queue.take(left, (work, maxRows) => graph.add(work, maxRows));
    if (shares.length === 0) return;
    const numRows = shares.reduce((sum, share) => sum + share.numRows, 0);
    this.#stats.rowGraphs += 1;
    this.#stats.rows += numRows;
    if (isBesideDecoding) this.#stats.maxRowsBesideDecoding = Math.max(this.#stats.maxRowsBesideDecoding, numRows);
    const computed = this.#whileRunning(shares, (signal) => graph.compute(this.backend, signal));
    await this.prefillRate.during(numRows, computed);
    graph.release();
  }

  async #computeOwn({ task, fill }: RowWork & { kind: "graph" }): Promise<void> {
    await this.#whileRunning([{ task }], async (signal) => {
      using graph = new Graph(this.decoder.ggml);
      const wanted = fill(graph);
      const read = () => (wanted ? this.backend.readFloats(wanted) : undefined);
      task.resolve(await this.backend.compute(graph, read, signal));
    });
  }

  async #whileRunning(
    members: readonly { readonly task: AnyTask }[],
    compute: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const tasks = members.map(({ task }) => task);
    const stop = new AbortController();
    for (const task of tasks) task.start();
    this.#running = { tasks, stop };
    try {
      await compute(stop.signal);
    } catch (error) {
      for (const task of tasks) task.fail(error);
    } finally {
      this.#running = undefined;
    }
  }
}

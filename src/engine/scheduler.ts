import { setImmediate as nextTurn } from "node:timers/promises";
import type { KVType } from "../files/element-types.js";
import type { Backend } from "../ggml/backend.js";
import { Graph } from "../ggml/graph.js";
import { BlockKV } from "../kv/block-kv.js";
import { type Decoder, forward, pieceRows, type RowSpan, rowGroup, type WantedLogits } from "../model/decoder.js";
import { AssembledContext } from "./assemble.js";
import { DecodeSlots, type SlotGroup } from "./decode-slots.js";
import { DecodeSteps, type DecodeWork } from "./decode-steps.js";
import { DeviceBlockMemory } from "./device-memory.js";
import { blockShape, blocksPerGraph } from "./encode-block.js";
import { type AnyTask, Task } from "./task.js";

/** The most logits of one graph, in elements: 64 MiB. */
const maxLogits = 1 << 24;
/** The most rows of prompts and blocks in one graph while others decode, so that their tokens keep flowing. */
const maxRowsBesideDecoding = 128;
/** A piece that is no prompt's end has at least so many rows, a tile of attention: fewer cost as much. */
const minPieceRows = 64;
/** Longer blocks are encoded in pieces, always the same: a block's bytes must not depend on what else is under way. */
const longBlockRows = 512;
const blockPieceRows = 128;
/** Who reads many rows' logits gives the event loop a turn after so long. */
const maxReadingMs = 10;
/** For so many turns after a decoded token its sequence is expected to ask for the next. */
const turnsOfDecoding = 3;

interface PrefillPart {
  /** How many tokens were computed. */
  readonly count: number;
  /** Of the tokens among them whose logits are wanted. */
  readonly logits: readonly Float32Array[];
}

/** Work in line: each visit takes what there is room for, and the request hands the rest in again. */
type RowWork = RowWorkKind & {
  /** Its place in the order in which work was handed in. */
  readonly order: number;
};
type RowWorkKind =
  | {
      readonly kind: "encode";
      readonly task: Task<BlockKV<DeviceBlockMemory>[]>;
      readonly blocks: readonly Int32Array[];
    }
  | {
      readonly kind: "prefill";
      readonly task: Task<PrefillPart>;
      readonly context: AssembledContext;
      readonly tokenIds: Int32Array;
      readonly position: number;
      readonly firstWanted: number;
      /** The block that this is a piece of: its pieces are always the same. */
      readonly block?: BlockKV<DeviceBlockMemory>;
    }
  | {
      readonly kind: "graph";
      readonly task: Task<void>;
      readonly rows: number;
      readonly maxNodes: number;
      readonly fill: (graph: Graph) => void;
    };

interface DecodeTask extends DecodeWork {
  readonly task: Task<Float32Array>;
  readonly context: AssembledContext;
}

/** What its request still has to compute in this stage, in rows. */
function rowsLeft(work: RowWorkKind): number {
  switch (work.kind) {
    case "encode":
      return work.blocks.reduce((sum, { length }) => sum + length, 0);
    case "prefill":
      return work.tokenIds.length;
    case "graph":
      return work.rows;
    default:
      return work satisfies never;
  }
}

/** One request's share of a graph. */
interface Share {
  readonly task: AnyTask;
  readonly spans: readonly RowSpan[];
  readonly numRows: number;
  /** Rows of the last span whose logits are wanted, the last ones of it. */
  readonly numWanted: number;
  /** Hands out what was computed. */
  readonly deliver: (logits: readonly Float32Array[]) => void;
  /** After the graph, whatever came of it. */
  readonly release: () => void;
}

/** What a scheduler did so far; counters never go down. */
export interface SchedulerStats {
  readonly decodeGraphs: number;
  readonly decodedTokens: number;
  /** How many of the decode graphs were built, and not just computed again. */
  readonly builtDecodeGraphs: number;
  /** Graphs of prompts' pieces and of blocks. */
  readonly rowGraphs: number;
  readonly rows: number;
  /** The most rows of prompts and blocks that stood in one graph while sequences were decoding. */
  readonly maxRowsBesideDecoding: number;
}

/**
 * Composes graphs of many requests' work, and has one computed at a time: a graph of all sequences that wait for a
 * token, so that weights are read once for all, then one graph of prompts' pieces and blocks, and so on. Those graphs take
 * work in rotation and by who has the least left, in turn.
 *
 * Each request hands in its next piece of work when it has the result of the one before: a request whose reader pauses
 * is just not in the next graph. Cancelling takes work out at once. A graph that others need goes on, and the memory it
 * writes stays until it has ended (`AssembledContext.pin()`); a graph that nobody needs any more is stopped.
 */
export class Scheduler implements Disposable {
  /** Where sequences that are decoded lie. */
  readonly slots: DecodeSlots;
  readonly #backend: Backend;
  readonly #decoder: Decoder;
  readonly #kvType: KVType;
  readonly #steps: DecodeSteps;
  #queue: RowWork[] = [];
  #numEnqueued = 0;
  readonly #decodes = new Map<AssembledContext, DecodeTask>();
  #running: { readonly tasks: readonly AnyTask[]; readonly stop: AbortController } | undefined;
  #loop: Promise<void> | undefined;
  #turnsSinceDecoding = Number.POSITIVE_INFINITY;
  readonly #stats = { decodeGraphs: 0, decodedTokens: 0, rowGraphs: 0, rows: 0, maxRowsBesideDecoding: 0 };

  /** @param contextCapBytes the most bytes of contexts: spare slots are made only up to there. */
  constructor(backend: Backend, decoder: Decoder, kvType: KVType, contextCapBytes = Number.POSITIVE_INFINITY) {
    this.#steps = new DecodeSteps(backend, decoder);
    const onFree = (group: SlotGroup) => this.#steps.forget(group);
    this.slots = new DecodeSlots(backend, decoder, kvType, { capBytes: contextCapBytes, onFree });
    this.#backend = backend;
    this.#decoder = decoder;
    this.#kvType = kvType;
  }

  get stats(): SchedulerStats {
    return { ...this.#stats, builtDecodeGraphs: this.#steps.numBuilt };
  }

  /**
   * Encodes blocks, each attending to itself alone: its keys and values depend on its tokens and the model alone, byte
   * for byte (invariant I2), whatever stands in the graph beside it.
   *
   * @param blocks the ids of each block, none empty.
   * @yields the blocks, in order, as they are done; each is the caller's once it is given.
   * @throws the signal's reason, or the device's error; nothing that was not given stays allocated.
   */
  async *encode(blocks: readonly Int32Array[], signal?: AbortSignal): AsyncGenerator<BlockKV<DeviceBlockMemory>> {
    const isLong = (block: Int32Array | undefined) => block !== undefined && block.length > longBlockRows;
    for (let next = 0; next < blocks.length; ) {
      if (isLong(blocks[next])) {
        yield await this.#encodeLong(blocks[next] as Int32Array, signal);
        next += 1;
        continue;
      }
      const nextLong = blocks.findIndex((block, i) => i > next && isLong(block));
      const task = this.#task<BlockKV<DeviceBlockMemory>[]>(signal);
      this.#enqueue({ kind: "encode", task, blocks: blocks.slice(next, nextLong < 0 ? undefined : nextLong) });
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
   * Computes tokens over an assembled context, in pieces, each seeing all before it; their keys and values join the
   * context.
   *
   * @param position of the first token; the others follow.
   * @param firstWanted the first token whose logits are wanted, counted from the first of these; the rest after it too.
   * @yields the logits of each wanted token [vocabulary], in order.
   * @throws the signal's reason or the device's error; the context is of no use then.
   */
  async *prefill(
    context: AssembledContext,
    tokenIds: Int32Array,
    position: number,
    firstWanted: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Float32Array> {
    requireRoom(context, tokenIds.length);
    for (let first = 0; first < tokenIds.length; ) {
      const task = this.#task<PrefillPart>(signal);
      this.#enqueue({
        kind: "prefill",
        task,
        context,
        tokenIds: tokenIds.subarray(first),
        position: position + first,
        firstWanted: Math.max(0, firstWanted - first),
      });
      const { count, logits } = await task.promise;
      first += count;
      let turnFrom = performance.now();
      for (const row of logits) {
        yield row;
        if (performance.now() - turnFrom < maxReadingMs) continue;
        await nextTurn();
        turnFrom = performance.now();
      }
    }
  }

  /**
   * Computes one token over a context, which its key and value join.
   *
   * @returns the logits of what follows it, [vocabulary].
   * @throws RangeError if the context is full; the signal's reason or the device's error.
   */
  async decode(
    context: AssembledContext,
    tokenId: number,
    position: number,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    requireRoom(context, 1);
    await context.startDecoding(this, signal);
    if (this.#decodes.has(context)) throw new Error("Cannot decode: another token of the context is under way");
    const task = this.#task<Float32Array>(signal);
    this.#decodes.set(context, { task, context, tokenId, position });
    this.#wake();
    return task.promise;
  }

  /**
   * Computes a graph of one request's own, for instance one that lays out its context.
   *
   * @param rows what it costs, as if it were so many rows of a prompt.
   * @param maxNodes the most tensors that the graph will hold.
   * @throws the signal's reason, once the graph has stopped; the device's error.
   */
  async run(rows: number, maxNodes: number, fill: (graph: Graph) => void, signal?: AbortSignal): Promise<void> {
    const task = this.#task<void>(signal);
    this.#enqueue({ kind: "graph", task, rows, maxNodes, fill });
    return task.promise;
  }

  /** Frees what it keeps from graph to graph. Only when it is idle. */
  [Symbol.dispose](): void {
    this.#steps[Symbol.dispose]();
  }

  /** Resolves once nothing is in line or under way. */
  async idle(): Promise<void> {
    while (this.#loop !== undefined) await this.#loop;
  }

  /** A block in pieces of its own, so that it stops others' tokens for no longer than a prompt does. */
  async #encodeLong(tokenIds: Int32Array, signal: AbortSignal | undefined): Promise<BlockKV<DeviceBlockMemory>> {
    signal?.throwIfAborted();
    const shape = blockShape(this.#decoder, this.#kvType, tokenIds.length);
    const block = new BlockKV(shape, new DeviceBlockMemory(this.#backend, shape));
    let isDone = false;
    // Freed with the context: not under a graph.
    const unlessDone = { [Symbol.dispose]: () => (isDone ? undefined : block[Symbol.dispose]()) };
    let context: AssembledContext;
    try {
      context = new AssembledContext(this.#backend, this.#decoder, this.#kvType, tokenIds.length, { room: unlessDone });
    } catch (error) {
      unlessDone[Symbol.dispose]();
      throw error;
    }
    using scratch = context;
    while (scratch.length < tokenIds.length) {
      const task = this.#task<PrefillPart>(signal);
      const rest = tokenIds.subarray(scratch.length);
      const work = { context: scratch, tokenIds: rest, position: scratch.length, firstWanted: rest.length, block };
      this.#enqueue({ kind: "prefill", task, ...work });
      await task.promise;
    }
    isDone = true;
    return block;
  }

  #task<T>(signal: AbortSignal | undefined): Task<T> {
    return new Task<T>(signal, (task) => this.#cancel(task));
  }

  #enqueue(work: RowWorkKind): void {
    this.#queue.push({ ...work, order: this.#numEnqueued });
    this.#numEnqueued += 1;
    this.#wake();
  }

  #cancel(task: AnyTask): void {
    if (task.state === "queued") {
      this.#queue = this.#queue.filter((work) => work.task !== task);
      for (const [context, work] of this.#decodes) if (work.task === task) this.#decodes.delete(context);
      task.fail(undefined);
      return;
    }
    // A graph that nobody needs is stopped; who cancelled it goes on when it writes no more.
    if (this.#running?.tasks.every(({ isCancelled }) => isCancelled)) this.#running.stop.abort();
    else task.leave();
  }

  #wake(): void {
    this.#loop ??= this.#work().finally(() => {
      this.#loop = undefined;
      if (this.#hasWork) this.#wake();
    });
  }

  get #hasWork(): boolean {
    return this.#queue.length > 0 || this.#decodes.size > 0;
  }

  async #work(): Promise<void> {
    // What is handed in at the same time shares the first graph.
    await nextTurn();
    while (this.#hasWork) {
      this.#turnsSinceDecoding = this.#decodes.size > 0 ? 0 : this.#turnsSinceDecoding + 1;
      if (this.#decodes.size > 0) await this.#decodeTurn();
      // Beside a graph of rows the event loop has time for the sequences' next tokens; else it gets a turn for them.
      if (this.#queue.length > 0) await this.#rowTurn();
      await nextTurn();
    }
  }

  async #decodeTurn(): Promise<void> {
    const works = [...this.#decodes.values()];
    this.#decodes.clear();
    this.#stats.decodeGraphs += 1;
    this.#stats.decodedTokens += works.length;
    const pins = works.map(({ context }) => context.pin());
    await this.#whileRunning(works, async (signal) => {
      const logits = await this.#steps.compute(works, signal);
      for (const [i, { task }] of works.entries()) task.resolve(logits[i] as Float32Array);
    });
    for (const pin of pins) pin[Symbol.dispose]();
  }

  /** One graph of pieces and blocks, after graphs of requests' own that stand before them in line. */
  async #rowTurn(): Promise<void> {
    // In rotation no request waits for another's end; but where all are alike, all end at the end. So every second graph
    // is for who has the least left.
    const isForShortest = this.#stats.rowGraphs % 2 === 1;
    this.#queue.sort((a, b) => (isForShortest ? rowsLeft(a) - rowsLeft(b) : 0) || a.order - b.order);
    const isBesideDecoding = this.#turnsSinceDecoding < turnsOfDecoding;
    const full = pieceRows(this.#decoder);
    let left = isBesideDecoding ? Math.min(full, maxRowsBesideDecoding) : full;
    while (left > 0 && this.#queue[0]?.kind === "graph") {
      const work = this.#queue.shift() as RowWork & { kind: "graph" };
      left -= work.rows;
      await this.#computeOwn(work);
    }
    if (left <= 0) return;
    const shares: Share[] = [];
    let numBlocks = 0;
    let numWanted = Math.max(1, Math.floor(maxLogits / this.#decoder.config.vocabSize));
    let numRows = 0;
    const untaken: RowWork[] = [];
    for (const work of this.#queue) {
      const share =
        work.kind === "encode"
          ? this.#shareOfBlocks(work, left, blocksPerGraph(this.#decoder) - numBlocks, shares.length === 0)
          : work.kind === "prefill"
            ? this.#shareOfPrompt(work, left, numWanted, shares.length === 0)
            : undefined;
      if (share === undefined) {
        if (work.task.state === "queued") untaken.push(work);
        continue;
      }
      if (work.kind === "encode") numBlocks += share.spans.length;
      else numBlocks += 1;
      left -= share.numRows;
      numRows += share.numRows;
      numWanted -= share.numWanted;
      shares.push(share);
    }
    this.#queue = untaken;
    if (shares.length === 0) return;
    this.#stats.rowGraphs += 1;
    this.#stats.rows += numRows;
    if (isBesideDecoding) this.#stats.maxRowsBesideDecoding = Math.max(this.#stats.maxRowsBesideDecoding, numRows);
    await this.#compute(shares);
  }

  /** The first blocks of an encoding that there is room for: a long one in a graph of its own. */
  #shareOfBlocks(
    { task, blocks }: RowWork & { kind: "encode" },
    maxRows: number,
    maxBlocks: number,
    isFirst: boolean,
  ): Share | undefined {
    let numRows = 0;
    let count = 0;
    for (const tokenIds of blocks) {
      const rows = Math.ceil(tokenIds.length / rowGroup) * rowGroup;
      const fits = numRows + rows <= maxRows || (isFirst && count === 0);
      if (!fits || count >= maxBlocks) break;
      numRows += rows;
      count += 1;
    }
    if (count === 0) return undefined;
    const made: BlockKV<DeviceBlockMemory>[] = [];
    let isGiven = false;
    const release = () => {
      if (!isGiven) for (const block of made) block[Symbol.dispose]();
    };
    try {
      for (const { length } of blocks.slice(0, count)) {
        const shape = blockShape(this.#decoder, this.#kvType, length);
        made.push(new BlockKV(shape, new DeviceBlockMemory(this.#backend, shape)));
      }
    } catch (error) {
      release();
      task.fail(error);
      return undefined;
    }
    return {
      task,
      spans: made.map(({ memory }, i): RowSpan => {
        return { kind: "block", tokenIds: blocks[i] as Int32Array, keys: memory.keys, values: memory.values };
      }),
      numRows,
      numWanted: 0,
      deliver: () => {
        isGiven = task.resolve(made);
      },
      release,
    };
  }

  /** The next piece of a prompt that there is room for. */
  #shareOfPrompt(
    { task, context, tokenIds, position, firstWanted, block }: RowWork & { kind: "prefill" },
    maxRows: number,
    maxWanted: number,
    isFirst: boolean,
  ): Share | undefined {
    let count = Math.min(tokenIds.length, Math.floor(maxRows / rowGroup) * rowGroup, firstWanted + maxWanted);
    const isSmall = count <= 0 || (count < tokenIds.length && count < minPieceRows && firstWanted >= count);
    if (isSmall && block === undefined) return undefined;
    if (count < tokenIds.length && count > minPieceRows) count -= count % minPieceRows;
    if (block !== undefined) {
      count = Math.min(tokenIds.length, blockPieceRows);
      if (count > maxRows && !isFirst) return undefined;
    }
    const { length: past, keys, values } = context;
    const pin = context.pin();
    return {
      task,
      spans: [
        { kind: "piece", tokenIds: tokenIds.subarray(0, count), position, past, keys, values, block: block?.memory },
      ],
      numRows: Math.ceil(count / rowGroup) * rowGroup,
      numWanted: Math.max(0, count - firstWanted),
      deliver: (logits) => {
        context.length += count;
        task.resolve({ count, logits });
      },
      release: () => pin[Symbol.dispose](),
    };
  }

  /** Computes a graph of requests' shares. Never throws: what fails is told to the requests. */
  async #compute(shares: readonly Share[]): Promise<void> {
    const { vocabSize } = this.#decoder.config;
    // Blocks come before other rows.
    const ordered = [...shares].sort((a, b) => Number(isOfBlocks(b)) - Number(isOfBlocks(a)));
    const spans: RowSpan[] = [];
    const wanted: WantedLogits[] = [];
    for (const share of ordered) {
      spans.push(...share.spans);
      const { length } = spans.at(-1)?.tokenIds ?? [];
      for (let i = share.numWanted; i > 0; i--) wanted.push({ span: spans.length - 1, row: (length ?? 0) - i });
    }
    try {
      await this.#whileRunning(shares, async (signal) => {
        const built = forward(this.#decoder, spans, wanted);
        using graph = built.graph;
        const read = () => (built.logits ? this.#backend.readFloats(built.logits) : undefined);
        const all = await this.#backend.compute(graph, read, signal);
        let row = 0;
        for (const share of ordered) {
          const logits = Array.from({ length: share.numWanted }, (_, i) =>
            (all as Float32Array).subarray((row + i) * vocabSize, (row + i + 1) * vocabSize),
          );
          row += share.numWanted;
          share.deliver(logits);
        }
      });
    } finally {
      for (const share of shares) share.release();
    }
  }

  async #computeOwn({ task, maxNodes, fill }: RowWork & { kind: "graph" }): Promise<void> {
    await this.#whileRunning([{ task }], async (signal) => {
      using graph = new Graph(this.#decoder.ggml, maxNodes);
      fill(graph);
      await this.#backend.compute(graph, () => undefined, signal);
      task.resolve();
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

function isOfBlocks({ spans }: Share): boolean {
  return spans[0]?.kind === "block";
}

function requireRoom(context: AssembledContext, numRows: number): void {
  if (context.length + numRows <= context.capacity) return;
  throw new RangeError(
    `Cannot compute ${numRows} rows: the context has room for ${context.capacity} and holds ${context.length}`,
  );
}

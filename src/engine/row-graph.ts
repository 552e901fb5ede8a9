import type { Backend } from "../ggml/backend.js";
import { BlockKV } from "../kv/block-kv.js";
import { type Decoder, forward, type WantedLogits } from "../model/decoder.js";
import type { GraphSizes } from "../model/graph-sizes.js";
import { type Rows, spansFrom } from "../model/rows.js";
import { blockShape, DeviceBlockMemory } from "./device-memory.js";
import type { KVMemory } from "./kv-memory.js";
import type { RowWork } from "./row-queue.js";
import type { AnyTask } from "./task.js";

/** The most logits of one graph, in elements: 64 MiB. */
export const maxLogits = 1 << 24;
/** Rows of a long block's pieces, whatever else is under way: its bytes must not depend on that. */
const blockPieceRows = 128;

/** One request's share of a graph. */
export interface Share {
  readonly task: AnyTask;
  readonly rows: readonly Rows[];
  readonly numRows: number;
  /** How many rows have their logits wanted: the last ones of the share. */
  readonly numWanted: number;
  /** Hands the request what was computed. */
  readonly deliver: (logits: readonly Float32Array[]) => void;
  /** Called after the graph, also where it failed. */
  readonly release: () => void;
}

/**
 * A graph of blocks that are encoded and pieces of prompts, of several requests. Each request has a share of its rows, and
 * gets what they give once the graph is computed.
 */
export class RowGraph {
  readonly #shares: Share[] = [];
  #numWanted: number;
  /** How many more tensors the graph has room for, without what is not counted yet. */
  #room: number;
  /** Counts pieces. A piece alone in its graph is not counted: only another share asks what is left. */
  #uncounted: (() => number)[] = [];

  constructor(
    private readonly decoder: Decoder,
    private readonly memory: KVMemory,
    private readonly sizes: Pick<GraphSizes, "room" | "ofBlock" | "ofPiece">,
  ) {
    this.#room = sizes.room;
    this.#numWanted = Math.max(1, Math.floor(maxLogits / decoder.config.vocabSize));
  }

  /**
   * Adds a share of a request's work, of at most `maxRows` rows.
   *
   * @returns undefined where nothing of it fits (a block alone in a graph always does), and where it failed.
   */
  add(work: RowWork, maxRows: number): Share | undefined {
    let share: Share | undefined;
    try {
      share = this.#shareOf(work, maxRows, this.#shares.length === 0);
    } catch (error) {
      work.task.fail(error);
    }
    if (share === undefined) return undefined;
    this.#shares.push(share);
    this.#numWanted -= share.numWanted;
    return share;
  }

  /** How many more tensors the graph has room for. */
  #roomLeft(): number {
    for (const count of this.#uncounted) this.#room -= count();
    this.#uncounted = [];
    return this.#room;
  }

  #shareOf(work: RowWork, maxRows: number, isFirst: boolean): Share | undefined {
    if (work.kind === "encode") return this.#shareOfBlocks(work, maxRows, isFirst);
    return work.kind === "prefill" ? this.#shareOfPrompt(work, maxRows, isFirst) : undefined;
  }

  /** Computes the graph and hands the shares out. @throws the signal's reason; Error if the device fails. */
  async compute(backend: Backend, signal: AbortSignal): Promise<void> {
    const { vocabSize } = this.decoder.config;
    const rows = this.#shares.flatMap((share) => share.rows);
    const wanted: WantedLogits[] = [];
    let last = -1;
    for (const share of this.#shares) {
      last += share.rows.length;
      const length = rows[last]?.tokenIds.length ?? 0;
      for (let i = share.numWanted; i > 0; i--) wanted.push({ rows: last, row: length - i });
    }
    const built = forward(this.decoder, rows, wanted);
    using graph = built.graph;
    const read = () => (built.logits ? backend.readFloats(built.logits) : undefined);
    const all = await backend.compute(graph, read, signal);
    let row = 0;
    for (const share of this.#shares) {
      const logits = Array.from({ length: share.numWanted }, (_, i) =>
        (all as Float32Array).subarray((row + i) * vocabSize, (row + i + 1) * vocabSize),
      );
      row += share.numWanted;
      share.deliver(logits);
    }
  }

  /** Called after the graph, also where it failed. */
  release(): void {
    for (const share of this.#shares) share.release();
  }

  /** As many blocks as there is room for, in order: a long block has a graph of its own. */
  #shareOfBlocks(
    { task, blocks, before }: RowWork & { kind: "encode" },
    maxRows: number,
    isFirst: boolean,
  ): Share | undefined {
    const { rowGroup } = this.decoder.device;
    let numRows = 0;
    let count = 0;
    for (const { length } of blocks) {
      const rows = Math.ceil(length / rowGroup) * rowGroup;
      const size = this.sizes.ofBlock(length, before?.length);
      const fits = numRows + rows <= maxRows && size <= this.#roomLeft();
      if (!fits && !(isFirst && count === 0)) break;
      numRows += rows;
      this.#room -= size;
      count += 1;
    }
    if (count === 0) return undefined;
    const made: BlockKV<DeviceBlockMemory>[] = [];
    let isGiven = false;
    const held = before?.hold();
    const release = () => {
      held?.[Symbol.dispose]();
      if (!isGiven) for (const block of made) block[Symbol.dispose]();
    };
    try {
      for (const { length } of blocks.slice(0, count)) {
        const shape = blockShape(this.decoder, this.memory.kvType, length);
        made.push(new BlockKV(shape, new DeviceBlockMemory(this.memory, shape)));
      }
    } catch (error) {
      release();
      throw error;
    }
    return {
      task,
      rows: made.map(({ memory: { keys, values } }, i) => {
        const tokenIds = blocks[i] as Int32Array;
        return { tokenIds, positions: before?.length ?? 0, before, block: { keys, values } };
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
    { task, context, tokenIds, positions, places, spans, firstWanted, block }: RowWork & { kind: "prefill" },
    maxRows: number,
    isFirst: boolean,
  ): Share | undefined {
    const { rowGroup, pieceStep } = this.decoder.device;
    let count = Math.min(tokenIds.length, Math.floor(maxRows / rowGroup) * rowGroup, firstWanted + this.#numWanted);
    const isSmall = count <= 0 || (count < tokenIds.length && count < pieceStep && firstWanted >= count);
    if (isSmall && block === undefined) return undefined;
    if (count < tokenIds.length && count > pieceStep) count -= count % pieceStep;
    if (block !== undefined) {
      count = Math.min(tokenIds.length, blockPieceRows);
      if (count > maxRows && !isFirst) return undefined;
    }
    const first = places?.[0] ?? context.length;
    const shared = context.shared.map(({ length }) => length);
    const endOf = (rows: number) => (places === undefined ? first + rows : (places[rows - 1] as number) + 1);
    const sizeOf = (rows: number) => {
      const seen = spans && spansFrom(spans, 0, rows);
      const [isOfBlock, isScattered] = [block !== undefined, places !== undefined];
      const isScaled = context.scaled !== undefined;
      return this.sizes.ofPiece(rows, endOf(rows) - rows, isOfBlock, shared, seen, isScattered, isScaled);
    };
    // Over a long context attention has many nodes: fewer rows have fewer.
    while (isFirst && block === undefined && count >= 2 * pieceStep && sizeOf(count) > this.#room) {
      count = Math.ceil(count / 2 / pieceStep) * pieceStep;
    }
    if (!isFirst && sizeOf(count) > this.#roomLeft()) return undefined;
    let into: Rows["block"];
    if (block !== undefined) {
      const { keys, values } = block.kv.memory;
      into = { keys, values, first: first - block.place };
    }
    const pin = context.pin();
    this.#uncounted.push(() => sizeOf(count));
    return {
      task,
      rows: [
        {
          tokenIds: tokenIds.subarray(0, count),
          positions: typeof positions === "number" ? positions : positions.subarray(0, count),
          spans: spans && spansFrom(spans, 0, count),
          context,
          places: places?.subarray(0, count) ?? first,
          block: into,
        },
      ],
      numRows: Math.ceil(count / rowGroup) * rowGroup,
      numWanted: Math.max(0, count - firstWanted),
      deliver: (logits) => {
        context.length = Math.max(context.length, endOf(count));
        task.resolve({ count, logits });
      },
      release: () => pin[Symbol.dispose](),
    };
  }
}

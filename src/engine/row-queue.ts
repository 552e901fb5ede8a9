import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import type { BlockKV } from "../kv/block-kv.js";
import type { RowSpan } from "../model/rows.js";
import type { AssembledContext } from "./assemble.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import type { HeldRows } from "./held-rows.js";
import type { AnyTask, Task } from "./task.js";

/** A request's work of more than one token. A graph takes what it has room for, and the request hands the rest in again. */
export type RowWork =
  | {
      readonly kind: "encode";
      readonly owner: string;
      readonly task: Task<BlockKV<DeviceBlockMemory>[]>;
      /** The tokens of each. */
      readonly blocks: readonly Int32Array[];
      /** What each of them sees before itself. */
      readonly before?: HeldRows | undefined;
    }
  | {
      readonly kind: "prefill";
      readonly owner: string;
      readonly task: Task<PrefillPart>;
      readonly context: AssembledContext;
      readonly tokenIds: Int32Array;
      /** Of each token, or of the first one: the others follow. */
      readonly positions: number | Int32Array;
      /** Where each token is written. Default: from the context's length on. */
      readonly places?: Int32Array | undefined;
      /** What the tokens see. Default: each token sees all before it. */
      readonly spans?: readonly RowSpan[];
      readonly firstWanted: number;
      /** The long block that these tokens are a piece of, and where in the context it begins. */
      readonly block?: { readonly kv: BlockKV<DeviceBlockMemory>; readonly place: number };
    }
  | {
      readonly kind: "graph";
      readonly owner: string;
      readonly task: Task<Float32Array | undefined>;
      readonly rows: number;
      readonly fill: (graph: Graph) => Tensor | undefined;
    };

export interface PrefillPart {
  /** How many tokens were computed. */
  readonly count: number;
  /** Of those among them whose logits are wanted. */
  readonly logits: readonly Float32Array[];
}

/** How many rows of a work are left to compute. */
function rowsLeft(work: RowWork): number {
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

/** An owner who was served longer ago than so many others counts as new. */
const maxKnownOwners = 1024;

/** Work that waits for a graph, of owners who share each graph evenly. */
export class RowQueue {
  #works: RowWork[] = [];
  /** In which turn owners last had work, and how many rows they had in all; least recently first. */
  readonly #served = new Map<string, { readonly turn: number; readonly rows: number }>();
  #numGraphs = 0;
  #numTurns = 0;

  /** @param minShareRows fewer rows are no share of a graph: they would cost as much. */
  constructor(private readonly minShareRows: number) {}

  get isEmpty(): boolean {
    return this.#works.length === 0;
  }

  /** To the end of the line, the rest of a work that is handed in again too. */
  add(work: RowWork): void {
    this.#works.push(work);
  }

  /** Of all that waits. */
  get tasks(): readonly AnyTask[] {
    return this.#works.map(({ task }) => task);
  }

  clear(): void {
    this.#works = [];
  }

  remove(task: AnyTask): void {
    this.#works = this.#works.filter((work) => work.task !== task);
  }

  /** Takes the first work out of the line if it is a graph that a request builds itself. */
  takeOwnGraph(): (RowWork & { readonly kind: "graph" }) | undefined {
    const first = this.#byOwner()[0]?.[0];
    if (first?.kind !== "graph") return undefined;
    this.remove(first.task);
    this.#serve(new Map([[first.owner, first.rows]]));
    return first;
  }

  /**
   * Takes work for one graph out of the line.
   *
   * Every second graph goes by who has the least left, the others by who came first: in rotation no request waits for
   * another's end, but where all are alike, all would end at the end.
   *
   * @param numRows that the graph has room for. Owners who have work share them evenly; what one leaves, others have.
   * @param take makes a share of a work, of so many rows at most; undefined where it does not fit.
   */
  take<S extends { readonly numRows: number }>(
    numRows: number,
    take: (work: RowWork, maxRows: number) => S | undefined,
  ): S[] {
    const isForShortest = this.#numGraphs % 2 === 1;
    this.#numGraphs += 1;
    // Who was served least recently comes first where there is not a share for each.
    const owners = this.#byOwner(isForShortest).slice(0, Math.max(1, Math.floor(numRows / this.minShareRows)));
    const even = evenShares(
      owners.map((works) => works.reduce((sum, work) => sum + rowsLeft(work), 0)),
      numRows,
    );
    const shares: S[] = [];
    const served = new Map<string, number>();
    const taken = new Set<RowWork>();
    let left = numRows;
    let own = 0;
    for (const [i, works] of owners.entries()) {
      // And what those before left. A piece that may not be smaller takes more than its share, if it comes first.
      own = i === owners.length - 1 ? left : Math.max(this.minShareRows, own + (even[i] as number));
      for (const work of works) {
        const share = take(work, Math.min(own, left));
        if (share !== undefined) {
          shares.push(share);
          own -= share.numRows;
          left -= share.numRows;
          served.set(work.owner, (served.get(work.owner) ?? 0) + share.numRows);
        }
        if (share !== undefined || work.task.state !== "queued") taken.add(work);
      }
    }
    this.#works = this.#works.filter((work) => !taken.has(work));
    // Whose own graph is first in line comes first as long as it waits, whatever else of theirs was computed.
    const heads = new Map(this.#works.toReversed().map(({ owner, kind }) => [owner, kind]));
    this.#serve(served, (owner) => heads.get(owner) !== "graph");
    return shares;
  }

  /** Each owner's work in turn, of the owner first who was served least recently. */
  #byOwner(isForShortest = false): RowWork[][] {
    const works = isForShortest ? this.#works.toSorted((a, b) => rowsLeft(a) - rowsLeft(b)) : this.#works;
    const byOwner = new Map<string, RowWork[]>();
    for (const work of works) {
      const own = byOwner.get(work.owner);
      if (own === undefined) byOwner.set(work.owner, [work]);
      else own.push(work);
    }
    const served = (owner: string) => this.#served.get(owner) ?? { turn: 0, rows: 0 };
    // Of two who shared a graph, the one who had fewer rows so far: else one of them would always come a graph earlier.
    const compare = (a: string, b: string) => served(a).turn - served(b).turn || served(a).rows - served(b).rows;
    return [...byOwner].sort(([a], [b]) => compare(a, b)).map(([, own]) => own);
  }

  /** @param hasHadTurn whose turn this was: default, everyone's who was served. */
  #serve(rows: ReadonlyMap<string, number>, hasHadTurn = (_owner: string) => true): void {
    this.#numTurns += 1;
    for (const [owner, count] of rows) {
      const before = this.#served.get(owner) ?? { turn: 0, rows: 0 };
      this.#served.delete(owner);
      const turn = hasHadTurn(owner) ? this.#numTurns : before.turn;
      this.#served.set(owner, { turn, rows: before.rows + count });
    }
    for (const owner of this.#served.keys()) {
      if (this.#served.size <= maxKnownOwners) return;
      this.#served.delete(owner);
    }
  }
}

/** Shares of a whole, as even as they can be where none is more than is wanted of it. */
function evenShares(wanted: readonly number[], whole: number): number[] {
  const shares = wanted.map(() => 0);
  let left = whole;
  const ascending = [...wanted.keys()].sort((a, b) => (wanted[a] as number) - (wanted[b] as number));
  for (const [i, owner] of ascending.entries()) {
    shares[owner] = Math.min(wanted[owner] as number, Math.floor(left / (wanted.length - i)));
    left -= shares[owner];
  }
  return shares;
}

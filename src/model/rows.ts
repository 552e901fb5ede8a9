import { type AttentionMask, causalMask } from "../ggml/attention-mask.js";
import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import type { KVRows } from "./kv-rows.js";

/** Rows that several contexts begin with: they are read, and never written again. */
export interface SharedRows {
  readonly keys: KVRows;
  /** As rows, or transposed. */
  readonly values: KVRows;
  readonly length: number;
}

/**
 * Places whose share of attention is changed (APE, arXiv:2502.05431): where the exponents of a row's scores on them add up to Z, they
 * weigh as if those added up to Z^power.
 */
export interface ScaledPlaces {
  /** In order, apart. */
  readonly ranges: readonly Range[];
  readonly power: number;
}

export function isScaled({ ranges }: ScaledPlaces, place: number): boolean {
  return ranges.some(([first, end]) => first <= place && place < end);
}

/** Turned keys and values of one sequence, in the order of their places: rows that others hold too, then its own. */
export interface ContextRows {
  readonly shared: readonly SharedRows[];
  readonly keys: KVRows;
  readonly values: KVRows;
  /** Places whose share of attention is changed, of all rows that are computed over it. */
  readonly scaled?: ScaledPlaces | undefined;
}

/** What consecutive rows see. No row sees a later place than its own. */
export type RowSpan = {
  readonly numRows: number;
  /** How many places back a row sees, its own among them. Default: all. A preamble it sees always. */
  readonly window?: number | undefined;
} & (
  | { /** They see all before them. */ readonly kind: "global" }
  | {
      /** They see themselves, and the preamble. */
      readonly kind: "local";
      /** The first place of their own. Default: the first row's. */
      readonly from?: number | undefined;
      /** How many places from 0 on they see as well. Default 0. */
      readonly preamble?: number | undefined;
    }
);

/**
 * Rows of tokens that one attention call computes, and what becomes of their keys and values.
 *
 * @example a block that is encoded alone: { tokenIds, positions: 0, block }
 * @example one that sees a preamble of 20 tokens: { tokenIds, positions: 20, before, block }
 * @example a piece of a prompt: { tokenIds, positions: 70, context, places: 70 }
 * @example rows 3 and 9 of a context computed again: { tokenIds, positions: [3, 9], context, places: [3, 9] }
 * @example continuations of 2 and 3 tokens after a prompt of 70: { tokenIds, positions: [70, 71, 70, 71, 72], context,
 * places: 70, spans: [{ kind: "local", numRows: 2, preamble: 70 }, { kind: "local", numRows: 3, preamble: 70 }] }
 */
export interface Rows {
  readonly tokenIds: Int32Array;
  /** The position of each row, or of the first one: the others follow. */
  readonly positions: number | Int32Array;
  /**
   * The context that the rows see and join: their turned keys and values are written there, and read back as stored. Without
   * it they see each other alone, as computed, before anything is rounded.
   */
  readonly context?: ContextRows | undefined;
  /** Without a context: what they see before themselves, from place 0 on. */
  readonly before?: SharedRows | undefined;
  /** Where in the context each row is written, or the first one: the others follow. Ascending. Default 0, or what follows `before`. */
  readonly places?: number | Int32Array | undefined;
  /** Spans of all rows, in order. Default: one global span. */
  readonly spans?: readonly RowSpan[] | undefined;
  /** Where their keys before RoPE and their values are written, from row `first` on. */
  readonly block?: { readonly keys: KVRows; readonly values: KVRows; readonly first?: number } | undefined;
  /** Told, as the graph is built, of each layer's turned queries [D, H, rows] and of the keys [D, N, H'] that they see. */
  readonly onScores?: ((layer: number, queries: Tensor, keys: Tensor, sight: Sight, scale: number) => void) | undefined;
  /**
   * The rows, by their index here, that layers from `fromLayer` on compute, or none of them; other rows' keys and values there stay as
   * they are.
   */
  readonly kept?: { readonly fromLayer: number; readonly rows: Int32Array } | undefined;
}

/** The list that a number stands for: it and those that follow it. */
export function listOf(numbers: number | Int32Array, count: number): Int32Array {
  return typeof numbers === "number" ? Int32Array.from({ length: count }, (_, i) => numbers + i) : numbers;
}

/** The spans of rows from one on, `count` of them or all that follow. */
export function spansFrom(spans: readonly RowSpan[], first: number, count = Number.POSITIVE_INFINITY): RowSpan[] {
  let row = 0;
  return spans.flatMap((span) => {
    const from = Math.max(row, first);
    row += span.numRows;
    const numRows = Math.min(row, first + count) - from;
    return numRows > 0 ? [{ ...span, numRows }] : [];
  });
}

/** Whether each number follows the one before it. */
export function isRun(numbers: Int32Array): boolean {
  return numbers.every((x, i) => x === (numbers[0] as number) + i);
}

/** How many shared rows a context begins with: its own rows follow at this place. */
export function sharedLength({ shared }: Pick<ContextRows, "shared">): number {
  return shared.reduce((sum, { length }) => sum + length, 0);
}

type Range = readonly [first: number, end: number];

/** What some rows see. */
export interface Sight {
  /** Places that at least one of them sees, in order: the mask's keys are those, one range after another. */
  readonly ranges: readonly Range[];
  readonly mask: AttentionMask;
}

/**
 * @param places of all rows; `chosen` are those that see, by their index.
 * @param id of the mask, where it is no causal one.
 * @param window the layer's: of the keys that a row sees, its own among them, so many of the last.
 */
export function sightOf(
  places: Int32Array,
  spans: readonly RowSpan[],
  chosen: Int32Array,
  id: string,
  window = Number.POSITIVE_INFINITY,
): Sight {
  const seen: (readonly Range[])[] = [];
  for (const span of spans) {
    const first = seen.length;
    for (let row = first; row < first + span.numRows; row++) {
      seen.push(lastKeys(visibleFrom(places[row] as number, places[first] as number, span), window));
    }
  }
  const visible = Array.from(chosen, (row) => seen[row] as readonly Range[]);
  const ranges: [number, number][] = [];
  for (const [first, end] of visible.flat().sort(([a], [b]) => a - b)) {
    const last = ranges.at(-1);
    if (last && first <= last[1]) last[1] = Math.max(last[1], end);
    else ranges.push([first, end]);
  }
  let numKeys = 0;
  const shifts = ranges.map(([first, end]) => {
    numKeys += end - first;
    return { end, by: numKeys - end };
  });
  const asKeys = ([first, end]: Range): Range => {
    const by = shifts.find((range) => end <= range.end)?.by ?? 0;
    return [first + by, end + by];
  };
  const keys = visible.map((each) => each.map(asKeys));
  const past = (keys[0]?.[0]?.[1] ?? 0) - 1;
  const isCausal = keys.every((each, row) => each.length === 1 && each[0]?.[0] === 0 && each[0][1] === past + row + 1);
  if (isCausal) return { ranges, mask: causalMask(chosen.length, past) };
  return { ranges, mask: { numRows: chosen.length, numKeys, id, visible: (row) => keys[row] as readonly Range[] } };
}

function visibleFrom(place: number, firstPlace: number, span: RowSpan): readonly Range[] {
  const { window = place + 1 } = span;
  const [from, preamble] = span.kind === "local" ? [span.from ?? firstPlace, span.preamble ?? 0] : [0, 0];
  const start = Math.max(from, place + 1 - window);
  if (preamble === 0) return [[start, place + 1]];
  return preamble >= start
    ? [[0, place + 1]]
    : [
        [0, preamble],
        [start, place + 1],
      ];
}

/** The last `count` keys of some ranges. */
function lastKeys(ranges: readonly Range[], count: number): readonly Range[] {
  let left = ranges.reduce((sum, [first, end]) => sum + end - first, 0) - count;
  if (left <= 0) return ranges;
  return ranges.flatMap(([first, end]): Range[] => {
    const from = Math.min(end, first + Math.max(0, left));
    left -= end - first;
    return from < end ? [[from, end]] : [];
  });
}

/** Keys or values of one layer at some places, [D, places, H']: a window where they lie in one piece, else a copy. */
export function seenRows(
  graph: Graph,
  context: ContextRows,
  part: "keys" | "values",
  layer: number,
  ranges: readonly Range[],
): Tensor {
  const pieces = context.shared.map((shared) => ({ rows: shared[part], length: shared.length }));
  pieces.push({ rows: context[part], length: Number.POSITIVE_INFINITY });
  const parts: Tensor[] = [];
  for (const [first, end] of ranges) {
    let start = 0;
    for (const { rows, length } of pieces) {
      const [from, to] = [Math.max(first, start), Math.min(end, start + length)];
      if (from < to) parts.push(asRows(graph, rows, layer, from - start, to - from));
      start += length;
    }
  }
  const [only, ...more] = parts as [Tensor, ...Tensor[]];
  return more.reduce((all, next) => graph.concat(all, next, 1), only);
}

function asRows(graph: Graph, rows: KVRows, layer: number, first: number, count: number): Tensor {
  const window = rows.layer(graph, layer, first, count);
  return rows.isTransposed ? graph.contiguous(graph.permute(window, [1, 0, 2, 3])) : window;
}

import type { Graph } from "../ggml/graph.js";
import { isContiguous, type Tensor } from "../ggml/tensor.js";

/** ggml's tiled attention works on this many query rows of a head at a time, and needs at least as many. */
const tileRows = 64;

/** What a value's size must be a multiple of for tiles, on every CPU: AVX-512 has the widest rows, 16 numbers. */
const tileNumbers = 16;

/**
 * Which keys each query row sees: all of the first `past`, then, causally, those of the rows themselves.
 * Row t sees keys 0..past + t.
 */
export interface CausalSpan {
  readonly numRows: number;
  readonly past: number;
}

export interface AttentionOptions {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly threads: number;
  /** The most floating-point operations of one node, so that a running graph can be stopped soon. */
  readonly maxNodeFlops: number;
}

/**
 * Causal attention of some rows over keys and values, in tiles of 64 rows, with sums in 32 bit.
 *
 * ggml's CPU kernel shares rows out to threads in chunks that cut tiles, and a tile costs the same however few of its
 * rows are used, so the work is laid into nodes, and heads that share a KV head into rows, by `planAttention`. Fewer
 * than 64 rows are padded: below, the kernel sums F16 values in 16 bit. It does so as well where heads are of a size that fits
 * no tile (24, say): keys and values are widened first there.
 *
 * @param graph where nodes are added.
 * @param q [D, H, T] F32, T rows in order.
 * @param k [D, N, H'], N = past + T, F32 or F16; v likewise, of the same type.
 * @param masks finds or makes a mask [keys, rows] of 16-bit floats.
 * @returns [D * H, T] F32.
 */
export function tiledAttention(
  graph: Graph,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  span: CausalSpan,
  masks: MaskCache,
  options: AttentionOptions,
): Tensor {
  const { headSize, numHeads, numKvHeads } = options;
  const group = numHeads / numKvHeads;
  const plan = planAttention(span, options);
  const widened = k.type === "F16" && headSize % tileNumbers !== 0;
  const [keys, values] = widened ? [graph.toF32(k), graph.toF32(v)] : [k, v];
  let all: Tensor | undefined;
  for (let row = 0; row < span.numRows; row += plan.rows) {
    const numRows = Math.min(plan.rows, span.numRows - row);
    const part: CausalSpan = { numRows, past: span.past + row };
    const numKeys = part.past + numRows;
    let heads: Tensor | undefined;
    for (let head = 0; head < numHeads; head += plan.heads) {
      const count = Math.min(plan.heads, numHeads - head);
      const kvHead = Math.floor(head / group);
      const numKv = Math.ceil(count / group);
      const qPart = graph.view(q, [headSize, count, numRows], [q.nb[1], q.nb[2]], row * q.nb[2] + head * q.nb[1]);
      const window = (t: Tensor) => graph.view(t, [headSize, numKeys, numKv], [t.nb[1], t.nb[2]], kvHead * t.nb[2]);
      const attend = plan.grouped ? attendGrouped : attendByHead;
      const out = attend(graph, qPart, window(keys), window(values), part, masks);
      heads = heads === undefined ? out : graph.concat(heads, out, 1);
    }
    all = all === undefined ? heads : graph.concat(all, heads as Tensor, 2);
  }
  return graph.reshape(all as Tensor, [headSize * numHeads, span.numRows]);
}

/** Attention with each head's rows apart: q [D, H, T] over k, v [D, N, H'], giving [D, H, T]. */
function attendByHead(graph: Graph, q: Tensor, k: Tensor, v: Tensor, span: CausalSpan, masks: MaskCache): Tensor {
  const [headSize, numHeads, numRows] = q.ne;
  const scale = 1 / Math.sqrt(headSize);
  const paddedRows = Math.max(numRows, tileRows);
  let rows = graph.permute(q, [0, 2, 1, 3]);
  if (paddedRows > numRows) rows = graph.pad(graph.contiguous(rows), [0, paddedRows - numRows]);
  const out = graph.flashAttention(rows, k, v, masks.get(graph, span, 1, paddedRows), scale);
  return paddedRows > numRows ? graph.contiguous(graph.view(out, [headSize, numHeads, numRows])) : out;
}

/** The same with the heads that share a KV head laid as rows of one. */
function attendGrouped(graph: Graph, q: Tensor, k: Tensor, v: Tensor, span: CausalSpan, masks: MaskCache): Tensor {
  const [headSize, numHeads, numRows] = q.ne;
  const numKvHeads = k.ne[2];
  const group = numHeads / numKvHeads;
  const scale = 1 / Math.sqrt(headSize);
  const paddedRows = Math.max(numRows * group, tileRows);
  // [D, G, H', T] -> [D, G, T, H'] -> rows t * G + g of each KV head.
  const four = graph.view(q, [headSize, group, numKvHeads, numRows], [q.nb[1], q.nb[1] * group, q.nb[2]]);
  const regrouped = graph.contiguous(graph.permute(four, [0, 1, 3, 2]));
  let rows = graph.reshape(regrouped, [headSize, group * numRows, numKvHeads]);
  if (paddedRows > group * numRows) rows = graph.pad(rows, [0, paddedRows - group * numRows]);
  const out = graph.flashAttention(rows, k, v, masks.get(graph, span, group, paddedRows), scale);
  // [D, H', rows] -> [D, H', G, T] -> [D, G, H', T].
  const used = graph.view(out, [headSize, numKvHeads, group, numRows]);
  const back = graph.contiguous(graph.permute(used, [0, 2, 1, 3]));
  return graph.reshape(back, [headSize, numHeads, numRows]);
}

/** How one span's attention is cut into nodes. */
export interface AttentionPlan {
  /** Query rows of one node, before heads are laid as rows. */
  readonly rows: number;
  /** Query heads of one node: some of one KV head's, or all of several. */
  readonly heads: number;
  /** Whether the heads that share a KV head are laid as rows of one. */
  readonly grouped: boolean;
}

/** What a node costs beside its tiles, in floating-point operations. */
const nodeOverheadFlops = 2e6;

/**
 * The cut with the fewest tiles, among those whose nodes each stay below the limit; where there is none, the cut with the
 * smallest nodes.
 */
export function planAttention(span: CausalSpan, options: AttentionOptions): AttentionPlan {
  const { numHeads, numKvHeads, headSize, threads, maxNodeFlops } = options;
  const group = numHeads / numKvHeads;
  const tileFlops = 4 * headSize * tileRows * (span.past + span.numRows);
  const rowChoices = [span.numRows];
  for (let rows = tileRows; rows < span.numRows; rows *= 2) rowChoices.push(rows);
  const headChoices = new Set([1, group]);
  for (let kvHeads = 1; kvHeads <= numKvHeads; kvHeads++)
    if (numKvHeads % kvHeads === 0) headChoices.add(kvHeads * group);
  let best: { readonly plan: AttentionPlan; readonly cost: number; readonly nodeFlops: number } | undefined;
  for (const rows of rowChoices) {
    for (const heads of headChoices) {
      for (const grouped of [false, true]) {
        if (grouped && (group === 1 || heads % group !== 0)) continue;
        const tilesOf = (numRows: number) =>
          grouped
            ? countTiles(Math.max(numRows * group, tileRows), heads / group, threads)
            : countTiles(Math.max(numRows, tileRows), heads, threads);
        const numFull = Math.floor(span.numRows / rows);
        const rest = span.numRows % rows;
        const perNode = tilesOf(rows);
        const columns = numHeads / heads;
        const tiles = columns * (numFull * perNode + (rest > 0 ? tilesOf(rest) : 0));
        const numNodes = columns * Math.ceil(span.numRows / rows);
        const cost = tiles * tileFlops + numNodes * nodeOverheadFlops;
        const nodeFlops = Math.max(perNode * tileFlops, maxNodeFlops);
        if (best && (nodeFlops > best.nodeFlops || (nodeFlops === best.nodeFlops && cost >= best.cost))) continue;
        best = { plan: { rows, heads, grouped }, cost, nodeFlops };
      }
    }
  }
  return (best as { plan: AttentionPlan }).plan;
}

/** How many tiles ggml's CPU kernel computes: rows of all heads are shared out in chunks that cut tiles and heads cut chunks. */
function countTiles(rows: number, heads: number, threads: number): number {
  const total = rows * heads;
  const wanted = Math.ceil(total / (4 * threads));
  const numChunks = threads === 1 || Math.ceil(total / wanted) < threads ? threads : Math.ceil(total / wanted);
  const chunk = Math.ceil(total / numChunks);
  let tiles = 0;
  for (let start = 0; start < total; start += chunk) {
    const end = Math.min(start + chunk, total);
    for (let row = start; row < end; tiles += 1) row += Math.min(tileRows, end - row, rows - (row % rows));
  }
  return tiles;
}

const visible = 0;
/** Minus infinity as a 16-bit float. */
const hidden = 0xfc00;

/** The masks of one graph: spans of equal shape share one. */
export class MaskCache {
  readonly #masks = new Map<string, Tensor>();

  /** [keys, rows] F16: row t * group + g is token t's. Rows past the tokens see everything, for a tile must see something. */
  get(graph: Graph, span: CausalSpan, group: number, numRows: number): Tensor {
    const key = `${span.past} ${span.numRows} ${group} ${numRows}`;
    const known = this.#masks.get(key);
    if (known !== undefined) return known;
    const numKeys = span.past + span.numRows;
    const data = new Uint16Array(numKeys * numRows).fill(visible);
    for (let t = 0; t < span.numRows; t++) {
      for (let g = 0; g < group; g++) {
        const row = (t * group + g) * numKeys;
        data.fill(hidden, row + span.past + t + 1, row + numKeys);
      }
    }
    const mask = graph.input("mask", "F16", [numKeys, numRows], data);
    this.#masks.set(key, mask);
    return mask;
  }
}

/** Up to here a head's keys stay in a core's own cache while the heads that share them take turns. */
const maxKeysByHead = 1536;

/**
 * Attention of one row of each of S sequences, as two products and a softmax, with sums in 32 bit: for decoding.
 *
 * @param q [D, H, S] F32.
 * @param k [D, N, H', S], F32 or F16.
 * @param valuesTransposed [N, D, H', S], each value's elements apart, for products run along the innermost size.
 * @param mask [N, 1, 1, S] F16: which keys each row sees. Hidden keys and values must be finite.
 * @returns [D * H, S] F32.
 */
export function singleRowAttention(graph: Graph, q: Tensor, k: Tensor, valuesTransposed: Tensor, mask: Tensor): Tensor {
  const [headSize, numHeads, numSequences] = q.ne;
  const [, numKeys, numKvHeads] = k.ne;
  const packed = isContiguous(q) ? q : graph.contiguous(q);
  const group = [numHeads / numKvHeads, numKvHeads, numSequences] as const;
  // Head by head, ggml takes one product over all heads; by KV head, one for each, which reads a key once.
  const byHead = numKeys <= maxKeysByHead;
  const rows = graph.reshape(packed, byHead ? [headSize, 1, numHeads, numSequences] : [headSize, ...group]);
  const scores = graph.reshape(graph.mulMat(k, rows), [numKeys, 1, numHeads, numSequences]);
  const weights = graph.softmax(scores, mask, 1 / Math.sqrt(headSize));
  const summed = graph.mulMat(valuesTransposed, graph.reshape(weights, [numKeys, ...group]));
  return graph.reshape(summed, [headSize * numHeads, numSequences]);
}

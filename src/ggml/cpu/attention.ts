import type { AttentionMask, MaskPart, MaskTensors } from "../attention-mask.js";
import type { Tensor } from "../tensor.js";

/** ggml's tiled attention works on this many query rows of a head at a time, and needs at least as many. */
export const tileRows = 64;

/** What a value's size must be a multiple of for tiles, on every CPU: AVX-512 has the widest rows, 16 numbers. */
const tileNumbers = 16;

/** What decides how attention is laid into nodes. */
export interface NodeLimits {
  readonly threads: number;
  /** The most floating-point operations of one node, so that a running graph can be stopped soon. */
  readonly maxNodeFlops: number;
}

/**
 * Attention of some rows over keys and values, in tiles of 64 rows, with sums in 32 bit. A node of some of the rows reads
 * keys up to the last that any of them sees.
 *
 * ggml's CPU kernel shares rows out to threads in chunks that cut tiles, and a tile costs the same however few of its
 * rows are used, so the work is laid into nodes, and heads that share a KV head into rows, by `planAttention`. Fewer
 * than 64 rows are padded: below, the kernel sums F16 values in 16 bit. It does so as well where heads are of a size that fits
 * no tile (24, say): keys and values are widened first there.
 *
 * @param masks of the graph where nodes are added.
 * @param q [D, H, T] F32, T rows in order.
 * @param k [D, N, H'], the N keys of the mask, F32 or F16; v likewise, of the same type.
 * @returns [D * H, T] F32.
 */
export function tiledAttention(
  masks: MaskTensors,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: AttentionMask,
  scale: number,
  limits: NodeLimits,
): Tensor {
  const { graph } = masks;
  const [headSize, numHeads] = q.ne;
  const numKvHeads = k.ne[2];
  const group = numHeads / numKvHeads;
  const plan = planAttention(mask, { numHeads, numKvHeads, headSize, ...limits });
  const widened = k.type === "F16" && headSize % tileNumbers !== 0;
  const [keys, values] = widened ? [graph.toF32(k), graph.toF32(v)] : [k, v];
  let all: Tensor | undefined;
  for (let row = 0; row < mask.numRows; row += plan.rows) {
    const part = masks.part(mask, row, Math.min(plan.rows, mask.numRows - row));
    const { numRows, numKeys } = part;
    let heads: Tensor | undefined;
    for (let head = 0; head < numHeads; head += plan.heads) {
      const count = Math.min(plan.heads, numHeads - head);
      const kvHead = Math.floor(head / group);
      const numKv = Math.ceil(count / group);
      const qPart = graph.view(q, [headSize, count, numRows], [q.nb[1], q.nb[2]], row * q.nb[2] + head * q.nb[1]);
      const window = (t: Tensor) => graph.view(t, [headSize, numKeys, numKv], [t.nb[1], t.nb[2]], kvHead * t.nb[2]);
      const attend = plan.grouped ? attendGrouped : attendByHead;
      const out = attend(masks, qPart, window(keys), window(values), part, scale);
      heads = heads === undefined ? out : graph.concat(heads, out, 1);
    }
    all = all === undefined ? heads : graph.concat(all, heads as Tensor, 2);
  }
  return graph.reshape(all as Tensor, [headSize * numHeads, mask.numRows]);
}

/** Attention with each head's rows apart: q [D, H, T] over k, v [D, N, H'], giving [D, H, T]. */
function attendByHead(masks: MaskTensors, q: Tensor, k: Tensor, v: Tensor, part: MaskPart, scale: number): Tensor {
  const { graph } = masks;
  const [headSize, numHeads, numRows] = q.ne;
  const paddedRows = Math.max(numRows, tileRows);
  let rows = graph.permute(q, [0, 2, 1, 3]);
  if (paddedRows > numRows) rows = graph.pad(graph.contiguous(rows), [0, paddedRows - numRows]);
  const out = graph.flashAttention(rows, k, v, masks.tensor(part, 1, paddedRows), scale);
  return paddedRows > numRows ? graph.contiguous(graph.view(out, [headSize, numHeads, numRows])) : out;
}

/** The same with the heads that share a KV head laid as rows of one. */
function attendGrouped(masks: MaskTensors, q: Tensor, k: Tensor, v: Tensor, part: MaskPart, scale: number): Tensor {
  const { graph } = masks;
  const [headSize, numHeads, numRows] = q.ne;
  const numKvHeads = k.ne[2];
  const group = numHeads / numKvHeads;
  const paddedRows = Math.max(numRows * group, tileRows);
  // [D, G, H', T] -> [D, G, T, H'] -> rows t * G + g of each KV head.
  const four = graph.view(q, [headSize, group, numKvHeads, numRows], [q.nb[1], q.nb[1] * group, q.nb[2]]);
  const regrouped = graph.contiguous(graph.permute(four, [0, 1, 3, 2]));
  let rows = graph.reshape(regrouped, [headSize, group * numRows, numKvHeads]);
  if (paddedRows > group * numRows) rows = graph.pad(rows, [0, paddedRows - group * numRows]);
  const out = graph.flashAttention(rows, k, v, masks.tensor(part, group, paddedRows), scale);
  // [D, H', rows] -> [D, H', G, T] -> [D, G, H', T].
  const used = graph.view(out, [headSize, numKvHeads, group, numRows]);
  const back = graph.contiguous(graph.permute(used, [0, 2, 1, 3]));
  return graph.reshape(back, [headSize, numHeads, numRows]);
}

/** How the attention of a mask's rows is cut into nodes. */
interface AttentionPlan {
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
function planAttention(
  mask: AttentionMask,
  how: NodeLimits & { readonly numHeads: number; readonly numKvHeads: number; readonly headSize: number },
): AttentionPlan {
  const { numHeads, numKvHeads, headSize, threads, maxNodeFlops } = how;
  const group = numHeads / numKvHeads;
  const tileFlops = 4 * headSize * tileRows * mask.numKeys;
  const rowChoices = [mask.numRows];
  for (let rows = tileRows; rows < mask.numRows; rows *= 2) rowChoices.push(rows);
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
        const numFull = Math.floor(mask.numRows / rows);
        const rest = mask.numRows % rows;
        const perNode = tilesOf(rows);
        const columns = numHeads / heads;
        const tiles = columns * (numFull * perNode + (rest > 0 ? tilesOf(rest) : 0));
        const numNodes = columns * Math.ceil(mask.numRows / rows);
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

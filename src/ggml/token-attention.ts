import type { Graph } from "./graph.js";
import { isContiguous, type Tensor } from "./tensor.js";

interface AttendedKeys {
  /** [D, N, H', S], F32 or F16. */
  readonly keys: Tensor;
  /** [D, N, H', S], or transposed, [N, D, H', S], since products run along the innermost size. */
  readonly decodeValues: Tensor;
  readonly isTransposed?: boolean;
}

/** One row of each of S sequences, with what it attends over. */
export interface TokenHeads extends AttendedKeys {
  /** [D, H, S] F32. */
  readonly queries: Tensor;
  /** What all sequences begin with, S being 1: pieces of n keys each, before each sequence's own. */
  readonly shared: readonly AttendedKeys[];
  /**
   * [N, 1, 1, S] F16, or [all n + N, S] where keys are shared: which each row sees. Hidden keys and values must be finite.
   */
  readonly mask: Tensor;
  /** What scores are multiplied by. */
  readonly scale: number;
}

/**
 * Attention of single rows over transposed values, as two products and a softmax, with sums in 32 bit: for decoding.
 *
 * @param byHead whether scores are one product over all heads, else one for each KV head, which reads a key once.
 * @param packs whether weights of shared keys are packed before they are multiplied: ggml's kernels for Vulkan round to 16 bit what
 *   lies apart, also where they round nothing else.
 * @returns [D * H, S] F32.
 */
export function tokenAttention(graph: Graph, heads: TokenHeads, byHead: boolean, packs = false): Tensor {
  const { queries, keys, decodeValues, mask, scale } = heads;
  const [headSize, numHeads, numSequences] = queries.ne;
  const [, numKeys, numKvHeads] = keys.ne;
  const packed = isContiguous(queries) ? queries : graph.contiguous(queries);
  const group = [numHeads / numKvHeads, numKvHeads, numSequences] as const;
  if (heads.shared.length > 0) {
    return sharedAttention(graph, { ...heads, queries: graph.reshape(packed, [headSize, ...group]) }, packs);
  }
  const rows = graph.reshape(packed, byHead ? [headSize, 1, numHeads, numSequences] : [headSize, ...group]);
  const scores = graph.reshape(graph.mulMat(keys, rows), [numKeys, 1, numHeads, numSequences]);
  const weights = graph.softmax(scores, mask, scale);
  const summed = graph.mulMat(decodeValues, graph.reshape(weights, [numKeys, ...group]));
  return graph.reshape(summed, [headSize * numHeads, numSequences]);
}

/**
 * The same over values that lie as rows, for devices: one fused node. It takes keys in one piece, so where some are shared, products
 * do it, over packed keys, since ggml 0.25.1 multiplies by wrong rows on Vulkan where the heads of keys lie apart: the sequences' own
 * ones are copied for it, and shared ones that fill their room and have their values transposed are not.
 */
export function fusedTokenAttention(graph: Graph, heads: TokenHeads): Tensor {
  const { queries, keys, decodeValues, mask, scale, shared } = heads;
  const [headSize, numHeads, numSequences] = queries.ne;
  if (shared.length > 0) {
    const packed = (x: Tensor) => (isContiguous(x) ? x : graph.contiguous(x));
    const forProducts = (of: AttendedKeys): AttendedKeys => ({
      keys: packed(of.keys),
      decodeValues: packed(of.isTransposed ? of.decodeValues : graph.permute(of.decodeValues, [1, 0, 2, 3])),
      isTransposed: true,
    });
    return tokenAttention(graph, { ...heads, ...forProducts(heads), shared: shared.map(forProducts) }, true, true);
  }
  const rows = graph.permute(queries, [0, 2, 3, 1]);
  const out = graph.summedInF32(graph.flashAttention(rows, keys, decodeValues, mask, scale), "ggml_flash_attn_ext");
  return graph.reshape(out, [headSize * numHeads, numSequences]);
}

/** The same where keys are shared: each piece is read by one product over all sequences, and not copied. */
function sharedAttention(
  graph: Graph,
  { queries, shared, keys, decodeValues, mask, scale }: TokenHeads,
  packs: boolean,
): Tensor {
  const packed = (x: Tensor) => (packs ? graph.contiguous(x) : x);
  const [headSize, group, numKvHeads, numSequences] = queries.ne;
  // Rows of all sequences side by side, [.., S, G, H'], are one product's rows for each KV head; own keys want [.., G, H', S].
  const bySequence = (x: Tensor) => graph.permute(x, [0, 2, 3, 1]);
  const byHead = (x: Tensor) => graph.permute(x, [0, 3, 1, 2]);
  const rows = [numSequences, group, numKvHeads] as const;
  const all = graph.reshape(graph.contiguous(bySequence(queries)), [headSize, numSequences * group, numKvHeads]);
  let scores: Tensor | undefined;
  for (const piece of shared) {
    const some = graph.reshape(graph.mulMat(piece.keys, all), [piece.keys.ne[1], ...rows]);
    scores = scores === undefined ? some : graph.concat(scores, some, 0);
  }
  const ownScores = bySequence(graph.mulMat(keys, queries));
  const weights = graph.softmax(graph.concat(scores as Tensor, ownScores, 0), mask, scale);
  const [element, row, , head] = weights.nb;
  let first = 0;
  let summed: Tensor | undefined;
  for (const { decodeValues: values } of shared) {
    const ne = [values.ne[0], numSequences * group, numKvHeads];
    const some = graph.mulMat(values, packed(graph.view(weights, ne, [row, head], first * element)));
    summed = summed === undefined ? some : graph.add(summed, some);
    first += values.ne[0];
  }
  const ownWeights = graph.view(weights, [decodeValues.ne[0], ...rows], weights.nb.slice(1), first * element);
  const ofShared = graph.contiguous(byHead(graph.reshape(summed as Tensor, [headSize, ...rows])));
  const out = graph.add(graph.mulMat(decodeValues, packed(byHead(ownWeights))), ofShared);
  return graph.reshape(out, [headSize * group * numKvHeads, numSequences]);
}

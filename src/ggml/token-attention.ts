import type { Graph } from "./graph.js";
import { isContiguous, type Tensor } from "./tensor.js";

/** One row of each of S sequences, with what it attends over. */
export interface TokenHeads {
  /** [D, H, S] F32. */
  readonly queries: Tensor;
  /** [D, N, H', S], F32 or F16. */
  readonly keys: Tensor;
  /** [N, D, H', S], each value's elements apart, for products run along the innermost size. */
  readonly valuesTransposed: Tensor;
  /** [N, 1, 1, S] F16: which keys each row sees. Hidden keys and values must be finite. */
  readonly mask: Tensor;
  /** What scores are multiplied by. */
  readonly scale: number;
}

/**
 * Attention of single rows, as two products and a softmax, with sums in 32 bit: for decoding.
 *
 * @param byHead whether scores are one product over all heads, else one for each KV head, which reads a key once.
 * @returns [D * H, S] F32.
 */
export function tokenAttention(
  graph: Graph,
  { queries, keys, valuesTransposed, mask, scale }: TokenHeads,
  byHead: boolean,
): Tensor {
  const [headSize, numHeads, numSequences] = queries.ne;
  const [, numKeys, numKvHeads] = keys.ne;
  const packed = isContiguous(queries) ? queries : graph.contiguous(queries);
  const group = [numHeads / numKvHeads, numKvHeads, numSequences] as const;
  const rows = graph.reshape(packed, byHead ? [headSize, 1, numHeads, numSequences] : [headSize, ...group]);
  const scores = graph.reshape(graph.mulMat(keys, rows), [numKeys, 1, numHeads, numSequences]);
  const weights = graph.softmax(scores, mask, scale);
  const summed = graph.mulMat(valuesTransposed, graph.reshape(weights, [numKeys, ...group]));
  return graph.reshape(summed, [headSize * numHeads, numSequences]);
}

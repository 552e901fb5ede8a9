/** Which keys each of some query rows sees, as data: a device's attention makes of it what its kernels take. */
export interface AttentionMask {
  readonly numRows: number;
  readonly numKeys: number;
  /** Masks of one graph with equal ids are equal, and share a tensor. */
  readonly id: string;
  /** The keys that a row sees, as [first, end) pairs in ascending order: at least one key. */
  visible(row: number): readonly (readonly [number, number])[];
}

/** Rows that follow `past` keys and see all of them, and each other causally: row t sees keys 0..past + t. */
export function causalMask(numRows: number, past: number): AttentionMask {
  return {
    numRows,
    numKeys: past + numRows,
    id: `causal ${numRows} after ${past}`,
    visible: (row) => [[0, past + row + 1]],
  };
}

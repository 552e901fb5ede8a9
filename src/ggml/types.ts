/** ggml's element types that the project uses: number in the C enum, elements a block, bytes a block. */
export const ggmlTypes = {
  F32: { id: 0, blockSize: 1, typeSize: 4 },
  F16: { id: 1, blockSize: 1, typeSize: 2 },
  Q4_0: { id: 2, blockSize: 32, typeSize: 18 },
  Q8_0: { id: 8, blockSize: 32, typeSize: 34 },
  Q4_K: { id: 12, blockSize: 256, typeSize: 144 },
  Q5_K: { id: 13, blockSize: 256, typeSize: 176 },
  Q6_K: { id: 14, blockSize: 256, typeSize: 210 },
  I32: { id: 26, blockSize: 1, typeSize: 4 },
  BF16: { id: 30, blockSize: 1, typeSize: 2 },
} as const;

export type GgmlType = keyof typeof ggmlTypes;

/**
 * The bytes of one row.
 * @throws RangeError if the elements do not fill whole blocks of the type.
 */
export function rowBytes(type: GgmlType, numElements: number): number {
  const { blockSize, typeSize } = ggmlTypes[type];
  if (numElements % blockSize !== 0) {
    throw new RangeError(
      `Cannot lay out a row: ${numElements} elements are no multiple of ${type}'s block of ${blockSize}`,
    );
  }
  return (numElements / blockSize) * typeSize;
}

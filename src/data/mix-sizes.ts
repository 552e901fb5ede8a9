/**
 * How many rows are taken of each input, so that they stand in given shares.
 *
 * @param rows how many each input has.
 * @param shares what each counts beside the others, numbers above 0: [1, 1] and [50, 50] are halves.
 * @param total how many in all; undefined: as many as the shares allow.
 * @throws RangeError if an input has too few rows.
 * @example mixSizes([100, 30], [1, 1], undefined) is [30, 30]; mixSizes([100, 30], [2, 1], undefined) is [60, 30]
 */
export function mixSizes(
  rows: readonly number[],
  shares: readonly number[],
  total: number | undefined,
): readonly number[] {
  if (rows.length !== shares.length) {
    throw new RangeError(`Cannot mix: there are ${rows.length} inputs and ${shares.length} shares`);
  }
  const sum = shares.reduce((a, b) => a + b, 0);
  if (total === undefined) {
    const most = Math.min(...rows.map((count, i) => count / (shares[i] as number)));
    // Dividing and multiplying again may end just below a whole number.
    return shares.map((share, i) => Math.min(rows[i] as number, Math.floor(most * share + 1e-9)));
  }
  const exact = shares.map((share) => (total * share) / sum);
  const sizes = exact.map(Math.floor);
  const left = total - sizes.reduce((a, b) => a + b, 0);
  const byRest = exact
    .map((value, i) => ({ i, rest: value - (sizes[i] as number) }))
    .sort((a, b) => b.rest - a.rest || a.i - b.i);
  for (const { i } of byRest.slice(0, left)) sizes[i] = (sizes[i] as number) + 1;
  for (const [i, size] of sizes.entries()) {
    if (size > (rows[i] as number)) {
      throw new RangeError(`Cannot mix: ${size} rows of input ${i + 1} are wanted, it has ${rows[i]} that can be used`);
    }
  }
  return sizes;
}

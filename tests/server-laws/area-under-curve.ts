/**
 * How well a threshold tells small values from large ones: the probability that one drawn from `lower` is less than one
 * drawn from `higher`, ties counted half (the area under the ROC curve, Mann-Whitney's U over the number of pairs).
 *
 * @example areaUnderCurve([1, 2], [3, 4]) is 1, areaUnderCurve([1, 2], [1, 2]) is 0.5
 */
export function areaUnderCurve(lower: readonly number[], higher: readonly number[]): number {
  let sum = 0;
  for (const a of lower) for (const b of higher) sum += a < b ? 1 : a === b ? 0.5 : 0;
  return sum / (lower.length * higher.length);
}

/** The standard deviation of that area where both samples come from one distribution. */
export function chanceDeviation(numLower: number, numHigher: number): number {
  return Math.sqrt((numLower + numHigher + 1) / (12 * numLower * numHigher));
}

/** In which order the kept passages stand. "as-is": as they came. */
export type PassageOrder = "best-first" | "best-last" | "as-is";

export const PASSAGE_ORDERS = ["best-first", "best-last", "as-is"] as const satisfies readonly PassageOrder[];

/**
 * Which passages have the highest scores: their places, in the order that is asked for. Of equal scores the earlier
 * passage is the better one.
 *
 * @example bestPassages([1, 3, 2], 2, "best-first") is [1, 2]; "best-last" gives [2, 1], "as-is" [1, 2]
 */
export function bestPassages(scores: readonly number[], count: number, order: PassageOrder): number[] {
  const best = scores
    .map((_, place) => place)
    .sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b)
    .slice(0, count);
  if (order === "as-is") return best.sort((a, b) => a - b);
  return order === "best-last" ? best.reverse() : best;
}

/**
 * The indices of the k greatest values, greatest first, the lower index first on a tie.
 *
 * Keeps a heap of k, so that a vocabulary of 150,000 costs one comparison for most tokens and never a full sort.
 *
 * @param values without NaN.
 * @param k 0 or more; more than there are gives all.
 * @example topIds([1, 3, 2, 3], 3): [1, 3, 2]
 */
export function topIds(values: ArrayLike<number>, k: number): number[] {
  const size = Math.min(k, values.length);
  if (size === 0) return [];
  const isWorse = (a: number, b: number): boolean => {
    const [x, y] = [values[a]!, values[b]!];
    return x < y || (x === y && a > b);
  };
  // The root is the worst of the best so far.
  const heap: number[] = [];
  for (let id = 0; id < size; id++) {
    let at = id;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isWorse(id, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = id;
  }
  let worst = values[heap[0]!]!;
  for (let id = size; id < values.length; id++) {
    // An equal value with a higher id is worse than all that is kept.
    if (values[id]! <= worst) continue;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && isWorse(heap[child + 1]!, heap[child]!)) child += 1;
      if (!isWorse(heap[child]!, id)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = id;
    worst = values[heap[0]!]!;
  }
  return heap.sort((a, b) => (isWorse(a, b) ? 1 : -1));
}

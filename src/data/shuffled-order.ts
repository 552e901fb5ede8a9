import type { Random } from "./random.js";

/** The numbers 0 to count - 1 in random order, each order as likely as any other; 4 bytes a number. @see Fisher and Yates. */
export function shuffledOrder(random: Random, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}

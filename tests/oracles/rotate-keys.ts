import { attentionFactor, inverseFrequencies, type RopeConfig } from "../../src/model/rope.js";

/**
 * Turns stored keys to their place in the prompt: the slow, obvious way, against which the fast one is tested.
 *
 * Stored keys are the keys before RoPE. RoPE turns the key at position p by p times each pair's angle, so row t of a
 * block that starts at `firstPosition` is turned once, by firstPosition + t, and grows by YaRN's attention factor, once.
 *
 * @param K_THD keys of one layer before RoPE, [T tokens, H heads, D head size], D innermost.
 * @param numHeads H, so that T is known.
 * @param firstPosition where the block's first token stands in the prompt, in tokens, 0 or more.
 * @returns the turned keys, [T, H, D].
 * @see arXiv:2409.15355v5 §2.3
 * @example keys [1, 0], one token, one head, at position 1: [cos 1, sin 1]
 */
export function rotateKeys(
  K_THD: Float32Array,
  numHeads: number,
  firstPosition: number,
  rope: RopeConfig,
): Float32Array {
  const { headSize } = rope;
  const frequencies = inverseFrequencies(rope);
  const growth = attentionFactor(rope);
  const turned = new Float32Array(K_THD.length);
  for (let start = 0; start < K_THD.length; start += headSize) {
    const position = firstPosition + Math.floor(start / (numHeads * headSize));
    for (const [i, frequency] of frequencies.entries()) {
      const first = start + (rope.pairs === "half" ? i : 2 * i);
      const second = rope.pairs === "half" ? first + headSize / 2 : first + 1;
      const angle = position * frequency;
      const [x, y] = [K_THD[first] ?? 0, K_THD[second] ?? 0];
      turned[first] = growth * (x * Math.cos(angle) - y * Math.sin(angle));
      turned[second] = growth * (x * Math.sin(angle) + y * Math.cos(angle));
    }
  }
  return turned;
}

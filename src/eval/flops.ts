import type { ModelConfig } from "../model/config.js";

/**
 * Multiplications and additions of computing rows of tokens, attention counted: a row that sees n keys costs 4 · n · D · H a layer.
 * The head counts once, for the last row's logits.
 *
 * @param seenKeys keys that the rows see, all rows together.
 */
function rowFlops(config: ModelConfig, rows: number, seenKeys: number): number {
  const { hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headSize, vocabSize } = config;
  const perLayer = hiddenSize * headSize * (2 * numHeads + 2 * numKvHeads) + 3 * hiddenSize * intermediateSize;
  return 2 * rows * numLayers * perLayer + 2 * hiddenSize * vocabSize + 4 * seenKeys * headSize * numHeads * numLayers;
}

/** Of the first token of a prompt in full mode: row i sees i + 1 keys. */
export function fullFlops(config: ModelConfig, promptTokens: number): number {
  return rowFlops(config, promptTokens, triangle(promptTokens));
}

/**
 * Of the first token of a prompt whose passages are all in the store: only the final block's rows are computed. Turning the
 * passages' keys to their places is not counted.
 */
export function storedFlops(config: ModelConfig, promptTokens: number, finalTokens: number): number {
  return rowFlops(config, finalTokens, triangle(promptTokens) - triangle(promptTokens - finalTokens));
}

const triangle = (n: number): number => (n * (n + 1)) / 2;

import type { KVType } from "../files/element-types.js";
import { maxGraphTensors } from "../ggml/graph.js";
import type { BlockKVShape } from "../kv/block-kv.js";
import type { Decoder } from "../model/decoder.js";

const maxBlocksPerGraph = 16;
/** Nodes of one layer, of its products and of one block's writes and attention, rounded up. */
const nodesPerLayer = 50;
const nodesPerBlock = 26;

/** How many blocks and pieces share one graph at most: each has nodes of its own, and a deep model many of them. */
export function blocksPerGraph({ config }: Decoder): number {
  const nodes = (0.75 * maxGraphTensors) / config.numLayers - nodesPerLayer;
  return Math.max(1, Math.min(maxBlocksPerGraph, Math.floor(nodes / nodesPerBlock)));
}

/** What a block of this many tokens looks like at rest. */
export function blockShape(decoder: Decoder, kvType: KVType, numTokens: number): BlockKVShape {
  const { numLayers, numKvHeads, headSize } = decoder.config;
  return { numLayers, numKvHeads, headSize, numTokens, type: kvType };
}

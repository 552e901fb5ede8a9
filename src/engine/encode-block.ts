import { type Backend, maxGraphNodes } from "../ggml/backend.js";
import { BlockKV, type BlockKVShape, type KVType } from "../kv/block-kv.js";
import { type Decoder, forward, pieceRows, type RowSpan, rowGroup } from "../model/decoder.js";
import { DeviceBlockMemory } from "./device-memory.js";

const maxBlocksPerGraph = 16;
/** Nodes of one layer, of its products and of one block's writes and attention, rounded up. */
const nodesPerLayer = 50;
const nodesPerBlock = 26;

/** How many blocks share one graph at most: each has nodes of its own, and a deep model many of them. */
function blocksPerGraph({ config }: Decoder): number {
  const nodes = (0.75 * maxGraphNodes) / config.numLayers - nodesPerLayer;
  return Math.max(1, Math.min(maxBlocksPerGraph, Math.floor(nodes / nodesPerBlock)));
}

/** What a block of this many tokens looks like at rest. */
export function blockShape(decoder: Decoder, kvType: KVType, numTokens: number): BlockKVShape {
  const { numLayers, numKvHeads, headSize } = decoder.config;
  return { numLayers, numKvHeads, headSize, numTokens, type: kvType };
}

/**
 * Encodes blocks, several to a graph, each attending to itself alone: its keys and values depend on its tokens and the
 * model alone, byte for byte (invariant I2).
 *
 * @param blocks the ids of each block, none empty.
 * @returns the blocks, in order, as they are done; each is the caller's once it is given.
 * @throws the signal's reason, or the device's error; nothing that was not given stays allocated.
 */
export async function* encodeBlocks(
  backend: Backend,
  decoder: Decoder,
  kvType: KVType,
  blocks: readonly Int32Array[],
  signal?: AbortSignal,
): AsyncGenerator<BlockKV<DeviceBlockMemory>> {
  for (const group of groupBlocks(blocks, pieceRows(decoder), blocksPerGraph(decoder))) {
    const made: BlockKV<DeviceBlockMemory>[] = [];
    let numGiven = 0;
    try {
      for (const tokenIds of group) {
        const shape = blockShape(decoder, kvType, tokenIds.length);
        made.push(new BlockKV(shape, new DeviceBlockMemory(backend, shape)));
      }
      const spans = made.map(({ memory }, i): RowSpan => {
        return { kind: "block", tokenIds: group[i] as Int32Array, keys: memory.keys, values: memory.values };
      });
      using graph = forward(decoder, spans, []).graph;
      await backend.compute(graph, () => undefined, signal);
      for (const block of made) {
        numGiven += 1;
        yield block;
      }
    } finally {
      for (const block of made.slice(numGiven)) block[Symbol.dispose]();
    }
  }
}

/** Up to maxBlocks neighbours that together have at most maxRows rows; a longer block stands alone. */
function groupBlocks(blocks: readonly Int32Array[], maxRows: number, maxBlocks: number): Int32Array[][] {
  const groups: Int32Array[][] = [];
  let numRows = Number.POSITIVE_INFINITY;
  for (const block of blocks) {
    const rows = Math.ceil(block.length / rowGroup) * rowGroup;
    const last = groups.at(-1);
    if (last !== undefined && numRows + rows <= maxRows && last.length < maxBlocks) {
      last.push(block);
      numRows += rows;
    } else {
      groups.push([block]);
      numRows = rows;
    }
  }
  return groups;
}

import type { Backend } from "../ggml/backend.js";
import { BlockKV, type BlockKVShape, type KVType } from "../kv/block-kv.js";
import { type Decoder, forward, pieceRows, type RowSpan, rowGroup } from "../model/decoder.js";
import { DeviceBlockMemory } from "./device-memory.js";

/** How many blocks share one graph at most: each has attention nodes of its own. */
const maxBlocksPerGraph = 16;

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
  for (const group of groupBlocks(blocks, pieceRows(decoder))) {
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

/** Neighbours that together have at most maxRows rows; a longer block stands alone. */
function groupBlocks(blocks: readonly Int32Array[], maxRows: number): Int32Array[][] {
  const groups: Int32Array[][] = [];
  let numRows = Number.POSITIVE_INFINITY;
  for (const block of blocks) {
    const rows = Math.ceil(block.length / rowGroup) * rowGroup;
    const last = groups.at(-1);
    if (last !== undefined && numRows + rows <= maxRows && last.length < maxBlocksPerGraph) {
      last.push(block);
      numRows += rows;
    } else {
      groups.push([block]);
      numRows = rows;
    }
  }
  return groups;
}

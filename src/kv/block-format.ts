import type { BlockBytes } from "./block-codec.js";
import type { BlockKV, BlockMemory } from "./block-kv.js";
import type { BlockRequest } from "./block-store.js";

/** What a file of a block holds. */
export interface BlockFileFormat<M extends BlockMemory> {
  /** Names the bits that it reads and writes, where others are kept too: of what computed them, in which order. */
  readonly place: string;
  /** How many bytes a block's file has. */
  numBytes(block: BlockKV<M>, request: BlockRequest): number;
  /** The bytes of a block's file, in order. */
  encode(block: BlockKV<M>, request: BlockRequest): Promise<readonly Uint8Array[]>;
  /** What a file says that it holds, from its beginning alone. @throws BlockCodecError for what is no such file. */
  readRequest(bytes: BlockBytes): Promise<BlockRequest>;
  /** @throws BlockCodecError where a byte is not what it should be, or another build computed it; Error where there is no memory. */
  decode(bytes: BlockBytes, request: BlockRequest): Promise<BlockKV<M>>;
}

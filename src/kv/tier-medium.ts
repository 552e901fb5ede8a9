import type { BlockId } from "./block-id.js";
import type { BlockKV, BlockMemory } from "./block-kv.js";
import type { BlockRequest } from "./block-store.js";

/** A copy of a block on a slower medium. */
export interface SavedBlock<M extends BlockMemory> {
  /**
   * The same bytes in a store's own memory, the caller's from then on; undefined where the copy is lost: it is gone, or damaged.
   * @throws Error where it could not be read this time, or there is no memory.
   */
  load(request: BlockRequest): Promise<BlockKV<M> | undefined>;
  /** Gives its room back, where it is this process's to give. */
  free(): Promise<void> | undefined;
  /** Deletes it where another process keeps it. @throws Error where it cannot be deleted. */
  freeForAll?(): Promise<void>;
  /** Whether it still exists. Absent: nobody else can take it away. */
  isThere?(): Promise<boolean>;
  /** Notes that it was used now, where that outlives the process. */
  markUsed?(): Promise<void>;
}

/** A block on a medium, as it is found there. */
export interface FoundBlock<M extends BlockMemory> {
  readonly request: BlockRequest;
  /** That it takes there. */
  readonly numBytes: number;
  readonly saved: SavedBlock<M>;
}

/** What blocks are copied to. */
export interface TierMedium<M extends BlockMemory> {
  readonly name: string;
  /** Copies a block, which stays as it is until then. */
  save(block: BlockKV<M>, request: BlockRequest): Promise<SavedBlock<M>>;
  /** The bytes that a block will take. Default: its own. */
  numBytes?(block: BlockKV<M>, request: BlockRequest): number;
  /**
   * A block that is not known to rest here: another process may have put it there. Absent: none does, or none can be asked for now.
   * @param numBytes of its keys and values, where that is known.
   */
  readonly lookUp?: ((id: BlockId, numBytes?: number) => Promise<FoundBlock<M> | undefined>) | undefined;
  /**
   * Of a medium with limits of its own that many processes write into: nothing is listed or evicted here, and `save` of what is there
   * already only notes that. Deletes a block. @returns whether it was there. @throws Error where that is not sure.
   */
  readonly remove?: (id: BlockId) => Promise<boolean>;
  /** All blocks of an owner that hold passages or saw them. Absent: those that are known to rest there. */
  idsWith?(names: ReadonlySet<string>, owner: string): Promise<readonly BlockId[]>;
  /** Whether nobody else can have put any there: looking would be in vain. */
  knowsAll?(): boolean;
}

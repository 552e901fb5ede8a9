import { type BlockId, type ContextId, ownerName, passageName } from "./block-id.js";
import type { BlockKV, BlockKVShape, BlockMemory } from "./block-kv.js";

/** A block that a request needs: its name, and what its KV must look like. */
export interface BlockRequest {
  readonly id: BlockId;
  readonly shape: BlockKVShape;
  /** Whose block it is, as the id's salt says: only they may look it up or delete it by its id. */
  readonly owner: string;
  readonly tokenIds: Int32Array;
  /** What it saw beside itself: then it is a page, or a block behind a preamble. */
  readonly context?: ContextId | undefined;
  /**
   * Part of a longer text, whose first rows are of use alone: a page that has them and more takes its place. Its keys are
   * turned to their places, which its context tells.
   */
  readonly isPage?: boolean | undefined;
  /** Whether a copy of it is waited for however long that takes: computing it once more is not wanted. */
  readonly isPatient?: boolean | undefined;
  /** `passageName()` of the passages that it holds or saw: with one of them it goes. */
  readonly documents?: readonly string[] | undefined;
  /** What a file says: its owner is `ownerName()` of the salt, and whether its shape is the block's is not sure. */
  readonly isFromFile?: boolean | undefined;
}

/** Whether a block is of an owner. Files have owners' names alone, which are no secret. */
export function isOf(owner: string, request: BlockRequest | undefined): boolean {
  return request !== undefined && request.owner === (request.isFromFile ? ownerName(owner) : owner);
}

/** Whether a block is one of some passages, or saw one. @param names `passageName()`s. */
export function holdsPassage({ id, documents = [] }: BlockRequest, names: ReadonlySet<string>): boolean {
  return names.has(passageName(id)) || documents.some((name) => names.has(name));
}

/** Tokens that saw something, and the page that has all of them and no more, where there is one. */
export type WantedMatch = Pick<BlockRequest, "owner" | "context" | "tokenIds"> & {
  readonly page?: Pick<BlockRequest, "id" | "shape"> | undefined;
};

/** The block that begins most like some tokens, of those that saw the same. */
export interface Match<M extends BlockMemory = BlockMemory> extends Disposable {
  readonly lease: Lease<M>;
  readonly tokenIds: Int32Array;
  /** How many tokens it has in common with what was asked for, from the first on: 1 or more. */
  readonly numShared: number;
}

/** A block that is there, as its owner sees it. */
export interface BlockInfo {
  readonly id: BlockId;
  readonly tokens: number;
  readonly bytes: number;
  /** Whether a request uses it now. */
  readonly inUse: boolean;
}

/** The use of a block that is there. While one lease is out, the block's bytes stay where they are. */
export interface Lease<M extends BlockMemory = BlockMemory> extends Disposable {
  readonly kind: "hit";
  readonly id: BlockId;
  /**
   * Immutable, shared with other requests, owned by the store: never dispose it.
   * @throws Error once the lease went back.
   */
  readonly block: BlockKV<M>;
  /** Gives the block back; again does nothing. */
  [Symbol.dispose](): void;
}

/** The right and the duty to encode a block that is not there. Others who ask for it wait until it ends. */
export interface Reservation<M extends BlockMemory = BlockMemory> extends Disposable {
  readonly kind: "miss";
  readonly id: BlockId;
  /**
   * Hands the encoded block to the store, which owns it from now on, and to all who wait for it. Never waits: a store on
   * a slow medium writes afterwards.
   * @throws Error if the reservation has ended; RangeError if the block's shape is not the one asked for. Either way the
   * block stays the caller's.
   */
  commit(block: BlockKV<M>): Lease<M>;
  /** Without a commit: gives the encoding up, and the first who waits for the block takes over. After one: nothing. */
  [Symbol.dispose](): void;
}

/** A block that another request is encoding now. */
export interface Wait<M extends BlockMemory = BlockMemory> extends Disposable {
  readonly kind: "pending";
  readonly id: BlockId;
  /**
   * The block, or, if the other request failed or was cancelled, the encoding to take over. Rejects with the signal's
   * reason when `acquire`'s signal aborts, and with an Error when the wait or the store is disposed.
   */
  readonly settled: Promise<Lease<M> | Reservation<M>>;
  /** Stops waiting. Gives back what it settled to as well, for nobody may have looked: keep the wait while you use that. */
  [Symbol.dispose](): void;
}

export type Acquisition<M extends BlockMemory = BlockMemory> = Lease<M> | Reservation<M> | Wait<M>;

/** Counters never go down; bytes and numBlocks are as of now. */
export interface BlockStoreStats {
  readonly capBytes: number;
  /** Kept blocks that at least one request uses. */
  readonly leasedBytes: number;
  /** Kept blocks that nobody uses. */
  readonly idleBytes: number;
  /** leasedBytes + idleBytes + freeBytes = capBytes, always. */
  readonly freeBytes: number;
  /** Blocks that did not fit or were deleted before they came: in use, freed after, and not part of the cap. */
  readonly unkeptBytes: number;
  /** Blocks that a request would find: kept ones, and unkept ones while they are used. */
  readonly numBlocks: number;
  /** Encodings under way. Their memory is their request's until it commits, and not part of the cap. */
  readonly numEncoding: number;
  /** Acquisitions of blocks, pages left out, by how they were answered: hits + misses + waits is all of them. */
  readonly hits: number;
  readonly misses: number;
  readonly waits: number;
  /** Waits that took a given-up encoding over. */
  readonly takeovers: number;
  /** Blocks forgotten to make room for others. */
  readonly evictions: number;
  /** Blocks that left the store before its end: for room, deleted, or because a page holds all of theirs and more. */
  readonly evictionsByReason: { readonly room: number; readonly deleted: number; readonly replaced: number };
  /** The slower media beside its memory, nearest first: blocks rest there, and are found. */
  readonly tiers: readonly TierStats[];
}

/** Of a slower medium beside a store's own memory. Counters never go down. */
export interface TierStats {
  /** Of what medium. */
  readonly name: string;
  /** Absent of a medium that many processes write into, with limits of its own: only blocks that are being copied are counted. */
  readonly capBytes: number | undefined;
  /** Of blocks that rest there, those that are being copied there among them. */
  readonly usedBytes: number;
  /** Of blocks that are being copied there: in the store's own memory until then, beside its cap. */
  readonly savingBytes: number;
  readonly numBlocks: number;
  /** Blocks copied there, and back. */
  readonly saves: number;
  readonly loads: number;
  /** Blocks that were not copied: too large, too many at a time, or the copy failed. */
  readonly drops: number;
  /** Blocks that were gone or damaged when they were asked for. */
  readonly losses: number;
  /** Blocks forgotten there to make room for others. */
  readonly evictions: number;
  /** Blocks that were not asked for there, since computing them was expected to take less time. */
  readonly computed: number;
  /** Blocks that did not come in time, and were computed. */
  readonly late: number;
}

/**
 * Where block KV rest, in memory or on a slow or remote medium. Bounded: it has a byte cap, and never evicts what is
 * leased. A block that does not fit is used and not kept.
 *
 * The protocol against deadlock: encode your own misses before you wait, and wait for all at once, since any of them may
 * turn into an encoding of yours. `leaseBlocks` does that.
 *
 * Every store passes `blockStoreSuite`.
 */
export interface BlockStore<M extends BlockMemory = BlockMemory> extends AsyncDisposable {
  /**
   * Asks for blocks, all at once; one acquisition each, in order, to be disposed by the caller. An id that stands twice
   * is answered twice: where the first is a miss, the second waits for it.
   *
   * Data that a slow medium returns damaged is a miss, and is reported.
   *
   * @param options.signal cancels the look-up and the waits (not leases or reservations). A cancelled look-up gives all
   * back.
   * @throws the signal's reason; Error if the store was disposed.
   */
  acquire(
    requests: readonly BlockRequest[],
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly Acquisition<M>[]>;
  /**
   * The block that begins most like some tokens, of those that saw the same, leased; undefined where none has the first
   * token. A page's rows depend on what stands before them alone, so those in common may be used. Never waits for a block
   * that is being encoded.
   */
  longestMatch(
    wanted: WantedMatch,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<Match<M> | undefined>;
  /** The use of a block if it is kept: it counts as used, and as no acquisition. One that rests below stays there, and is not read. */
  lease(id: BlockId): Promise<Lease<M> | undefined>;
  /**
   * Forgets a block: it is not found from now on, and its memory is freed at the end of its last lease. One that is being
   * encoded goes to those who asked before, and is not kept.
   * @returns whether there was such a block of this owner: another's is neither told nor touched.
   */
  delete(id: BlockId, owner: string, options?: { readonly signal?: AbortSignal | undefined }): Promise<boolean>;
  /**
   * Forgets all blocks and pages of this owner that hold passages or saw them, by `passageName()`.
   * @param ids of some of them, this owner's: what lists nothing finds no others.
   */
  deletePassages(names: ReadonlySet<string>, owner: string, ids?: readonly BlockId[]): Promise<void>;
  /** A block of this owner that a request would find; looking is no use of it. */
  find(
    id: BlockId,
    owner: string,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<BlockInfo | undefined>;
  /**
   * Resolves once a block that is there rests where it outlives the process, or where that failed.
   *
   * @param holds gets what keeps it from being evicted there until it is disposed.
   * @returns whether it does.
   */
  keep(id: BlockId, holds?: Disposable[]): Promise<boolean>;
  /** Deletes all blocks. */
  clear(options?: { readonly signal?: AbortSignal | undefined }): Promise<void>;
  stats(): BlockStoreStats;
  /** Forgets all blocks and ends all waits with an error. Leases that are out stay valid until they go back. */
  [Symbol.asyncDispose](): Promise<void>;
}

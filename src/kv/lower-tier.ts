import type { BlockId } from "./block-id.js";
import { BlockIndex } from "./block-index.js";
import type { BlockKV, BlockMemory } from "./block-kv.js";
import type { BlockRequest, TierStats } from "./block-store.js";
import { LruList, type LruNode } from "./lru-list.js";

/** A copy of a block in slower memory; whoever holds it disposes it. */
export interface SavedBlock<M extends BlockMemory> extends Disposable {
  /** The same bytes in a store's own memory, the caller's from then on. */
  load(): Promise<BlockKV<M>>;
}

/** A block that rests below. */
interface Resting<M extends BlockMemory> extends LruNode<Resting<M>> {
  readonly request: BlockRequest;
  readonly byteLength: number;
  /** Resolves once it is copied or given up. */
  copied: Promise<void>;
  saved: SavedBlock<M> | undefined;
  /** Copies of it under way, down or up: it stays where it is meanwhile. */
  numCopies: number;
}

/**
 * Slower memory below a store's own: blocks that the store evicts are copied down, beside everything else, and up again when they are
 * asked for. A byte cap, the least recently used ones forgotten first. What comes faster than it can be copied is dropped and counted.
 * A block that was copied up stays below too, so that it is evicted from the store's memory without another copy.
 */
export class LowerTier<M extends BlockMemory> implements AsyncDisposable {
  readonly #capBytes: number;
  readonly #maxSavingBytes: number;
  readonly #save: (block: BlockKV<M>) => Promise<SavedBlock<M>>;
  readonly #resting = new Map<BlockId, Resting<M>>();
  readonly #index = new BlockIndex<Resting<M>>();
  /** Those that are not being copied. */
  readonly #idle = new LruList<Resting<M>>();
  readonly #copies = new Set<Promise<unknown>>();
  #usedBytes = 0;
  #savingBytes = 0;
  readonly #counts = { saves: 0, loads: 0, drops: 0, evictions: 0 };

  /**
   * @param options.save copies a block, which stays as it is until then.
   * @param options.maxSavingBytes of blocks that are copied down at a time. Default: an eighth of the cap, 256 MiB at most.
   * @throws RangeError if capBytes is not a whole number from 1 on.
   */
  constructor(options: {
    readonly capBytes: number;
    readonly save: (block: BlockKV<M>) => Promise<SavedBlock<M>>;
    readonly maxSavingBytes?: number;
  }) {
    const { capBytes, save, maxSavingBytes = Math.min(capBytes / 8, 2 ** 28) } = options;
    if (!Number.isSafeInteger(capBytes) || capBytes < 1) {
      throw new RangeError(`Cannot make a tier: capBytes is ${capBytes}, wanted a whole number from 1 on`);
    }
    this.#capBytes = capBytes;
    this.#maxSavingBytes = maxSavingBytes;
    this.#save = save;
  }

  get stats(): TierStats {
    const [usedBytes, savingBytes] = [this.#usedBytes, this.#savingBytes];
    return { capBytes: this.#capBytes, usedBytes, savingBytes, numBlocks: this.#resting.size, ...this.#counts };
  }

  /** What a block was asked for as; undefined where it does not rest here. */
  find(id: BlockId): BlockRequest | undefined {
    return this.#resting.get(id)?.request;
  }

  /** Counts a block as used. @returns whether it rests here. */
  touch(id: BlockId): boolean {
    const resting = this.#resting.get(id);
    if (resting !== undefined && this.#idle.remove(resting)) this.#idle.append(resting);
    return resting !== undefined;
  }

  mostAlike(wanted: Pick<BlockRequest, "owner" | "context" | "tokenIds">) {
    const found = this.#index.mostAlike(wanted);
    return found && { request: found.entry.request, numShared: found.numShared };
  }

  /**
   * Copies a block that the store does not keep in its own memory.
   * @param done called once, when the block is needed no more. Default: disposes it.
   */
  take(request: BlockRequest, block: BlockKV<M>, done = () => block[Symbol.dispose]()): void {
    if (this.touch(request.id)) {
      done();
      return;
    }
    const { byteLength } = block;
    // One alone is taken whatever its size, else large blocks would never be.
    const isTooFast = this.#savingBytes > 0 && this.#savingBytes + byteLength > this.#maxSavingBytes;
    if (isTooFast || !this.#makeRoom(byteLength)) {
      this.#counts.drops += 1;
      done();
      return;
    }
    const copied = Promise.resolve();
    const links = { previous: undefined, next: undefined };
    const resting: Resting<M> = { request, byteLength, copied, saved: undefined, numCopies: 0, ...links };
    this.#usedBytes += byteLength;
    this.#savingBytes += byteLength;
    this.#resting.set(request.id, resting);
    this.#index.add(resting);
    resting.copied = this.#copying(resting, async () => {
      try {
        resting.saved = await this.#save(block);
        this.#counts.saves += 1;
      } catch {
        this.#counts.drops += 1;
        this.#forget(resting);
      } finally {
        this.#savingBytes -= byteLength;
        done();
      }
    });
  }

  /** A block's copy in the store's memory; undefined where it does not rest here, or finds no memory there. */
  async load(id: BlockId): Promise<BlockKV<M> | undefined> {
    const resting = this.#resting.get(id);
    if (resting === undefined) return undefined;
    return await this.#copying(resting, async () => {
      await resting.copied;
      const block = await resting.saved?.load().catch(() => undefined);
      if (block !== undefined) this.#counts.loads += 1;
      return block;
    });
  }

  /** @returns whether it was there. */
  delete(id: BlockId): boolean {
    const resting = this.#resting.get(id);
    if (resting !== undefined) this.#forget(resting);
    return resting !== undefined;
  }

  /** Forgets blocks whose tokens are the first ones of this one's. */
  deleteShorter(request: BlockRequest): void {
    for (const shorter of this.#index.shorter({ request })) this.#forget(shorter);
  }

  clear(): void {
    for (const resting of [...this.#resting.values()]) this.#forget(resting);
  }

  /** Forgets all blocks, and resolves once nothing is copied any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.clear();
    await Promise.all(this.#copies);
  }

  async #copying<T>(resting: Resting<M>, copy: () => Promise<T>): Promise<T> {
    this.#idle.remove(resting);
    resting.numCopies += 1;
    const copying = copy().finally(() => {
      resting.numCopies -= 1;
      this.#copies.delete(copying);
      if (resting.numCopies > 0) return;
      if (this.#resting.get(resting.request.id) === resting) this.#idle.append(resting);
      else this.#free(resting);
    });
    this.#copies.add(copying);
    return await copying;
  }

  #makeRoom(byteLength: number): boolean {
    if (byteLength > this.#capBytes) return false;
    while (this.#capBytes - this.#usedBytes < byteLength) {
      const oldest = this.#idle.first;
      if (oldest === undefined) return false;
      this.#counts.evictions += 1;
      this.#forget(oldest);
    }
    return true;
  }

  #forget(resting: Resting<M>): void {
    if (this.#resting.get(resting.request.id) !== resting) return;
    this.#resting.delete(resting.request.id);
    this.#index.remove(resting);
    if (this.#idle.remove(resting)) this.#free(resting);
  }

  #free(resting: Resting<M>): void {
    this.#usedBytes -= resting.byteLength;
    resting.saved?.[Symbol.dispose]();
  }
}

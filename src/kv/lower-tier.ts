import type { BlockId } from "./block-id.js";
import { BlockIndex } from "./block-index.js";
import { type BlockKV, type BlockMemory, blockKVByteLength } from "./block-kv.js";
import { type BlockRequest, holdsPassage, isOf, type TierStats } from "./block-store.js";
import { LruList, type LruNode } from "./lru-list.js";
import type { FoundBlock, SavedBlock, TierMedium } from "./tier-medium.js";

/** A block that rests below. */
interface Resting<M extends BlockMemory> extends LruNode<Resting<M>> {
  readonly request: BlockRequest;
  readonly byteLength: number;
  /** Of one that was not there before: resolves once it is copied or given up. */
  copied: Promise<void> | undefined;
  saved: SavedBlock<M> | undefined;
  /** Copies of it under way, down or up: it stays where it is meanwhile. */
  numCopies: number;
  /** Callers that were told that it rests here, and have not ended yet: it stays for them, too. */
  numHolds: number;
}

const noTokens = new Int32Array();

function withoutTokens({ id, shape, owner, context, isPage, isFromFile }: BlockRequest): BlockRequest {
  return { id, shape, owner, tokenIds: noTokens, context, isPage, isFromFile };
}

/** Written out: very many of them are small only if they are alike. */
function restingOf<M extends BlockMemory>(
  request: BlockRequest,
  byteLength: number,
  saved: SavedBlock<M> | undefined,
): Resting<M> {
  return {
    request,
    byteLength,
    copied: undefined,
    saved,
    numCopies: 0,
    numHolds: 0,
    previous: undefined,
    next: undefined,
  };
}

/** After a failed copy no other is tried for so long, twice as long after each that follows. */
const firstPauseMs = 250;
const longestPauseMs = 60_000;

/**
 * A slower medium below a store's own memory: blocks are copied down, beside everything else, and up again when they are
 * asked for. A byte cap, the least recently used ones forgotten first. What comes faster than it can be copied is dropped and counted.
 * A block that was copied up stays below too, so that it is evicted from the store's memory without another copy.
 */
export class LowerTier<M extends BlockMemory> implements AsyncDisposable {
  /** Whether blocks stay when the store ends, and are copied as soon as they are there, not only when the store evicts them. */
  readonly isLasting: boolean;
  readonly #capBytes: number;
  /** Whether the medium lists its blocks itself: then only those that are being copied are known here. */
  readonly #isShared: boolean;
  /** Blocks in the store's own memory that were copied to a shared medium, or from it. */
  readonly #shared = new WeakSet<BlockKV<M>>();
  readonly #maxSavingBytes: number;
  readonly #medium: TierMedium<M>;
  readonly #resting = new Map<BlockId, Resting<M>>();
  readonly #index = new BlockIndex<Resting<M>>();
  /** Those that are not being copied. */
  readonly #idle = new LruList<Resting<M>>();
  readonly #copies = new Set<Promise<unknown>>();
  /** Frees under way, by the block: their bytes are counted until they end. */
  readonly #frees = new Map<BlockId, Promise<Error | undefined>>();
  /** Whose last use is not noted yet. */
  readonly #used = new Set<Resting<M>>();
  #usedBytes = 0;
  #freeingBytes = 0;
  #savingBytes = 0;
  #pauseMs = 0;
  #pausedUntil = 0;
  #isReadOnly: boolean;
  #isEnded = false;
  readonly #counts = { saves: 0, loads: 0, drops: 0, losses: 0, evictions: 0 };

  /**
   * @param options.capBytes absent where the medium has limits of its own.
   * @param options.maxSavingBytes of blocks that are copied down at a time. Default: an eighth of the cap, 256 MiB at most.
   * @param options.isReadOnly whether no block is copied down, until `write()`.
   * @throws RangeError if capBytes is not a whole number from 1 on.
   */
  constructor(options: {
    readonly capBytes?: number;
    readonly medium: TierMedium<M>;
    readonly maxSavingBytes?: number;
    readonly isLasting?: boolean;
    readonly isReadOnly?: boolean;
  }) {
    const { capBytes = Number.MAX_SAFE_INTEGER, medium, maxSavingBytes = Math.min(capBytes / 8, 2 ** 28) } = options;
    if (!Number.isSafeInteger(capBytes) || capBytes < 1) {
      throw new RangeError(`Cannot make a tier: capBytes is ${capBytes}, wanted a whole number from 1 on`);
    }
    this.#capBytes = capBytes;
    this.#maxSavingBytes = maxSavingBytes;
    this.#medium = medium;
    this.#isShared = medium.remove !== undefined;
    this.isLasting = options.isLasting ?? false;
    this.#isReadOnly = options.isReadOnly ?? false;
  }

  get stats(): Omit<TierStats, "computed" | "late"> {
    const [usedBytes, savingBytes] = [this.#usedBytes, this.#savingBytes];
    const { name } = this.#medium;
    const capBytes = this.#isShared ? undefined : this.#capBytes;
    return { name, capBytes, usedBytes, savingBytes, numBlocks: this.#resting.size, ...this.#counts };
  }

  /** Blocks that rest there already, the least recently used first. */
  restore(found: FoundBlock<M>): void {
    if (!this.#resting.has(found.request.id)) this.#idle.append(this.#add(found.request, found.numBytes, found.saved));
  }

  get ids(): readonly BlockId[] {
    return [...this.#resting.keys()];
  }

  /** Forgets a block that is gone, however that came. */
  drop(id: BlockId): void {
    const resting = this.#resting.get(id);
    if (resting?.saved === undefined) return;
    resting.saved = undefined;
    this.#forget(resting);
  }

  /**
   * Room within the cap for what others put there, or, where it is negative, no more of it.
   * @returns whether there is.
   */
  async reserve(byteLength: number): Promise<boolean> {
    if (byteLength > 0 && !this.#evict(byteLength)) return false;
    this.#usedBytes += byteLength;
    while (this.#usedBytes > this.#capBytes && this.#frees.size > 0) await Promise.race(this.#frees.values());
    if (this.#usedBytes <= this.#capBytes || byteLength <= 0) return true;
    this.#usedBytes -= byteLength;
    return false;
  }

  /** From now on blocks are copied down: all that rest there are known. What is more than the cap is forgotten. */
  write(): void {
    this.#isReadOnly = false;
    this.#evict(0);
  }

  /** What a block was asked for as; undefined where it is not known to rest here. Tokens of plain blocks may be left out. */
  find(id: BlockId): BlockRequest | undefined {
    return this.#resting.get(id)?.request;
  }

  /** The same of a block that another process may have put there. @throws Error where a shared medium does not answer. */
  async describe(id: BlockId): Promise<BlockRequest | undefined> {
    return (this.#resting.get(id) ?? (await this.#lookUp(id)))?.request;
  }

  /** Whether it is worth while to ask for a block. */
  mayHave(id: BlockId): boolean {
    return this.#resting.has(id) || (this.#medium.lookUp !== undefined && this.#medium.knowsAll?.() !== true);
  }

  /** Counts a block as used. @returns whether it rests here. */
  touch(id: BlockId): boolean {
    const resting = this.#resting.get(id);
    if (resting === undefined) return false;
    if (this.#idle.remove(resting)) this.#idle.append(resting);
    if (this.isLasting && !this.#isShared) this.#used.add(resting);
    return true;
  }

  mostAlike(wanted: Pick<BlockRequest, "owner" | "context" | "tokenIds">) {
    const found = this.#index.mostAlike(wanted);
    return found && { request: found.entry.request, numShared: found.numShared };
  }

  /**
   * Copies a block that is in the store's own memory, where it is not here.
   * @param done called once, when the block is needed no more.
   */
  take(request: BlockRequest, block: BlockKV<M>, done: () => void): void {
    if (this.touch(request.id) || this.#isReadOnly || this.#shared.has(block)) {
      done();
      return;
    }
    const byteLength = this.#bytesOf(request, block);
    const isPaused = performance.now() < this.#pausedUntil;
    if (isPaused || this.#isTooFast(byteLength) || !this.#evict(byteLength)) {
      this.#counts.drops += 1;
      done();
      return;
    }
    this.#copy(request, block, byteLength, done);
  }

  #bytesOf(request: BlockRequest, block: BlockKV<M>): number {
    return this.#medium.numBytes?.(block, request) ?? block.byteLength;
  }

  /** One alone is taken whatever its size, else large blocks would never be. */
  #isTooFast(byteLength: number): boolean {
    return this.#savingBytes > 0 && this.#savingBytes + byteLength > this.#maxSavingBytes;
  }

  #copy(request: BlockRequest, block: BlockKV<M>, byteLength: number, done: () => void): void {
    this.#savingBytes += byteLength;
    const resting = this.#add(request, byteLength, undefined);
    resting.copied = this.#copying(resting, async () => {
      try {
        // What was evicted for it may still be there.
        while (this.#usedBytes > this.#capBytes && this.#frees.size > 0) await Promise.race(this.#frees.values());
        await this.#frees.get(request.id);
        if (this.#usedBytes > this.#capBytes)
          throw new Error("Cannot copy a block: what was evicted could not be freed");
        resting.saved = await this.#medium.save(block, request);
        if (this.#isShared) this.#shared.add(block);
        this.#counts.saves += 1;
        this.#pauseMs = 0;
      } catch {
        this.#pauseMs = Math.min(longestPauseMs, Math.max(firstPauseMs, 2 * this.#pauseMs));
        this.#pausedUntil = performance.now() + this.#pauseMs;
        this.#counts.drops += 1;
        this.#forget(resting);
      } finally {
        this.#savingBytes -= byteLength;
        done();
      }
    });
  }

  /** A block's copy in the store's memory; undefined where it does not rest here, or finds no memory there. */
  async load(request: BlockRequest): Promise<BlockKV<M> | undefined> {
    const { id, shape } = request;
    const resting = this.#resting.get(id) ?? (await this.#lookUp(id, blockKVByteLength(shape)).catch(() => undefined));
    if (resting === undefined || this.#isEnded) return undefined;
    return await this.#copying(resting, async () => {
      await resting.copied;
      try {
        const block = await resting.saved?.load(request);
        if (block !== undefined) {
          this.#counts.loads += 1;
          if (this.#isShared) this.#shared.add(block);
        } else if (resting.saved !== undefined) {
          this.#counts.losses += 1;
          this.drop(request.id);
        }
        if (this.isLasting && !this.#isShared) this.#used.add(resting);
        return block;
      } catch {
        return undefined;
      }
    });
  }

  /** @returns whether it was there. @throws Error where it still is. */
  async delete(id: BlockId): Promise<boolean> {
    const resting = this.#resting.get(id) ?? (this.#isShared ? undefined : await this.#lookUp(id));
    if (resting === undefined) return (await this.#medium.remove?.(id)) ?? false;
    this.#forget(resting);
    while (resting.numCopies > 0) await Promise.race(this.#copies);
    const error = await this.#frees.get(id);
    if (error !== undefined) throw error;
    await resting.saved?.freeForAll?.();
    await this.#medium.remove?.(id);
    return true;
  }

  /** The blocks of an owner that hold passages or saw them. @throws Error where not all could be looked at. */
  async idsWith(names: ReadonlySet<string>, owner: string): Promise<readonly BlockId[]> {
    if (this.#medium.idsWith) return await this.#medium.idsWith(names, owner);
    const requests = [...this.#resting.values()].map(({ request }) => request);
    return requests.filter((one) => isOf(owner, one) && holdsPassage(one, names)).map(({ id }) => id);
  }

  /** Forgets blocks whose tokens are the first ones of this one's. */
  deleteShorter(request: BlockRequest): void {
    for (const shorter of this.#index.shorter({ request })) this.#forget(shorter);
  }

  clear(): void {
    for (const resting of [...this.#resting.values()]) this.#forget(resting);
  }

  /**
   * As `take()`, for who waits for it: it is never too fast, and is tried also after a failure.
   *
   * @param holds gets what keeps the block from being evicted until it is disposed.
   * @returns whether the block rests here then.
   */
  async keep(request: BlockRequest, block: BlockKV<M>, holds?: Disposable[]): Promise<boolean> {
    const { id } = request;
    const byteLength = this.#bytesOf(request, block);
    const known = this.#resting.get(id);
    if (known !== undefined && (await known.saved?.isThere?.()) === false) {
      this.#counts.losses += 1;
      this.#forget(known);
    }
    while (!this.touch(id) && this.#isTooFast(byteLength)) await Promise.race(this.#copies);
    if (!this.touch(id) && !this.#isReadOnly && this.#evict(byteLength)) {
      this.#copy(request, block, byteLength, () => undefined);
    }
    const resting = this.#resting.get(id);
    if (resting !== undefined) holds?.push(this.#hold(resting));
    await resting?.copied;
    return resting?.saved !== undefined && (this.#isShared || this.#resting.get(id) === resting);
  }

  #hold(resting: Resting<M>): Disposable {
    this.#idle.remove(resting);
    resting.numHolds += 1;
    return {
      [Symbol.dispose]: () => {
        resting.numHolds -= 1;
        this.#settle(resting);
      },
    };
  }

  /** Notes when blocks were last used, where that outlives the process. */
  async noteUse(): Promise<void> {
    const used = [...this.#used];
    this.#used.clear();
    for (const { saved } of used) await saved?.markUsed?.().catch(() => undefined);
  }

  /** Resolves once nothing is copied any more. Blocks that do not last are forgotten. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isReadOnly = true;
    // A load that still looks for its block finds no memory: that may be gone by then.
    this.#isEnded = true;
    if (!this.isLasting) this.clear();
    await Promise.all(this.#copies);
    await this.noteUse();
    await Promise.all(this.#frees.values());
  }

  async #lookUp(id: BlockId, numBytes?: number): Promise<Resting<M> | undefined> {
    const found = await this.#medium.lookUp?.(id, numBytes).catch((error: unknown) => {
      if (this.#isShared) throw error;
    });
    const known = this.#resting.get(id);
    if (known !== undefined || !found) return known;
    if (this.#isShared) return restingOf(found.request, 0, found.saved);
    const resting = this.#add(found.request, found.numBytes, found.saved);
    this.#idle.append(resting);
    this.#evict(0);
    return resting;
  }

  #add(request: BlockRequest, byteLength: number, saved: SavedBlock<M> | undefined): Resting<M> {
    // Of very many blocks the tokens would fill the memory; what is found by its tokens are pages.
    const kept = this.isLasting && request.isPage !== true ? withoutTokens(request) : request;
    const resting = restingOf(kept, byteLength, saved);
    this.#usedBytes += byteLength;
    this.#resting.set(request.id, resting);
    if (kept.tokenIds.length > 0) this.#index.add(resting);
    return resting;
  }

  async #copying<T>(resting: Resting<M>, copy: () => Promise<T>): Promise<T> {
    this.#idle.remove(resting);
    resting.numCopies += 1;
    const copying = copy().finally(() => {
      resting.numCopies -= 1;
      this.#copies.delete(copying);
      if (resting.numCopies > 0) return;
      if (this.#resting.get(resting.request.id) !== resting) this.#free(resting);
      else if (this.#isShared) this.#forget(resting);
      this.#settle(resting);
    });
    this.#copies.add(copying);
    return await copying;
  }

  /** One that nobody uses any more may be evicted. */
  #settle(resting: Resting<M>): void {
    const isUsed = resting.numCopies + resting.numHolds > 0;
    if (!isUsed && this.#resting.get(resting.request.id) === resting) this.#idle.append(resting);
  }

  /** Forgets the least recently used, until there is room for so many bytes more. @returns whether there is. */
  #evict(byteLength: number): boolean {
    if (byteLength > this.#capBytes) return false;
    while (this.#capBytes - this.#usedBytes + this.#freeingBytes < byteLength) {
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
    this.#used.delete(resting);
    if (resting.request.tokenIds.length > 0) this.#index.remove(resting);
    this.#idle.remove(resting);
    if (resting.numCopies === 0) this.#free(resting);
  }

  #free({ request, saved, byteLength }: Resting<M>): void {
    const { id } = request;
    const freed = saved?.free();
    if (freed === undefined) {
      this.#usedBytes -= byteLength;
      return;
    }
    this.#freeingBytes += byteLength;
    const ended = freed
      .then(
        () => {
          this.#usedBytes -= byteLength;
          return undefined;
        },
        (error: Error) => {
          this.#usedBytes -= byteLength;
          // It is still there: found again, and evicted another time.
          if (saved !== undefined) this.restore({ request, numBytes: byteLength, saved });
          return error;
        },
      )
      .finally(() => {
        this.#freeingBytes -= byteLength;
        this.#frees.delete(id);
      });
    this.#frees.set(id, ended);
  }
}

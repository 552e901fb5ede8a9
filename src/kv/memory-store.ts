import type { BlockId } from "./block-id.js";
import { BlockIndex } from "./block-index.js";
import {
  type BlockKV,
  type BlockKVShape,
  type BlockMemory,
  blockKVByteLength,
  describeShape,
  sameShape,
} from "./block-kv.js";
import {
  type Acquisition,
  type BlockInfo,
  type BlockRequest,
  type BlockStore,
  type BlockStoreStats,
  holdsPassage,
  isOf,
  type Lease,
  type Match,
  type Reservation,
  type WantedMatch,
} from "./block-store.js";
import type { LowerTier } from "./lower-tier.js";
import { LruList, type LruNode } from "./lru-list.js";
import type { ComputeTime } from "./measured-loads.js";
import { cancelTogether, MemoryLease, MemoryReservation, MemoryWait } from "./memory-acquisitions.js";
import { Tiers } from "./tiers.js";

/** A block that is being encoded, or copied up from below: one reservation is out, or none, and others may wait. */
interface Encoding<M extends BlockMemory> {
  readonly kind: "encoding";
  readonly request: BlockRequest;
  /** First come, first to take over. */
  readonly waits: Set<MemoryWait<M>>;
}

/** A block that is there. */
interface Resident<M extends BlockMemory> extends LruNode<Resident<M>> {
  readonly kind: "resident";
  readonly id: BlockId;
  readonly request: BlockRequest;
  readonly block: BlockKV<M>;
  /** Whether its bytes are part of the cap. */
  readonly kept: boolean;
  numLeases: number;
}

/**
 * Block KV in this process's memory: a byte cap, the least recently used idle blocks evicted first. Blocks are found by id in
 * constant time, and by their tokens in logarithmic time.
 *
 * Encodings in flight are not counted: their memory is their request's until it commits, so an encoding that fails evicts
 * nothing. A block counts as used when it is leased and when its last lease goes back.
 */
export class MemoryStore<M extends BlockMemory = BlockMemory> implements BlockStore<M> {
  readonly #capBytes: number;
  readonly #tiers: Tiers<M>;
  /** What a request would find. A deleted resident or encoding lives on outside it until its users are done. */
  readonly #found = new Map<BlockId, Encoding<M> | Resident<M>>();
  readonly #encodings = new Set<Encoding<M>>();
  /** The residents that a request would find. */
  readonly #index = new BlockIndex<Resident<M>>();
  readonly #idle = new LruList<Resident<M>>();
  #leasedBytes = 0;
  #idleBytes = 0;
  #unkeptBytes = 0;
  #hits = 0;
  #misses = 0;
  #waits = 0;
  #takeovers = 0;
  #evictions = 0;
  #deletions = 0;
  #replacements = 0;
  #isDisposed = false;

  /**
   * @param options.capBytes with 0, blocks are used and never kept, but for below.
   * @param options.tiers where blocks rest beside or after it, and are found, nearest first: the store's from then on.
   * @param options.computeTime what blocks cost that are not loaded from there. Default: all are loaded that come in time.
   * @throws RangeError if capBytes is not a whole number from 0 on.
   */
  constructor(options: {
    readonly capBytes: number;
    readonly tiers?: readonly LowerTier<M>[];
    readonly computeTime?: ComputeTime;
  }) {
    if (!Number.isSafeInteger(options.capBytes) || options.capBytes < 0) {
      throw new RangeError(
        `Cannot make a block store: capBytes is ${options.capBytes}, wanted a whole number from 0 on`,
      );
    }
    this.#capBytes = options.capBytes;
    this.#tiers = new Tiers(options.tiers ?? [], options.computeTime ?? (() => undefined));
  }

  async acquire(
    requests: readonly BlockRequest[],
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly Acquisition<M>[]> {
    const { signal } = options;
    signal?.throwIfAborted();
    if (this.#isDisposed) throw new Error("Cannot ask for blocks: the store was disposed");
    // Checked before the first lease is out, so that nothing has to be given back.
    const asked = new Map<BlockId, BlockKVShape>();
    for (const request of requests) {
      this.#checkShape(request, asked.get(request.id));
      asked.set(request.id, request.shape);
    }
    const acquisitions = requests.map((request) => this.#acquireOne(request));
    const waits = acquisitions.filter((acquisition) => acquisition instanceof MemoryWait);
    if (signal !== undefined && waits.length > 0) cancelTogether(waits, signal);
    return acquisitions;
  }

  #checkShape(request: BlockRequest, askedBefore: BlockKVShape | undefined): void {
    const entry = this.#found.get(request.id);
    const below = entry === undefined ? this.#tiers.find(request.id) : undefined;
    // A file of another shape is a miss.
    const shape =
      entry === undefined
        ? below?.isFromFile
          ? askedBefore
          : (below?.shape ?? askedBefore)
        : (entry.kind === "resident" ? entry.block : entry.request).shape;
    if (shape !== undefined && !sameShape(shape, request.shape)) {
      throw new RangeError(
        `Cannot ask for block "${request.id}": it has ${describeShape(shape)}, wanted ${describeShape(request.shape)}`,
      );
    }
  }

  #acquireOne(request: BlockRequest): Acquisition<M> {
    const entry = this.#found.get(request.id);
    const counted = request.isPage ? 0 : 1;
    if (entry === undefined && this.#tiers.mayHave(request.id)) return this.#load(request);
    if (entry === undefined) {
      this.#misses += counted;
      return this.#reserve(this.#startEncoding(request));
    }
    if (entry.kind === "encoding") {
      this.#waits += counted;
      return waitFor(entry);
    }
    this.#hits += counted;
    return this.#lease(entry);
  }

  #startEncoding(request: BlockRequest): Encoding<M> {
    const encoding: Encoding<M> = { kind: "encoding", request, waits: new Set() };
    this.#found.set(request.id, encoding);
    this.#encodings.add(encoding);
    return encoding;
  }

  /** Copies a block up. If that fails, whoever waits first has to encode it. */
  #load(request: BlockRequest): MemoryWait<M> {
    const encoding = this.#startEncoding(request);
    const wait = waitFor(encoding);
    void this.#tiers.load(request).then((block) => {
      if (request.isPage !== true) this.#hits += block === undefined ? 0 : 1;
      if (request.isPage !== true) this.#misses += block === undefined ? 1 : 0;
      if (block === undefined) this.#abandon(encoding, false);
      else this.#commit(encoding, block)[Symbol.dispose]();
    });
    return wait;
  }

  /** The lease of a block that rests below; undefined where it is not found there. */
  async #leaseFromBelow(request: BlockRequest, signal: AbortSignal | undefined): Promise<Lease<M> | undefined> {
    if (this.#found.has(request.id)) return undefined;
    const wait = this.#load(request);
    if (signal) cancelTogether([wait], signal);
    const outcome = await wait.settled;
    if (outcome.kind === "hit") return outcome;
    outcome[Symbol.dispose]();
    return undefined;
  }

  #reserve(encoding: Encoding<M>): Reservation<M> {
    return new MemoryReservation<M>(
      encoding.request,
      (block) => this.#commit(encoding, block),
      () => this.#abandon(encoding),
    );
  }

  /** @param isGivenUp by somebody who should have encoded it. */
  #abandon(encoding: Encoding<M>, isGivenUp = true): void {
    const [next] = encoding.waits;
    if (next !== undefined) {
      this.#takeovers += isGivenUp ? 1 : 0;
      encoding.waits.delete(next);
      next.settle(this.#reserve(encoding));
      return;
    }
    this.#encodings.delete(encoding);
    this.#forget(encoding.request.id, encoding);
  }

  #commit(encoding: Encoding<M>, block: BlockKV<M>): Lease<M> {
    const { request } = encoding;
    const { id } = request;
    const isFound = this.#found.get(id) === encoding;
    const kept = isFound && this.#leasedBytes + block.byteLength <= this.#capBytes;
    if (kept) this.#evictUntilFree(block.byteLength);
    const resident: Resident<M> = {
      kind: "resident",
      id,
      request,
      block,
      kept,
      numLeases: 0,
      previous: undefined,
      next: undefined,
    };
    if (kept) this.#leasedBytes += block.byteLength;
    else this.#unkeptBytes += block.byteLength;
    const lease = this.#lease(resident);
    // One that does not fit is found as well while it is used: whoever needs it now need not encode it again.
    if (isFound) {
      this.#found.set(id, resident);
      this.#index.add(resident);
      // Copied while it is used: so what is not kept here is there when it goes.
      const saving = this.#lease(resident);
      this.#tiers.take(request, block, !kept, () => saving[Symbol.dispose]());
      if (request.isPage && this.#rests(resident)) this.#replaceShorter(resident);
    }
    this.#encodings.delete(encoding);
    for (const wait of encoding.waits) wait.settle(this.#lease(resident));
    return lease;
  }

  /** Whoever could use the pages whose tokens are this one's first can use this one: they go, unless they are in use. */
  #replaceShorter(page: Resident<M>): void {
    for (const shorter of this.#index.shorter(page)) {
      if (shorter.numLeases > 0) continue;
      this.#replacements += 1;
      this.#dropIdle(shorter);
    }
    this.#tiers.deleteShorter(page.request);
  }

  async longestMatch(
    wanted: WantedMatch,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Match<M> | undefined> {
    options.signal?.throwIfAborted();
    if (this.#isDisposed) throw new Error("Cannot ask for blocks: the store was disposed");
    const { owner, context, tokenIds, page } = wanted;
    const [mostHere, mostBelow] = [() => this.#index.mostAlike(wanted), () => this.#tiers.mostAlike(wanted)];
    const isWhole = [mostHere(), mostBelow()].some((found) => found?.numShared === tokenIds.length);
    if (page && !isWhole && this.#tiers.mayHave(page.id)) {
      // What is not known is found by its id.
      const request = { ...page, owner, context, tokenIds, isPage: true };
      const loaded = await this.#leaseFromBelow(request, options.signal);
      if (loaded) return matchOf(loaded, request, tokenIds.length);
    }
    const below = mostBelow();
    if (below && below.numShared > (mostHere()?.numShared ?? 0)) {
      // A context is one owner's.
      const loaded = await this.#leaseFromBelow({ ...below.request, owner, isFromFile: undefined }, options.signal);
      if (loaded) return matchOf(loaded, below.request, below.numShared);
    }
    // Others came and went meanwhile.
    const found = mostHere();
    return found && matchOf(this.#lease(found.entry), found.entry.request, found.numShared);
  }

  async lease(id: BlockId): Promise<Lease<M> | undefined> {
    const entry = this.#found.get(id);
    if (entry?.kind === "resident" && this.#rests(entry)) return this.#lease(entry);
    if (!this.#tiers.touch(id)) return undefined;
    // Used again when the lease goes back: what was leased last goes first, as above.
    return new MemoryLease<M>(id, undefined, () => void this.#tiers.touch(id));
  }

  /** Whether it is found again once nobody uses it. */
  #rests({ kept, id }: Resident<M>): boolean {
    return kept || this.#tiers.find(id) !== undefined;
  }

  #lease(resident: Resident<M>): Lease<M> {
    if (resident.numLeases === 0 && this.#idle.remove(resident)) {
      this.#idleBytes -= resident.block.byteLength;
      this.#leasedBytes += resident.block.byteLength;
    }
    resident.numLeases += 1;
    return new MemoryLease<M>(resident.id, resident.block, () => this.#release(resident));
  }

  #release(resident: Resident<M>): void {
    resident.numLeases -= 1;
    if (resident.numLeases > 0) return;
    const { byteLength } = resident.block;
    if (resident.kept) this.#leasedBytes -= byteLength;
    else this.#unkeptBytes -= byteLength;
    if (resident.kept && this.#found.get(resident.id) === resident) {
      this.#idleBytes += byteLength;
      this.#idle.append(resident);
      return;
    }
    const isFound = this.#found.get(resident.id) === resident;
    this.#forget(resident.id, resident);
    if (isFound) this.#handDown(resident);
    else resident.block[Symbol.dispose]();
  }

  #evictUntilFree(byteLength: number): void {
    while (this.#capBytes - this.#leasedBytes - this.#idleBytes < byteLength) {
      const oldest = this.#idle.first;
      if (oldest === undefined) return;
      this.#evictions += 1;
      this.#dropIdle(oldest, true);
    }
  }

  #dropIdle(resident: Resident<M>, isHandedDown = false): void {
    this.#idle.remove(resident);
    this.#idleBytes -= resident.block.byteLength;
    this.#forget(resident.id, resident);
    if (isHandedDown) this.#handDown(resident);
    else resident.block[Symbol.dispose]();
  }

  /** Frees a block once the tiers have it. */
  #handDown({ request, block }: Resident<M>): void {
    this.#tiers.take(request, block, true, () => block[Symbol.dispose]());
  }

  #forget(id: BlockId, entry: Encoding<M> | Resident<M>): void {
    if (this.#found.get(id) !== entry) return;
    this.#found.delete(id);
    if (entry.kind === "resident") this.#index.remove(entry);
  }

  async delete(
    id: BlockId,
    owner: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<boolean> {
    options.signal?.throwIfAborted();
    const request = this.#found.get(id)?.request ?? (await this.#tiers.describe(id));
    return isOf(owner, request) && (await this.#delete(id));
  }

  async deletePassages(names: ReadonlySet<string>, owner: string, ids: readonly BlockId[] = []): Promise<void> {
    const here = [...this.#found].flatMap(([id, entry]) => {
      return isOf(owner, entry.request) && holdsPassage(entry.request, names) ? [id] : [];
    });
    const below = await this.#tiers.idsWith(names, owner);
    for (const id of new Set([...here, ...below, ...ids])) await this.#delete(id);
  }

  async find(
    id: BlockId,
    owner: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<BlockInfo | undefined> {
    options.signal?.throwIfAborted();
    const entry = this.#found.get(id);
    const below = () => this.#tiers.describe(id).catch(() => undefined);
    const request = entry?.kind === "resident" ? entry.request : await below();
    if (request === undefined || !isOf(owner, request)) return undefined;
    const { shape } = request;
    const inUse = entry?.kind === "resident" && entry.numLeases > 0;
    return { id, tokens: shape.numTokens, bytes: blockKVByteLength(shape), inUse };
  }

  async #delete(id: BlockId): Promise<boolean> {
    const isHere = this.#deleteHere(id);
    const isThere = (await this.#tiers.delete(id)) || isHere;
    if (isThere) this.#deletions += 1;
    return isThere;
  }

  /** @returns whether it was there. */
  #deleteHere(id: BlockId): boolean {
    const entry = this.#found.get(id);
    if (entry?.kind === "resident" && entry.numLeases === 0) this.#dropIdle(entry);
    else if (entry) this.#forget(id, entry);
    return entry?.kind === "resident";
  }

  async keep(id: BlockId, holds?: Disposable[]): Promise<boolean> {
    const entry = this.#found.get(id);
    if (entry?.kind !== "resident") return false;
    using _ = this.#lease(entry);
    return await this.#tiers.keep(entry.request, entry.block, holds);
  }

  async clear(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    options.signal?.throwIfAborted();
    this.#clear();
    this.#tiers.clear();
  }

  #clear(): void {
    for (const id of [...this.#found.keys()]) if (this.#deleteHere(id)) this.#deletions += 1;
  }

  stats(): BlockStoreStats {
    let numFoundEncodings = 0;
    for (const encoding of this.#encodings) {
      if (this.#found.get(encoding.request.id) === encoding) numFoundEncodings += 1;
    }
    return {
      capBytes: this.#capBytes,
      leasedBytes: this.#leasedBytes,
      idleBytes: this.#idleBytes,
      freeBytes: this.#capBytes - this.#leasedBytes - this.#idleBytes,
      unkeptBytes: this.#unkeptBytes,
      numBlocks: this.#found.size - numFoundEncodings,
      numEncoding: this.#encodings.size,
      hits: this.#hits,
      misses: this.#misses,
      waits: this.#waits,
      takeovers: this.#takeovers,
      evictions: this.#evictions,
      evictionsByReason: { room: this.#evictions, deleted: this.#deletions, replaced: this.#replacements },
      tiers: this.#tiers.stats,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    // Those that were used last are used last below too.
    for (let idle = this.#idle.first; idle !== undefined; idle = idle.next) this.#tiers.touch(idle.id);
    this.#clear();
    for (const encoding of this.#encodings) {
      for (const wait of [...encoding.waits]) {
        wait.fail(new Error(`Cannot wait for block "${wait.id}": the store was disposed`));
      }
    }
    await this.#tiers[Symbol.asyncDispose]();
  }
}

function waitFor<M extends BlockMemory>({ request, waits }: Encoding<M>): MemoryWait<M> {
  const wait = new MemoryWait<M>(request.id, () => waits.delete(wait));
  waits.add(wait);
  return wait;
}

function matchOf<M extends BlockMemory>(lease: Lease<M>, { tokenIds }: BlockRequest, numShared: number): Match<M> {
  return { lease, tokenIds, numShared, [Symbol.dispose]: () => lease[Symbol.dispose]() };
}

import type { BlockId } from "./block-id.js";
import { BlockIndex } from "./block-index.js";
import { type BlockKV, type BlockKVShape, type BlockMemory, describeShape, sameShape } from "./block-kv.js";
import type {
  Acquisition,
  BlockInfo,
  BlockRequest,
  BlockStore,
  BlockStoreStats,
  Lease,
  Match,
  Reservation,
  Wait,
} from "./block-store.js";
import { LruList, type LruNode } from "./lru-list.js";

/** A block that is being encoded: one reservation is out, and others may wait. */
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

  /** @throws RangeError if capBytes is not a whole number from 0 on. With 0, blocks are used and never kept. */
  constructor(options: { readonly capBytes: number }) {
    if (!Number.isSafeInteger(options.capBytes) || options.capBytes < 0) {
      throw new RangeError(
        `Cannot make a block store: capBytes is ${options.capBytes}, wanted a whole number from 0 on`,
      );
    }
    this.#capBytes = options.capBytes;
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
    const shape = entry === undefined ? askedBefore : (entry.kind === "resident" ? entry.block : entry.request).shape;
    if (shape !== undefined && !sameShape(shape, request.shape)) {
      throw new RangeError(
        `Cannot ask for block "${request.id}": it has ${describeShape(shape)}, wanted ${describeShape(request.shape)}`,
      );
    }
  }

  #acquireOne(request: BlockRequest): Acquisition<M> {
    const entry = this.#found.get(request.id);
    const counted = request.isPage ? 0 : 1;
    if (entry === undefined) {
      this.#misses += counted;
      const encoding: Encoding<M> = { kind: "encoding", request, waits: new Set() };
      this.#found.set(request.id, encoding);
      this.#encodings.add(encoding);
      return this.#reserve(encoding);
    }
    if (entry.kind === "encoding") {
      this.#waits += counted;
      const wait = new MemoryWait<M>(request.id, () => entry.waits.delete(wait));
      entry.waits.add(wait);
      return wait;
    }
    this.#hits += counted;
    return this.#lease(entry);
  }

  #reserve(encoding: Encoding<M>): Reservation<M> {
    return new MemoryReservation<M>(
      encoding.request,
      (block) => this.#commit(encoding, block),
      () => this.#abandon(encoding),
    );
  }

  #abandon(encoding: Encoding<M>): void {
    const [next] = encoding.waits;
    if (next !== undefined) {
      this.#takeovers += 1;
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
    // One that does not fit is found as well while it is used: whoever needs it now need not encode it again.
    if (isFound) {
      this.#found.set(id, resident);
      this.#index.add(resident);
      if (kept && request.isPage) this.#replaceShorter(resident);
    }
    this.#encodings.delete(encoding);
    const lease = this.#lease(resident);
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
  }

  async longestMatch(
    wanted: Pick<BlockRequest, "owner" | "context" | "tokenIds">,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Match<M> | undefined> {
    options.signal?.throwIfAborted();
    if (this.#isDisposed) throw new Error("Cannot ask for blocks: the store was disposed");
    const found = this.#index.mostAlike(wanted);
    if (found === undefined) return undefined;
    const { entry, numShared } = found;
    const lease = this.#lease(entry);
    const { tokenIds } = entry.request;
    return { lease, tokenIds, numShared, [Symbol.dispose]: () => lease[Symbol.dispose]() };
  }

  async lease(id: BlockId): Promise<Lease<M> | undefined> {
    const entry = this.#found.get(id);
    return entry?.kind === "resident" && entry.kept ? this.#lease(entry) : undefined;
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
    this.#forget(resident.id, resident);
    resident.block[Symbol.dispose]();
  }

  #evictUntilFree(byteLength: number): void {
    while (this.#capBytes - this.#leasedBytes - this.#idleBytes < byteLength) {
      const oldest = this.#idle.first;
      if (oldest === undefined) return;
      this.#evictions += 1;
      this.#dropIdle(oldest);
    }
  }

  #dropIdle(resident: Resident<M>): void {
    this.#idle.remove(resident);
    this.#idleBytes -= resident.block.byteLength;
    this.#forget(resident.id, resident);
    resident.block[Symbol.dispose]();
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
    const entry = this.#found.get(id);
    return entry?.request.owner === owner && this.#delete(id);
  }

  async find(
    id: BlockId,
    owner: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<BlockInfo | undefined> {
    options.signal?.throwIfAborted();
    const entry = this.#found.get(id);
    if (entry?.kind !== "resident" || entry.request.owner !== owner) return undefined;
    const { block, numLeases } = entry;
    return { id, tokens: block.shape.numTokens, bytes: block.byteLength, inUse: numLeases > 0 };
  }

  #delete(id: BlockId): boolean {
    const entry = this.#found.get(id);
    if (entry === undefined) return false;
    if (entry.kind === "resident") this.#deletions += 1;
    if (entry.kind === "resident" && entry.numLeases === 0) this.#dropIdle(entry);
    else this.#forget(id, entry);
    return entry.kind === "resident";
  }

  async clear(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    options.signal?.throwIfAborted();
    this.#clear();
  }

  #clear(): void {
    for (const id of [...this.#found.keys()]) this.#delete(id);
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
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    this.#clear();
    for (const encoding of this.#encodings) {
      for (const wait of [...encoding.waits]) {
        wait.fail(new Error(`Cannot wait for block "${wait.id}": the store was disposed`));
      }
    }
  }
}

/** One listener for all waits of a request: a listener each would pass Node's limit. */
function cancelTogether<M extends BlockMemory>(waits: readonly MemoryWait<M>[], signal: AbortSignal): void {
  const cancel = (): void => {
    for (const wait of waits) wait.fail(signal.reason);
  };
  signal.addEventListener("abort", cancel, { once: true });
  void Promise.allSettled(waits.map((wait) => wait.settled)).then(() => signal.removeEventListener("abort", cancel));
}

class MemoryLease<M extends BlockMemory> implements Lease<M> {
  readonly kind = "hit";
  readonly id: BlockId;
  readonly #block: BlockKV<M>;
  #giveBack: (() => void) | undefined;

  constructor(id: BlockId, block: BlockKV<M>, giveBack: () => void) {
    this.id = id;
    this.#block = block;
    this.#giveBack = giveBack;
  }

  get block(): BlockKV<M> {
    if (this.#giveBack === undefined) throw new Error(`Cannot read block "${this.id}": its lease went back`);
    return this.#block;
  }

  [Symbol.dispose](): void {
    const giveBack = this.#giveBack;
    this.#giveBack = undefined;
    giveBack?.();
  }
}

class MemoryReservation<M extends BlockMemory> implements Reservation<M> {
  readonly kind = "miss";
  readonly #request: BlockRequest;
  readonly #commit: (block: BlockKV<M>) => Lease<M>;
  readonly #abandon: () => void;
  #isOpen = true;

  constructor(request: BlockRequest, commit: (block: BlockKV<M>) => Lease<M>, abandon: () => void) {
    this.#request = request;
    this.#commit = commit;
    this.#abandon = abandon;
  }

  get id(): BlockId {
    return this.#request.id;
  }

  commit(block: BlockKV<M>): Lease<M> {
    if (!this.#isOpen) throw new Error(`Cannot commit block "${this.id}": its reservation has ended`);
    if (block.isDisposed) throw new Error(`Cannot commit block "${this.id}": it was disposed`);
    if (!sameShape(block.shape, this.#request.shape)) {
      throw new RangeError(
        `Cannot commit block "${this.id}": it has ${describeShape(block.shape)}, wanted ${describeShape(this.#request.shape)}`,
      );
    }
    this.#isOpen = false;
    return this.#commit(block);
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#abandon();
  }
}

class MemoryWait<M extends BlockMemory> implements Wait<M> {
  readonly kind = "pending";
  readonly id: BlockId;
  readonly settled: Promise<Lease<M> | Reservation<M>>;
  readonly #leave: () => void;
  #resolve!: (outcome: Lease<M> | Reservation<M>) => void;
  #reject!: (reason: unknown) => void;
  #state: { kind: "waiting" } | { kind: "settled"; outcome: Lease<M> | Reservation<M> } | { kind: "failed" } = {
    kind: "waiting",
  };

  /** @param leave takes this wait out of the encoding's line. */
  constructor(id: BlockId, leave: () => void) {
    this.id = id;
    this.#leave = leave;
    this.settled = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // A request encodes its own misses first: a wait that fails meanwhile is no unhandled rejection.
    this.settled.catch(() => {});
  }

  settle(outcome: Lease<M> | Reservation<M>): void {
    this.#state = { kind: "settled", outcome };
    this.#resolve(outcome);
  }

  fail(reason: unknown): void {
    if (this.#state.kind !== "waiting") return;
    this.#state = { kind: "failed" };
    this.#leave();
    this.#reject(reason);
  }

  [Symbol.dispose](): void {
    if (this.#state.kind === "settled") this.#state.outcome[Symbol.dispose]();
    else this.fail(new Error(`Cannot wait for block "${this.id}": the wait was given back`));
  }
}

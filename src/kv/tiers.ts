import type { BlockId } from "./block-id.js";
import { type BlockKV, type BlockMemory, blockKVByteLength } from "./block-kv.js";
import type { BlockRequest, TierStats } from "./block-store.js";
import type { LowerTier } from "./lower-tier.js";
import { type ComputeTime, MeasuredLoads } from "./measured-loads.js";

/** The slower media beside a store's memory, nearest first, as one. */
export class Tiers<M extends BlockMemory> implements AsyncDisposable {
  readonly #loads: readonly MeasuredLoads<M>[];

  /** @param computeTime what a block that is not loaded costs. */
  constructor(
    private readonly all: readonly LowerTier<M>[],
    private readonly computeTime: ComputeTime,
  ) {
    this.#loads = all.map(() => new MeasuredLoads());
  }

  get stats(): readonly TierStats[] {
    return this.all.map(({ stats }, i) => ({ ...stats, ...(this.#loads[i] as MeasuredLoads<M>).counts }));
  }

  /** What a block that is known to rest in one was asked for as. */
  find(id: BlockId): BlockRequest | undefined {
    for (const tier of this.all) {
      const request = tier.find(id);
      if (request !== undefined) return request;
    }
    return undefined;
  }

  /** The same of any block that rests in one. */
  async describe(id: BlockId): Promise<BlockRequest | undefined> {
    for (const tier of this.all) {
      const request = await tier.describe(id);
      if (request !== undefined) return request;
    }
    return undefined;
  }

  /** Whether it is worth while to ask for a block. */
  mayHave(id: BlockId): boolean {
    return this.all.some((tier) => tier.mayHave(id));
  }

  /** Undefined also where computing it is expected to take less time. */
  async load(request: BlockRequest): Promise<BlockKV<M> | undefined> {
    const numBytes = blockKVByteLength(request.shape);
    for (const [i, tier] of this.all.entries()) {
      if (!tier.mayHave(request.id)) continue;
      const loads = this.#loads[i] as MeasuredLoads<M>;
      const load = () => tier.load(request);
      const block = await (request.isPatient ? load() : loads.load(request, numBytes, load, this.computeTime));
      if (block !== undefined) return block;
    }
    return undefined;
  }

  mostAlike(wanted: Pick<BlockRequest, "owner" | "context" | "tokenIds">) {
    const found = this.all.flatMap((tier) => tier.mostAlike(wanted) ?? []);
    return found.sort((a, b) => b.numShared - a.numShared)[0];
  }

  /** Counts a block as used. @returns whether it rests in one. */
  touch(id: BlockId): boolean {
    return this.all.map((tier) => tier.touch(id)).includes(true);
  }

  /**
   * A block that is there from now on, or leaves the store's memory.
   * @param isLeaving what does not last takes only those that leave, or that the store does not keep.
   * @param done called once, when the tiers need the block no more.
   */
  take(request: BlockRequest, block: BlockKV<M>, isLeaving: boolean, done: () => void): void {
    let numUsers = 1;
    const given = () => {
      numUsers -= 1;
      if (numUsers === 0) done();
    };
    for (const tier of this.all) {
      if (!isLeaving && !tier.isLasting) continue;
      numUsers += 1;
      tier.take(request, block, given);
    }
    given();
  }

  /** @returns whether it rested in one. */
  async delete(id: BlockId): Promise<boolean> {
    return (await Promise.all(this.all.map((tier) => tier.delete(id)))).includes(true);
  }

  /** The blocks of an owner that hold passages or saw them. */
  async idsWith(names: ReadonlySet<string>, owner: string): Promise<readonly BlockId[]> {
    return (await Promise.all(this.all.map((tier) => tier.idsWith(names, owner)))).flat();
  }

  /** Forgets blocks whose tokens are the first ones of this one's. */
  deleteShorter(request: BlockRequest): void {
    for (const tier of this.all) tier.deleteShorter(request);
  }

  clear(): void {
    for (const tier of this.all) tier.clear();
  }

  /** As a store's `keep()`. */
  async keep(request: BlockRequest, block: BlockKV<M>, holds?: Disposable[]): Promise<boolean> {
    const lasting = this.all.filter(({ isLasting }) => isLasting);
    return (await Promise.all(lasting.map((tier) => tier.keep(request, block, holds)))).includes(true);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const tier of this.all) await tier[Symbol.asyncDispose]();
  }
}

import type { BlockId } from "./block-id.js";
import { type BlockKV, type BlockMemory, describeShape, sameShape } from "./block-kv.js";
import type { BlockRequest, Lease, Reservation, Wait } from "./block-store.js";

/** One listener for all waits of a request: a listener each would pass Node's limit. */
export function cancelTogether<M extends BlockMemory>(waits: readonly MemoryWait<M>[], signal: AbortSignal): void {
  const cancel = (): void => {
    for (const wait of waits) wait.fail(signal.reason);
  };
  signal.addEventListener("abort", cancel, { once: true });
  void Promise.allSettled(waits.map((wait) => wait.settled)).then(() => signal.removeEventListener("abort", cancel));
}

/** What a store in memory hands out; the store gives what happens to it as functions. */
export class MemoryLease<M extends BlockMemory> implements Lease<M> {
  readonly kind = "hit";
  readonly id: BlockId;
  readonly #block: BlockKV<M> | undefined;
  #giveBack: (() => void) | undefined;

  /** @param block undefined where it rests below. */
  constructor(id: BlockId, block: BlockKV<M> | undefined, giveBack: () => void) {
    this.id = id;
    this.#block = block;
    this.#giveBack = giveBack;
  }

  get block(): BlockKV<M> {
    if (this.#giveBack === undefined) throw new Error(`Cannot read block "${this.id}": its lease went back`);
    if (this.#block === undefined) throw new Error(`Cannot read block "${this.id}": it rests below the store's memory`);
    return this.#block;
  }

  [Symbol.dispose](): void {
    const giveBack = this.#giveBack;
    this.#giveBack = undefined;
    giveBack?.();
  }
}

export class MemoryReservation<M extends BlockMemory> implements Reservation<M> {
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

export class MemoryWait<M extends BlockMemory> implements Wait<M> {
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

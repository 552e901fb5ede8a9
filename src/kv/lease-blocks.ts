import type { BlockKV, BlockMemory } from "./block-kv.js";
import type { Acquisition, BlockRequest, BlockStore, Lease, Reservation, Wait } from "./block-store.js";

/** A request's blocks, in the order asked for. Disposing gives all leases back. */
export interface LeasedBlocks<M extends BlockMemory> extends Disposable {
  readonly blocks: readonly LeasedBlock<M>[];
}

export interface LeasedBlock<M extends BlockMemory> {
  readonly block: BlockKV<M>;
  /** False where this request encoded the block itself. */
  readonly fromStore: boolean;
}

/**
 * Leases all blocks of a request: from the store, from other requests that are encoding them now, and the rest by
 * encoding them.
 *
 * Two requests that wait for each other's blocks never stand still: each encodes its own misses before it waits, and
 * waits for all at once, so that an encoding that another gave up is taken over as soon as it is offered.
 *
 * @param encode gives the blocks of its requests, in order, as they are done. Each is this function's once it is given.
 * Called again for blocks whose encoding another request gave up.
 * @throws what `encode` throws, the signal's reason, or the store's error; nothing is leased then.
 */
export async function leaseBlocks<M extends BlockMemory, R extends BlockRequest>(
  store: BlockStore<M>,
  requests: readonly R[],
  encode: (misses: readonly R[]) => AsyncIterable<BlockKV<M>>,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<LeasedBlocks<M>> {
  const { signal } = options;
  const acquisitions = await store.acquire(requests, { signal });
  const leases = new Map<number, { readonly lease: Lease<M>; readonly fromStore: boolean }>();
  const giveBack = (): void => {
    for (const { lease } of leases.values()) lease[Symbol.dispose]();
    // Reservations that are still open are given up here, and waits give back what they settled to.
    for (const acquisition of acquisitions) acquisition[Symbol.dispose]();
  };

  const encodeAll = async (misses: readonly { index: number; reservation: Reservation<M> }[]): Promise<void> => {
    if (misses.length === 0) return;
    signal?.throwIfAborted();
    let numEncoded = 0;
    for await (const block of encode(misses.map(({ index }) => requests[index]!))) {
      const miss = misses[numEncoded];
      try {
        if (miss === undefined) throw new Error(`Cannot lease blocks: more than ${misses.length} were encoded`);
        leases.set(miss.index, { lease: miss.reservation.commit(block), fromStore: false });
      } catch (error) {
        block[Symbol.dispose]();
        throw error;
      }
      numEncoded += 1;
    }
    if (numEncoded < misses.length) {
      throw new Error(`Cannot lease blocks: ${numEncoded} were encoded, wanted ${misses.length}`);
    }
  };

  try {
    const { hits, misses, waits } = sortOut(acquisitions);
    for (const { index, lease } of hits) leases.set(index, { lease, fromStore: true });
    await encodeAll(misses);

    const line = new WaitingLine(waits);
    while (line.numOpen > 0) {
      const takenOver: { index: number; reservation: Reservation<M> }[] = [];
      for (const { index, outcome } of await line.next()) {
        if (outcome.kind === "hit") leases.set(index, { lease: outcome, fromStore: true });
        else takenOver.push({ index, reservation: outcome });
      }
      await encodeAll(takenOver);
    }
    signal?.throwIfAborted();
    const blocks = requests.map((_, index) => {
      const { lease, fromStore } = leases.get(index)!;
      return { block: lease.block, fromStore };
    });
    return { blocks, [Symbol.dispose]: giveBack };
  } catch (error) {
    giveBack();
    throw error;
  }
}

interface SortedOut<M extends BlockMemory> {
  readonly hits: { readonly index: number; readonly lease: Lease<M> }[];
  readonly misses: { readonly index: number; readonly reservation: Reservation<M> }[];
  readonly waits: { readonly index: number; readonly wait: Wait<M> }[];
}

function sortOut<M extends BlockMemory>(acquisitions: readonly Acquisition<M>[]): SortedOut<M> {
  const sorted: SortedOut<M> = { hits: [], misses: [], waits: [] };
  for (const [index, acquisition] of acquisitions.entries()) {
    switch (acquisition.kind) {
      case "hit":
        sorted.hits.push({ index, lease: acquisition });
        break;
      case "miss":
        sorted.misses.push({ index, reservation: acquisition });
        break;
      case "pending":
        sorted.waits.push({ index, wait: acquisition });
        break;
      default:
        acquisition satisfies never;
    }
  }
  return sorted;
}

interface Settled<M extends BlockMemory> {
  readonly index: number;
  readonly outcome: Lease<M> | Reservation<M>;
}

/** Many waits as one: gives what has settled since it was last asked. */
class WaitingLine<M extends BlockMemory> {
  readonly #open = new Map<number, Promise<void>>();
  #arrived: Settled<M>[] = [];

  constructor(waits: SortedOut<M>["waits"]) {
    for (const { index, wait } of waits) {
      const arrival = wait.settled.then((outcome) => {
        this.#open.delete(index);
        this.#arrived.push({ index, outcome });
      });
      // A failure is seen by `next`, or by nobody when the request failed before it.
      arrival.catch(() => {});
      this.#open.set(index, arrival);
    }
  }

  get numOpen(): number {
    return this.#open.size + this.#arrived.length;
  }

  /** One or more. */
  async next(): Promise<readonly Settled<M>[]> {
    if (this.#arrived.length === 0) await Promise.race(this.#open.values());
    return this.#arrived.splice(0);
  }
}

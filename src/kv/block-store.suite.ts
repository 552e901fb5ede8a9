import { expect, test } from "vitest";
import { type BlockId, blockId, contextId } from "./block-id.js";
import type { BlockKVShape } from "./block-kv.js";
import type { Acquisition, BlockRequest, BlockStore, Lease, Reservation, Wait } from "./block-store.js";
import { leaseBlocks } from "./lease-blocks.js";
import { MemoryLedger } from "./memory-ledger.suite.js";

/** The bytes of one token of a test block: 2 x 1 layer x 1 head x 4 elements of 2 bytes. */
export const BYTES_PER_TOKEN = 16;

/** The request for test block number `n`. */
export function testRequest(n: number, numTokens = 1, owner = ""): BlockRequest {
  const shape: BlockKVShape = { numLayers: 1, numKvHeads: 1, headSize: 4, numTokens, type: "f16" };
  const id: BlockId = blockId({ model: "test", kvType: "f16", formatVersion: 1, salt: owner, tokenIds: [n] });
  return { id, shape, owner, tokenIds: Int32Array.from({ length: numTokens }, () => n) };
}

/** The request for a page, or for a block behind a preamble, by what it saw and its tokens. */
export function testPage(context: string, tokenIds: readonly number[], owner = "", isPage = true): BlockRequest {
  const shape: BlockKVShape = { ...testRequest(0).shape, numTokens: tokenIds.length };
  const fields = { model: "test", kvType: "f16", formatVersion: 1, salt: owner } as const;
  const seen = contextId({ ...fields, mode: context as "full", positionReencoding: true });
  const id = blockId({ ...fields, tokenIds, context: seen });
  return { id, shape, owner, tokenIds: Int32Array.from(tokenIds), context: seen, isPage };
}

function reservationOf(acquisition: Acquisition | undefined): Reservation {
  if (acquisition?.kind !== "miss") throw new Error(`Wanted a miss, got a ${acquisition?.kind}`);
  return acquisition;
}

function leaseOf(acquisition: Acquisition | undefined): Lease {
  if (acquisition?.kind !== "hit") throw new Error(`Wanted a hit, got a ${acquisition?.kind}`);
  return acquisition;
}

function waitOf(acquisition: Acquisition | undefined): Wait {
  if (acquisition?.kind !== "pending") throw new Error(`Wanted a wait, got a ${acquisition?.kind}`);
  return acquisition;
}

/** What every block store must do. `makeStore` gives an empty store whose cap is that many bytes. */
export function blockStoreSuite(name: string, makeStore: (capBytes: number) => BlockStore): void {
  const setUp = (capTokens: number) => {
    const store = makeStore(capTokens * BYTES_PER_TOKEN);
    const ledger = new MemoryLedger();
    /** Encodes and gives back blocks that are not there yet. */
    const put = async (...requests: BlockRequest[]): Promise<void> => {
      for (const acquisition of await store.acquire(requests)) {
        reservationOf(acquisition).commit(ledger.block(requests[0]!.shape))[Symbol.dispose]();
      }
    };
    /** What begins most like a request's tokens, given back at once. */
    const alike = async (wanted: BlockRequest) => {
      using match = await store.longestMatch(wanted);
      return match && { id: match.lease.id, tokenIds: [...match.tokenIds], numShared: match.numShared };
    };
    /** Whether a block is there; leases it for a moment. */
    const has = async (request: BlockRequest): Promise<boolean> => {
      const [acquisition] = await store.acquire([request]);
      acquisition![Symbol.dispose]();
      return acquisition!.kind === "hit";
    };
    const expectExact = (): void => {
      const { leasedBytes, idleBytes, freeBytes, capBytes } = store.stats();
      expect(leasedBytes + idleBytes + freeBytes).toBe(capBytes);
      expect(Math.min(leasedBytes, idleBytes, freeBytes)).toBeGreaterThanOrEqual(0);
    };
    return { store, ledger, put, has, alike, expectExact };
  };
  const a = testRequest(1);
  const b = testRequest(2);
  const c = testRequest(3);

  test(`${name}: a miss is encoded, kept and hit, with the same bytes`, async () => {
    const { store, ledger, expectExact } = setUp(10);
    const [miss] = await store.acquire([a]);
    using lease = reservationOf(miss).commit(ledger.block(a.shape, 5));
    expect(lease.block.read()).toEqual(new Uint8Array(BYTES_PER_TOKEN).fill(5));
    const [hit] = await store.acquire([a]);
    expect(leaseOf(hit).block.read()).toEqual(lease.block.read());
    hit![Symbol.dispose]();
    expect(store.stats()).toMatchObject({ hits: 1, misses: 1, waits: 0, numBlocks: 1 });
    expectExact();
  });

  test(`${name}: two requests that miss the same block encode it once`, async () => {
    const { store, ledger } = setUp(10);
    const [first] = await store.acquire([a]);
    const [second] = await store.acquire([a]);
    const wait = waitOf(second);
    const lease = reservationOf(first).commit(ledger.block(a.shape));
    const settled = await wait.settled;
    expect(settled.kind).toBe("hit");
    lease[Symbol.dispose]();
    expect(store.stats().leasedBytes).toBe(BYTES_PER_TOKEN);
    settled[Symbol.dispose]();
    expect(store.stats()).toMatchObject({ leasedBytes: 0, idleBytes: BYTES_PER_TOKEN });
    expect(ledger.numMade).toBe(1);
  });

  test(`${name}: whoever waits first takes a given-up encoding over`, async () => {
    const { store, ledger } = setUp(10);
    const [first] = await store.acquire([a]);
    const [second] = await store.acquire([a]);
    const [third] = await store.acquire([a]);
    first![Symbol.dispose]();
    const takenOver = (await waitOf(second).settled) as Reservation;
    expect(takenOver.kind).toBe("miss");
    using lease = takenOver.commit(ledger.block(a.shape));
    using shared = await waitOf(third).settled;
    expect((shared as Lease).block).toBe(lease.block);
    expect(store.stats().takeovers).toBe(1);
  });

  test(`${name}: a failed encoding leaves nothing behind`, async () => {
    const { store, ledger } = setUp(10);
    const [miss] = await store.acquire([a]);
    miss![Symbol.dispose]();
    miss![Symbol.dispose]();
    expect(store.stats()).toMatchObject({ numBlocks: 0, numEncoding: 0, freeBytes: 10 * BYTES_PER_TOKEN });
    expect(() => reservationOf(miss).commit(ledger.block(a.shape))).toThrow("its reservation has ended");
    const [again] = await store.acquire([a]);
    expect(again!.kind).toBe("miss");
    again![Symbol.dispose]();
  });

  test(`${name}: the same id twice is a miss and a wait for it, then two leases`, async () => {
    const { store, ledger } = setUp(10);
    const [first, second] = await store.acquire([a, a]);
    using lease = reservationOf(first).commit(ledger.block(a.shape));
    using settled = await waitOf(second).settled;
    expect((settled as Lease).block).toBe(lease.block);
    const hits = await store.acquire([a, a]);
    expect(hits.map((hit) => hit.kind)).toEqual(["hit", "hit"]);
    for (const hit of hits) hit[Symbol.dispose]();
    expect(store.stats().leasedBytes).toBe(BYTES_PER_TOKEN);
  });

  test(`${name}: the least recently used idle block goes first, a leased one never`, async () => {
    const { store, ledger, put, has, expectExact } = setUp(2);
    await put(a, b);
    expect(await has(a)).toBe(true); // a is newer than b now
    await put(c);
    expect(await has(b)).toBe(false);
    expect(store.stats().evictions).toBe(1);
    const [leased] = await store.acquire([a]);
    await put(b);
    expect(await has(c)).toBe(false);
    expect(leaseOf(leased).block.read()).toHaveLength(BYTES_PER_TOKEN);
    leased![Symbol.dispose]();
    expect(ledger.numLive).toBe(store.stats().numBlocks);
    expectExact();
  });

  test(`${name}: a block that does not fit is used and shared, and not kept`, async () => {
    const { store, ledger, put, has, expectExact } = setUp(2);
    await put(a);
    const large = testRequest(9, 3);
    const [first] = await store.acquire([large]);
    const lease = reservationOf(first).commit(ledger.block(large.shape));
    expect(store.stats()).toMatchObject({ unkeptBytes: 3 * BYTES_PER_TOKEN, evictions: 0 });
    const [second] = await store.acquire([large]);
    lease[Symbol.dispose]();
    expect(leaseOf(second).block.read()).toHaveLength(3 * BYTES_PER_TOKEN);
    second![Symbol.dispose]();
    expect(store.stats()).toMatchObject({ unkeptBytes: 0, numBlocks: 1 });
    expect(ledger.liveBytes).toBe(BYTES_PER_TOKEN);
    expect(await has(large)).toBe(false);
    expect(await has(a)).toBe(true);
    expectExact();
  });

  test(`${name}: a deleted block is not found, and is freed at the end of its lease`, async () => {
    const { store, ledger, put, has, expectExact } = setUp(3);
    await put(a, b);
    expect(await store.delete(a.id, "")).toBe(true);
    expect(await store.delete(a.id, "")).toBe(false);
    expect(ledger.numLive).toBe(1);
    const [leased] = await store.acquire([b]);
    expect(await store.delete(b.id, "")).toBe(true);
    expect(await has(b)).toBe(false);
    expect(leaseOf(leased).block.read()).toHaveLength(BYTES_PER_TOKEN);
    expect(store.stats().leasedBytes).toBe(BYTES_PER_TOKEN);
    leased![Symbol.dispose]();
    expect(ledger.numLive).toBe(0);
    expect(store.stats().freeBytes).toBe(3 * BYTES_PER_TOKEN);
    expectExact();
  });

  test(`${name}: a block deleted while it is encoded goes to those who asked before, and is not kept`, async () => {
    const { store, ledger } = setUp(3);
    const [first] = await store.acquire([a]);
    const [second] = await store.acquire([a]);
    await store.delete(a.id, "");
    const [later] = await store.acquire([a]);
    expect(later!.kind).toBe("miss");
    reservationOf(first).commit(ledger.block(a.shape))[Symbol.dispose]();
    using shared = await waitOf(second).settled;
    expect(shared.kind).toBe("hit");
    const kept = reservationOf(later).commit(ledger.block(a.shape));
    kept[Symbol.dispose]();
    shared[Symbol.dispose]();
    expect(ledger.numLive).toBe(1);
    expect(store.stats()).toMatchObject({ numBlocks: 1, idleBytes: BYTES_PER_TOKEN, unkeptBytes: 0 });
  });

  test(`${name}: a block is found and deleted by its owner alone`, async () => {
    const { store, ledger, put, has } = setUp(5);
    const theirs = testRequest(1, 2, "them");
    await put(a);
    await put(theirs);
    expect(await store.find(theirs.id, "")).toBeUndefined();
    expect(await store.delete(theirs.id, "")).toBe(false);
    expect(await store.find(a.id, "them")).toBeUndefined();
    expect(await store.delete(a.id, "them")).toBe(false);
    const info = { id: theirs.id, tokens: 2, bytes: 2 * BYTES_PER_TOKEN, inUse: false };
    expect(await store.find(theirs.id, "them")).toEqual(info);
    const [lease] = await store.acquire([theirs]);
    expect(await store.find(theirs.id, "them")).toEqual({ ...info, inUse: true });
    const [encoding] = await store.acquire([b]);
    expect(await store.find(b.id, "")).toBeUndefined();
    encoding![Symbol.dispose]();
    expect(await store.delete(theirs.id, "them")).toBe(true);
    expect(await store.find(theirs.id, "them")).toBeUndefined();
    lease![Symbol.dispose]();
    expect(ledger.liveBytes).toBe(BYTES_PER_TOKEN);
    expect(await has(a)).toBe(true);
    expect(store.stats()).toMatchObject({ evictions: 0, evictionsByReason: { room: 0, deleted: 1 } });
  });

  test(`${name}: looking a block up is no use of it`, async () => {
    const { store, put } = setUp(2);
    await put(a, b);
    await store.find(a.id, "");
    await put(c);
    expect(await store.find(a.id, "")).toBeUndefined();
    expect(store.stats()).toMatchObject({ evictionsByReason: { room: 1, deleted: 0 } });
  });

  test(`${name}: clear() forgets all, and frees what nobody uses`, async () => {
    const { store, ledger, put } = setUp(5);
    await put(a, b);
    const [leased] = await store.acquire([a]);
    await store.clear();
    expect(ledger.numLive).toBe(1);
    expect(store.stats().numBlocks).toBe(0);
    leased![Symbol.dispose]();
    expect(ledger.numLive).toBe(0);
    expect(store.stats().freeBytes).toBe(5 * BYTES_PER_TOKEN);
  });

  test(`${name}: a lease goes back once, and is not read after`, async () => {
    const { store, put } = setUp(5);
    await put(a);
    const [first, second] = await store.acquire([a, a]);
    first![Symbol.dispose]();
    first![Symbol.dispose]();
    expect(store.stats().leasedBytes).toBe(BYTES_PER_TOKEN);
    expect(() => leaseOf(first).block).toThrow("its lease went back");
    second![Symbol.dispose]();
    expect(store.stats().leasedBytes).toBe(0);
  });

  test(`${name}: a block of another shape is refused and stays the caller's`, async () => {
    const { store, ledger, put } = setUp(5);
    const [miss] = await store.acquire([a]);
    using wrong = ledger.block(testRequest(1, 2).shape);
    expect(() => reservationOf(miss).commit(wrong)).toThrow(RangeError);
    expect(wrong.isDisposed).toBe(false);
    miss![Symbol.dispose]();
    await put(a);
    await expect(store.acquire([b, testRequest(1, 2)])).rejects.toThrow(RangeError);
    await expect(store.acquire([c, testRequest(3, 2)])).rejects.toThrow(RangeError);
    expect(store.stats().numEncoding).toBe(0);
  });

  test(`${name}: an aborted signal ends the wait, and the next in line is not held up`, async () => {
    const { store, ledger } = setUp(5);
    const cancel = new AbortController();
    await expect(store.acquire([a], { signal: AbortSignal.abort(new Error("gone")) })).rejects.toThrow("gone");
    const [first] = await store.acquire([a]);
    const [second] = await store.acquire([a], { signal: cancel.signal });
    const [third] = await store.acquire([a]);
    cancel.abort(new Error("cancelled"));
    await expect(waitOf(second).settled).rejects.toThrow("cancelled");
    first![Symbol.dispose]();
    const takenOver = await waitOf(third).settled;
    expect(takenOver.kind).toBe("miss");
    (takenOver as Reservation).commit(ledger.block(a.shape))[Symbol.dispose]();
  });

  test(`${name}: a wait that is given back gives back what it settled to`, async () => {
    const { store, ledger } = setUp(5);
    const [first] = await store.acquire([a]);
    const [second] = await store.acquire([a]);
    reservationOf(first).commit(ledger.block(a.shape))[Symbol.dispose]();
    second![Symbol.dispose]();
    expect(store.stats().leasedBytes).toBe(0);
    const [third] = await store.acquire([b]);
    const [fourth] = await store.acquire([b]);
    fourth![Symbol.dispose]();
    await expect(waitOf(fourth).settled).rejects.toThrow("the wait was given back");
    third![Symbol.dispose]();
    expect(store.stats().numEncoding).toBe(0);
  });

  test(`${name}: the store's end frees idle blocks, ends waits, and lets leases finish`, async () => {
    const { store, ledger, put } = setUp(5);
    await put(a, b);
    const [leased] = await store.acquire([a]);
    const [encoding] = await store.acquire([c]);
    const [waiting] = await store.acquire([c]);
    await store[Symbol.asyncDispose]();
    await expect(waitOf(waiting).settled).rejects.toThrow("the store was disposed");
    await expect(store.acquire([a])).rejects.toThrow("the store was disposed");
    expect(leaseOf(leased).block.read()).toHaveLength(BYTES_PER_TOKEN);
    leased![Symbol.dispose]();
    const late = reservationOf(encoding).commit(ledger.block(c.shape));
    expect(late.block.read()).toHaveLength(BYTES_PER_TOKEN);
    late[Symbol.dispose]();
    await store[Symbol.asyncDispose]();
    expect(ledger.numLive).toBe(0);
  });

  test(`${name}: longestMatch() leases the page that begins most alike, of those that saw the same`, async () => {
    const { store, ledger, put, alike, expectExact } = setUp(40);
    const long = testPage("full", [1, 2, 3, 4]);
    const fork = testPage("full", [1, 2, 5]);
    const elsewhere = testPage("block", [1, 2, 3, 9]);
    for (const page of [long, fork, elsewhere]) await put(page);
    const shared = async (context: string, ...tokenIds: number[]) => {
      const found = await alike(testPage(context, tokenIds));
      return found && [found.id, found.numShared];
    };
    expect(await shared("full", 1, 2, 3, 9)).toEqual([long.id, 3]);
    expect(await shared("full", 1, 2, 5)).toEqual([fork.id, 3]);
    expect(await shared("full", 1, 2, 5, 6)).toEqual([fork.id, 3]);
    expect(await shared("full", 1)).toEqual([expect.anything(), 1]);
    expect(await shared("block", 1, 2, 3, 4)).toEqual([elsewhere.id, 3]);
    expect(await shared("full", 2, 2)).toBeUndefined();
    expect(await shared("preamble", 1, 2)).toBeUndefined();
    {
      using match = await store.longestMatch(testPage("full", [1, 2, 3]));
      expect(match?.lease.block.read()).toHaveLength(4 * BYTES_PER_TOKEN);
      expect(store.stats().leasedBytes).toBe(4 * BYTES_PER_TOKEN);
      await store.delete(long.id, "");
      expect(match?.lease.block.read()).toHaveLength(4 * BYTES_PER_TOKEN);
      expect(await shared("full", 1, 2, 3, 4)).toEqual([fork.id, 2]);
    }
    expect(ledger.liveBytes).toBe(7 * BYTES_PER_TOKEN);
    expectExact();
  });

  test(`${name}: longestMatch() of plain blocks keeps to their owner, and to plain ones`, async () => {
    const { put, alike } = setUp(40);
    const own = testRequest(3, 2);
    const theirs = testRequest(3, 4, "them");
    const behind = testPage("preamble", [3, 3, 3, 3], "", false);
    for (const request of [own, theirs, behind]) await put(request);
    const wanted = { owner: "", tokenIds: Int32Array.of(3, 3, 3) } as BlockRequest;
    expect(await alike(wanted)).toEqual({ id: own.id, tokenIds: [3, 3], numShared: 2 });
    expect(await alike({ ...wanted, owner: "them" })).toMatchObject({ id: theirs.id, numShared: 3 });
    expect(await alike({ ...wanted, owner: "nobody" })).toBeUndefined();
    expect(await alike({ ...wanted, context: behind.context })).toMatchObject({ id: behind.id, numShared: 3 });
  });

  test(`${name}: longestMatch() waits for no encoding, counts as use, and ends with the signal and the store`, async () => {
    const { store, ledger, put, alike, has } = setUp(4);
    const [first, second] = [testPage("full", [1, 1]), testPage("full", [2, 2])];
    const [encoding] = await store.acquire([first]);
    expect(await alike(first)).toBeUndefined();
    reservationOf(encoding).commit(ledger.block(first.shape))[Symbol.dispose]();
    await put(second);
    expect(await alike(first)).toMatchObject({ id: first.id, numShared: 2 });
    await put(testPage("full", [3, 3]));
    expect(await has(second)).toBe(false);
    expect((await alike(first))?.id).toBe(first.id);
    const signal = AbortSignal.abort(new Error("gone"));
    await expect(store.longestMatch(first, { signal })).rejects.toThrow("gone");
    await store[Symbol.asyncDispose]();
    await expect(store.longestMatch(first)).rejects.toThrow("the store was disposed");
    expect(ledger.numLive).toBe(0);
  });

  test(`${name}: lease() finds what is kept alone, counts as use, and as no acquisition`, async () => {
    const { store, ledger, put, has } = setUp(2);
    expect(await store.lease(a.id)).toBeUndefined();
    await put(a, b);
    const counted = { hits: 0, misses: 2, waits: 0 };
    {
      using lease = await store.lease(a.id);
      expect(lease?.block.read()).toHaveLength(BYTES_PER_TOKEN);
      expect(store.stats()).toMatchObject({ ...counted, leasedBytes: BYTES_PER_TOKEN });
    }
    await put(c);
    expect(await has(b)).toBe(false);
    expect(await has(a)).toBe(true);
    // One that does not fit goes with its users: nothing may stand on it.
    const large = testRequest(9, 3);
    const [miss] = await store.acquire([large]);
    expect(await store.lease(large.id)).toBeUndefined();
    using _ = reservationOf(miss).commit(ledger.block(large.shape));
    expect(await store.lease(large.id)).toBeUndefined();
  });

  test(`${name}: a page takes the place of those that it goes on from, unless they are in use`, async () => {
    const { store, ledger, put, alike, expectExact } = setUp(40);
    const [one, two, three] = [[1], [1, 2], [1, 2, 3]].map((ids) => testPage("full", ids)) as [
      BlockRequest,
      BlockRequest,
      BlockRequest,
    ];
    // Stands between them in the order of tokens.
    const fork = testPage("full", [1, 1, 1]);
    const others = [fork, testPage("block", [1, 2]), testPage("full", [1, 2, 3, 4], "", false), testRequest(1, 2)];
    await put(one);
    using used = await store.lease(one.id);
    for (const request of [two, ...others]) await put(request);
    const { numBlocks } = store.stats();
    await put(three);
    expect(await store.find(two.id, "")).toBeUndefined();
    expect(used?.block.read()).toHaveLength(BYTES_PER_TOKEN);
    expect(await store.find(one.id, "")).toBeDefined();
    for (const { id } of others) expect(await store.find(id, "")).toBeDefined();
    expect(await alike(two)).toMatchObject({ numShared: 2 });
    expect(store.stats()).toMatchObject({
      numBlocks,
      evictions: 0,
      evictionsByReason: { room: 0, deleted: 0, replaced: 1 },
    });
    used?.[Symbol.dispose]();
    // Longer ones take the place of what is no longer used.
    await put(testPage("full", [1, 2, 3, 5]));
    expect(await store.find(one.id, "")).toBeUndefined();
    expect(store.stats().evictionsByReason.replaced).toBe(3);
    expect(ledger.liveBytes).toBe(store.stats().idleBytes);
    expectExact();
  });

  test(`${name}: a page that is not kept takes nobody's place`, async () => {
    const { store, ledger, put } = setUp(3);
    const short = testPage("full", [1, 2]);
    await put(short);
    const long = testPage("full", [1, 2, 3, 4]);
    const [miss] = await store.acquire([long]);
    reservationOf(miss).commit(ledger.block(long.shape))[Symbol.dispose]();
    expect(await store.find(short.id, "")).toBeDefined();
    expect(store.stats().evictionsByReason).toEqual({ room: 0, deleted: 0, replaced: 0 });
  });

  test(`${name}: pages are no hits, misses or waits; blocks behind a preamble are`, async () => {
    const { store, ledger } = setUp(20);
    for (const [request, counted] of [
      [testPage("full", [1, 2]), 0],
      [testPage("preamble", [1, 2], "", false), 1],
    ] as const) {
      const [miss, wait] = await store.acquire([request, request]);
      using _ = reservationOf(miss).commit(ledger.block(request.shape));
      using __ = await waitOf(wait).settled;
      const [hit] = await store.acquire([request]);
      leaseOf(hit)[Symbol.dispose]();
      expect(store.stats()).toMatchObject({ hits: counted, misses: counted, waits: counted });
    }
  });

  test(`${name}: leaseBlocks() in opposite orders over shared misses stands never still`, async () => {
    const { store, ledger, expectExact } = setUp(8);
    const numbers = [0, 1, 2, 3, 4, 5];
    const requests = numbers.map((n) => testRequest(n));
    // Half of the encodings fail, so that others take them over.
    let numCalls = 0;
    const encode = async function* (misses: readonly BlockRequest[]) {
      for (const miss of misses) {
        await new Promise((resolve) => setImmediate(resolve));
        numCalls += 1;
        if (numCalls % 3 === 0) throw new Error("Cannot encode: test");
        yield ledger.block(miss.shape);
      }
    };
    const runs = await Promise.allSettled(
      Array.from({ length: 40 }, async (_, i) => {
        const order = i % 2 === 0 ? requests : requests.toReversed();
        using leased = await leaseBlocks(store, [...order.slice(i % 5), order[0]!], encode);
        expect(leased.blocks.every(({ block }) => !block.isDisposed)).toBe(true);
        await new Promise((resolve) => setImmediate(resolve));
        if (i % 7 === 0) await store.delete(order[0]!.id, "");
      }),
    );
    expect(runs.some((run) => run.status === "fulfilled")).toBe(true);
    for (const run of runs) {
      if (run.status === "rejected") expect(String(run.reason)).toBe("Error: Cannot encode: test");
    }
    expect(store.stats()).toMatchObject({ numEncoding: 0, leasedBytes: 0, unkeptBytes: 0 });
    expect(ledger.liveBytes).toBe(store.stats().idleBytes);
    expectExact();
  });
}

import { expect, onTestFinished, test } from "vitest";
import { decodeBlockKV, encodeBlockKV, readBlockHead } from "./block-codec.js";
import type { BlockFileFormat } from "./block-format.js";
import type { BlockMemory } from "./block-kv.js";
import type { BlockRequest, Reservation } from "./block-store.js";
import { BYTES_PER_TOKEN, testRequest } from "./block-store.suite.js";
import { MemoryLedger } from "./memory-ledger.suite.js";
import { MemoryStore } from "./memory-store.js";
import type { RemoteObjects } from "./remote-objects.js";
import { RemoteTier } from "./remote-tier.js";

const made = { model: "0".repeat(64), pairs: "half", compute: "test", producer: "test" } as const;

function testFormat(ledger: MemoryLedger): BlockFileFormat<BlockMemory> {
  const fieldsOf = ({ id, tokenIds, owner }: BlockRequest) =>
    ({ ...made, id, tokenIds, salt: owner, kind: "block" }) as const;
  return {
    place: "place",
    numBytes: (block) => block.byteLength,
    encode: async (block, request) => [await encodeBlockKV(block, fieldsOf(request))],
    readRequest: async (bytes) => {
      const head = await readBlockHead(bytes.size, (count) => bytes.read(count));
      return { ...head, isFromFile: true };
    },
    decode: async (bytes, request) => {
      const wanted = { ...fieldsOf(request), shape: request.shape };
      return decodeBlockKV(bytes, wanted, (size) => ledger.allocate(size));
    },
  };
}

/** A server in memory that does what it is told. */
class FakeServer implements RemoteObjects {
  readonly name = "redis";
  readonly address = "redis://fake";
  readonly maxBytes = 1 << 20;
  readonly objects = new Map<string, Uint8Array>();
  readonly calls: string[] = [];
  state: "up" | "down" | "silent" | "full" = "up";

  async #called<T>(name: string, answer: () => T): Promise<T> {
    this.calls.push(name);
    if (this.state === "down") throw new Error("it is down");
    if (this.state === "silent") await new Promise(() => undefined);
    return answer();
  }

  get(key: string) {
    return this.#called("get", () => this.objects.get(key));
  }
  touch(key: string) {
    return this.#called(key.endsWith("probe") ? "probe" : "touch", () => this.objects.has(key));
  }
  put(key: string, bytes: Uint8Array) {
    return this.#called("put", () => {
      if (this.state === "full") throw new RangeError("it is full");
      this.objects.set(key, bytes);
    });
  }
  remove(key: string) {
    return this.#called("remove", () => this.objects.delete(key));
  }
  async *list() {
    for (const [key, { length }] of this.objects) yield { key, size: length, usedMs: 0 };
  }
  isAnswer(error: unknown): boolean {
    return error instanceof RangeError;
  }
  async [Symbol.asyncDispose](): Promise<void> {}
}

/** A store over a server, as a process has it. */
function storeOver(server: FakeServer, capBytes = 1 << 20) {
  const ledger = new MemoryLedger();
  const warnings: string[] = [];
  const onWarning = (warning: string) => void warnings.push(warning);
  const remote = new RemoteTier(server, testFormat(ledger), { timeoutMs: 50, onWarning });
  const store = new MemoryStore({ capBytes, tiers: [remote.tier] });
  /** Whether a block was there; one that was not is. */
  const use = async (request: BlockRequest) => {
    const [asked] = await store.acquire([request]);
    using got = asked?.kind === "pending" ? await asked.settled : asked;
    if (got?.kind === "hit") return true;
    using _ = (got as Reservation).commit(ledger.block(request.shape, 7));
    return false;
  };
  const saved = () => expect.poll(() => remote.tier.stats.savingBytes).toBe(0);
  onTestFinished(async () => {
    await store[Symbol.asyncDispose]();
    await remote[Symbol.asyncDispose]();
    expect(ledger.numLive).toBe(0);
  });
  return { store, tier: remote.tier, use, saved, warnings };
}

test("RemoteTier: a block is written once, by whoever was first, and is not listed", async () => {
  const server = new FakeServer();
  const [first, second] = [storeOver(server), storeOver(server)];
  expect(await first.use(testRequest(1))).toBe(false);
  await first.saved();
  expect(first.tier.stats).toMatchObject({ saves: 1, usedBytes: 0, numBlocks: 0, capBytes: undefined });
  expect(await second.use(testRequest(1))).toBe(true);
  expect(await second.use(testRequest(2))).toBe(false);
  await second.saved();
  expect(await first.use(testRequest(2))).toBe(true);
  await first.saved();
  expect(server.calls.filter((name) => name === "put")).toHaveLength(2);
  // Both computed it before either had written it: the second finds it there.
  server.state = "down";
  const third = storeOver(server);
  expect(await third.use(testRequest(1))).toBe(false);
});

test("RemoteTier: what leaves the memory is there already, and is not asked for again while it stays", async () => {
  const server = new FakeServer();
  const { use, saved, tier } = storeOver(server, 2 * BYTES_PER_TOKEN);
  for (const i of [1, 2, 3, 4, 5, 6]) {
    expect(await use(testRequest(i))).toBe(false);
    await saved();
  }
  const numPuts = server.calls.filter((name) => name === "put").length;
  expect(numPuts).toBe(6);
  for (const i of [1, 2, 3, 4, 5, 6]) expect(await use(testRequest(i))).toBe(true);
  await saved();
  expect(server.calls.filter((name) => name === "put")).toHaveLength(6);
  // Neither of those that came from there, nor of those that left.
  expect(server.calls.filter((name) => name === "touch")).toHaveLength(6);
  expect(tier.stats).toMatchObject({ drops: 0, losses: 0 });
});

test("RemoteTier: a server that fails is passed by until a probe is answered, and told of once", async () => {
  for (const state of ["down", "silent"] as const) {
    const server = new FakeServer();
    const { use, saved, warnings, tier, store } = storeOver(server);
    await use(testRequest(1));
    await saved();
    server.state = state;
    const failing = await Promise.all([2, 3, 4].map((i) => use(testRequest(i))));
    expect(failing).toEqual([false, false, false]);
    expect(tier.mayHave(testRequest(5).id)).toBe(false);
    const numCalls = () => server.calls.filter((name) => name !== "probe").length;
    const before = numCalls();
    expect(await use(testRequest(5))).toBe(false);
    expect(await store.keep(testRequest(5).id)).toBe(false);
    expect(numCalls()).toBe(before);
    expect(warnings).toHaveLength(1);
    server.state = "up";
    await expect.poll(() => tier.mayHave(testRequest(6).id), { timeout: 30_000 }).toBe(true);
    expect(await store.keep(testRequest(5).id)).toBe(true);
  }
});

test("RemoteTier: what a server refuses to write does not keep it from being read", async () => {
  const server = new FakeServer();
  const first = storeOver(server);
  await first.use(testRequest(1));
  await first.saved();
  server.state = "full";
  const { use, saved, warnings, tier, store } = storeOver(server);
  expect(await use(testRequest(2))).toBe(false);
  await saved();
  expect(await store.keep(testRequest(2).id)).toBe(false);
  expect(await use(testRequest(1))).toBe(true);
  expect(tier.stats.drops).toBe(2);
  expect(warnings).toEqual([]);
});

test("RemoteTier: deleting is sure, or an error; a damaged object is a loss, and is written over", async () => {
  const server = new FakeServer();
  const { use, saved, store } = storeOver(server);
  const { id, owner } = testRequest(1);
  await use(testRequest(1));
  await saved();
  const other = storeOver(server);
  expect(await other.store.delete(id, "somebody else")).toBe(false);
  expect(await other.store.find(id, owner)).toMatchObject({ id });
  expect(await other.store.delete(id, owner)).toBe(true);
  expect(server.objects.size).toBe(0);
  expect(await other.store.delete(id, owner)).toBe(false);

  // Of passages what is on the server alone is found by its id.
  const request = { ...testRequest(4), documents: ["passage"] };
  await use(request);
  await saved();
  await storeOver(server).store.deletePassages(new Set(["passage"]), owner, [request.id]);
  expect(server.objects.size).toBe(0);

  await use(testRequest(2));
  await saved();
  const [key = ""] = server.objects.keys();
  const bytes = (server.objects.get(key) as Uint8Array).slice();
  bytes[bytes.length - 1] = 99;
  server.objects.set(key, bytes);
  expect(await other.use(testRequest(2))).toBe(false);
  expect(other.tier.stats.losses).toBe(1);
  await other.saved();
  expect(await storeOver(server).use(testRequest(2))).toBe(true);

  server.state = "down";
  await expect(store.delete(testRequest(2).id, owner)).rejects.toThrow("it is down");
  await expect(other.store.delete(testRequest(3).id, owner)).rejects.toThrow();
  expect(await other.store.find(testRequest(3).id, owner)).toBe(undefined);
});

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { temporaryFolder } from "../files/test-files.suite.js";
import { decodeBlockKV, encodeBlockKV, readBlockHead } from "./block-codec.js";
import { BlockFolder } from "./block-folder.js";
import { ownerName } from "./block-id.js";
import type { BlockMemory } from "./block-kv.js";
import type { BlockRequest, Reservation } from "./block-store.js";
import { testPage, testRequest } from "./block-store.suite.js";
import { type BlockFileFormat, DiskTier } from "./disk-tier.js";
import { MemoryLedger } from "./memory-ledger.suite.js";
import { MemoryStore } from "./memory-store.js";
import { openStorePlaces } from "./store-place.js";

const pipeMaker = "mkfifo";
const model = "0".repeat(64);
const made = { model, pairs: "half", compute: "test" } as const;

function testFormat(ledger: MemoryLedger, producer: string): BlockFileFormat<BlockMemory> {
  const fieldsOf = ({ id, tokenIds, context, owner, isPage }: BlockRequest) => {
    return { ...made, producer, id, tokenIds, context, salt: owner, kind: isPage ? "page" : "block" } as const;
  };
  return {
    place: producer,
    numBytes: (block) => 2048 + block.byteLength,
    encode: async (block, request) => [await encodeBlockKV(block, fieldsOf(request))],
    readRequest: async (bytes) => {
      const { kind, ...head } = await readBlockHead(bytes.size, (count) => bytes.read(count));
      return { ...head, isPage: kind === "page", isFromFile: true };
    },
    decode: async (bytes, request) => {
      return decodeBlockKV(await bytes.read(bytes.size), { ...fieldsOf(request), shape: request.shape }, (size) =>
        ledger.allocate(size),
      );
    },
  };
}

/** A store over a folder, as a process has it; disposing ends it as the process' end does. */
async function storeOver(path: string, capBytes = 1 << 24, memoryBytes = 1 << 20, producer = "test") {
  const ledger = new MemoryLedger();
  const folder = await BlockFolder.open(path, capBytes);
  const disk = new DiskTier(folder, testFormat(ledger, producer));
  const store = new MemoryStore({ capBytes: memoryBytes, tiers: [disk.tier] });
  const put = async (request: BlockRequest, fill = 7) => {
    const [miss] = await store.acquire([request]);
    const asked = miss?.kind === "pending" ? await miss.settled : miss;
    using _ = (asked as Reservation).commit(ledger.block(request.shape, fill));
    await store.keep(request.id);
  };
  /** The first byte of each block, where it is there. */
  const read = async (...requests: readonly BlockRequest[]) => {
    const found: (number | undefined)[] = [];
    for (const request of requests) {
      const [asked] = await store.acquire([request]);
      using got = asked?.kind === "pending" ? await asked.settled : asked;
      found.push(got?.kind === "hit" ? got.block.read()[0] : undefined);
    }
    return found;
  };
  let isOpen = true;
  const end = async () => {
    if (!isOpen) return;
    isOpen = false;
    await store[Symbol.asyncDispose]();
    await disk[Symbol.asyncDispose]();
    expect(ledger.numLive).toBe(0);
  };
  onTestFinished(end);
  return { store, disk, folder, put, read, end };
}

const filesOf = (path: string) =>
  readdirSync(path, { recursive: true, withFileTypes: true }).filter((one) => one.isFile());
const bytesOf = (path: string) =>
  filesOf(path).reduce((sum, { parentPath, name }) => sum + 512 * statSync(join(parentPath, name)).blocks, 0);

test("DiskTier: blocks and pages are there for the next process, with their bytes, and are found by their tokens", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  const requests = [testRequest(1, 3), testRequest(2, 1, "another"), testPage("full", [1, 2, 3])];
  for (const [i, request] of requests.entries()) await first.put(request, 10 + i);
  expect(first.store.stats().tiers[0]).toMatchObject({ name: "disk", numBlocks: 3, saves: 3, drops: 0 });
  await first.end();
  const second = await storeOver(path);
  // Before all files have been looked at.
  expect(await second.read(requests[0]!)).toEqual([10]);
  await second.disk.known;
  expect(await second.read(...requests, testRequest(3))).toEqual([10, 11, 12, undefined]);
  {
    using match = await second.store.longestMatch(testPage("full", [1, 2, 9]));
    expect(match?.numShared).toBe(2);
  }
  expect(await second.store.find(requests[1]!.id, "")).toBeUndefined();
  expect(await second.store.find(requests[1]!.id, "another")).toMatchObject({ tokens: 1 });
  expect(await second.store.delete(requests[1]!.id, "another")).toBe(true);
  await second.end();
  const third = await storeOver(path);
  await third.disk.known;
  expect(await third.read(...requests)).toEqual([10, undefined, 12]);
});

test("DiskTier: another process reads what one has written, writes nothing, and takes over when that ends", async () => {
  const path = await temporaryFolder();
  const [writer, reader] = [await storeOver(path), await storeOver(path)];
  await Promise.all([writer.disk.known, reader.disk.known]);
  expect([writer.folder.isWriter, reader.folder.isWriter]).toEqual([true, false]);
  await writer.put(testRequest(1), 5);
  expect(await reader.read(testRequest(1))).toEqual([5]);
  await reader.put(testRequest(2), 6);
  expect(reader.store.stats().tiers[0]).toMatchObject({ saves: 0, drops: 0 });
  expect(await writer.read(testRequest(2))).toEqual([undefined]);
  await writer.end();
  expect(await reader.folder.tryToWrite()).toBe(true);
});

test("DiskTier: the cap holds by what the file system uses, and what was used least recently goes, also after a restart", async () => {
  const path = await temporaryFolder();
  const cap = 40 * 4096;
  let store = await storeOver(path, cap);
  await store.disk.known;
  for (let n = 0; n < 60; n++) {
    await store.put(testRequest(n), n);
    expect(bytesOf(join(path, "blocks"))).toBeLessThanOrEqual(cap);
  }
  const { numBlocks } = store.store.stats().tiers[0]!;
  expect(numBlocks).toBeGreaterThan(30);
  await store.end();
  store = await storeOver(path, cap, 0);
  await store.disk.known;
  expect(await store.read(testRequest(59 - numBlocks), testRequest(60 - numBlocks))).toEqual([
    undefined,
    60 - numBlocks,
  ]);
  // Used a moment ago: the next one goes for a new one.
  await store.put(testRequest(100), 100);
  await store.end();
  store = await storeOver(path, cap, 0);
  await store.disk.known;
  expect(await store.read(testRequest(60 - numBlocks), testRequest(100))).toEqual([60 - numBlocks, 100]);
  // Less room than there was.
  await store.end();
  store = await storeOver(path, cap / 4, 0);
  await store.disk.known;
  expect(store.store.stats().tiers[0]!.numBlocks).toBeLessThanOrEqual(10);
});

test("DiskTier: what is damaged, foreign or half is a miss, moved aside within bounds, and written anew", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  const requests = Array.from({ length: 6 }, (_, n) => testRequest(n, 1 + n));
  for (const [n, request] of requests.entries()) await first.put(request, n);
  await first.end();
  const at = (n: number) => first.folder.pathOf(requests[n]!.id);
  const change = (n: number, by: (bytes: Buffer) => Uint8Array) => writeFileSync(at(n), by(readFileSync(at(n))));
  change(0, (bytes) => bytes.fill(1, bytes.length - 40, bytes.length - 39));
  change(1, (bytes) => bytes.subarray(0, -1));
  change(2, () => Buffer.alloc(0));
  writeFileSync(at(3), readFileSync(at(4)));
  mkdirSync(join(path, "blocks", "zz"));
  writeFileSync(join(path, "blocks", "zz", "notes.txt"), "mine");
  const second = await storeOver(path);
  await second.disk.known;
  expect(await second.read(...requests)).toEqual([undefined, undefined, undefined, undefined, 4, 5]);
  for (const n of [0, 1, 2, 3]) await second.put(requests[n]!, 20 + n);
  expect(readdirSync(join(path, "quarantine"))).toHaveLength(4);
  expect(readFileSync(join(path, "blocks", "zz", "notes.txt"), "utf8")).toBe("mine");
  await second.end();
  const third = await storeOver(path);
  await third.disk.known;
  expect(await third.read(...requests)).toEqual([20, 21, 22, 23, 4, 5]);
});

test("DiskTier: what another build computed is a miss, and what this one computes takes its place", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  await first.put(testRequest(1, 3), 10);
  await first.end();
  const other = await storeOver(path, 1 << 24, 1 << 20, "another build");
  await other.disk.known;
  expect(await other.read(testRequest(1, 3))).toEqual([undefined]);
  await other.put(testRequest(1, 3), 11);
  await other.end();
  expect(filesOf(path).map(({ name }) => name)).toHaveLength(1);
  const again = await storeOver(path, 1 << 24, 1 << 20, "another build");
  expect(await again.read(testRequest(1, 3))).toEqual([11]);
});

test.skipIf(process.platform === "win32")(
  "DiskTier: pipes and folders in blocks' places are misses, and are replaced",
  async () => {
    const path = await temporaryFolder();
    const requests = Array.from({ length: 12 }, (_, n) => testRequest(n));
    const folder = await BlockFolder.openToRead(path);
    for (const [n, { id }] of requests.entries()) {
      const at = folder.pathOf(id);
      mkdirSync(join(at, ".."), { recursive: true });
      if (n === 0) mkdirSync(join(at, "full"), { recursive: true });
      else execFileSync(pipeMaker, [at]);
    }
    const first = await storeOver(path);
    await first.disk.known;
    expect(await first.read(...requests)).toEqual(requests.map(() => undefined));
    for (const [n, request] of requests.entries()) await first.put(request, n);
    await first.end();
    const second = await storeOver(path);
    expect(await second.read(...requests)).toEqual(requests.map((_, n) => n));
  },
);

test("DiskTier: whoever knows an owner's name alone finds and deletes none of their blocks", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  const { id } = testRequest(1, 3, "secret");
  await first.put(testRequest(1, 3, "secret"));
  await first.end();
  const second = await storeOver(path);
  await second.disk.known;
  expect(await second.store.find(id, ownerName("secret"))).toBeUndefined();
  expect(await second.store.delete(id, ownerName("secret"))).toBe(false);
  expect(await second.store.find(id, "secret")).toMatchObject({ tokens: 3 });
});

test("DiskTier: what is deleted is gone from the folder then, whoever writes there, or the deletion fails", async () => {
  const path = await temporaryFolder();
  const [writer, reader] = [await storeOver(path), await storeOver(path)];
  await Promise.all([writer.disk.known, reader.disk.known]);
  for (const n of [1, 2, 3]) await writer.put(testRequest(n), n);
  const at = (n: number) => writer.folder.pathOf(testRequest(n).id);
  expect(await writer.store.delete(testRequest(1).id, "")).toBe(true);
  expect(existsSync(at(1))).toBe(false);
  expect(await reader.store.delete(testRequest(2).id, "")).toBe(true);
  expect(existsSync(at(2))).toBe(false);
  expect(await reader.store.find(testRequest(2).id, "")).toBeUndefined();
  const remove = vi.spyOn(writer.folder, "remove").mockRejectedValue(new Error("Cannot remove it"));
  await expect(writer.store.delete(testRequest(3).id, "")).rejects.toThrow("Cannot remove it");
  remove.mockRestore();
  expect(await writer.store.delete(testRequest(3).id, "")).toBe(true);
  expect(existsSync(at(3))).toBe(false);
});

test("DiskTier: while files cannot be removed the cap holds and blocks stay; afterwards new ones are kept again", async () => {
  const path = await temporaryFolder();
  const cap = 12 * 4096;
  const { store, disk, folder, put, read } = await storeOver(path, cap, 0);
  await disk.known;
  for (let n = 0; n < 10; n++) await put(testRequest(n), n);
  const remove = vi.spyOn(folder, "remove").mockRejectedValue(new Error("Cannot remove it"));
  for (let n = 10; n < 40; n++) {
    await put(testRequest(n), n);
    expect(bytesOf(join(path, "blocks"))).toBeLessThanOrEqual(cap);
  }
  expect((await read(testRequest(0), testRequest(9))).every((one) => one !== undefined)).toBe(true);
  remove.mockRestore();
  await put(testRequest(50), 50);
  expect(await store.find(testRequest(50).id, "")).toBeDefined();
  expect(await store.keep(testRequest(50).id)).toBe(false);
  expect(existsSync(folder.pathOf(testRequest(50).id))).toBe(true);
});

test("DiskTier: a block whose file was taken away is written again when it is to be kept", async () => {
  const path = await temporaryFolder();
  const { store, disk, folder, put } = await storeOver(path);
  await disk.known;
  await put(testRequest(1), 5);
  rmSync(join(path, "blocks"), { recursive: true });
  expect(await store.keep(testRequest(1).id)).toBe(true);
  expect(existsSync(folder.pathOf(testRequest(1).id))).toBe(true);
});

test("DiskTier: a file of another shape in a block's place is a miss, not an error", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  await first.put(testRequest(1, 3));
  await first.end();
  const second = await storeOver(path);
  await second.disk.known;
  expect(await second.read(testRequest(1, 4))).toEqual([undefined]);
});

test("DiskTier: a load that looks for its file when the store ends allocates nothing", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  await first.put(testRequest(1));
  const { store, disk, folder, end } = await storeOver(path);
  await disk.known;
  let go = () => {};
  const going = new Promise<void>((resolve) => {
    go = resolve;
  });
  const { read } = folder;
  vi.spyOn(folder, "read").mockImplementation(async (...some) => {
    await going;
    return await read.apply(folder, some);
  });
  await first.put(testRequest(2));
  const loading = disk.tier.load(testRequest(2));
  await store[Symbol.asyncDispose]();
  go();
  expect(await loading).toBeUndefined();
  await end();
});

test("DiskTier: where not all files could be looked at nothing is written, evicted or lost", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  await first.put(testRequest(1), 5);
  await first.end();
  vi.spyOn(BlockFolder.prototype, "files").mockImplementationOnce(() => {
    throw new Error("Cannot read it: too many files are open");
  });
  const second = await storeOver(path);
  await second.disk.known;
  await second.put(testRequest(2), 6);
  expect(second.disk.tier.stats).toMatchObject({ saves: 0, evictions: 0 });
  expect(await second.read(testRequest(1))).toEqual([5]);
});

test("openStorePlaces(): a folder that is to be made, and has no cap, gets one", async () => {
  const path = join(await temporaryFolder(), "not", "there");
  const [store] = await openStorePlaces(path);
  await using disk = store!.tier(testFormat(new MemoryLedger(), "test"));
  expect(disk.tier.stats.capBytes).toBeGreaterThan(1 << 20);
});

test("openStorePlaces(): a lock that cannot be had is named", async () => {
  const path = await temporaryFolder();
  const warnings: string[] = [];
  for (const _ of [1, 2]) {
    const [store] = await openStorePlaces(path, (warning) => warnings.push(warning));
    onTestFinished(() => store![Symbol.asyncDispose]());
  }
  expect(warnings.join()).toMatch(/process \d+ does; if that is none of ours, remove ".*writer\.lock"/);
});

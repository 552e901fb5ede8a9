import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { bytesBelow, temporaryFolder } from "../files/test-files.suite.js";
import { decodeBlockKV, encodeBlockKV, readBlockHead } from "./block-codec.js";
import { BlockFolder } from "./block-folder.js";
import type { BlockFileFormat } from "./block-format.js";
import { ownerName } from "./block-id.js";
import type { BlockMemory } from "./block-kv.js";
import type { BlockRequest, Reservation } from "./block-store.js";
import { testPage, testRequest } from "./block-store.suite.js";
import { DiskTier } from "./disk-tier.js";
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
      return decodeBlockKV(bytes, { ...fieldsOf(request), shape: request.shape }, (size) => ledger.allocate(size));
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

test("DiskTier: a folder may be named from the working folder on, also by . and with a slash at its end", async () => {
  const path = await temporaryFolder();
  for (const name of [relative(".", path), `./${relative(".", path)}/`, `${path}//.`]) {
    const one = await storeOver(name);
    await one.disk.known;
    await one.put(testRequest(name.length));
    expect(one.store.stats().tiers[0]).toMatchObject({ saves: 1, drops: 0 });
    await one.end();
  }
});

test("DiskTier: another process reads what one has written, writes within what that leaves it, and takes over when it ends", async () => {
  const path = await temporaryFolder();
  const [writer, other] = [await storeOver(path), await storeOver(path)];
  await Promise.all([writer.disk.known, other.disk.known]);
  expect([writer.folder.isWriter, other.folder.isWriter]).toEqual([true, false]);
  await writer.put(testRequest(1), 5);
  expect(await other.read(testRequest(1))).toEqual([5]);
  await other.put(testRequest(2), 6);
  expect(other.store.stats().tiers[0]).toMatchObject({ saves: 1, drops: 0 });
  // Before it has read of it.
  expect(await writer.read(testRequest(2))).toEqual([6]);
  await writer.end();
  expect(await other.folder.tryToWrite()).toBe(true);
  expect(filesOf(join(path, "shares"))).toEqual([]);
});

test("DiskTier: what several processes write is within one cap, and is evicted; room of one that ended is the others' again", async () => {
  const path = await temporaryFolder();
  const cap = 80 * 4096;
  const stores = [await storeOver(path, cap), await storeOver(path, cap), await storeOver(path, cap)];
  await Promise.all(stores.map(({ disk }) => disk.known));
  let most = 0;
  const look = setInterval(() => {
    most = Math.max(most, bytesBelow(path));
  }, 10);
  onTestFinished(() => clearInterval(look));
  await Promise.all(
    stores.map(async ({ put }, s) => {
      for (let n = 0; n < 60; n++) await put(testRequest(100 * s + n), n);
    }),
  );
  clearInterval(look);
  expect(most).toBeLessThanOrEqual(cap);
  for (const { disk } of stores.slice(1)) expect(disk.tier.stats).toMatchObject({ saves: 60, drops: 0 });
  const [writer, ...others] = stores;
  for (const { end } of others) await end();
  await expect.poll(() => readdirSync(join(path, "shares")), { timeout: 5000 }).toEqual([]);
  // All files are known, and nothing is reserved.
  await expect.poll(() => writer!.disk.tier.stats.usedBytes, { timeout: 5000 }).toBe(bytesBelow(join(path, "blocks")));
});

test("DiskTier: texts that other processes write over again and again push no block out", async () => {
  const path = await temporaryFolder();
  const cap = 100 * 4096;
  const [writer, other] = [await storeOver(path, cap), await storeOver(path, cap)];
  await Promise.all([writer.disk.known, other.disk.known]);
  for (let n = 0; n < 30; n++) await writer.put(testRequest(n));
  for (let n = 0; n < 80; n++) await other.disk.texts.put("owner/one.json", `text ${n}`);
  // What was written last is still counted twice.
  await expect.poll(() => writer.store.stats().tiers[0]?.usedBytes).toBeLessThan((30 + 35) * 4096);
  expect(writer.store.stats().tiers[0]).toMatchObject({ evictions: 0, numBlocks: 30 });
});

test("DiskTier: a block larger than what is left to others is not kept", async () => {
  const path = await temporaryFolder();
  const [writer, other] = [await storeOver(path, 20 * 4096), await storeOver(path, 20 * 4096)];
  await Promise.all([writer.disk.known, other.disk.known]);
  await other.put(testRequest(1), 1);
  const large = testRequest(2, 2000);
  await other.put(large, 2);
  expect(other.disk.tier.stats).toMatchObject({ saves: 1, drops: 1 });
  expect(await writer.read(large)).toEqual([undefined]);
});

test("DiskTier: a process whose lock was taken away while it stood still writes no more with it, and then within its share", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  await first.put(testRequest(1), 1);
  // As after half a minute in which it was not renewed.
  rmSync(join(path, "writer.lock"));
  const second = await storeOver(path);
  await second.disk.known;
  expect([second.folder.isWriter, first.folder.isWriter]).toEqual([true, true]);
  await first.put(testRequest(2), 2);
  expect(first.folder.isWriter).toBe(false);
  expect(first.disk.tier.stats).toMatchObject({ saves: 1, drops: 1 });
  await expect.poll(() => first.folder.canWrite, { timeout: 10_000 }).toBe(true);
  await first.put(testRequest(3), 3);
  expect(await second.read(testRequest(1), testRequest(2), testRequest(3))).toEqual([1, undefined, 3]);
});

test("DiskTier: one that knows all files looks for no others, and what was not there is no takeover", async () => {
  const path = await temporaryFolder();
  const { store, disk, folder, put } = await storeOver(path);
  const read = vi.spyOn(folder, "read");
  await put(testRequest(1), 1);
  expect(store.stats()).toMatchObject({ misses: 1, takeovers: 0 });
  await disk.known;
  read.mockClear();
  await put(testRequest(2), 1);
  expect(read).not.toHaveBeenCalled();
});

test("DiskTier: a process without the lock forgets what it knows of more blocks than the cap holds, and no file", async () => {
  const path = await temporaryFolder();
  const writer = await storeOver(path);
  await writer.disk.known;
  for (let n = 0; n < 30; n++) await writer.put(testRequest(n), n);
  const reader = await storeOver(path, 12 * 4096, 0);
  await reader.disk.known;
  expect(reader.disk.tier.stats.numBlocks).toBeLessThan(12);
  expect(await reader.read(...Array.from({ length: 30 }, (_, n) => testRequest(n)))).toEqual(
    Array.from({ length: 30 }, (_, n) => n),
  );
  expect(reader.disk.tier.stats.numBlocks).toBeLessThan(12);
  expect(filesOf(join(path, "blocks"))).toHaveLength(30);
});

test("DiskTier: a file that cannot be read now is counted, and evicted in its turn", async () => {
  const path = await temporaryFolder();
  const first = await storeOver(path);
  await first.disk.known;
  for (const n of [1, 2]) await first.put(testRequest(n), n);
  await first.end();
  const { read } = BlockFolder.prototype;
  const failing = vi.spyOn(BlockFolder.prototype, "read").mockImplementation(function (this: BlockFolder, at, ...how) {
    if (at.includes(testRequest(1).id)) return Promise.reject(new Error("Cannot read it: the device fails"));
    return read.call(this, at, ...how) as Promise<never>;
  });
  const second = await storeOver(path);
  await second.disk.known;
  failing.mockRestore();
  expect(second.disk.tier.stats).toMatchObject({ numBlocks: 2, usedBytes: bytesBelow(join(path, "blocks")) });
  expect(await second.read(testRequest(1))).toEqual([1]);
});

test("DiskTier: files of a time that has yet to come are no longer used last at the next start", async () => {
  const path = await temporaryFolder();
  const cap = 12 * 4096;
  let store = await storeOver(path, cap);
  await store.disk.known;
  for (const n of [1, 2, 3]) await store.put(testRequest(n), n);
  const at = store.folder.pathOf(testRequest(1).id);
  await store.end();
  utimesSync(at, 4e9, 4e9);
  store = await storeOver(path, cap);
  await store.disk.known;
  expect(statSync(at).mtimeMs).toBeLessThanOrEqual(Date.now());
});

test("DiskTier: the cap holds by what the file system uses, and what was used least recently goes, also after a restart", async () => {
  const path = await temporaryFolder();
  const cap = 40 * 4096;
  let store = await storeOver(path, cap);
  await store.disk.known;
  for (let n = 0; n < 60; n++) {
    await store.put(testRequest(n), n);
    expect(bytesBelow(join(path, "blocks"))).toBeLessThanOrEqual(cap);
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
  // As a damaged block that was a link leaves it.
  mkdirSync(join(path, "quarantine"));
  symlinkSync("nowhere", join(path, "quarantine", `1-${requests[0]!.id}.kv`));
  mkdirSync(join(path, "blocks", "zz"));
  writeFileSync(join(path, "blocks", "zz", "notes.txt"), "mine");
  const second = await storeOver(path);
  await second.disk.known;
  expect(await second.read(...requests)).toEqual([undefined, undefined, undefined, undefined, 4, 5]);
  for (const n of [0, 1, 2, 3]) await second.put(requests[n]!, 20 + n);
  expect(readdirSync(join(path, "quarantine"))).toHaveLength(5);
  expect(await second.folder.quarantined()).toBeGreaterThan(0);
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
  const cap = 14 * 4096;
  const { store, disk, folder, put, read } = await storeOver(path, cap, 0);
  await disk.known;
  for (let n = 0; n < 10; n++) await put(testRequest(n), n);
  const remove = vi.spyOn(folder, "remove").mockRejectedValue(new Error("Cannot remove it"));
  for (let n = 10; n < 40; n++) {
    await put(testRequest(n), n);
    expect(bytesBelow(join(path, "blocks"))).toBeLessThanOrEqual(cap);
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

test("openStorePlaces(): of a folder with files of its user's own what was left half written goes, and nothing else", async () => {
  const path = await temporaryFolder();
  mkdirSync(join(path, "partial", "notes"), { recursive: true });
  for (const name of ["mine.txt", "0d2b3a5c-1111-4222-8333-123456789abc"])
    writeFileSync(join(path, "partial", name), "");
  const [opened] = await openStorePlaces(`${path}?cap=1MB`);
  await opened?.[Symbol.asyncDispose]();
  expect(readdirSync(join(path, "partial")).sort()).toEqual(["mine.txt", "notes"]);
});

test("openStorePlaces(): a folder that is to be made, and has no cap, gets one", async () => {
  const path = join(await temporaryFolder(), "not", "there");
  const [store] = await openStorePlaces(path);
  await using disk = store!.tier(testFormat(new MemoryLedger(), "test"));
  expect(disk.tier.stats.capBytes).toBeGreaterThan(1 << 20);
});

test("openStorePlaces(): a lock that cannot be had is named where nothing can be written", async () => {
  const path = await temporaryFolder();
  const [first] = await openStorePlaces(path);
  onTestFinished(() => first![Symbol.asyncDispose]());
  writeFileSync(join(path, "shares"), "no folder");
  const warnings: string[] = [];
  const [store] = await openStorePlaces(path, (warning) => warnings.push(warning));
  onTestFinished(() => store![Symbol.asyncDispose]());
  expect(warnings.join()).toMatch(/process \d+ does; if that is none of ours, remove ".*writer\.lock"/);
});

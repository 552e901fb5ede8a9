// What blocks in files cost: `npm run bench -- store read [tokens]`, a long context of the 135M and 1B shapes from files that the system
// has none of in memory, beside reading the same files one after another; `ttft [tokens] [135m|1b|8b|8b-4-layers|MODEL ...]`, the first token where
// passages are computed, in memory and in files; `many [blocks]`, a folder of that many small blocks: start, look-up, eviction, memory; `plan`, what ten million
// passages of an 8B model take. Reading from the disk wants Linux and root.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, open, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { blockFileFormat } from "../src/engine/block-file.js";
import { DeviceBlockMemory } from "../src/engine/device-memory.js";
import { Engine } from "../src/engine/engine.js";
import { KVMemory } from "../src/engine/kv-memory.js";
import { loadModel } from "../src/engine/model.js";
import { BlockFolder } from "../src/kv/block-folder.js";
import type { BlockId } from "../src/kv/block-id.js";
import { BlockKV, type BlockKVShape, blockKVByteLength } from "../src/kv/block-kv.js";
import type { BlockRequest } from "../src/kv/block-store.js";
import { DiskTier } from "../src/kv/disk-tier.js";
import { leaseBlocks } from "../src/kv/lease-blocks.js";
import { MemoryStore } from "../src/kv/memory-store.js";
import { benchModel, modelFile } from "./shared/models.js";
import { countArgument, describeRun, median, printTable, TokenSource } from "./shared/report.js";

const MiB = 2 ** 20;
const shapes = {
  "135m": { numLayers: 30, numKvHeads: 3, headSize: 64, type: "f16" },
  "1b": { numLayers: 16, numKvHeads: 8, headSize: 64, type: "f16" },
  "8b": { numLayers: 32, numKvHeads: 8, headSize: 128, type: "f16" },
  tiny: { numLayers: 1, numKvHeads: 1, headSize: 2, type: "f16" },
} as const satisfies Record<string, Omit<BlockKVShape, "numTokens">>;

const folder = await mkdtemp(join(process.env.BLOCK_ATTENTION_BENCH_STORE ?? ".", "bench-store-"));

/** Makes the system forget all files that it has in memory. */
async function forgetFiles(): Promise<void> {
  // What is not written yet is not forgotten.
  execFileSync("sync");
  await writeFile("/proc/sys/vm/drop_caches", "3");
}

function requestOf(n: number, shape: BlockKVShape): BlockRequest {
  const id = createHash("sha256").update(`${n}`).digest("hex") as BlockId;
  return { id, shape, owner: "", tokenIds: new Int32Array(shape.numTokens).fill(n % 1000) };
}

/** A device's memory and files as an engine has them; blocks may have any model's shape. */
async function parts(shape: Omit<BlockKVShape, "numTokens">) {
  const model = await loadModel({ model: await benchModel("tiny"), threads: 1, backend: "cpu" });
  const memory = new KVMemory(model.backend, shape, "f16");
  return { model, memory, format: blockFileFormat(model, memory) };
}

/** Writes blocks as they lie in a folder, without waiting for the disk each time. */
async function writeBlocks(path: string, requests: Iterable<BlockRequest>, of: Awaited<ReturnType<typeof parts>>) {
  await using files = await BlockFolder.open(path, Number.MAX_SAFE_INTEGER);
  const made = new Set<string>();
  const writes = new Set<Promise<void>>();
  for (const request of requests) {
    using block = new BlockKV(request.shape, new DeviceBlockMemory(of.memory, request.shape));
    const at = files.pathOf(request.id);
    if (!made.has(dirname(at))) await mkdir(dirname(at), { recursive: true });
    made.add(dirname(at));
    const bytes = Buffer.concat(await of.format.encode(block, request));
    const write = writeFile(at, bytes).finally(() => writes.delete(write));
    writes.add(write);
    if (writes.size >= 16) await Promise.race(writes);
  }
  await Promise.all(writes);
}

/** Bytes in a ms of reading all files, one after another, as large pieces. */
async function sequentialRate(path: string): Promise<number> {
  const names = (await readdir(path, { recursive: true })).filter((name) => name.endsWith(".kv")).sort();
  const room = new Uint8Array(4 * MiB);
  await forgetFiles();
  const start = performance.now();
  let bytes = 0;
  for (const name of names) {
    const file = await open(join(path, name));
    for (let read = 1; read > 0; bytes += read) read = (await file.read(room, 0, room.length)).bytesRead;
    await file.close();
  }
  return bytes / (performance.now() - start);
}

async function readContexts(tokens: number): Promise<void> {
  const rows = [];
  for (const name of ["135m", "1b"] as const) {
    for (const size of [128, 512]) {
      const path = join(folder, `${name}-${size}`);
      const made = await parts(shapes[name]);
      const shape = { ...shapes[name], numTokens: size };
      const requests = Array.from({ length: Math.ceil(tokens / size) }, (_, n) => requestOf(n, shape));
      await writeBlocks(path, requests, made);
      const [ofStore, ofDisk]: number[][] = [[], []];
      for (let round = 0; round < 3; round++) {
        (ofDisk as number[]).push(await sequentialRate(path));
        await forgetFiles();
        const disk = new DiskTier(await BlockFolder.open(path, Number.MAX_SAFE_INTEGER), made.format);
        const store = new MemoryStore({ capBytes: Number.MAX_SAFE_INTEGER, tiers: [disk.tier] });
        // Without its index, as in a request right after the start.
        const start = performance.now();
        const leased = await leaseBlocks(store, requests, () => {
          throw new Error("Cannot measure: a block was not found");
        });
        (ofStore as number[]).push((requests.length * blockKVByteLength(shape)) / (performance.now() - start));
        leased[Symbol.dispose]();
        await store[Symbol.asyncDispose]();
        await disk[Symbol.asyncDispose]();
      }
      const [found, wanted] = [median(ofStore as number[]), median(ofDisk as number[])];
      const all = (requests.length * blockKVByteLength(shape)) / MiB;
      rows.push([
        name,
        tokens,
        size,
        all.toFixed(0),
        rateOf(found),
        rateOf(wanted),
        `${Math.round((100 * found) / wanted)}%`,
      ]);
      await rm(path, { recursive: true });
      made.model[Symbol.dispose]();
    }
  }
  const head = [
    "shape",
    "tokens",
    "tokens a block",
    "MiB",
    "checked and in place, MB/s",
    "read in turn, MB/s",
    "ratio",
  ];
  printTable(head, rows);
}

const rateOf = (bytesInMs: number) => (bytesInMs / 1000).toFixed(0);

async function firstTokens(tokens: number, names: readonly string[]): Promise<void> {
  const rows = [];
  for (const name of names) {
    const store = join(folder, `ttft-${name}`);
    const load = async () => Engine.load({ model: await modelFile(name), store: `${store}?cap=20GB` });
    const times: Record<string, number> = {};
    const options = { mode: "block", maxTokens: 1, keepPrefixes: false } as const;
    let prompt: { blockTokenIds: number[][] };
    {
      await using engine = await load();
      const source = new TokenSource(engine.model.source.config.vocabSize);
      const end = source.take(20);
      // What is measured starts when the model is ready, and has computed.
      await engine.complete({ blockTokenIds: [source.take(200), end] }, options);
      prompt = { blockTokenIds: [...source.passages(tokens), end] };
      for (const way of ["computed", "memory"])
        times[way] = (await engine.complete(prompt, options)).timings.ttftMs ?? 0;
    }
    await forgetFiles();
    await using engine = await load();
    const source = new TokenSource(engine.model.source.config.vocabSize, 2);
    await engine.complete({ blockTokenIds: [source.take(200), source.take(20)] }, options);
    const found = await engine.complete(prompt, options);
    times.files = found.timings.ttftMs ?? 0;
    const { loads = 0 } = engine.stats().store.tiers[0] ?? {};
    const ms = (way: string) => (times[way] ?? 0).toFixed(0);
    const ratio = (way: string) => ((times.computed ?? 0) / (times[way] ?? 1)).toFixed(1);
    rows.push([name, tokens, ms("computed"), ms("memory"), ms("files"), ratio("memory"), ratio("files"), loads]);
  }
  const head = ["shape", "tokens", "computed, ms", "memory, ms", "files, ms", "memory x", "files x", "loaded"];
  printTable(head, rows);
}

async function manyBlocks(count: number): Promise<void> {
  const path = join(folder, "many");
  const made = await parts(shapes.tiny);
  const shape = { ...shapes.tiny, numTokens: 1 };
  const all = function* () {
    for (let n = 0; n < count; n++) yield requestOf(n, shape);
  };
  const written = performance.now();
  await writeBlocks(path, all(), made);
  const writtenMs = performance.now() - written;
  await forgetFiles();
  global.gc?.();
  const before = process.memoryUsage().rss;
  const start = performance.now();
  const disk = new DiskTier(await BlockFolder.open(path, Number.MAX_SAFE_INTEGER), made.format);
  const store = new MemoryStore({ capBytes: 0, tiers: [disk.tier] });
  let numComputed = 0;
  const time = async (numbers: readonly number[]) => {
    const times = [];
    for (const n of numbers) {
      const from = performance.now();
      const leased = await leaseBlocks(store, [requestOf(n, shape)], async function* () {
        // It did not come in time.
        numComputed += 1;
        yield new BlockKV(shape, new DeviceBlockMemory(made.memory, shape));
      });
      leased[Symbol.dispose]();
      times.push(performance.now() - from);
    }
    return times;
  };
  await time([count - 1]);
  const firstMs = performance.now() - start;
  await disk.known;
  const knownMs = performance.now() - start;
  global.gc?.();
  const perBlock = (process.memoryUsage().rss - before) / count;
  const random = new TokenSource(2 ** 24);
  const lookUps = await time(random.take(1000).map((n) => n % count));
  await store[Symbol.asyncDispose]();
  await disk[Symbol.asyncDispose]();
  // Half of all go when a writer with half of the cap has looked at them.
  const half = new DiskTier(await BlockFolder.open(path, (count / 2) * 4096), made.format);
  const evicting = performance.now();
  await half.known;
  const halfKnownMs = performance.now() - evicting;
  const { evictions } = half.tier.stats;
  await half.tier[Symbol.asyncDispose]();
  const evictedMs = performance.now() - evicting - halfKnownMs;
  await half[Symbol.asyncDispose]();
  printTable(
    [
      "blocks",
      "written, s",
      "first hit after start, ms",
      "all known, s",
      "bytes of memory a block",
      "look-up and load, ms",
      "of 1001 not in time",
      "evictions",
      "ms each",
    ],
    [
      [
        count,
        (writtenMs / 1000).toFixed(0),
        firstMs.toFixed(0),
        (knownMs / 1000).toFixed(1),
        perBlock.toFixed(0),
        median(lookUps).toFixed(2),
        numComputed,
        evictions,
        (evictedMs / Math.max(1, evictions)).toFixed(3),
      ],
    ],
  );
  made.model[Symbol.dispose]();
}

/** What a corpus takes. @param tokensInSecond that one machine computes. */
function plan(numPassages = 10_000_000, tokensEach = 200, tokensInSecond = 10_000, diskBytes = 8e12): void {
  const rows = (["f16", "q8_0", "q4_0"] as const).map((type) => {
    const bytes = numPassages * (blockKVByteLength({ ...shapes["8b"], type, numTokens: tokensEach }) + 4096);
    const hours = (numPassages * tokensEach) / tokensInSecond / 3600;
    return [type, (bytes / 1e12).toFixed(1), Math.ceil(bytes / diskBytes), hours.toFixed(0), Math.ceil(hours / 24)];
  });
  console.log(
    `${numPassages} passages of ${tokensEach} tokens, an 8B model, machines that compute ${tokensInSecond} tokens a second and hold ${diskBytes / 1e12} TB each\n`,
  );
  printTable(["KV type", "TB", "machines to hold them", "hours of one machine", "machines for a day"], rows);
}

const [what = "plan", number, ...names] = process.argv.slice(2);
console.log(`Store, ${what}, ${describeRun()}\n`);
const counted = (fallback: number) => (number === undefined ? fallback : countArgument("the number", number));
try {
  if (what === "read") await readContexts(counted(32_768));
  else if (what === "ttft") await firstTokens(counted(2048), names.length > 0 ? names : ["135m", "1b"]);
  else if (what === "many") await manyBlocks(counted(1_000_000));
  else plan(...process.argv.slice(3).map((text) => countArgument("a number", text)));
} finally {
  await rm(folder, { recursive: true, force: true });
}

// Does anything grow faster than it should? Assembling and memory against the tokens of a prompt (both linear), and the
// store's look-up against the number of blocks it holds (constant, up to 100,000).
// `npm run bench -- growth`
import { Engine } from "../src/engine/engine.js";
import { blockId } from "../src/kv/block-id.js";
import { BLOCK_KV_FORMAT_VERSION, BlockKV, type BlockKVShape, blockKVByteLength } from "../src/kv/block-kv.js";
import { MemoryStore } from "../src/kv/memory-store.js";
import { benchModel } from "./shared/models.js";
import { describeRun, median, printTable, TokenSource } from "./shared/report.js";

console.log(`Growth, ${describeRun()}\n`);
{
  await using engine = await Engine.load({ model: await benchModel("135m") });
  const { config } = engine.model.source;
  const source = new TokenSource(config.vocabSize);
  const kvBytesPerToken = 2 * config.numLayers * config.numKvHeads * config.headSize * 2;
  const rows: (string | number)[][] = [];
  for (const tokens of [1024, 2048, 4096, 8192, 16_384]) {
    const passages = source.passages(tokens);
    const final = source.take(4);
    await engine.complete(
      { blockTokenIds: [...passages, final] },
      { mode: "block", maxTokens: 1, keepPrefixes: false },
    );
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const again = await engine.complete(
        { blockTokenIds: [...passages, final] },
        { mode: "block", maxTokens: 1, keepPrefixes: false },
      );
      times.push(again.timings.assembleMs);
    }
    const stored = engine.stats().store;
    rows.push([
      tokens,
      passages.length,
      median(times).toFixed(1),
      ((1000 * median(times)) / tokens).toFixed(2),
      (stored.idleBytes / 2 ** 20).toFixed(0),
      `${kvBytesPerToken / 1024} KiB`,
    ]);
  }
  printTable(["tokens", "blocks", "assemble ms", "µs a token", "store MiB, all so far", "KV a token"], rows);
}

console.log();
const shape: BlockKVShape = { numLayers: 1, numKvHeads: 1, headSize: 2, numTokens: 1, type: "f16" };
const byteLength = blockKVByteLength(shape);
const memory = () => ({
  byteLength,
  read: () => new Uint8Array(byteLength),
  write: () => undefined,
  [Symbol.dispose]: () => undefined,
});
const id = (i: number) =>
  blockId({ model: "bench", kvType: "f16", formatVersion: BLOCK_KV_FORMAT_VERSION, salt: "", tokenIds: [i] });
const rows: (string | number)[][] = [];
await using store = new MemoryStore({ capBytes: 100_000 * byteLength });
let held = 0;
for (const numBlocks of [100, 1000, 10_000, 100_000]) {
  for (; held < numBlocks; held++) {
    const [acquired] = await store.acquire([{ id: id(held), shape, owner: "", tokenIds: Int32Array.of(held) }]);
    if (acquired?.kind !== "miss") throw new Error(`Cannot fill the store: block ${held} is there already`);
    acquired.commit(new BlockKV(shape, memory()))[Symbol.dispose]();
  }
  // Ids are made before: what is measured is the store.
  const wanted = Array.from({ length: 5000 }, (_, i) => ({
    id: id((i * 7919) % numBlocks),
    ...{ shape, owner: "", tokenIds: Int32Array.of((i * 7919) % numBlocks) },
  }));
  const before = process.memoryUsage().heapUsed;
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const started = performance.now();
    for (const request of wanted) for (const lease of await store.acquire([request])) lease[Symbol.dispose]();
    times.push((1000 * (performance.now() - started)) / wanted.length);
  }
  rows.push([numBlocks, median(times).toFixed(2), (before / 2 ** 20).toFixed(0)]);
}
printTable(["blocks in the store", "look-up and give back, µs", "heap MiB"], rows);

import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { testBackend, testDevice, testGgml } from "../../tests/test-device.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { BlockKV } from "../kv/block-kv.js";
import { testRequest } from "../kv/block-store.suite.js";
import { DeviceBlockMemory, hostTier } from "./device-memory.js";
import { KVMemory } from "./kv-memory.js";
import { LocalEngine } from "./local-engine.js";

test.each(["f16", "f32", "bf16"] as const)(
  "hostTier(): a block of %s comes back with the same bytes, its device memory free meanwhile",
  async (type) => {
    const before = { ...testGgml.live };
    const backend = testBackend();
    const memory = new KVMemory(backend, { numLayers: 2, numKvHeads: 3, headSize: 8 }, type);
    const host = new KVMemory(backend, memory.shape, type, { isOnHost: true });
    const tier = hostTier(memory, host, 1 << 20);
    const blocks = [5, 70, 1].map((numTokens, n) => {
      const shape = { ...memory.shape, numTokens, type };
      const block = new BlockKV(shape, new DeviceBlockMemory(memory, shape));
      block.memory.write(Uint8Array.from({ length: block.byteLength }, (_, i) => (i * 7 + n) & 0xff));
      return block;
    });
    const bytes = blocks.map((block) => block.read());
    const requests = blocks.map(({ shape }, n) => ({ ...testRequest(n), shape }));
    for (const [n, block] of blocks.entries()) tier.take(requests[n]!, block, () => block[Symbol.dispose]());
    while (tier.stats.savingBytes > 0) await new Promise(setImmediate);
    // What they left in the device's memory is no help.
    const other = new DeviceBlockMemory(memory, { ...memory.shape, numTokens: 300, type });
    await other.write(new Uint8Array(other.byteLength));
    other[Symbol.dispose]();
    const loaded = await Promise.all(requests.map((request) => tier.load(request)));
    expect(blocks.map(({ isDisposed }) => isDisposed)).toEqual([true, true, true]);
    expect(loaded.map((block) => block?.read())).toEqual(bytes);
    const usedBytes = bytes.reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(memory.stats.usedBytes).toBe(usedBytes);
    expect(tier.stats).toMatchObject({ usedBytes, numBlocks: 3, saves: 3, loads: 3, drops: 0 });
    for (const block of loaded) block?.[Symbol.dispose]();
    expect(memory.stats).toMatchObject({ usedBytes: 0, numSlabs: 0 });
    expect(host.stats).toMatchObject({ usedBytes, numSlabs: 1 });
    await tier[Symbol.asyncDispose]();
    backend[Symbol.dispose]();
    expect(testGgml.live).toEqual(before);
  },
);

test.each([
  ["all rest beside the device", 0],
  ["what leaves the device rests beside it", 40_000],
])("LocalEngine, hostStoreBytes: %s, answers are the same, and nothing is encoded again", async (_, storeBytes) => {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama", numLayers: 2 });
  const passage = (n: number) => Array.from({ length: 60 }, (_, i) => (n * 31 + i * 7) % 250);
  const options = { model: folder, threads: 1, device: testDevice, mode: "block" } as const;
  const prompts = [0, 1, 2, 0, 3, 1].map((n) => ({
    blockTokenIds: [passage(n), passage(n + 3), passage(n + 9), [9, 8, 7]],
  }));
  const answers = async (engine: LocalEngine) => {
    const found = [];
    for (const prompt of prompts) found.push(await engine.complete(prompt, { maxTokens: 6 }));
    return found;
  };
  await using plain = await LocalEngine.load({ ...options, storeBytes: 0 });
  const wanted = await answers(plain);
  await using engine = await LocalEngine.load({ ...options, storeBytes, hostStoreBytes: 1 << 26 });
  const found = await answers(engine);
  expect(found.map(({ tokenIds }) => tokenIds)).toEqual(wanted.map(({ tokenIds }) => tokenIds));
  expect(plain.stats().store.hits).toBe(0);
  const { store, kvMemory, hostMemory } = engine.stats();
  expect(plain.stats().hostMemory).toBeUndefined();
  expect(hostMemory?.usedBytes).toBe(store.tiers[0]?.usedBytes);
  // Passages 0 to 3, three and nine further, each once: 0, 3, 9, 1, 4, 10, 2, 5, 11, 6, 12.
  expect(store).toMatchObject({ misses: 11, tiers: [{ drops: 0, evictions: 0 }] });
  expect(store.tiers[0]?.loads).toBeGreaterThan(0);
  expect(store.leasedBytes + store.idleBytes).toBeLessThanOrEqual(storeBytes);
  expect(kvMemory.usedBytes).toBeLessThanOrEqual(storeBytes);
  expect(found.at(-1)?.blocks.map(({ hit }) => hit)).toEqual([true, true, true]);
  // A prompt that begins alike finds its pages too.
  const [first] = prompts as [(typeof prompts)[number]];
  const again = await engine.complete(first, { maxTokens: 6 });
  expect(again.tokenIds).toEqual(wanted[0]?.tokenIds);
});

import { afterAll, afterEach, expect, onTestFinished, test, vi } from "vitest";
import { Random } from "../../tests/models/random.js";
import { testBackend, testGgml } from "../../tests/test-device.js";
import { KVMemory, type Region } from "./kv-memory.js";

const ggml = testGgml;
const backend = testBackend();
afterAll(() => backend[Symbol.dispose]());
const before = { ...ggml.live };
afterEach(() => expect(ggml.live).toEqual(before));

const shape = { numLayers: 2, numKvHeads: 2, headSize: 8 };
const slabBytes = 1 << 16;
const newMemory = () => new KVMemory(backend, shape, "f16", { slabBytes });
const types = ["F16", "F32", "BF16"] as const;
const free = (regions: Iterable<Region>) => {
  for (const region of regions) region[Symbol.dispose]();
};

/** A region's bytes, [first, end). */
function bytesOf({ tensor, offset, byteLength }: Region): [number, number] {
  const first = offset * tensor.nb[0];
  return [first, first + byteLength];
}

test("KVMemory: regions lie apart, aligned, in slabs of their type, whatever comes and goes", () => {
  const random = new Random(4, "regions");
  const memory = newMemory();
  const live = new Map<Region, (typeof types)[number]>();
  for (let i = 0; i < 1000; i++) {
    if (live.size > 60 || (live.size > 0 && random.below(3) === 0)) {
      const region = [...live.keys()][random.below(live.size)] as Region;
      live.delete(region);
      region[Symbol.dispose]();
      // Again does nothing.
      region[Symbol.dispose]();
    } else {
      const type = types[random.below(3)] as (typeof types)[number];
      // A few are larger than what a slab is shared for.
      const size = 1 + random.below(random.below(10) === 0 ? 20_000 : 3000);
      live.set(memory.allocate(type, size), type);
    }
    const taken = new Map<bigint, [number, number][]>();
    let usedBytes = 0;
    for (const [region, type] of live) {
      expect(region.tensor.type).toBe(type);
      const [first, end] = bytesOf(region);
      expect(first % 256).toBe(0);
      expect(end).toBeLessThanOrEqual(region.tensor.ne[0] * region.tensor.nb[0]);
      const pointer = region.tensor.pointer as bigint;
      taken.set(pointer, [...(taken.get(pointer) ?? []), [first, end]]);
      usedBytes += region.byteLength;
    }
    for (const ranges of taken.values()) {
      ranges.sort(([a], [b]) => a - b);
      for (const [i, [first]] of ranges.entries()) expect(first).toBeGreaterThanOrEqual(ranges[i - 1]?.[1] ?? 0);
    }
    const { stats } = memory;
    expect(stats).toMatchObject({ usedBytes, numSlabs: taken.size });
    expect(ggml.live).toMatchObject({
      buffers: before.buffers + taken.size,
      contexts: before.contexts + taken.size,
      bufferBytes: before.bufferBytes + stats.reservedBytes,
    });
  }
  free(live.keys());
  expect(memory.stats).toEqual({ usedBytes: 0, reservedBytes: 0, numSlabs: 0 });
});

test("KVMemory: a gap is filled before new memory is taken, the smallest that is large enough", () => {
  const memory = newMemory();
  // Four regions of 8 KB and four of 4 KB side by side.
  const large = Array.from({ length: 4 }, () => memory.allocate("F16", 4096));
  const small = Array.from({ length: 4 }, () => memory.allocate("F16", 2048));
  expect(memory.stats.numSlabs).toBe(1);
  free([large[1]!, small[1]!]);
  const again = [memory.allocate("F16", 2048), memory.allocate("F16", 3072)];
  expect(again.map(({ offset }) => offset)).toEqual([small[1]!.offset, large[1]!.offset]);
  // What comes back grows together with its neighbours, the rest of the gap before it among them.
  free([large[2]!, small[0]!, large[3]!]);
  const joined = memory.allocate("F16", 1024 + 4096 + 4096 + 2048);
  expect(joined.offset).toBe(large[1]!.offset + 3072);
  expect(memory.stats.numSlabs).toBe(1);
  free([...large, ...small, ...again, joined]);
});

test("KVMemory: what a random load leaves unused is at most a quarter of what is used, and a slab", () => {
  // A full store: blocks of 10 to 200 tokens, the oldest going first or some in the midst, beside contexts that come and go.
  const random = new Random(6, "load");
  const memory = newMemory();
  const blocks: Region[] = [];
  const contexts: Region[] = [];
  let worst = 0;
  for (let i = 0; i < 20_000; i++) {
    blocks.push(memory.allocate("F16", 64 * (10 + random.below(190))));
    while (memory.stats.usedBytes > 40 * slabBytes) {
      const [oldest] = blocks.splice(random.below(4) === 0 ? random.below(blocks.length) : 0, 1);
      oldest?.[Symbol.dispose]();
    }
    if (random.below(3) === 0) contexts.push(memory.allocate("F16", 64 * (10 + random.below(600))));
    if (contexts.length > 20) contexts.splice(random.below(contexts.length), 1)[0]?.[Symbol.dispose]();
    const { usedBytes, reservedBytes } = memory.stats;
    if (i > 1000) worst = Math.max(worst, (reservedBytes - slabBytes) / usedBytes);
  }
  free([...blocks, ...contexts]);
  expect(worst).toBeLessThan(1.25);
});

test("KVMemory: slabs are no larger than the device's buffers, and a region that is says so where it finds no memory", () => {
  const most = vi.spyOn(ggml.symbols, "ggml_backend_buft_get_max_size").mockReturnValue(8192n);
  onTestFinished(() => most.mockRestore());
  using _ = newMemory().allocate("F16", 100);
  expect(ggml.live.bufferBytes - before.bufferBytes).toBeLessThanOrEqual(8192);
  // The device decides: what it says of its buffers is a limit that some pass.
  using large = newMemory().allocate("F16", 100_000);
  expect(large.byteLength).toBe(200_000);
  const none = vi.spyOn(ggml.symbols, "ggml_backend_alloc_ctx_tensors_from_buft").mockReturnValue(0n);
  onTestFinished(() => none.mockRestore());
  expect(() => newMemory().allocate("F16", 100_000)).toThrow(
    /^Cannot allocate 200192 bytes on device ".*": its buffers hold 8192 bytes at most$/,
  );
  expect(() => newMemory().allocate("F16", 100)).toThrow(
    /^Cannot allocate 8192 bytes on device ".*": not enough memory$/,
  );
});

import { expect, test } from "vitest";
import { fromBF16, toBF16 } from "../../tests/models/half-floats.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { rotateKeys } from "../../tests/oracles/rotate-keys.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { BlockKV } from "../kv/block-kv.js";
import type { KVRows } from "../model/kv-rows.js";
import { AssembledContext, assemble, contextBytes, copyRows } from "./assemble.js";
import { blockShape, DeviceBlockMemory } from "./device-memory.js";
import { type LoadedModel, loadModel } from "./model.js";
import { Scheduler } from "./scheduler.js";

async function smallModel(): Promise<LoadedModel> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "qwen3", rope: "yarn", headSize: 8 });
  return loadModel({ model: folder, threads: 1 });
}

const blocks = [5, 1, 33].map((length) => Int32Array.from({ length }, (_, i) => (i * 7) % 250));

test("Scheduler.encode(): what was not given goes back, on an early end and on an abort", async () => {
  using model = await smallModel();
  const { backend, decoder } = model;
  const scheduler = new Scheduler(backend, decoder, "f16");
  const before = { ...backend.ggml.live };
  for await (const block of scheduler.encode(blocks)) {
    block[Symbol.dispose]();
    break;
  }
  expect(backend.ggml.live).toEqual(before);
  const signal = AbortSignal.abort(new Error("enough"));
  await expect(scheduler.encode(blocks, { signal }).next()).rejects.toThrow("enough");
  expect(backend.ggml.live).toEqual(before);
});

test("assemble(): keys turned once to their places, values as they are", async () => {
  using model = await smallModel();
  const { backend, decoder } = model;
  const scheduler = new Scheduler(backend, decoder, "f32");
  const { numLayers, numKvHeads, headSize, rope } = decoder.config;
  const encoded: BlockKV<DeviceBlockMemory>[] = [];
  for await (const block of scheduler.encode(blocks)) encoded.push(block);
  using context = new AssembledContext(scheduler.memory, 50);
  expect(context.capacity).toBe(64);
  expect(contextBytes(scheduler.memory, 50, "prefill")).toBe(2 * 4 * 64 * numLayers * numKvHeads * headSize);
  const order = [2, 0, 1].map((i) => encoded[i]!);
  const at = (place: number, ...some: typeof order) =>
    some.map((block) => {
      const { numTokens } = block.shape;
      place += numTokens;
      return { block, numRows: numTokens, place: place - numTokens, position: place - numTokens };
    });
  await assemble(scheduler.runnerOf(), decoder, context, at(0, ...order));
  const read = ({ tensor, offset }: KVRows) => backend.readFloats(tensor).subarray(offset);
  const [keys, values] = [read(context.keys), read(context.values)];
  let first = 0;
  for (const block of order) {
    const { numTokens } = block.shape;
    const stored = new Float32Array(block.memory.read().slice().buffer);
    for (let head = 0; head < numLayers * numKvHeads; head++) {
      const from = head * numTokens * headSize;
      const own = stored.slice(from, from + numTokens * headSize);
      const turned = rotateKeys(own, 1, first, rope);
      const to = (head * context.capacity + first) * headSize;
      const distance = (wanted: Float32Array) => Math.max(...wanted.map((key, i) => Math.abs(keys[to + i]! - key)));
      expectOnlyRight(1e-4, distance(turned), {
        "keys are not turned": distance(own),
        "keys are turned twice": distance(rotateKeys(turned, 1, first, rope)),
        "the block stands a position too far": distance(rotateKeys(own, 1, first + 1, rope)),
      });
      const half = stored.length / 2;
      expect(values.slice(to, to + turned.length)).toEqual(stored.slice(half + from, half + from + turned.length));
    }
    first += numTokens;
  }
  const twice = [...at(0, ...order), ...at(38, ...order)];
  await expect(assemble(scheduler.runnerOf(), decoder, context, twice)).rejects.toThrow(
    "Cannot assemble 33 rows at 38: rows before 39 are taken",
  );
  using small = new AssembledContext(scheduler.memory, 1);
  await expect(assemble(scheduler.runnerOf(), decoder, small, at(26, ...order))).rejects.toThrow(
    "the context has room for 64",
  );
  for (const block of encoded) block[Symbol.dispose]();
});

test.each(["f32", "f16", "bf16"] as const)(
  "copyRows(): what assemble() lays out of pages is what the context held, to the bit, over forks and slots, KV %s",
  async (kvType) => {
    using model = await smallModel();
    const { backend, decoder } = model;
    const scheduler = new Scheduler(backend, decoder, kvType);
    const { memory, slots } = scheduler;
    const runner = scheduler.runnerOf();
    const { numLayers, numKvHeads, headSize } = decoder.config;
    const ids = (length: number) => Int32Array.from({ length }, (_, i) => (i * 31 + length) % 250);
    const prefill = async (context: AssembledContext, length: number): Promise<void> => {
      for await (const _ of scheduler.prefill(context, ids(length), context.length, length));
    };
    /** Each row's keys and values, in each layer's heads, however they lie. */
    const rowsOf = (context: AssembledContext): Float32Array[] =>
      context.segments.flatMap((held) => {
        const parts = [held.keys, held.values].map((rows) => {
          const { tensor, offset, capacity, isTransposed } = rows;
          const [size, count] = [tensor.nb[0], numLayers * numKvHeads * capacity * headSize];
          const { buffer } = backend.read(tensor, offset * size, count * size);
          const all = tensor.type === "F16" ? new Uint16Array(buffer) : new Float32Array(buffer);
          return (head: number, row: number, d: number) =>
            all[head * capacity * headSize + (isTransposed ? d * capacity + row : row * headSize + d)] as number;
        });
        return Array.from({ length: held.length }, (_, row) => {
          const heads = Array.from({ length: numLayers * numKvHeads * headSize }, (_, i) => i);
          return Float32Array.from(
            parts.flatMap((at) => heads.map((i) => at(Math.floor(i / headSize), row, i % headSize))),
          );
        });
      });
    const expectCopied = async (context: AssembledContext, pages: readonly (readonly [number, number])[]) => {
      const blocks = pages.map(([, numRows]) => {
        const shape = blockShape(decoder, kvType, numRows);
        return new BlockKV(shape, new DeviceBlockMemory(memory, shape));
      });
      const kept = pages.map(([first, numRows], i) => ({
        memory: (blocks[i] as (typeof blocks)[number]).memory,
        first,
        numRows,
      }));
      await copyRows(runner, decoder, context, kept);
      using laid = new AssembledContext(memory, context.length);
      // The first rows of each, somewhere else.
      let place = 3;
      const pieces = pages.map(([first, numRows], i) => {
        const piece = { block: blocks[i] as (typeof blocks)[number], numRows: Math.ceil(numRows / 2), place, first };
        place += piece.numRows + 1;
        return piece;
      });
      await assemble(runner, decoder, laid, pieces);
      laid.length = laid.capacity;
      const [found, held] = [rowsOf(laid), rowsOf(context)];
      for (const { first, numRows, place: to } of pieces) {
        for (let row = 0; row < numRows; row++) {
          const wanted = held[first + row] as Float32Array;
          // Contexts of BF16 blocks are F32: their pages are rounded once.
          const kept = kvType === "bf16" ? fromBF16(toBF16(wanted)) : wanted;
          const isSame = Buffer.from(kept.buffer).equals(Buffer.from(found[to + row]?.buffer as ArrayBuffer));
          expect(isSame, `row ${row} of ${numRows} from ${first} on`).toBe(true);
        }
      }
      for (const block of blocks) block[Symbol.dispose]();
    };

    {
      using parent = new AssembledContext(memory, 70);
      await prefill(parent, 70);
      await expectCopied(parent, [
        [0, 64],
        [64, 6],
      ]);
      using child = parent.fork(120);
      await prefill(child, 30);
      using fork = child.fork(140, { slot: slots.take(40) });
      let numDecoded = 0;
      await scheduler.decode({
        context: fork,
        isPaused: false,
        take: () => ++numDecoded < 35,
        get next() {
          return { tokenId: numDecoded, position: 100 + numDecoded };
        },
      });
      // Over two and three parts, of which the last has its values transposed.
      await expectCopied(fork, [
        [1, 64],
        [65, 64],
        [60, 75],
        [130, 5],
      ]);
      using own = new AssembledContext(memory, 90, { slot: slots.take(90) });
      await prefill(own, 50);
      await expectCopied(own, [
        [0, 40],
        [49, 1],
      ]);
      await own.startDecoding(runner);
      await expectCopied(own, [
        [0, 40],
        [49, 1],
      ]);
    }
    await scheduler.idle();
    scheduler[Symbol.dispose]();
    expect(memory.stats.usedBytes).toBe(0);
  },
);

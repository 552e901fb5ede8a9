import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { rotateKeys } from "../../tests/oracles/rotate-keys.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import type { BlockKV } from "../kv/block-kv.js";
import type { KVRows } from "../model/kv-rows.js";
import { AssembledContext, assemble, contextBytes } from "./assemble.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import { type LoadedModel, loadModel } from "./model.js";
import { Scheduler } from "./scheduler.js";

async function smallModel(): Promise<LoadedModel> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "qwen3", rope: "yarn", headSize: 8 });
  return loadModel({ model: folder, threads: 1 });
}

const blocks = [5, 1, 33].map((length) => ({ tokenIds: Int32Array.from({ length }, (_, i) => (i * 7) % 250) }));

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

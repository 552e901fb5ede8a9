import { expect, test } from "vitest";
import type { DeviceBlockMemory } from "../../src/engine/device-memory.js";
import { LocalBlocks } from "../../src/engine/local-blocks.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { type BlockTokens, rowsOfBlock } from "../../src/engine/prompt.js";
import { Scheduler } from "../../src/engine/scheduler.js";
import type { KVType } from "../../src/files/element-types.js";
import { MemoryStore } from "../../src/kv/memory-store.js";
import { openModel } from "../../src/model/open-model.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import type { RandomModelShape } from "../models/random-shape.js";
import { expectOnlyRight } from "../oracles/faults.js";
import { OnePassModel } from "../oracles/one-pass.js";
import { modelTypes, testDevice } from "../test-device.js";
import { drawIds, LawModels, lawEngine, noEnd } from "./law-models.js";

export interface BlockBytesSize {
  readonly numBlocks: number;
  readonly numShuffles: number;
  readonly kvTypes: readonly KVType[];
  readonly threads: readonly number[];
}

function draw(random: Random, length: number, preamble = 0): BlockTokens {
  const ids = (count: number) => Int32Array.from(drawIds(random, count));
  return preamble === 0 ? { tokenIds: ids(length) } : { tokenIds: ids(length), preamble: ids(preamble) };
}

/** The stored bytes of each block, encoded in this order by several requests at the same time. */
async function encode(engine: LocalEngine, ...requests: readonly (readonly BlockTokens[])[]): Promise<Buffer[]> {
  const { backend, decoder } = engine.model;
  const scheduler = new Scheduler(backend, decoder, engine.kvType);
  const store = new MemoryStore<DeviceBlockMemory>({ capBytes: 0 });
  const local = new LocalBlocks(engine.model, engine.kvType, store, scheduler);
  const { signal } = new AbortController();
  const encodeAll = async (blocks: readonly BlockTokens[], i: number): Promise<Buffer[]> => {
    using leased = await local.lease(blocks, { owner: `${i % 2}`, payer: "", signal });
    return leased.blocks.map(({ block }) => Buffer.from(block.memory.read()));
  };
  return (await Promise.all(requests.map(encodeAll))).flat();
}

/** Invariant I2: a block's bytes depend on its tokens, its preamble, and the model alone. */
export function blockBytesSuite(size: BlockBytesSize): void {
  const models = new LawModels();
  test.each([
    ...["llama", "qwen3_moe"].flatMap((name) => modelTypes.map((type) => [name, type] as const)),
    ...Object.keys(architectureModels).map((name) => [name, "F16"] as const),
  ])(
    "LocalBlocks.lease(): a block's bytes are the same alone, with others, anywhere, %s with weights %s",
    async (name, type) => {
      const shape = architectureModels[name] as RandomModelShape;
      const model = await models.gguf({ ...shape, type, hiddenSize: 256, numHeads: 4 });
      const random = new Random(9, `${name} ${type}`);
      for (const threads of size.threads) {
        for (const kvType of [
          ...size.kvTypes,
          ...(name === "llama" && type === "F16" && testDevice === "CPU" ? (["q8_0", "q4_0"] as const) : []),
        ]) {
          await using engine = await lawEngine(model, { kvType, threads });
          const lengths = [1, 2, 3, 4, 5, 7, 16, 63, 64, 65, 512, 549];
          while (lengths.length < size.numBlocks) lengths.push(1 + random.below(90));
          // Those of more than 512 rows are encoded in pieces; a preamble may end in any of them.
          const behind = [
            [1, 1],
            [40, 24],
            [500, 12],
            [500, 13],
            [9, 530],
            [140, 400],
          ] as const;
          const blocks = [
            ...lengths.map((length) => draw(random, length)),
            ...behind.map(([preamble, length]) => draw(random, length, preamble)),
          ];
          const alone: Buffer[] = [];
          for (const block of blocks) alone.push(...(await encode(engine, [block])));
          for (let i = 0; i < size.numShuffles; i++) {
            const order = random.order(blocks.length);
            const shuffled = order.map((index) => blocks[index] as BlockTokens);
            const [third, half] = [3, 2].map((part) => Math.floor(blocks.length / part));
            const requests = [[0, third], [third, half], [half]].map((bounds) => shuffled.slice(...bounds));
            const together = await encode(engine, ...(i === 0 ? [shuffled] : requests));
            for (const [place, index] of order.entries()) {
              const same = (alone[index] as Buffer).equals(together[place] as Buffer);
              const { tokenIds, preamble } = blocks[index] as BlockTokens;
              const what = `${tokenIds.length} tokens behind ${preamble?.length ?? 0}`;
              expect(same, `block of ${what} at place ${place}, KV ${kvType}, ${threads} threads`).toBe(true);
            }
          }
        }
      }
    },
  );

  test.each(["Q4_K", "F16"] as const)(
    "LocalBlocks.lease(): bytes and tokens are the same on any number of threads, and where it changes, weights %s",
    async (type) => {
      const model = await models.gguf({ architecture: "llama", type, hiddenSize: 256, numHeads: 4, seed: 54 });
      const random = new Random(10, type);
      const blocks = [3, 65].map((length) => draw(random, length));
      const prompt = { blockTokenIds: [30, 3, 20].map((length) => drawIds(random, length)) };
      const run = async (threads: number, used = threads) => {
        await using engine = await lawEngine(model, { threads, kvType: "f16" });
        const { threadCount } = engine.model.backend;
        // Others use all cores but so many.
        for (const atMs of [0, 1]) threadCount.decide({ atMs, cores: 16, busyMs: (16 - used) * atMs, ownMs: 0 });
        expect(threadCount.now).toBe(used);
        const bytes = (await encode(engine, blocks)).map((block) => block.toString("base64"));
        const tokens: unknown[] = [];
        for await (const event of engine.generate(prompt, { maxTokens: 3, logprobs: true, logitBias: noEnd })) {
          if (event.kind === "token") tokens.push(event);
        }
        return { bytes, tokens };
      };
      const one = await run(1);
      for (const [threads, used] of [[2], [2, 1]] as const) expect(await run(threads, used)).toEqual(one);
    },
  );

  test.each([
    [20, 30],
    [9, 530],
    [530, 9],
  ])(
    "LocalBlocks.lease(): behind a preamble of %d tokens, %d have the rows of one pass over both",
    async (before, own) => {
      const model = models.huggingFace({ architecture: "qwen3", rope: "yarn", seed: 52 });
      await using engine = await lawEngine(model);
      const { numLayers, numKvHeads, headSize } = engine.model.source.config;
      const random = new Random(before, "preamble");
      const block = draw(random, own, before);
      const [bytes] = (await encode(engine, [block])) as [Buffer];
      const stored = new Float32Array(new Uint8Array(bytes).buffer);
      const oracle = new OnePassModel(await openModel(model));
      /** Of the last rows of a text. */
      const distanceTo = (tokenIds: Int32Array): number => {
        let [worst, at] = [0, 0];
        const layers = oracle.keysAndValues([...tokenIds]);
        for (const part of ["keys", "values"] as const) {
          for (let head = 0; head < numLayers * numKvHeads; head++) {
            const rows = layers[Math.floor(head / numKvHeads)]?.[part].slice(-own) ?? [];
            for (const row of rows) {
              for (const wanted of row[head % numKvHeads]?.subarray(0, headSize) ?? []) {
                worst = Math.max(worst, Math.abs(wanted - (stored[at] as number)));
                at += 1;
              }
            }
          }
        }
        expect(at).toBe(stored.length);
        return worst;
      };
      const wrong = { ...block, preamble: Int32Array.from(drawIds(random, before)) };
      expectOnlyRight(1e-4, distanceTo(rowsOfBlock(block)), {
        "there is no preamble": distanceTo(block.tokenIds),
        "the preamble is another": distanceTo(rowsOfBlock(wrong)),
      });
    },
  );

  test("LocalBlocks.lease(): a block behind a preamble is stored and found by its tokens and its preamble", async () => {
    await using engine = await lawEngine(models.huggingFace({ architecture: "llama", seed: 53 }));
    const { backend, decoder } = engine.model;
    const store = new MemoryStore<DeviceBlockMemory>({ capBytes: 1 << 24 });
    const scheduler = new Scheduler(backend, decoder, engine.kvType);
    const local = new LocalBlocks(engine.model, engine.kvType, store, scheduler);
    const of = { owner: "", payer: "", signal: new AbortController().signal };
    const random = new Random(3, "lease");
    const { tokenIds } = draw(random, 30);
    const blocks = [0, 7, 7, 600].map((before) => ({ ...draw(random, 1, before), tokenIds }));
    const alone: Buffer[] = [];
    for (const block of blocks) alone.push(...(await encode(engine, [block])));
    const ids: string[][] = [];
    for (const hit of [false, true]) {
      // In any order, the same bytes under the same names.
      const order = hit ? [2, 0, 3, 1] : [0, 1, 2, 3];
      using leased = await local.lease(
        order.map((i) => blocks[i] as BlockTokens),
        of,
      );
      expect(leased.served.map((served) => served.hit)).toEqual(order.map(() => hit));
      for (const [place, i] of order.entries()) {
        const read = leased.blocks[place]?.block.memory.read() as Uint8Array;
        expect(Buffer.from(read).equals(alone[i] as Buffer)).toBe(true);
      }
      ids.push([...order.keys()].map((i) => leased.served[order.indexOf(i)]?.id as string));
    }
    expect(new Set(ids[0]).size).toBe(blocks.length);
    expect(ids[1]).toEqual(ids[0]);
    // What is encoded behind a preamble is no plain block's neighbour.
    using match = await store.longestMatch({ owner: "", tokenIds });
    expect(match?.lease.id).toBe(ids[0]?.[0]);
    await store[Symbol.asyncDispose]();
  });
}

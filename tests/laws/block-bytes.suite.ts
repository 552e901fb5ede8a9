import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { Scheduler } from "../../src/engine/scheduler.js";
import { type KVType, tensorTypes } from "../../src/files/element-types.js";
import { Random } from "../models/random.js";
import { drawIds, LawModels, lawEngine } from "./law-models.js";

export interface BlockBytesSize {
  readonly numBlocks: number;
  readonly numShuffles: number;
  readonly kvTypes: readonly KVType[];
  readonly threads: readonly number[];
}

/** The stored bytes of each block, encoded together in this order. */
async function encode(engine: LocalEngine, blocks: readonly (readonly number[])[]): Promise<Buffer[]> {
  const { backend, decoder } = engine.model;
  const ids = blocks.map((block) => ({ tokenIds: Int32Array.from(block) }));
  const bytes: Buffer[] = [];
  for await (const block of new Scheduler(backend, decoder, engine.kvType).encode(ids)) {
    using made = block;
    bytes.push(Buffer.from(made.memory.read()));
  }
  return bytes;
}

/** Invariant I2: a block's bytes depend on its tokens and the model alone. */
export function blockBytesSuite(size: BlockBytesSize): void {
  const models = new LawModels();
  test.each(tensorTypes)(
    "Scheduler.encode(): a block's bytes are the same alone, with others, anywhere, weights %s",
    async (type) => {
      const model = await models.gguf({ architecture: "llama", type, hiddenSize: 256, numHeads: 4, seed: 51 });
      const random = new Random(9, type);
      for (const threads of size.threads) {
        for (const kvType of size.kvTypes) {
          await using engine = await lawEngine(model, { kvType, threads });
          // The last one is encoded in pieces.
          const lengths = [1, 2, 3, 4, 5, 7, 16, 63, 64, 65, 512, 549];
          while (lengths.length < size.numBlocks) lengths.push(1 + random.below(90));
          const blocks = lengths.map((length) => drawIds(random, length));
          const alone: Buffer[] = [];
          for (const block of blocks) alone.push(...(await encode(engine, [block])));
          for (let i = 0; i < size.numShuffles; i++) {
            const order = random.order(blocks.length);
            const together = await encode(
              engine,
              order.map((index) => blocks[index] as number[]),
            );
            for (const [place, index] of order.entries()) {
              const same = (alone[index] as Buffer).equals(together[place] as Buffer);
              expect(
                same,
                `block of ${lengths[index]} tokens at place ${place}, KV ${kvType}, ${threads} threads`,
              ).toBe(true);
            }
          }
        }
      }
    },
  );
}

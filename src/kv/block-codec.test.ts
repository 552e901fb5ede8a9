import fc from "fast-check";
import { expect, test } from "vitest";
import { BlockCodecError, decodeBlockKV, encodeBlockKV } from "./block-codec.js";
import { blockId } from "./block-id.js";
import { BLOCK_KV_FORMAT_VERSION, type BlockKVShape } from "./block-kv.js";
import { MemoryLedger } from "./memory-ledger.suite.js";

const shape: BlockKVShape = { numLayers: 1, numKvHeads: 2, headSize: 2, numTokens: 3, type: "f16" };
const id = blockId({
  fingerprint: "f",
  kvType: "f16",
  formatVersion: BLOCK_KV_FORMAT_VERSION,
  salt: "",
  tokenIds: [1, 2, 3],
});
const otherId = blockId({
  fingerprint: "f",
  kvType: "f16",
  formatVersion: BLOCK_KV_FORMAT_VERSION,
  salt: "a",
  tokenIds: [1, 2, 3],
});

function encoded(): Uint8Array {
  using block = new MemoryLedger().block(shape, 9);
  return encodeBlockKV(block, id);
}

function faultOf(bytes: Uint8Array, wantedId = id, wantedShape = shape): string {
  const ledger = new MemoryLedger();
  try {
    decodeBlockKV(bytes, wantedId, wantedShape, (byteLength) => ledger.allocate(byteLength));
  } catch (error) {
    expect(error).toBeInstanceOf(BlockCodecError);
    expect(ledger.numMade).toBe(0);
    return (error as BlockCodecError).fault;
  }
  return "none";
}

test("decodeBlockKV(): gives back what encodeBlockKV() wrote", () => {
  const sizes = fc.record({
    numLayers: fc.integer({ min: 1, max: 3 }),
    numKvHeads: fc.integer({ min: 1, max: 3 }),
    headSize: fc.integer({ min: 1, max: 4 }),
    numTokens: fc.integer({ min: 1, max: 5 }),
    type: fc.constantFrom("f16" as const, "f32" as const, "bf16" as const),
  });
  fc.assert(
    fc.property(sizes, fc.nat(255), (anyShape, fill) => {
      const ledger = new MemoryLedger();
      {
        using block = ledger.block(anyShape, fill);
        using copy = decodeBlockKV(encodeBlockKV(block, id), id, anyShape, (length) => ledger.allocate(length));
        expect(copy.shape).toEqual(anyShape);
        expect(copy.read()).toEqual(block.read());
      }
      expect(ledger.numLive).toBe(0);
    }),
  );
});

test("decodeBlockKV(): any changed, missing or extra byte is an error of its own kind, before memory is taken", () => {
  const bytes = encoded();
  expect(faultOf(bytes)).toBe("none");
  for (let i = 0; i < bytes.length; i++) {
    for (const mask of [0x01, 0x80]) {
      const flipped = bytes.slice();
      flipped[i]! ^= mask;
      expect(faultOf(flipped)).not.toBe("none");
    }
    expect(faultOf(bytes.subarray(0, i))).not.toBe("none");
  }
  expect(faultOf(Uint8Array.of(...bytes, 0))).toBe("length");
  expect(faultOf(new Uint8Array(0))).toBe("length");
});

test("decodeBlockKV(): says what is wrong", () => {
  const bytes = encoded();
  const flip = (i: number): Uint8Array => bytes.map((byte, at) => (at === i ? byte ^ 1 : byte));
  expect(faultOf(flip(0))).toBe("magic");
  expect(faultOf(flip(8))).toBe("version");
  expect(faultOf(flip(80))).toBe("digest");
  expect(faultOf(bytes, otherId)).toBe("id");
  expect(faultOf(bytes, id, { ...shape, numTokens: 2 })).toBe("shape");
  expect(faultOf(bytes, id, { ...shape, type: "bf16" })).toBe("shape");
});

test("decodeBlockKV(): reads a view into a larger buffer", () => {
  const bytes = encoded();
  const larger = new Uint8Array(bytes.length + 10);
  larger.set(bytes, 5);
  expect(faultOf(larger.subarray(5, 5 + bytes.length))).toBe("none");
});

test("encodeBlockKV(): refuses a disposed block and a string that is no id", () => {
  const ledger = new MemoryLedger();
  const block = ledger.block(shape);
  expect(() => encodeBlockKV(block, "12" as typeof id)).toThrow('the id is "12"');
  block[Symbol.dispose]();
  expect(() => encodeBlockKV(block, id)).toThrow("it was disposed");
});

import { expect, test } from "vitest";
import { BlockKV, type BlockKVShape, blockKVByteLength } from "./block-kv.js";
import { MemoryLedger } from "./memory-ledger.suite.js";

const shape: BlockKVShape = { numLayers: 2, numKvHeads: 1, headSize: 4, numTokens: 3, type: "f16" };

test("blockKVByteLength(): keys and values of all layers, heads and tokens", () => {
  expect(blockKVByteLength(shape)).toBe(96);
  expect(blockKVByteLength({ ...shape, type: "bf16" })).toBe(96);
  expect(blockKVByteLength({ ...shape, type: "f32" })).toBe(192);
  // 32 elements with a scale of 16 bit.
  expect(blockKVByteLength({ ...shape, headSize: 64, type: "q8_0" })).toBe(2 * 2 * 3 * 2 * 34);
  expect(blockKVByteLength({ ...shape, headSize: 64, type: "q4_0" })).toBe(2 * 2 * 3 * 2 * 18);
  // docs/reference.md "Figures of the paper": Llama-3-8B keeps 128 KiB a token in 16 bit.
  expect(blockKVByteLength({ numLayers: 32, numKvHeads: 8, headSize: 128, numTokens: 1, type: "f16" })).toBe(131_072);
});

test.each([
  [{ ...shape, numTokens: 0 }, /numTokens is 0/],
  [{ ...shape, headSize: 1.5 }, /headSize is 1.5/],
  [{ ...shape, numLayers: Number.NaN }, /numLayers is NaN/],
  [{ ...shape, numTokens: 2 ** 52 }, /past what a number counts exactly/],
  [{ ...shape, type: "q4_1" as "f16" }, /type is "q4_1"/],
  [{ ...shape, type: "q4_0" } as const, /4 elements are no multiple of Q4_0's block of 32/],
])("blockKVByteLength(): refuses %o", (bad, message) => {
  expect(() => blockKVByteLength(bad)).toThrow(message);
});

test("BlockKV: owns its memory once, and is not read after", () => {
  const ledger = new MemoryLedger();
  const block = ledger.block(shape, 7);
  expect(block.read()).toEqual(new Uint8Array(96).fill(7));
  block[Symbol.dispose]();
  block[Symbol.dispose]();
  expect(ledger.numLive).toBe(0);
  expect(() => block.read()).toThrow("Cannot read a block KV: it was disposed");
  expect(() => block.memory).toThrow("Cannot read a block KV: it was disposed");
});

test("BlockKV: memory of another size stays the caller's", () => {
  const ledger = new MemoryLedger();
  const memory = ledger.allocate(95);
  expect(() => new BlockKV(shape, memory)).toThrow("the memory has 95 bytes");
  expect(ledger.numLive).toBe(1);
  memory[Symbol.dispose]();
});

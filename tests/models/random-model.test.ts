import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { architectures } from "../../src/model/architectures/registry.js";
import { architectureModels } from "./architecture-models.js";
import { fromBF16, fromF16, toBF16, toF16 } from "./half-floats.js";
import { Random } from "./random.js";
import { writeRandomGguf } from "./random-gguf.js";
import { drawTensor, writeRandomModel } from "./random-model.js";
import { listTensors, resolveShape } from "./random-shape.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-random-model-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("architectureModels: every architecture has one, and its weights find a shape", () => {
  expect(Object.keys(architectureModels)).toEqual(architectures.map(({ name }) => name));
  for (const [name, shape] of Object.entries(architectureModels)) {
    expect(listTensors(resolveShape(shape)).architecture.name).toBe(name);
  }
});

test("Random: numbers with mean 0 and deviation 1, another stream for another name", () => {
  const random = new Random(7, "a");
  const numbers = Array.from({ length: 50_000 }, () => random.normal());
  const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
  const variance = numbers.reduce((sum, x) => sum + (x - mean) ** 2, 0) / numbers.length;
  expect(Math.abs(mean)).toBeLessThan(0.02);
  expect(Math.abs(variance - 1)).toBeLessThan(0.02);
  expect(new Random(7, "b").bits()).not.toBe(new Random(7, "a").bits());
});

test("toF16(), toBF16(): the nearest number that the format has, ties to even", () => {
  expect([...toF16(Float32Array.of(0, 1, -2, 65504, 2 ** -24, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -25))]).toEqual([
    0, 0x3c00, 0xc000, 0x7bff, 1, 0x3c00, 0x3c02, 0,
  ]);
  expect([...toBF16(Float32Array.of(1, -1, 1 + 2 ** -8, 1 + 3 * 2 ** -8))]).toEqual([0x3f80, 0xbf80, 0x3f80, 0x3f82]);
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0x7bff }), (half) => {
      expect(toF16(fromF16(Uint16Array.of(half)))[0]).toBe(half);
      expect(toBF16(fromBF16(Uint16Array.of(half)))[0]).toBe(half);
    }),
  );
});

test("writeRandomModel(): the same options give the same bytes, on every platform", () => {
  const path = join(folder, "same");
  writeRandomModel(path, { architecture: "llama" });
  const digest = createHash("sha256")
    .update(readFileSync(join(path, "model.safetensors")))
    .digest("hex");
  // A change here makes every fixture under tests/fixtures/oracle stale.
  expect(digest).toMatchInlineSnapshot(`"a59ced63182ee44af57368ea7115e5bf9781bd251409e4bcab4ab199f9218cb8"`);
});

test("writeRandomModel(): shards hold every tensor once, and the same numbers as one file", () => {
  const whole = join(folder, "whole");
  const sharded = join(folder, "sharded");
  writeRandomModel(whole, { architecture: "qwen2", dtype: "BF16" });
  writeRandomModel(sharded, { architecture: "qwen2", dtype: "BF16", shards: 3, configStyle: "transformers-4" });
  const expected = readTensors(join(whole, "model.safetensors"));
  const index = JSON.parse(readFileSync(join(sharded, "model.safetensors.index.json"), "utf8"));
  const found = new Map<string, string>();
  for (const name of readdirSync(sharded).filter((file) => file.endsWith(".safetensors"))) {
    for (const [tensor, bytes] of readTensors(join(sharded, name))) {
      expect(index.weight_map[tensor]).toBe(name);
      expect(found.has(tensor)).toBe(false);
      found.set(tensor, bytes);
    }
  }
  expect([...found].sort()).toEqual([...expected].sort());
});

test("drawTensor(): the numbers do not depend on the size of the pieces", () => {
  const shape = resolveShape({ architecture: "llama", vocabSize: 40_000 });
  const embedding = listTensors(shape).tensors[0]!;
  const digestOf = (rowMultiple: number) => {
    const hash = createHash("sha256");
    for (const { values } of drawTensor(embedding, 3, rowMultiple)) hash.update(values);
    return hash.digest("hex");
  };
  expect(digestOf(48)).toBe(digestOf(1));
});

test("writeRandomGguf(): the header is GGUF 3 and the file ends on its alignment", () => {
  const path = join(folder, "model.gguf");
  writeRandomGguf(path, { architecture: "llama", rope: "llama3", tied: true });
  const bytes = readFileSync(path);
  expect(bytes.subarray(0, 4).toString()).toBe("GGUF");
  expect(bytes.readUInt32LE(4)).toBe(3);
  expect(bytes.length % 32).toBe(0);
});

test("writeRandomGguf(): rows that a type cannot hold are an error", () => {
  expect(() => writeRandomGguf(join(folder, "bad.gguf"), { architecture: "llama", type: "Q4_K" })).toThrow(
    "Cannot write token_embd.weight: rows of 64 do not divide into Q4_K's groups of 256",
  );
});

/** Every tensor of a safetensors file, by name, as hex. */
function readTensors(path: string): Map<string, string> {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { data_offsets: [number, number] }> = JSON.parse(
    bytes.toString("utf8", 8, 8 + headerLength),
  );
  const tensors = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return new Map(
    tensors.map(([name, { data_offsets: offsets }]) => [
      name,
      bytes.toString("hex", 8 + headerLength + offsets[0], 8 + headerLength + offsets[1]),
    ]),
  );
}

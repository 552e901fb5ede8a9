import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readGguf } from "./gguf.js";
import { type GgufEntry, type GgufTensorToWrite, writeGguf } from "./gguf-writer.js";
import { readRange } from "./read-range.js";

const folder = await mkdtemp(join(tmpdir(), "block-attention-gguf-writer-"));
afterAll(() => rm(folder, { recursive: true }));

function tensor(name: string, shape: readonly number[], pieces: readonly Uint8Array[]): GgufTensorToWrite {
  return {
    name,
    type: "F32",
    shape,
    byteLength: 4 * shape.reduce((product, size) => product * size, 1),
    async *pieces() {
      yield* pieces;
    },
  };
}

test("writeGguf(): the reader finds every value and every tensor where it lies", async () => {
  const path = join(folder, "whole.gguf");
  const metadata = new Map<string, GgufEntry>([
    ["u", { kind: "u32", value: 2 ** 32 - 1 }],
    ["f", { kind: "f32", value: 0.5 }],
    ["b", { kind: "bool", value: true }],
    ["t", { kind: "text", value: "Małgorzata\n🙂" }],
    ["ts", { kind: "texts", value: ["", "a", "Ġb"] }],
    ["is", { kind: "i32s", value: [-1, 0, 7] }],
    ["fs", { kind: "f32s", value: [-1.5, 3] }],
    ["none", { kind: "texts", value: [] }],
  ]);
  const first = Uint8Array.from({ length: 24 }, (_, i) => i);
  const second = Uint8Array.from({ length: 40 }, (_, i) => 100 + i);
  await writeGguf(path, metadata, [
    tensor("first", [2, 3], [first.subarray(0, 5), first.subarray(5)]),
    tensor("second", [10], [second]),
  ]);
  const read = await readGguf(path);
  expect(Object.fromEntries(read.metadata)).toEqual({
    "general.alignment": 32,
    u: 2 ** 32 - 1,
    f: 0.5,
    b: true,
    t: "Małgorzata\n🙂",
    ts: ["", "a", "Ġb"],
    is: Int32Array.of(-1, 0, 7),
    fs: Float32Array.of(-1.5, 3),
    none: [],
  });
  for (const [name, shape, bytes] of [
    ["first", [2, 3], first],
    ["second", [10], second],
  ] as const) {
    const found = read.tensors.get(name);
    if (found?.kind !== "readable") throw new Error(`${name} is not there`);
    expect(found.entry.shape).toEqual(shape);
    expect(found.entry.offset % 32).toBe(0);
    expect(await readRange(path, found.entry.offset, found.entry.byteLength)).toEqual(bytes);
  }
});

test("writeGguf(): a tensor with another number of bytes than it said", async () => {
  const short = tensor("short", [3], [new Uint8Array(8)]);
  await expect(writeGguf(join(folder, "short.gguf"), new Map(), [short])).rejects.toThrow(
    'Cannot write tensor "short": it has 8 bytes, wanted 12',
  );
});

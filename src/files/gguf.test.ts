import { existsSync } from "node:fs";
import { copyFile, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { readGguf } from "./gguf.js";
import { readRange } from "./read-range.js";
import {
  expectError,
  ggufBytes,
  ggufText,
  placesIn,
  splitGguf,
  type TestGguf,
  temporaryFolder,
  uint32,
  uint64,
} from "./test-files.suite.js";

const sample: TestGguf = {
  metadata: {
    "general.architecture": { text: "llama" },
    "general.name": { text: "größer 🦙" },
    a: { u32: 7 },
    b: { f32: 0.5 },
    c: { bool: true },
    d: { u64: 2n ** 40n },
    e: { u64: 2n ** 63n + 1n },
    f: { i64: -5n },
    tokens: { texts: ["a", "Ġé", "", "漢"] },
    scores: { f32s: [-1, 0.25] },
    types: { i32s: [1, -3] },
  },
  tensors: [
    { name: "x", shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
    { name: "q4k", shape: [2, 256], type: 12, byteLength: 288 },
    { name: "odd", shape: [4], type: 99, byteLength: 4 },
    { name: "iq", shape: [256], type: 16, byteLength: 66 },
    { name: "scalar", shape: [], values: [1] },
  ],
};

async function written(bytes: Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "model.gguf");
  await writeFile(path, bytes);
  return path;
}

const magic = Buffer.from("GGUF");

test.each([2, 3])("readGguf(): reads values and tensors of version %i", async (version) => {
  const path = await written(ggufBytes({ ...sample, version }));
  const file = await readGguf(path);
  expect(file.version).toBe(version);
  expect(file.alignment).toBe(32);
  expect(Object.fromEntries(file.metadata)).toEqual({
    "general.architecture": "llama",
    "general.name": "größer 🦙",
    a: 7,
    b: 0.5,
    c: true,
    d: 2 ** 40,
    e: 2n ** 63n + 1n,
    f: -5,
    tokens: ["a", "Ġé", "", "漢"],
    scores: Float32Array.of(-1, 0.25),
    types: Int32Array.of(1, -3),
  });
  const x = file.tensors.get("x");
  expect(x).toMatchObject({ kind: "readable", entry: { type: "F32", shape: [3, 2], byteLength: 24, path } });
  expect(file.tensors.get("q4k")).toMatchObject({ entry: { type: "Q4_K", shape: [2, 256], byteLength: 288 } });
  expect(file.tensors.get("odd")).toEqual({ kind: "unreadable", name: "odd", typeName: "type 99", shape: [4], path });
  expect(file.tensors.get("iq")).toMatchObject({ kind: "readable", entry: { type: "IQ2_XXS", byteLength: 66 } });
  expect(file.tensors.get("scalar")).toMatchObject({ entry: { shape: [], byteLength: 4 } });
});

test("readGguf(): strings longer than a window, and arrays over its edge", async () => {
  const long = "ä".repeat(700_000);
  const texts = Array.from({ length: 200_000 }, (_, i) => `token ${i}`);
  const path = await written(ggufBytes({ metadata: { long: { text: long }, texts: { texts }, last: { u32: 1 } } }));
  const { metadata } = await readGguf(path);
  expect(metadata.get("long")).toBe(long);
  expect(metadata.get("texts")).toEqual(texts);
  expect(metadata.get("last")).toBe(1);
});

test("readGguf(): a file cut anywhere before its end is refused", async () => {
  const bytes = ggufBytes({ ...sample, tensors: sample.tensors?.slice(0, 2) ?? [] });
  const path = await written(bytes);
  for (const length of [...placesIn(bytes.byteLength, 50).reverse()]) {
    await truncate(path, length);
    await expectError(readGguf(path));
  }
});

test("readGguf(): any byte changed gives a file or an error of one line", async () => {
  const bytes = ggufBytes(sample);
  const path = await written(bytes);
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.byteLength - 1), fc.nat(255), async (place, value) => {
      const changed = Uint8Array.from(bytes);
      changed[place] = value;
      await writeFile(path, changed);
      const result = await readGguf(path).catch((error: unknown) => error);
      if (result instanceof Error) {
        await expectError(Promise.reject(result));
      }
    }),
    { numRuns: 150 },
  );
});

test("readGguf(): claims that the file cannot hold are refused before anything is allocated", async () => {
  const huge = uint64(2n ** 60n);
  const header = (numTensors: Uint8Array, numKeys: Uint8Array, ...rest: Uint8Array[]) =>
    written(Buffer.concat([magic, uint32(3), numTensors, numKeys, ...rest, Buffer.alloc(64)]));
  const [none, one] = [uint64(0), uint64(1)];
  await expectError(readGguf(await header(huge, none)), "claims 1152921504606846976 tensors");
  await expectError(readGguf(await header(none, huge)), "metadata keys");
  await expectError(readGguf(await header(none, one, huge)), "bytes long");
  const key = ggufText("k");
  await expectError(readGguf(await header(none, one, key, uint32(8), huge)), "bytes long");
  for (const type of [0, 6, 7, 8, 11]) {
    await expectError(readGguf(await header(none, one, key, uint32(9), uint32(type), huge)), 'elements of "k"');
  }
  await expectError(readGguf(await header(none, one, key, uint32(9), uint32(9), one)), "array of type 9");
  await expectError(readGguf(await header(none, one, key, uint32(77))), "is 77");
  const shape = (...sizes: bigint[]) => [ggufText("t"), uint32(sizes.length), ...sizes.map(uint64)];
  await expectError(readGguf(await header(one, none, ...shape(2n ** 32n, 2n ** 32n), uint32(0), none)), "too large");
  await expectError(readGguf(await header(one, none, ...shape(2n ** 64n - 1n), uint32(0), none)), "too large");
  await expectError(readGguf(await header(one, none, ...shape(2n ** 50n), uint32(0), none)), "ends at byte");
  await expectError(readGguf(await header(one, none, ...shape(4n), uint32(0), uint64(2n ** 63n))), "offset");
  await expectError(readGguf(await header(one, none, ...shape(4n), uint32(0), uint64(7))), "offset");
  await expectError(readGguf(await header(one, none, ...shape(100n), uint32(12), none)), "multiple of 256");
  await expectError(readGguf(await header(one, none, ggufText("t"), uint32(5))), "5 dimensions");
});

test("readGguf(): wrong magic, other versions, big-endian, duplicates, bytes that are no UTF-8", async () => {
  await expectError(readGguf(await written(Buffer.from("GGML\0\0\0\0\0\0"))), 'does not start with "GGUF"');
  await expectError(readGguf(await written(new Uint8Array(0))), "start of a GGUF file");
  const bigEndian = Buffer.from(ggufBytes(sample));
  bigEndian.writeUInt32BE(3, 4);
  await expectError(readGguf(await written(bigEndian)), "big-endian");
  await expectError(readGguf(await written(ggufBytes({ ...sample, version: 1 }))), "version is 1");
  await expectError(readGguf(await written(ggufBytes({ ...sample, version: 4 }))), "version is 4");
  const alignment = (value: number) => written(ggufBytes({ metadata: { "general.alignment": { u32: value } } }));
  await expectError(readGguf(await alignment(0)), "power of two");
  await expectError(readGguf(await alignment(48)), "power of two");
  const keyTwice = [magic, uint32(3), uint64(0), uint64(2)];
  for (let i = 0; i < 2; i += 1) {
    keyTwice.push(ggufText("k"), uint32(4), uint32(1));
  }
  await expectError(readGguf(await written(Buffer.concat(keyTwice))), 'a second "k"');
  const twice = { name: "t", shape: [1] };
  await expectError(readGguf(await written(ggufBytes({ metadata: {}, tensors: [twice, twice] }))), 'two tensors "t"');
  const broken = Buffer.from(ggufBytes({ metadata: { k: { text: "abc" } } }));
  broken[broken.indexOf("abc")] = 0xff;
  await expectError(readGguf(await written(broken)), "not UTF-8");
});

const tensorNames = (numbers: readonly number[]) =>
  numbers.map((i) => ({ name: `t${i}`, shape: [4], values: [i, i, i, i] }));

test.each([[[2, 1, 2]], [[0, 5]], [[3, 2]]])(
  "readGguf(): any part of a file split into %j stands for all",
  async (groups) => {
    const whole = await written(ggufBytes({ metadata: { a: { u32: 7 } }, tensors: tensorNames([0, 1, 2, 3, 4]) }));
    const paths = await splitGguf(whole, join(dirname(whole), "part"), groups);
    for (const path of paths) {
      const file = await readGguf(path);
      expect(file.files).toEqual(paths);
      expect(file.path).toBe(paths[0]);
      expect(file.metadata.get("a")).toBe(7);
      expect([...file.tensors.keys()]).toEqual(["t0", "t1", "t2", "t3", "t4"]);
      for (const [i, tensor] of [...file.tensors.values()].entries()) {
        if (tensor.kind !== "readable") throw new Error("unreadable");
        const bytes = await readRange(tensor.entry.path, tensor.entry.offset, 16);
        expect(new Float32Array(bytes.buffer)).toEqual(Float32Array.of(i, i, i, i));
      }
    }
  },
);

test("readGguf(): parts that are missing, elsewhere, twice, or of another file", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  const split = async (name: string, numbers: readonly number[], groups: readonly number[]) => {
    await writeFile(at(`${name}.gguf`), ggufBytes({ metadata: {}, tensors: tensorNames(numbers) }));
    return splitGguf(at(`${name}.gguf`), at(name), groups) as Promise<[string, string, string]>;
  };
  const [first, second, third] = await split("a", [0, 1, 2], [1, 1, 1]);
  const [, otherSecond] = await split("b", [0, 1, 2, 3], [1, 1, 2]);
  const [, ofTwo] = await split("c", [0, 1, 2], [1, 2]);
  const broken = async (from: string, to: string, part: string | RegExp, opened = [first, second, third]) => {
    const sound = await readFile(to);
    await copyFile(from, to);
    for (const path of opened) await expectError(readGguf(path), part);
    await writeFile(to, sound);
    await readGguf(third);
  };
  await broken(otherSecond, second, /part [12] of 3 with [34] tensors in all, part [12] of 3 with [34] is wanted$/);
  await broken(ofTwo, second, /part [23] of 3|one of 2 parts/);
  await broken(third, second, /00002-of-00003.gguf" is part 3 of 3 /);
  await broken(at("a.gguf"), second, /is part 1 of 1 with no count of tensors|"t0" too/, [first, third]);
  // Of a file with as many tensors in all.
  const [, alien] = await split("d", [0, 2, 5], [1, 1, 1]);
  await broken(alien, second, /an earlier part has a tensor "t2" too/);
  await copyFile(first, at("renamed.gguf"));
  await expectError(
    readGguf(at("renamed.gguf")),
    "it is one of 3 parts, NAME-00001-of-00003.gguf and so on are wanted",
  );
  await rm(second);
  for (const path of [first, third])
    await expectError(readGguf(path), /a-00002-of-00003\.gguf", part 2 of 3, is missing$/);
  const short = await split("e", [0, 1, 2], [1, 0, 1]);
  await expectError(readGguf(short[0]), "its 3 parts have 2 tensors, 3 are wanted");
});

const vocab = "../shared/data/vocab/ggml-vocab-llama-bpe.gguf";

test.skipIf(!existsSync(vocab))(`readGguf(): 128,256 tokens without a tensor (skipped without ${vocab})`, async () => {
  const { metadata, tensors } = await readGguf(vocab);
  expect(tensors.size).toBe(0);
  expect(metadata.get("tokenizer.ggml.tokens")).toHaveLength(128_256);
  expect(metadata.get("tokenizer.ggml.token_type")).toBeInstanceOf(Int32Array);
  expect(metadata.get("llama.rope.freq_base")).toBe(500_000);
});

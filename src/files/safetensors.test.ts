import { mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { readSafetensors, readSafetensorsFolder } from "./safetensors.js";
import {
  expectError,
  placesIn,
  safetensorsBytes,
  safetensorsWith,
  temporaryFolder,
  uint64,
} from "./test-files.suite.js";

async function written(bytes: Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "model.safetensors");
  await writeFile(path, bytes);
  return path;
}

const tensors = [
  { name: "a", shape: [2, 3], dtype: "F32" },
  { name: "b", shape: [4], dtype: "BF16" },
  { name: "empty", shape: [0, 3], dtype: "F32" },
  { name: "f8", shape: [2], dtype: "F8_E4M3" },
];

test("readSafetensors(): says where each tensor lies", async () => {
  const bytes = safetensorsBytes(tensors);
  const path = await written(bytes);
  const found = await readSafetensors(path);
  const start = bytes.byteLength - 34;
  expect(found.get("a")).toEqual({
    kind: "readable",
    entry: { name: "a", type: "F32", shape: [2, 3], path, offset: start, byteLength: 24 },
  });
  expect(found.get("b")).toMatchObject({ entry: { type: "BF16", offset: start + 24, byteLength: 8 } });
  expect(found.get("f8")).toMatchObject({ kind: "unreadable", typeName: "F8_E4M3" });
  expect(found.size).toBe(4);
});

test("readSafetensors(): a file cut anywhere is refused, and so is one that is too long", async () => {
  const bytes = safetensorsBytes(tensors);
  const path = await written(Buffer.concat([bytes, Buffer.alloc(1)]));
  await expectError(readSafetensors(path), "its tensors end at byte");
  await truncate(path, bytes.byteLength);
  expect((await readSafetensors(path)).size).toBe(4);
  for (const length of placesIn(bytes.byteLength, 50).reverse()) {
    await truncate(path, length);
    await expectError(readSafetensors(path));
  }
});

test("readSafetensors(): any byte changed gives tensors or an error of one line", async () => {
  const bytes = safetensorsBytes(tensors.slice(0, 2));
  const path = await written(bytes);
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.byteLength - 1), fc.nat(255), async (place, value) => {
      const changed = Uint8Array.from(bytes);
      changed[place] = value;
      await writeFile(path, changed);
      const result = await readSafetensors(path).catch((error: unknown) => error);
      if (result instanceof Error) {
        await expectError(Promise.reject(result));
      }
    }),
    { numRuns: 150 },
  );
});

test("readSafetensors(): headers that claim too much, holes, overlaps, wrong sizes, names twice", async () => {
  const claim = (bytes: bigint) => written(Buffer.concat([uint64(bytes), Buffer.from("{}")]));
  await expectError(readSafetensors(await claim(2n ** 60n)), "claims 1152921504606846976 bytes");
  await expectError(readSafetensors(await claim(3n)), "claims 3 bytes");
  const header = async (json: string, numBytes = 16) =>
    readSafetensors(await written(safetensorsWith(json, new Uint8Array(numBytes))));
  const tensor = (dtype: string, shape: readonly unknown[], ...offsets: unknown[]) =>
    JSON.stringify({ dtype, shape, data_offsets: offsets });
  await expectError(header("[]"), "it is no object");
  await expectError(header('{"a":1}'), "no sound dtype");
  await expectError(header(`{"a":${tensor("F32", [-1], 0, 16)}}`), "no sound dtype");
  await expectError(header(`{"a":${tensor("F32", [1.5], 0, 16)}}`), "no sound dtype");
  await expectError(header(`{"a":${tensor("F32", [4], 0)}}`), "offsets");
  await expectError(header(`{"a":${tensor("F32", [4], 16, 0)}}`), "offsets");
  await expectError(header(`{"a":${tensor("F32", [5], 0, 16)}}`), "has 16 bytes");
  await expectError(header(`{"a":${tensor("F32", [2 ** 40, 2 ** 40], 0, 16)}}`), "has 16 bytes");
  await expectError(header(`{"a":${tensor("F32", [2], 0, 8)},"b":${tensor("F32", [1], 12, 16)}}`), "starts at 12");
  await expectError(header(`{"a":${tensor("F32", [2], 0, 8)},"b":${tensor("F32", [3], 4, 16)}}`), "starts at 4");
  await expectError(header(`{"a":${tensor("F32", [2], 0, 8)}}`), "its tensors end at");
  await expectError(header(`{"a":${tensor("F32", [2], 0, 8)},"a":${tensor("F32", [2], 8, 16)}}`), "stands twice");
  await expectError(header("[".repeat(10_000)), "nested");
  const proto = `{"__proto__":${tensor("F32", [2], 0, 8)},"constructor":${tensor("F32", [2], 8, 16)}}`;
  expect([...(await header(proto)).keys()]).toEqual(["__proto__", "constructor"]);
});

test("readSafetensorsFolder(): shards by their index", async () => {
  const folder = await temporaryFolder();
  const put = (name: string, value: Uint8Array | object) =>
    writeFile(join(folder, name), value instanceof Uint8Array ? value : JSON.stringify(value));
  const index = (map: object) => put("model.safetensors.index.json", { metadata: {}, weight_map: map });
  const [one, two] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  await expectError(readSafetensorsFolder(folder), "neither");
  await put("pytorch_model.bin", new Uint8Array(3));
  await expectError(readSafetensorsFolder(folder), '"pytorch_model.bin" is not read');
  await put(one, safetensorsBytes([{ name: "a", shape: [2] }]));
  await put(two, safetensorsBytes([{ name: "b", shape: [3] }]));
  await index({ a: one, b: two });
  const found = await readSafetensorsFolder(folder);
  expect([...found.tensors.keys()]).toEqual(["a", "b"]);
  expect(found.files).toEqual(["model.safetensors.index.json", one, two].map((name) => join(folder, name)));
  await index({ a: one, b: two, c: two });
  await expectError(readSafetensorsFolder(folder), 'tensor "c" is not in');
  await index({ a: two, b: two });
  await expectError(readSafetensorsFolder(folder), '"a" is not in');
  await index({ a: two, b: one });
  await expectError(readSafetensorsFolder(folder), "the index says");
  await index({ a: "../x.safetensors" });
  await expectError(readSafetensorsFolder(folder), "no safetensors file of its folder");
  await index({ a: "missing.safetensors" });
  await expectError(readSafetensorsFolder(folder), "no such file");
  await put(two, safetensorsBytes([{ name: "a", shape: [3] }]));
  await index({ a: one, b: two });
  await expectError(readSafetensorsFolder(folder), /stands in two shards/);
  await mkdir(join(folder, "model.safetensors"));
  await expectError(readSafetensorsFolder(folder), "it is a folder");
  await expectError(readSafetensorsFolder(join(folder, "missing")), "no such file or folder");
});

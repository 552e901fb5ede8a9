import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { expectError, placesIn, temporaryFolder } from "../files/test-files.suite.js";
import { bytesInMemory } from "./block-bytes.js";
import { BlockKeys } from "./block-cipher.js";
import { ownerName } from "./block-id.js";

const [first, second] = ["ab".repeat(32), "cd".repeat(32)];
const owner = ownerName("");

async function keysOf(...lines: readonly string[]) {
  const path = join(await temporaryFolder(), "keys");
  writeFileSync(path, lines.join("\n"));
  const warnings: string[] = [];
  return { path, warnings, keys: await BlockKeys.read(path, (warning) => warnings.push(warning)) };
}

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 31) >> 3);

test("BlockKeys: what is sealed is read from any place on, and no byte of it can be changed, cut or added", async () => {
  const { keys } = await keysOf(first);
  for (const length of [1, 1000, 65_536, 65_537, 200_000]) {
    const plain = bytesOf(length);
    const sealed = await keys.seal(owner, plain);
    expect(sealed).toHaveLength(keys.sizeOf(length));
    const opened = await keys.open(bytesInMemory(sealed), owner);
    expect(opened.size).toBe(length);
    for (const [count, position] of [
      [length, 0],
      [1, length - 1],
      [Math.min(length, 100), 0],
      [length - (length >> 1), length >> 1],
    ] as const) {
      expect(Buffer.compare(await opened.read(count, position), plain.subarray(position, position + count))).toBe(0);
    }
    await expect(opened.read(2, length - 1)).rejects.toMatchObject({ name: "BlockCodecError" });
    const damaged: Uint8Array[] = placesIn(sealed.length, 200).map((at) => {
      const copy = sealed.slice();
      copy[at] = (copy[at] as number) ^ 4;
      return copy;
    });
    damaged.push(sealed.subarray(0, -1), Buffer.concat([sealed, Buffer.alloc(1)]), sealed.subarray(0, 63));
    for (const bytes of damaged) {
      const read = async () => (await keys.open(bytesInMemory(bytes), owner)).read(length);
      await expect(read()).rejects.toMatchObject({ name: "BlockCodecError" });
    }
    // Nothing is encrypted as it was before.
    expect(Buffer.compare(await keys.seal(owner, plain), sealed)).not.toBe(0);
  }
});

test("BlockKeys: old keys read and the first writes; without its key a block is not read, which is told once", async () => {
  const { keys: old } = await keysOf(first);
  const { keys: rotated } = await keysOf(second, first);
  const { keys: newest, warnings } = await keysOf(second);
  const read = async (keys: BlockKeys, sealed: Uint8Array) => {
    return await (await keys.open(bytesInMemory(sealed), owner)).read(100);
  };
  const [byOld, byRotated] = [await old.seal(owner, bytesOf(100)), await rotated.seal(owner, bytesOf(100))];
  expect(await read(rotated, byOld)).toEqual(bytesOf(100));
  expect(await read(newest, byRotated)).toEqual(bytesOf(100));
  for (const bytes of [byOld, byOld, bytesOf(100)])
    await expect(read(newest, bytes)).rejects.toMatchObject({ fault: "key" });
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).not.toContain(second);
  const none = BlockKeys.none();
  await expect(read(none, byOld)).rejects.toMatchObject({ fault: "key" });
  expect(await none.seal(owner, bytesOf(3))).toEqual(bytesOf(3));
});

test("BlockKeys: a folder has keys of owners, and what is one's is not opened with another's", async () => {
  const folder = join(await temporaryFolder(), "keys");
  mkdirSync(folder);
  const [anna, ben] = [ownerName("anna"), ownerName("ben")];
  writeFileSync(join(folder, `${anna}.key`), `${first}\n`);
  const keys = await BlockKeys.read(folder);
  const sealed = await keys.seal(anna, bytesOf(10));
  expect((await keys.open(bytesInMemory(sealed), anna)).size).toBe(10);
  expect((await keys.open(bytesInMemory(sealed))).size).toBe(10);
  await expect(keys.open(bytesInMemory(sealed), ben)).rejects.toMatchObject({ fault: "key" });
  await expectError(keys.seal(ben, bytesOf(10)), `its owner ${ben} has no key`);
  writeFileSync(join(folder, "default.key"), second);
  const withDefault = await BlockKeys.read(folder);
  expect((await withDefault.open(bytesInMemory(await withDefault.seal(ben, bytesOf(9))), ben)).size).toBe(9);
  await expect(withDefault.open(bytesInMemory(sealed), ben)).rejects.toMatchObject({ fault: "key" });
});

test("BlockKeys.read(): files without sound keys are errors that tell none", async () => {
  const path = join(await temporaryFolder(), "keys");
  await expectError(BlockKeys.read(path), "no such file");
  for (const text of ["", "abc", `${first}\nsecretsecret`]) {
    writeFileSync(path, text);
    expect(await expectError(BlockKeys.read(path), "a key a line")).not.toContain("secretsecret");
  }
  const folder = await temporaryFolder();
  await expectError(BlockKeys.read(folder), "it has no file");
});

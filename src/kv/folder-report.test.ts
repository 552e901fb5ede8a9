import { createHash } from "node:crypto";
import { mkdirSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { temporaryFolder } from "../files/test-files.suite.js";
import { BlockFolder } from "./block-folder.js";
import type { BlockId } from "./block-id.js";
import { readFolder } from "./folder-report.js";

test.skipIf(process.platform === "win32")(
  "readFolder(): what cannot be read is told as unsound, and hides no other file",
  async () => {
    await using folder = await BlockFolder.openToRead(await temporaryFolder());
    const at = (digit: string) => folder.pathOf(digit.repeat(64) as BlockId);
    for (const digit of ["1", "2", "3", "4"]) mkdirSync(dirname(at(digit)), { recursive: true });
    symlinkSync(at("1"), at("1"));
    symlinkSync("nowhere", at("2"));
    mkdirSync(at("3"));
    writeFileSync(at("4"), "");
    utimesSync(at("4"), 1e12, 1e12);
    const found = new Map<string, unknown>();
    for await (const entry of readFolder(folder, { isWhole: true, signal: new AbortController().signal })) {
      found.set(entry.id.slice(0, 1), "error" in entry && entry.error);
      // In a year that no Date has, on file systems that keep it.
      expect(entry.usedMs).toBeLessThanOrEqual(Date.now());
    }
    expect(Object.fromEntries(found)).toEqual({
      1: "its symbolic links form a loop",
      2: "it is no file",
      3: "it is no file",
      4: "0 bytes are fewer than a header's",
    });
  },
);

test("readFolder(): a forged file whose layers are larger than memory is told as unsound", async () => {
  await using folder = await BlockFolder.openToRead(await temporaryFolder());
  const fields = { kind: "block", id: "1".repeat(64), model: "2".repeat(64), owner: "3".repeat(64) };
  const [numLayers, numTokens, headSize] = [1, 1, 2 ** 29];
  // A layer of a GiB, of 2^35 bytes: files have holes.
  for (const [digit, numKvHeads, error] of [
    ["1", 1, "layer 0 does not match its digest"],
    ["2", 16, "its fields and tensors are not a block's"],
  ] as const) {
    const sizes = [4, 32 * numLayers, 32, 4 * numLayers * numKvHeads * numTokens * headSize];
    const ends = sizes.map((_, i) => sizes.slice(0, i + 1).reduce((sum, size) => sum + size, 0));
    const tensor = (i: number, dtype: string, ...shape: number[]) => {
      return { dtype, shape, data_offsets: [ends[i - 1] ?? 0, ends[i]] };
    };
    const json = JSON.stringify({
      __metadata__: {
        ...{ ...fields, id: digit.repeat(64), format: "block-kv", version: "2" },
        ...{ kv_type: "f16", pairs: "half", producer: "p", compute: "c" },
      },
      tokens: tensor(0, "I32", numTokens),
      layer_digests: tensor(1, "U8", numLayers, 32),
      head_digest: tensor(2, "U8", 32),
      kv: tensor(3, "F16", numLayers, 2, numKvHeads, numTokens, headSize),
    });
    const head = Buffer.alloc(8 + json.length + ends[1]!);
    head.writeBigUInt64LE(BigInt(json.length));
    head.write(json, 8);
    const digest = createHash("sha256").update(head).digest();
    const at = folder.pathOf(digit.repeat(64) as BlockId);
    mkdirSync(dirname(at), { recursive: true });
    writeFileSync(at, Buffer.concat([head, digest]));
    truncateSync(at, 8 + json.length + ends[3]!);
    const found = [];
    for await (const entry of readFolder(folder, { isWhole: true, signal: new AbortController().signal })) {
      if (entry.path === at) found.push("error" in entry && entry.error);
    }
    expect(found).toEqual([error]);
  }
});

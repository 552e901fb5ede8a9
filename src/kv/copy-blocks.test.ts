import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { bytesBelow, temporaryFolder } from "../files/test-files.suite.js";
import { BlockKeys } from "./block-cipher.js";
import { encodeBlockKV } from "./block-codec.js";
import { BlockFolder } from "./block-folder.js";
import { ownerName } from "./block-id.js";
import { testRequest } from "./block-store.suite.js";
import { copyBlocks } from "./copy-blocks.js";
import { MemoryLedger } from "./memory-ledger.suite.js";

const made = { model: "0".repeat(64), producer: "test", compute: "test", pairs: "half" } as const;

test("copyBlocks(): the cap holds for what is encrypted on the way, which is longer", async () => {
  const [path, to, key] = [await temporaryFolder(), await temporaryFolder(), join(await temporaryFolder(), "key")];
  writeFileSync(key, "ab".repeat(32));
  const ledger = new MemoryLedger();
  await using from = await BlockFolder.open(path, 2 ** 24);
  for (let n = 0; n < 60; n++) {
    // Files that fill their units of the file system to the last bytes.
    for (let numTokens = 100; ; numTokens++) {
      const { id, shape, tokenIds, owner } = testRequest(n, numTokens);
      using block = ledger.block(shape);
      const bytes = await encodeBlockKV(block, { ...made, id, tokenIds, salt: owner, kind: "block" });
      if (from.onDisk(bytes.length) - bytes.length > 63) continue;
      await from.write(from.pathOf(id), bytes.length, async () => [bytes]);
      break;
    }
  }
  const cap = 80 * 4096;
  const outcomes: string[] = [];
  {
    await using folder = await BlockFolder.open(to, cap);
    const target = { folder, keys: await BlockKeys.read(key) };
    const signal = new AbortController().signal;
    for await (const { outcome } of copyBlocks({ folder: from, keys: BlockKeys.none() }, target, () => true, signal)) {
      outcomes.push(outcome);
    }
    expect(bytesBelow(to)).toBeLessThanOrEqual(cap);
  }
  expect(new Set(outcomes)).toEqual(new Set(["copied", "full"]));
});

test("copyBlocks(): an owner without a key is told of, and the others go on", async () => {
  const [path, to, keys] = [await temporaryFolder(), await temporaryFolder(), await temporaryFolder()];
  const requests = Array.from({ length: 6 }, (_, n) => ({ ...testRequest(n, 1 + n), owner: n % 2 === 0 ? "a" : "b" }));
  writeFileSync(join(keys, `${ownerName("b")}.key`), "ab".repeat(32));
  const ledger = new MemoryLedger();
  await using from = await BlockFolder.open(path, 2 ** 24);
  for (const { id, shape, tokenIds, owner } of requests) {
    using block = ledger.block(shape);
    const bytes = await encodeBlockKV(block, { ...made, id, tokenIds, salt: owner, kind: "block" });
    await from.write(from.pathOf(id), bytes.length, async () => [bytes]);
  }
  await using folder = await BlockFolder.open(to, 2 ** 24);
  const outcomes = new Map<string, string>();
  const signal = new AbortController().signal;
  const target = { folder, keys: await BlockKeys.read(keys) };
  const source = { folder: from, keys: BlockKeys.none() };
  for await (const { id, outcome } of copyBlocks(source, target, () => true, signal)) outcomes.set(id, outcome);
  const wanted = requests.map(({ id, owner }) => [id, owner === "a" ? "no-key" : "copied"] as const);
  expect(new Map([...outcomes].sort())).toEqual(new Map([...wanted].sort()));
});

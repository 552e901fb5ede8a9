import { mkdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
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

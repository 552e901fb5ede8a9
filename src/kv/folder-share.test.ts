import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { temporaryFolder } from "../files/test-files.suite.js";
import { FolderShare } from "./folder-share.js";

/** What any file is written by. */
async function writesOf(folder: string) {
  const file = await open(join(folder, "any"), "w");
  const prototype = Object.getPrototypeOf(file) as FileHandle;
  await file.close();
  const writes = vi.spyOn(prototype, "write");
  onTestFinished(() => writes.mockRestore());
  return writes;
}

const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });

test("FolderShare: notes that a full disk does not take cost no room, and are there before the next one", async () => {
  const folder = await temporaryFolder();
  const share = await FolderShare.open(folder);
  onTestFinished(() => share[Symbol.asyncDispose]());
  writeFileSync(join(share.path, "grant"), "3000 3000");
  const writes = await writesOf(folder);
  const written: string[] = [];
  const write = (name: string) => share.write(name, 1000 - 256, async () => void written.push(name));
  // Three bytes of the first note are written, and neither the rest nor what ends it.
  writes.mockImplementationOnce(async function (this: FileHandle, text: unknown) {
    await this.appendFile(String(text).slice(0, 3));
    return { bytesWritten: 3 } as never;
  });
  writes.mockRejectedValueOnce(full).mockRejectedValueOnce(full);
  await expect(write("a")).rejects.toThrow("ENOSPC");
  await write("b");
  const lines = () => readFileSync(join(share.path, "notes"), "latin1").split("\n").slice(1);
  expect(lines()).toEqual(["0 1000 a", "0", "1 1000 b", "1", ""]);
  expect(written).toEqual(["b"]);
});

test("FolderShare.open(): on a full disk nothing is left", async () => {
  const folder = await temporaryFolder();
  const writes = await writesOf(folder);
  writes.mockRejectedValueOnce(full);
  mkdirSync(join(folder, "shares"));
  await expect(FolderShare.open(folder)).rejects.toThrow("ENOSPC");
  expect(readdirSync(join(folder, "shares"))).toEqual([]);
});

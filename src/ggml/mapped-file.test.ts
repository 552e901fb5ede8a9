import { linkSync, readFileSync, renameSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import { expect, test } from "vitest";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import { MappedFile } from "./mapped-file.js";

const canMap = process.platform !== "win32";
const bytes = Buffer.alloc(200_000, "0123456789");

async function mappedFile(): Promise<{ path: string; file: MappedFile }> {
  const path = join(await temporaryFolder(), "mapped.bin");
  writeFileSync(path, bytes);
  // A change within the same tick of the file system's clock would not show.
  utimesSync(path, 1e9, 1e9);
  return { path, file: MappedFile.open(path) as MappedFile };
}

/** How many mappings of a file this process has; undefined where the system does not tell. */
function mappings(path: string): number | undefined {
  return process.platform === "linux" ? readFileSync("/proc/self/maps", "utf8").split(path).length - 1 : undefined;
}

test.runIf(canMap)("MappedFile: holds the file's bytes until it is disposed, once", async () => {
  const { path, file } = await mappedFile();
  {
    using mapped = file;
    expect(mapped.byteLength).toBe(bytes.length);
    expect(Buffer.from(koffi.decode(mapped.address, 100_003, "uint8_t", 8) as number[]).toString()).toBe("34567890");
    await mapped.populate(70_001, 100_000);
    expect(mappings(path) ?? 1).toBe(1);
  }
  expect(mappings(path) ?? 0).toBe(0);
  file[Symbol.dispose]();
});

test.runIf(canMap)(
  "MappedFile.requireUnchanged(): other names, and a file that takes the name, change nothing",
  async () => {
    const { path, file } = await mappedFile();
    using mapped = file;
    linkSync(path, `${path}.link`);
    writeFileSync(`${path}.new`, "other");
    renameSync(`${path}.new`, path);
    rmSync(`${path}.link`);
    expect(() => mapped.requireUnchanged()).not.toThrow();
  },
);

test.runIf(canMap).each([
  [
    "written to",
    /it was written to while it was mapped; replace files by renaming$/,
    (path: string) => writeFileSync(path, bytes),
  ],
  ["made longer", /it was written to/, (path: string) => writeFileSync(path, "more", { flag: "a" })],
  ["cut", /it was cut to 10 bytes while/, (path: string) => truncateSync(path, 10)],
])("MappedFile.requireUnchanged(): a file that was %s stays refused", async (_, message, change) => {
  const { path, file } = await mappedFile();
  using mapped = file;
  mapped.requireUnchanged();
  change(path);
  // Reading ahead what is gone does not end the process.
  await mapped.populate(150_000, 50_000);
  expect(() => mapped.requireUnchanged()).toThrow(message);
  writeFileSync(path, bytes);
  utimesSync(path, 1e9, 1e9);
  expect(() => mapped.requireUnchanged()).toThrow(message);
});

test("MappedFile.open(): no file is an error, an empty one is not mapped", async () => {
  const path = join(await temporaryFolder(), "empty.bin");
  await expectError(
    Promise.resolve().then(() => MappedFile.open(path)),
    /^Cannot read ".*empty\.bin": no such file or folder/,
  );
  writeFileSync(path, "");
  expect(MappedFile.open(path)).toBeUndefined();
});

test.runIf(process.platform === "linux")(
  "MappedFile.isPossible(): not on file systems that other machines write to",
  () => {
    const [ext4, nfs] = [0xef53, 0x6969];
    expect(MappedFile.isPossible("x", () => ext4)).toBe(true);
    expect(MappedFile.isPossible("x", () => nfs)).toBe(false);
  },
);

import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { writeAtomically } from "./outputs.js";

test("writeAtomically(): a file that is being written is not written by another, nor is its partial file taken away", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
  try {
    const path = join(folder, "a.txt");
    await writeAtomically(path, async (partial) => {
      await writeFile(partial, "first");
      const second = writeAtomically(path, (same) => writeFile(same, "second"));
      await expect(second).rejects.toThrow(`process ${process.pid} does; if that is none of ours, remove`);
    });
    expect(await readFile(path, "utf8")).toBe("first");
    // A process that is gone holds nothing.
    await writeFile(`${path}.partial.lock`, "999999999 1\n");
    await writeFile(`${path}.partial`, "what was left");
    await writeAtomically(path, (partial) => writeFile(partial, "third"));
    expect(await readFile(path, "utf8")).toBe("third");
    expect(await readdir(folder)).toEqual(["a.txt"]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

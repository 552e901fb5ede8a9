import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import { prepareOutputs, writeAtomically } from "./outputs.js";

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

test.skipIf(process.platform !== "linux")(
  "writeAtomically(): a process that has ended and was not waited for holds nothing",
  async () => {
    const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
    // The shell becomes a program that waits for nobody; its child is ended after that.
    const parent = spawn("sh", ["-c", "sleep 60 & echo $!; exec sleep 60"], { stdio: ["ignore", "pipe", "ignore"] });
    try {
      const [pid] = await once(parent.stdout, "data");
      const until = async (pid: number, state: RegExp) => {
        while (!state.test(await readFile(`/proc/${pid}/stat`, "latin1"))) await setTimeout(5);
      };
      await until(Number(parent.pid), /\(sleep\)/);
      process.kill(Number(pid), "SIGKILL");
      await until(Number(pid), /\) Z /);
      const path = join(folder, "a.txt");
      await writeFile(`${path}.partial.lock`, `${Number(pid)} 1\n`);
      await writeAtomically(path, (partial) => writeFile(partial, "text"));
      expect(await readFile(path, "utf8")).toBe("text");
    } finally {
      parent.kill();
      await rm(folder, { recursive: true });
    }
  },
);

test("prepareOutputs(): another process's lock whose inode another lock gets next is not the same file", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-outputs-"));
  try {
    const output = join(folder, "a.jsonl");
    const written = ["", ".manifest.json", ".report.json", ".lengths.svg", ".passages.svg", ".errors.jsonl"];
    const locks = written.map((ending) => `${ending}.partial.lock`);
    const writeAndLeave = async (): Promise<void> => {
      for (const lock of locks) {
        await writeFile(output + lock, "");
        await rm(output + lock);
      }
    };
    for (let i = 0; i < 500; i++) {
      const prepared = prepareOutputs({ inputs: [], outputs: [output] });
      await Promise.all([expect(prepared).resolves.toBeUndefined(), writeAndLeave()]);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

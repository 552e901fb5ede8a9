import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { InputLine } from "./bounded-part.js";
import { openInput, readJsonLines } from "./json-lines.js";

const never = new AbortController().signal;

async function read(chunks: readonly Uint8Array[], maxLineBytes?: number): Promise<InputLine[]> {
  const lines: InputLine[] = [];
  for await (const line of readJsonLines(Readable.from(chunks), never, maxLineBytes)) lines.push(line);
  return lines;
}

test("readJsonLines(): lines are the same wherever the chunks are cut", async () => {
  const values = fc.array(fc.record({ text: fc.string({ unit: "grapheme" }) }), { maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(values, fc.integer({ min: 1, max: 9 }), fc.boolean(), async (wanted, size, ends) => {
      const bytes = Buffer.from(wanted.map((value) => JSON.stringify(value)).join("\n") + (ends ? "\n" : ""));
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      );
      const lines = await read(chunks);
      expect(lines).toEqual(wanted.map((value, i) => ({ kind: "value", number: i + 1, value })));
    }),
    { numRuns: 50 },
  );
});

test("readJsonLines(): bad lines are told with their number, the others go on", async () => {
  const lines = await read([
    Buffer.from('{"a":1}\r\n\n  \nno\n'),
    Buffer.from([0x80, 0x0a]),
    Buffer.from('{"a":1,"a":2}\n7'),
  ]);
  expect(lines.map(({ kind, number }) => `${number} ${kind}`)).toEqual([
    "1 value",
    "4 bad",
    "5 bad",
    "6 bad",
    "7 value",
  ]);
  expect(lines[2]).toMatchObject({ error: "Cannot read line 5: it is not UTF-8" });
});

test("readJsonLines(): a line past the limit is let go as it comes", async () => {
  const lines = await read([Buffer.from('"123"\n"12'), Buffer.from("34"), Buffer.from('5678"\n"9"')], 5);
  expect(lines).toEqual([
    { kind: "value", number: 1, value: "123" },
    { kind: "bad", number: 2, error: "Cannot read line 2: it has 10 bytes, at most 5 are read" },
    { kind: "value", number: 3, value: "9" },
  ]);
});

test("readJsonLines(): an abort ends the wait for more", async () => {
  const stopping = new AbortController();
  const stream = new Readable({ read: () => undefined });
  setTimeout(() => stopping.abort(new Error("Cancelled")), 10);
  await expect(readJsonLines(stream, stopping.signal).next()).rejects.toThrow("Cancelled");
  expect(stream.destroyed).toBe(true);
});

test.skipIf(process.platform === "win32")(
  "openInput(): a named pipe waits for its writer, but not for ever",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "block-attention-pipe-"));
    try {
      const path = join(folder, "pipe");
      const pipeMaker = "mkfifo";
      execFileSync(pipeMaker, [path]);
      const stdin = Readable.from([]);
      await expect(openInput(path, stdin, never, 50)).rejects.toThrow(
        /^Cannot read ".*pipe": it is a named pipe, and nobody wrote to it for 0.05 s$/,
      );
      const stopping = new AbortController();
      const stopped = openInput(path, stdin, stopping.signal);
      stopping.abort(new Error("stopped"));
      await expect(stopped).rejects.toThrow("stopped");
      // More of them than there are threads that open files.
      const paths = Array.from({ length: 6 }, (_, i) => join(folder, String(i)));
      execFileSync(pipeMaker, paths);
      const waiting = paths.map((other) => openInput(other, stdin, never, 50));
      for (const outcome of await Promise.allSettled(waiting)) expect(outcome.status).toBe("rejected");
      const opening = openInput(path, stdin, never);
      const writing = writeFile(path, '{"a":1}\n{"b":2}\n');
      const lines: InputLine[] = [];
      for await (const line of readJsonLines(await opening, never)) lines.push(line);
      await writing;
      expect(lines.map((line) => line.kind === "value" && line.value)).toEqual([{ a: 1 }, { b: 2 }]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

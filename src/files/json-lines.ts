import { closeSync, constants, openSync } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import type { Readable } from "node:stream";
import { BoundedPart, type InputLine, type InputPart, parsePart, readChunks } from "./bounded-part.js";
import { quote } from "./quote.js";
import { describeFileError, openRegularFile } from "./regular-file.js";

/** In bytes, the line's end left out. */
const MAX_LINE_BYTES = 2 ** 26;

/** Of a file, read at a time. */
const pieceBytes = 2 ** 18;
const newline = 0x0a;
const whiteSpace: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d]);

/** How long a named pipe is waited for until somebody writes to it. */
const WRITER_WAIT_MS = 60_000;

/**
 * Opens what --input names: standard input for "-".
 *
 * @throws Error if the file cannot be read, or is a named pipe to which nobody writes; the signal's reason.
 */
export async function openInput(
  path: string,
  stdin: Readable,
  signal: AbortSignal,
  writerWaitMs = WRITER_WAIT_MS,
): Promise<Readable> {
  if (path === "-") return stdin;
  const found = await stat(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  const handle = found.isFIFO() ? await openPipe(path, signal, writerWaitMs) : (await openRegularFile(path)).handle;
  return handle.createReadStream({ highWaterMark: pieceBytes });
}

/** Opens a named pipe when its writer has: that of a shell's <(…) is there already. */
async function openPipe(path: string, signal: AbortSignal, waitMs: number): Promise<FileHandle> {
  const opening = open(path, "r").catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  const waiting = AbortSignal.any([signal, AbortSignal.timeout(waitMs)]);
  const stopped = new Promise<undefined>((resolve) => {
    if (waiting.aborted) resolve(undefined);
    waiting.addEventListener("abort", () => resolve(undefined), { once: true });
  });
  const handle = await Promise.race([opening, stopped]);
  if (handle !== undefined) return handle;
  // The thread that opens the pipe waits for a writer: let it go.
  const writer = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    await (await opening).close();
  } finally {
    closeSync(writer);
  }
  signal.throwIfAborted();
  throw new Error(`Cannot read ${quote(path)}: it is a named pipe, and nobody wrote to it for ${waitMs / 1000} s`);
}

/**
 * Reads JSON lines as they come: one line is in memory at a time, and no more than `maxLineBytes` of it. Lines of white
 * space alone hold nothing and are passed over.
 *
 * @throws Error if the stream fails; the signal's reason.
 */
export async function* readJsonLines(
  stream: Readable,
  signal: AbortSignal,
  maxLineBytes = MAX_LINE_BYTES,
): AsyncGenerator<InputLine, void> {
  for await (const part of readLineBytes(stream, signal, maxLineBytes)) yield parsePart(part);
}

/** readJsonLines() without looking at what a line holds; line ends are left out, but for a carriage return. */
export async function* readLineBytes(
  stream: Readable,
  signal: AbortSignal,
  maxLineBytes: number,
): AsyncGenerator<InputPart, void> {
  const part = new BoundedPart("line", maxLineBytes);
  let number = 0;
  const finish = (): InputPart | undefined => {
    number += 1;
    if (!part.holdsOnly(whiteSpace)) return part.finish(number);
    part.clear();
    return undefined;
  };
  for await (const data of readChunks(stream, signal)) {
    let start = 0;
    for (;;) {
      const end = data.indexOf(newline, start);
      if (end < 0) break;
      part.take(data.subarray(start, end));
      start = end + 1;
      const line = finish();
      if (line !== undefined) yield line;
    }
    if (start < data.byteLength) part.take(data.subarray(start));
  }
  if (part.size > 0) {
    const line = finish();
    if (line !== undefined) yield line;
  }
}

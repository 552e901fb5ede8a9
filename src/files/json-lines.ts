import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import type { Readable } from "node:stream";
import type { JsonValue } from "./bounded-json.js";
import { BoundedPart, type InputPart, parsePart } from "./bounded-part.js";
import { describeFileError, openRegularFile } from "./regular-file.js";

/** A line of input: its JSON, or why it has none. */
export type InputLine =
  | {
      readonly kind: "value";
      /** From 1 on; undefined where a line is spelled by no file. */
      readonly number: number | undefined;
      readonly value: JsonValue;
    }
  | { readonly kind: "bad"; readonly number: number; readonly error: string };

/** In bytes, the line's end left out. */
const MAX_LINE_BYTES = 2 ** 26;

/** Of a file, read at a time. */
const pieceBytes = 2 ** 18;
const newline = 0x0a;
const whiteSpace: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d]);

/** Opens what --input names: standard input for "-". @throws Error if the file cannot be read. */
export async function openInput(path: string, stdin: Readable): Promise<Readable> {
  if (path === "-") return stdin;
  const found = await stat(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  // A shell's <(…) is a pipe: its writer is there already.
  if (found.isFIFO()) return createReadStream(path);
  const { handle } = await openRegularFile(path);
  return handle.createReadStream({ highWaterMark: pieceBytes });
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
  const stop = () => stream.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    signal.throwIfAborted();
    for await (const chunk of stream as AsyncIterable<Uint8Array | string>) {
      const data = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
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
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
    stream.destroy();
  }
}

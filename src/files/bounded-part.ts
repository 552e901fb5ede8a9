import type { Readable } from "node:stream";
import { type JsonValue, parseJson } from "./bounded-json.js";

/** A line or an element as its bytes, whose memory its neighbours share, or why they could not be read. */
export type InputPart =
  | {
      readonly kind: "bytes";
      /** From 1 on. */
      readonly number: number;
      /** For errors, for instance "line 3". */
      readonly what: string;
      readonly bytes: Uint8Array;
    }
  | { readonly kind: "bad"; readonly number: number; readonly error: string };

/** A line or an element of input: its JSON, or why it has none. */
export type InputLine =
  | {
      readonly kind: "value";
      /** From 1 on; undefined where a line is spelled by no file. */
      readonly number: number | undefined;
      readonly value: JsonValue;
    }
  | { readonly kind: "bad"; readonly number: number; readonly error: string };

/** The bytes of one line or element of a stream, gathered up to a limit: what is too long is counted and let go. */
export class BoundedPart {
  #parts: Uint8Array[] = [];
  #size = 0;

  /**
   * @param name what a part is called in errors, for instance "line".
   * @param maxBytes the most that is read of one.
   */
  constructor(
    private readonly name: string,
    private readonly maxBytes: number,
  ) {}

  /** In bytes, those let go counted. */
  get size(): number {
    return this.#size;
  }

  take(bytes: Uint8Array): void {
    this.#size += bytes.byteLength;
    if (this.#size > this.maxBytes) this.#parts = [];
    else this.#parts.push(bytes);
  }

  /** Whether no more than such bytes were taken. */
  holdsOnly(bytes: ReadonlySet<number>): boolean {
    return this.#size <= this.maxBytes && this.#parts.every((part) => part.every((byte) => bytes.has(byte)));
  }

  /** Forgets what was taken. */
  clear(): void {
    this.#parts = [];
    this.#size = 0;
  }

  /** What was taken, or that it was too much; the next part begins. */
  finish(number: number): InputPart {
    const [parts, size] = [this.#parts, this.#size];
    this.clear();
    const what = `${this.name} ${number}`;
    if (size <= this.maxBytes) {
      const [only] = parts;
      return { kind: "bytes", number, what, bytes: parts.length === 1 && only ? only : Buffer.concat(parts) };
    }
    return {
      kind: "bad",
      number,
      error: `Cannot read ${what}: it has ${size} bytes, at most ${this.maxBytes} are read`,
    };
  }
}

/** A part's JSON, or why it has none: no key may stand in it twice. */
export function parsePart(part: InputPart): InputLine {
  if (part.kind === "bad") return part;
  const { number, what, bytes } = part;
  try {
    return { kind: "value", number, value: parseJson(bytes, what, { uniqueKeys: true }) };
  } catch (error) {
    return { kind: "bad", number, error: error instanceof Error ? error.message : String(error) };
  }
}

/** A stream's bytes as they come. The stream ends with its reader. @throws Error if the stream fails; the signal's reason. */
export async function* readChunks(stream: Readable, signal: AbortSignal): AsyncGenerator<Uint8Array, void> {
  const stop = () => stream.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    signal.throwIfAborted();
    for await (const chunk of stream as AsyncIterable<Uint8Array | string>) {
      yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
    }
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
    stream.destroy();
  }
}

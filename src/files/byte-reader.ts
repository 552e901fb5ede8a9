import { Buffer, isUtf8 } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { quote } from "./quote.js";
import { readFully } from "./read-range.js";

const windowBytes = 2 ** 20;

const numberBytes = { UInt8: 1, Int8: 1, UInt16LE: 2, Int16LE: 2, UInt32LE: 4, Int32LE: 4, FloatLE: 4, DoubleLE: 8 };
type NumberKind = keyof typeof numberBytes;

/**
 * Reads a file's little-endian values from its start, a window at a time, never past `limit`.
 *
 * Every take first asks `need`, so that a count or a length from the file is held against what the file can still give
 * before anything is allocated. `need` is the only step that waits: takes inside the window are plain calls.
 */
export class ByteReader {
  #window: Buffer = Buffer.alloc(0);
  /** Where the window starts in the file. */
  #windowStart = 0;
  /** The next byte, from the window's start. */
  #next = 0;

  /** The handle stays the caller's. */
  constructor(
    private readonly handle: FileHandle,
    private readonly path: string,
    /** No byte from here on is read, in bytes from the start of the file. */
    private readonly limit: number,
  ) {}

  /** The next byte's place, from the start of the file. */
  get offset(): number {
    return this.#windowStart + this.#next;
  }

  /** How many bytes can still be read. */
  get remaining(): number {
    return this.limit - this.offset;
  }

  /** Whether the next `byteLength` bytes can be taken without waiting. */
  has(byteLength: number): boolean {
    return this.#next + byteLength <= this.#window.byteLength;
  }

  /**
   * Brings the next `byteLength` bytes into the window.
   *
   * @param what the thing that is read, for the error.
   * @throws Error if the file ends before.
   */
  async need(byteLength: number, what: string): Promise<void> {
    if (this.has(byteLength)) return;
    if (!(byteLength <= this.remaining)) {
      throw new Error(
        `Cannot read ${quote(this.path)}: ${what} at byte ${this.offset} takes ${byteLength} bytes, ${this.remaining} are left`,
      );
    }
    const left = this.#window.subarray(this.#next);
    const window = Buffer.allocUnsafe(Math.min(this.remaining, Math.max(byteLength, windowBytes)));
    left.copy(window);
    await readFully(this.handle, window.subarray(left.byteLength), this.offset + left.byteLength, this.path);
    this.#windowStart += this.#next;
    this.#next = 0;
    this.#window = window;
  }

  /** The next number of a kind that Buffer reads. */
  take(kind: NumberKind): number {
    return this.#window[`read${kind}`](this.#advance(numberBytes[kind]));
  }

  /** An unsigned 64-bit number: a bigint only where a number would lose digits. */
  takeUint64(): number | bigint {
    const at = this.#advance(8);
    const value = this.#window.readUInt32LE(at + 4) * 2 ** 32 + this.#window.readUInt32LE(at);
    return Number.isSafeInteger(value) ? value : this.#window.readBigUInt64LE(at);
  }

  /** A signed 64-bit number: a bigint only where a number would lose digits. */
  takeInt64(): number | bigint {
    const at = this.#advance(8);
    const value = this.#window.readInt32LE(at + 4) * 2 ** 32 + this.#window.readUInt32LE(at);
    return Number.isSafeInteger(value) ? value : this.#window.readBigInt64LE(at);
  }

  /** A copy of the next bytes in a buffer of their own, so that typed arrays can be laid over it. */
  takeBytes(byteLength: number): ArrayBuffer {
    const at = this.#advance(byteLength);
    const bytes = new Uint8Array(byteLength);
    bytes.set(this.#window.subarray(at, at + byteLength));
    return bytes.buffer;
  }

  /** The next bytes as text; undefined if they are no UTF-8. */
  takeText(byteLength: number): string | undefined {
    const at = this.#advance(byteLength);
    const end = at + byteLength;
    let i = at;
    while (i < end && (this.#window[i] ?? 0) < 0x80) {
      i += 1;
    }
    if (i === end) return this.#window.toString("latin1", at, end);
    return isUtf8(this.#window.subarray(at, end)) ? this.#window.toString("utf8", at, end) : undefined;
  }

  /** Whether a text that is led by its length in 64 bits lies in the window, length and all. */
  hasText(): boolean {
    if (!this.has(8)) return false;
    const high = this.#window.readUInt32LE(this.#next + 4);
    return high === 0 && this.has(8 + this.#window.readUInt32LE(this.#next));
  }

  /** The place in the window of the bytes that are taken now. */
  #advance(byteLength: number): number {
    const at = this.#next;
    if (at + byteLength > this.#window.byteLength) {
      throw new RangeError(`Cannot take ${byteLength} bytes: they were not asked for with need()`);
    }
    this.#next = at + byteLength;
    return at;
  }
}

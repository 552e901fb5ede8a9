import { parseJson } from "./bounded-json.js";
import type { InputLine } from "./json-lines.js";

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

  /** What was taken as JSON, or why it is none; the next part begins. */
  finish(number: number): InputLine {
    const [bytes, size] = [Buffer.concat(this.#parts), this.#size];
    this.clear();
    const what = `${this.name} ${number}`;
    if (size > this.maxBytes) {
      return {
        kind: "bad",
        number,
        error: `Cannot read ${what}: it has ${size} bytes, at most ${this.maxBytes} are read`,
      };
    }
    try {
      return { kind: "value", number, value: parseJson(bytes, what, { uniqueKeys: true }) };
    } catch (error) {
      return { kind: "bad", number, error: error instanceof Error ? error.message : String(error) };
    }
  }
}

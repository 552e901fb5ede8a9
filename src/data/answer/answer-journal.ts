import { type FileHandle, open } from "node:fs/promises";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../../files/bounded-json.js";
import { quote } from "../../files/quote.js";
import { readFully } from "../../files/read-range.js";
import { describeWriteError } from "../../files/regular-file.js";

/** What came of one row's question. */
export type JournalEntry =
  | {
      readonly kind: "answered";
      /** The row's number, from 0 on. */
      readonly index: number;
      readonly generated: string;
      readonly finishReason: string | undefined;
    }
  | { readonly kind: "failed"; readonly index: number; readonly status: number; readonly error: string };

const formatVersion = 1;
const newline = 0x0a;
const chunkBytes = 2 ** 20;

/**
 * Answers as they come, in a file of JSON lines: settings first, then a line a question. What stands in it is never asked
 * again. A line that a killed process left half is cut off when the file is opened.
 *
 * Of the answers only their places are in memory, 16 bytes each.
 */
export class AnswerJournal implements AsyncDisposable {
  /** Where each row's line begins, in bytes. The first line is the settings', so no row's begins at 0. */
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  #size = 0;
  #writing: Promise<void> = Promise.resolve();
  #numAnswered = 0;
  #numFailed = 0;

  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
  ) {}

  /**
   * Opens the journal, or begins one.
   *
   * @param settings what decides answers: a journal of others is refused.
   * @throws Error if it cannot be read or written, is none, or is one of other settings.
   */
  static async open(path: string, settings: JsonObject): Promise<AnswerJournal> {
    // Not "a+", which writes at the end whatever the position says.
    const file = await open(path, "r+")
      .catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return open(path, "wx+");
        throw error;
      })
      .catch((error: unknown) => {
        throw describeWriteError(error, path);
      });
    const journal = new AnswerJournal(path, file);
    try {
      await journal.#readAll(settings);
      if (journal.#size === 0) await journal.#write({ journal: formatVersion, settings });
    } catch (error) {
      await file.close();
      throw error;
    }
    return journal;
  }

  /** Rows that have an answer. */
  get numAnswered(): number {
    return this.#numAnswered;
  }

  /** Rows whose question was refused. */
  get numFailed(): number {
    return this.#numFailed;
  }

  has(index: number): boolean {
    return this.#starts[index] !== undefined;
  }

  /** Writes an entry. @throws Error if it cannot be written, for instance on a full disk. */
  async append(entry: JournalEntry): Promise<void> {
    const { index } = entry;
    const line =
      entry.kind === "answered"
        ? { index, generated: entry.generated, finish_reason: entry.finishReason ?? null }
        : { index, status: entry.status, error: entry.error };
    await this.#write(line, entry);
  }

  /** @throws Error if the file cannot be read. */
  async read(index: number): Promise<JournalEntry | undefined> {
    const [start, end] = [this.#starts[index], this.#ends[index]];
    if (start === undefined || end === undefined) return undefined;
    const bytes = Buffer.alloc(end - start);
    await readFully(this.file, bytes, start, this.path);
    return parseEntry(parseJson(bytes, quote(this.path)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing.catch(() => undefined);
    await this.file.close();
  }

  /** One line after another, whoever asks first. After a failure nothing is written any more. */
  #write(line: JsonObject, entry?: JournalEntry): Promise<void> {
    this.#writing = this.#writing.then(async () => {
      const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await this.file
          .write(bytes, done, bytes.length - done, this.#size + done)
          .catch((error: unknown) => {
            throw describeWriteError(error, this.path);
          });
        done += bytesWritten;
      }
      if (entry) this.#note(entry, this.#size, this.#size + bytes.length - 1);
      this.#size += bytes.length;
    });
    return this.#writing;
  }

  #note({ kind, index }: JournalEntry, start: number, end: number): void {
    this.#starts[index] = start;
    this.#ends[index] = end;
    if (kind === "answered") this.#numAnswered += 1;
    else this.#numFailed += 1;
  }

  async #readAll(settings: JsonObject): Promise<void> {
    let rest = Buffer.alloc(0);
    let number = 0;
    for (;;) {
      const chunk = Buffer.alloc(chunkBytes);
      const { bytesRead } = await this.file.read(chunk, 0, chunk.length, this.#size + rest.length);
      if (bytesRead === 0) break;
      const bytes = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
      let start = 0;
      for (let end = bytes.indexOf(newline); end >= 0; end = bytes.indexOf(newline, start)) {
        number += 1;
        const value = parseJson(bytes.subarray(start, end), `line ${number} of ${quote(this.path)}`);
        if (number === 1) this.#agree(value, settings);
        else this.#take(value, number, this.#size + start, this.#size + end);
        start = end + 1;
      }
      rest = Buffer.from(bytes.subarray(start));
      this.#size += start;
    }
    if (rest.length > 0) await this.file.truncate(this.#size);
  }

  #take(value: JsonValue, number: number, start: number, end: number): void {
    const entry = parseEntry(value);
    if (entry === undefined || this.has(entry.index)) {
      throw new Error(`Cannot go on: line ${number} of ${quote(this.path)} is none of a journal of answers`);
    }
    this.#note(entry, start, end);
  }

  #agree(value: JsonValue, settings: JsonObject): void {
    const before = isJsonObject(value) && value.journal === formatVersion ? value.settings : undefined;
    if (!isJsonObject(before)) throw new Error(`Cannot go on: ${quote(this.path)} is no journal of answers`);
    const names = [...new Set([...Object.keys(settings), ...Object.keys(before)])];
    const shown = names
      .map((name) => [name, JSON.stringify(before[name] ?? null), JSON.stringify(settings[name] ?? null)] as const)
      .filter(([, was, is]) => was !== is)
      .map(([name, was, is]) => `${name} was ${was}, now it is ${is}`);
    if (shown.length === 0) return;
    throw new Error(`Cannot go on with ${quote(this.path)}: ${shown.join("; ")}; remove it to ask anew`);
  }
}

function parseEntry(value: JsonValue): JournalEntry | undefined {
  if (!isJsonObject(value)) return undefined;
  const { index, generated, finish_reason: reason, status, error } = value;
  if (typeof index !== "number" || !Number.isSafeInteger(index) || index < 0) return undefined;
  if (typeof generated === "string") {
    return { kind: "answered", index, generated, finishReason: typeof reason === "string" ? reason : undefined };
  }
  return typeof status === "number" && typeof error === "string" ? { kind: "failed", index, status, error } : undefined;
}

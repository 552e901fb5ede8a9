import { isJsonObjectBytes, parseJson } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { type FileState, fileState, sameState } from "../kv/file-digest.js";
import { NOT_AN_OBJECT, RowTally } from "./row-tally.js";
import { type RowPart, readRowParts } from "./rows.js";

const [newline, carriageReturn] = [0x0a, 0x0d];
/** White space, line ends and the bytes of a byte order mark. */
const edge: ReadonlySet<number> = new Set([0x20, 0x09, newline, carriageReturn, 0xef, 0xbb, 0xbf]);

/** A row that is an object, as a line of JSON with its end: the input's own bytes, unless these are several lines. */
export interface ObjectLine {
  /** Its number over all files, from 0 on; rows that could not be used are counted too. */
  readonly index: number;
  readonly line: Uint8Array;
}

/** Which rows of some files are objects, by their numbers over all files. */
export class UsableRows {
  #isUsable = new Uint8Array(4096);
  #size = 0;
  #count = 0;

  /** How many are. */
  get count(): number {
    return this.#count;
  }

  add(isUsable: boolean): void {
    if (this.#size === this.#isUsable.length) {
      const longer = new Uint8Array(2 * this.#size);
      longer.set(this.#isUsable);
      this.#isUsable = longer;
    }
    this.#isUsable[this.#size++] = isUsable ? 1 : 0;
    this.#count += isUsable ? 1 : 0;
  }

  has(index: number): boolean {
    return this.#isUsable[index] === 1;
  }
}

/**
 * The rows of files that are objects, one after another, for what passes them on as they are; the others are counted.
 *
 * @param usable what an earlier pass over the same files found: these rows are not checked again.
 * @throws Error if a file cannot be read; the signal's reason.
 */
export async function* readObjectLines(
  files: readonly string[],
  tally: RowTally,
  signal: AbortSignal,
  usable?: UsableRows,
): AsyncGenerator<ObjectLine, void> {
  for (const file of files) {
    for await (const row of readRowParts(file, signal)) {
      const index = tally.rows++;
      const { part } = row;
      if (part.kind === "bad") tally.reject(row.where, part.error);
      else if (usable?.has(index) || isObject(row, tally)) yield { index, line: lineOf(part.bytes) };
    }
  }
}

/**
 * Looks at files that are read twice. @returns throws an Error that names the file if one has changed since.
 *
 * @throws Error if one is no regular file.
 */
export async function watchFiles(files: readonly string[]): Promise<() => Promise<void>> {
  const states = await Promise.all(files.map(fileState));
  return async () => {
    for (const [i, file] of files.entries()) {
      if (sameState(await fileState(file), states[i] as FileState)) continue;
      throw new Error(`Cannot read ${quote(file)}: it changed while it was read`);
    }
  };
}

/** Adds which rows are objects. @throws Error if a file cannot be read; the signal's reason. */
export async function findUsableRows(files: readonly string[], usable: UsableRows, signal: AbortSignal): Promise<void> {
  const tally = new RowTally();
  for (const file of files) {
    for await (const row of readRowParts(file, signal)) usable.add(isObject(row, tally));
  }
}

/** Whether a row is an object; if not, it is counted. */
function isObject({ where, part }: RowPart, tally: RowTally): boolean {
  try {
    if (part.kind === "bad") throw new Error(part.error);
    if (isJsonObjectBytes(part.bytes, part.what, { uniqueKeys: true })) return true;
    tally.reject(where, NOT_AN_OBJECT);
  } catch (error) {
    tally.reject(where, error);
  }
  return false;
}

function lineOf(bytes: Uint8Array): Uint8Array {
  let [start, end] = [0, bytes.length];
  while (start < end && edge.has(bytes[start] as number)) start += 1;
  while (start < end && edge.has(bytes[end - 1] as number)) end -= 1;
  const text = bytes.subarray(start, end);
  if (text.includes(newline) || text.includes(carriageReturn)) {
    return Buffer.from(`${JSON.stringify(parseJson(text, "the row"))}\n`);
  }
  const line = Buffer.allocUnsafe(text.length + 1);
  line.set(text);
  line[text.length] = newline;
  return line;
}

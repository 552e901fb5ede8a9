import { isAscii, isUtf8 } from "node:buffer";
import { InputRangeError, isInputError } from "./input-error.js";
import { quote } from "./quote.js";
import { readFully } from "./read-range.js";
import { openRegularFile } from "./regular-file.js";

export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;

/** Keys may be anything, "__proto__" too: ask Object.hasOwn or jsonFields, never the bare key. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

export interface JsonLimits {
  /** Default 64 MiB; a text counts a byte for each of its UTF-16 units. */
  readonly maxBytes?: number;
  /** How many arrays and objects may stand inside each other; default 64. */
  readonly maxDepth?: number;
  /** Whether an object that names a key twice is an error; default false: the last one counts. */
  readonly uniqueKeys?: boolean;
  /** How many keys, arrays and objects there may be in all; default: as many as fit. Parsing a million takes half a second. */
  readonly maxKeys?: number;
}

/**
 * Parses JSON from outside: bounded in size and depth. A byte order mark at the start is dropped.
 *
 * @param what the text's origin for the error, for instance a quoted path.
 * @throws RangeError of one line if the text is too large, too deep, no UTF-8 or no JSON.
 * @example parseJson('{"a":[1]}', "the test") is { a: [1] }
 */
export function parseJson(source: string | Uint8Array, what: string, limits: JsonLimits = {}): JsonValue {
  const maxBytes = limits.maxBytes ?? defaultMaxBytes;
  const size = typeof source === "string" ? source.length : source.byteLength;
  if (size > maxBytes) {
    throw new InputRangeError(`Cannot read ${what}: it has ${size} bytes, at most ${maxBytes} are read`);
  }
  return parseText(decode(source, what), what, limits);
}

/**
 * Checks JSON as parseJson() does, without making its texts: five times as fast, for what is passed on as it is.
 *
 * @returns whether it is an object.
 * @throws Error as parseJson() does.
 */
export function isJsonObjectBytes(bytes: Uint8Array, what: string, limits: JsonLimits = {}): boolean {
  const isTooLong = bytes.byteLength > (limits.maxBytes ?? defaultMaxBytes);
  // A character spelled as \u00e9 would not be equal to itself.
  if (isTooLong || !isUtf8(bytes) || (!isAscii(bytes) && asBuffer(bytes).includes("\\u"))) {
    return isJsonObject(parseJson(bytes, what, limits));
  }
  try {
    // A character a byte: brackets, quotes and keys that are equal are the same in it.
    return isJsonObject(parseText(latin1(withoutMark(bytes)), what, limits));
  } catch (error) {
    if (!isInputError(error)) throw error;
    // The error is to quote the characters.
    return isJsonObject(parseJson(bytes, what, limits));
  }
}

function parseText(text: string, what: string, limits: JsonLimits): JsonValue {
  checkNesting(text, what, limits);
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    // The engine's message may quote the text, line ends, colours of a terminal and all.
    const says = error.message.replace(/\s+/g, " ").slice(0, 200);
    const reason = says.replace(/\p{Cc}/gu, (control) => `\\u${control.charCodeAt(0).toString(16).padStart(4, "0")}`);
    throw new InputRangeError(`Cannot read ${what}: it is no JSON, ${reason}`, { cause: error });
  }
}

/** parseJson() over a file. @throws Error if it cannot be read, or as parseJson() does. */
export async function readJson(path: string, limits: JsonLimits = {}): Promise<JsonValue> {
  const { handle, size } = await openRegularFile(path);
  try {
    const maxBytes = limits.maxBytes ?? defaultMaxBytes;
    if (size > maxBytes) {
      throw new InputRangeError(`Cannot read ${quote(path)}: it has ${size} bytes, at most ${maxBytes} are read`);
    }
    const bytes = new Uint8Array(size);
    await readFully(handle, bytes, 0, path);
    return parseJson(bytes, quote(path), limits);
  } finally {
    await handle.close();
  }
}

/** Whether a JSON value is an object, not an array and not null. */
export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const defaultMaxBytes = 2 ** 26;

/** UTF-8 or text as text, without a byte order mark. Validity is looked at apart: it is cheap, a decoder that does is not. */
function decode(source: string | Uint8Array, what: string): string {
  if (typeof source === "string") return source.startsWith("\ufeff") ? source.slice(1) : source;
  if (!isUtf8(source)) throw new InputRangeError(`Cannot read ${what}: it is not UTF-8`);
  const bytes = withoutMark(source);
  return isAscii(bytes) ? latin1(bytes) : asBuffer(bytes).toString("utf8");
}

function withoutMark(bytes: Uint8Array): Uint8Array {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
}

function latin1(bytes: Uint8Array): string {
  return asBuffer(bytes).toString("latin1");
}

/** The same memory. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const quoteUnit = 0x22;
const backslashUnit = 0x5c;

/**
 * Walks over the text's brackets and strings before it is parsed. Whether the text is JSON at all is left to the parser.
 *
 * @throws RangeError of one line if it is nested deeper or holds more keys than allowed, or an object names a key twice.
 */
export function checkNesting(text: string, what: string, limits: Omit<JsonLimits, "maxBytes">): void {
  const { maxDepth = 64, uniqueKeys = false, maxKeys = Number.POSITIVE_INFINITY } = limits;
  /** For each open bracket the keys seen in it; undefined for an array, and where keys are not looked at. */
  const open: (Set<string> | undefined)[] = [];
  const seesKeys = uniqueKeys || maxKeys < Number.POSITIVE_INFINITY;
  let numKeys = 0;
  for (let i = 0; i < text.length; i += 1) {
    switch (text.charCodeAt(i)) {
      case quoteUnit: {
        const end = endOfString(text, i);
        const keys = open.at(-1);
        if (keys !== undefined && isKey(text, end)) {
          if (uniqueKeys) addKey(keys, text.slice(i, end), what);
          numKeys += 1;
        }
        i = end - 1;
        break;
      }
      case 0x7b: // {
        open.push(seesKeys ? new Set() : undefined);
        numKeys += 1;
        break;
      case 0x5b: // [
        open.push(undefined);
        numKeys += 1;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        break;
      default:
        break;
    }
    if (open.length > maxDepth) {
      throw new InputRangeError(`Cannot read ${what}: its JSON is nested more than ${maxDepth} deep`);
    }
    if (numKeys > maxKeys) {
      throw new InputRangeError(`Cannot read ${what}: it holds over ${maxKeys} keys, lists and objects, wanted fewer`);
    }
  }
}

/** The place after the closing quote of the string that starts at `start`, or the text's end. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    // An odd number of backslashes before it makes it one of the string's own.
    let first = end;
    while (text.charCodeAt(first - 1) === backslashUnit) first -= 1;
    if ((end - first) % 2 === 0) return end + 1;
  }
  return text.length;
}

/** Whether a colon follows, over JSON's white space. */
function isKey(text: string, end: number): boolean {
  let i = end;
  while (text[i] === " " || text[i] === "\n" || text[i] === "\t" || text[i] === "\r") {
    i += 1;
  }
  return text[i] === ":";
}

/** @param literal the key as it is written, quotes and all: two spellings of one key are one key. */
function addKey(keys: Set<string>, literal: string, what: string): void {
  const key: JsonValue = literal.includes("\\") ? parseJson(literal, what) : literal.slice(1, -1);
  if (typeof key === "string") {
    if (keys.has(key)) {
      throw new InputRangeError(`Cannot read ${what}: the key ${quote(key)} stands twice in one object`);
    }
    keys.add(key);
  }
}

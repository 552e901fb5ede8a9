import { quote } from "./quote.js";

/** Named values from outside, of a JSON object or of GGUF metadata, whose types and ranges are not yet known. */
export interface Fields {
  /** Their origin for errors, for instance a quoted path. */
  readonly where: string;
  /** undefined where there is no such key; null counts as absent too. */
  get(key: string): unknown;
}

/** The own keys of an object. */
export function objectFields(where: string, object: Readonly<Record<string, unknown>>): Fields {
  return { where, get: (key) => (Object.hasOwn(object, key) ? object[key] : undefined) };
}

/** Whether the key is absent: not there, or null. */
export function isAbsent(fields: Fields, key: string): boolean {
  return (fields.get(key) ?? undefined) === undefined;
}

/** @throws Error if the key is there and no whole number in [min, max]. */
export function readInteger(
  fields: Fields,
  key: string,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): number | undefined {
  const value = fields.get(key) ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
    throw wrongValue(
      fields,
      key,
      max === Number.MAX_SAFE_INTEGER ? `a whole number of ${min} or more` : `a whole number from ${min} to ${max}`,
    );
  }
  return value;
}

/** @throws Error if the key is there and no finite number above 0. */
export function readPositive(fields: Fields, key: string): number | undefined {
  const value = fields.get(key) ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) {
    throw wrongValue(fields, key, "a number above 0");
  }
  return value;
}

/** @throws Error if the key is there and no finite number. */
export function readNumber(fields: Fields, key: string): number | undefined {
  const value = fields.get(key) ?? undefined;
  if (value === undefined || (typeof value === "number" && Number.isFinite(value))) return value;
  throw wrongValue(fields, key, "a number");
}

/** @throws Error if the key is there and neither true nor false. */
export function readBoolean(fields: Fields, key: string): boolean | undefined {
  const value = fields.get(key) ?? undefined;
  if (value === undefined || typeof value === "boolean") return value;
  throw wrongValue(fields, key, "true or false");
}

/** @throws Error if the key is there and no text, or a text with a lone surrogate. */
export function readText(fields: Fields, key: string): string | undefined {
  const value = fields.get(key) ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value !== "string" || !value.isWellFormed()) throw wrongValue(fields, key, "a text");
  return value;
}

/** @throws Error if `value` is undefined: the key is missing. */
export function required<T>(fields: Fields, key: string, value: T | undefined): T {
  if (value === undefined) throw new Error(`Cannot read ${fields.where}: ${quote(key)} is missing`);
  return value;
}

/**
 * Refuses settings that nothing reads where they could change a result. What is absent, null, or an empty list or object changes
 * nothing.
 *
 * @param unread each with its other values that change nothing.
 * @throws Error that names the first.
 */
export function refuseUnread(
  fields: Fields,
  unread: Iterable<readonly [key: string, harmless: readonly unknown[]]>,
): void {
  for (const [key, harmless] of unread) {
    const value = fields.get(key) ?? undefined;
    const isEmpty = typeof value === "object" && Object.keys(value).length === 0;
    if (value !== undefined && !isEmpty && !harmless.includes(value)) {
      throw new Error(`Cannot read ${fields.where}: ${quote(key)} changes the arithmetic and is not supported`);
    }
  }
}

/** The error for a value of the wrong type or out of range. */
export function wrongValue(fields: Fields, key: string, wanted: string): Error {
  return new Error(`Cannot read ${fields.where}: ${quote(key)} is ${show(fields.get(key))}, ${wanted} is wanted`);
}

function show(value: unknown): string {
  switch (typeof value) {
    case "string":
      return quote(value, 60);
    case "object":
      return value === null ? "null" : Array.isArray(value) || ArrayBuffer.isView(value) ? "a list" : "an object";
    default:
      return String(value);
  }
}

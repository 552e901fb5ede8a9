import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { isJsonObject, type JsonValue, parseJson } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { readFully } from "../files/read-range.js";
import { openRegularFile } from "../files/regular-file.js";
import { UsageError } from "../files/usage-error.js";
import type { Quota } from "./quotas.js";
import type { Tenant } from "./route-context.js";

/** A key of a file. */
interface KeyEntry {
  readonly key: string;
  readonly quota: Quota;
}

/** A key's holder, and how a key is recognized without keeping it. */
interface KnownKey {
  readonly tenant: Tenant;
  readonly digest: Buffer;
}

const maxFileBytes = 2 ** 20;
const maxKeys = 10_000;
const namePattern = /^[A-Za-z0-9._-]{1,64}$/;
/** What fits into an Authorization header. */
const keyPattern = /^[\x21-\x7e]{1,512}$/;
const shortKeyLength = 16;
/** Names this use of a key: what else may be made from it has nothing in common with a salt. */
const saltDomain = "block-attention tenant salt v1";

/** The server's keys: digests alone, the keys themselves are forgotten. */
export class ApiKeys {
  #known: readonly KnownKey[];

  /** @param keys by name, alone or with quotas. */
  constructor(keys: ReadonlyMap<string, string | KeyEntry>) {
    this.#known = [...keys].map(([name, entry]) => {
      const { key, quota } = typeof entry === "string" ? { key: entry, quota: {} } : entry;
      const salt = createHmac("sha256", key).update(saltDomain).digest("hex");
      return { tenant: { name, salt, quota }, digest: digestOf(key) };
    });
  }

  /** Knows the keys of a newer file from now on, and no others. @returns the names of the holders whose keys are gone. */
  replaceWith(newer: ApiKeys): readonly string[] {
    const salts = new Set(newer.#known.map(({ tenant }) => tenant.salt));
    const gone = this.#known.filter(({ tenant }) => !salts.has(tenant.salt)).map(({ tenant }) => tenant.name);
    this.#known = newer.#known;
    return gone;
  }

  get size(): number {
    return this.#known.length;
  }

  /**
   * Whose key an Authorization header carries; undefined for none. Every key is compared, each in constant time, so the
   * time tells nothing of the keys.
   */
  tenantOf(authorization: string | undefined): Tenant | undefined {
    const [, key] = /^Bearer +([\x21-\x7e]+) *$/i.exec(authorization ?? "") ?? [];
    if (key === undefined) return undefined;
    const digest = digestOf(key);
    let found: Tenant | undefined;
    for (const known of this.#known) if (timingSafeEqual(known.digest, digest)) found = known.tenant;
    return found;
  }
}

/**
 * Reads a file of keys: one a line (blank lines and those that start with # are passed over; names are key-1, key-2 … by
 * line), or a JSON object of names and keys, each a text or, with quotas, `{"key": "…", "tokens_per_minute": n, "requests": n}`: null is
 * none, also where there is a default.
 *
 * @param onWarning told of what is unwise: a file that others may read, a key that can be guessed.
 * @throws UsageError if the file cannot be read, holds no key, or one that is malformed or there twice. It never quotes a key.
 */
export async function readApiKeys(path: string, onWarning: (warning: string) => void): Promise<ApiKeys> {
  const text = await readText(path, onWarning);
  const keys = text.trimStart().startsWith("{") ? fromJson(text, path) : fromLines(text, path);
  if (keys.size === 0) throw new UsageError(`Cannot use the key file ${quote(path)}: it holds no key`);
  if (keys.size > maxKeys) {
    throw new UsageError(
      `Cannot use the key file ${quote(path)}: it holds ${keys.size} keys, at most ${maxKeys} are read`,
    );
  }
  const nameByKey = new Map<string, string>();
  for (const [name, { key }] of keys) {
    if (!namePattern.test(name)) {
      throw new UsageError(
        `Cannot use the key file ${quote(path)}: a name is ${quote(name, 80)}, wanted 1 to 64 letters, digits, "-", "_" or "."`,
      );
    }
    if (!keyPattern.test(key)) {
      throw new UsageError(
        `Cannot use the key file ${quote(path)}: the key "${name}" is not 1 to 512 visible ASCII characters without spaces`,
      );
    }
    const other = nameByKey.get(key);
    if (other !== undefined) {
      throw new UsageError(`Cannot use the key file ${quote(path)}: the keys "${other}" and "${name}" are the same`);
    }
    nameByKey.set(key, name);
    if (key.length < shortKeyLength) {
      onWarning(
        `the key "${name}" of ${quote(path)} has ${key.length} characters: under ${shortKeyLength} it can be guessed`,
      );
    }
  }
  return new ApiKeys(keys);
}

async function readText(path: string, onWarning: (warning: string) => void): Promise<string> {
  try {
    const { handle, size } = await openRegularFile(path);
    try {
      if (size > maxFileBytes) throw new Error(`it has ${size} bytes, at most ${maxFileBytes} are read`);
      const { mode } = await handle.stat();
      // Windows has no such bits.
      if (process.platform !== "win32" && (mode & 0o044) !== 0) {
        onWarning(`the key file ${quote(path)} can be read by other users of this machine: chmod 600 ends that`);
      }
      const bytes = new Uint8Array(size);
      await readFully(handle, bytes, 0, path);
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } finally {
      await handle.close();
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new UsageError(`Cannot use the key file ${quote(path)}: ${reason}`, { cause: error });
  }
}

function fromLines(text: string, path: string): Map<string, KeyEntry> {
  const keys = new Map<string, KeyEntry>();
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    const key = line.trim();
    if (key === "" || key.startsWith("#")) continue;
    if (!keyPattern.test(key)) {
      throw new UsageError(
        `Cannot use the key file ${quote(path)}: line ${i + 1} is not one key of 1 to 512 visible ASCII characters`,
      );
    }
    keys.set(`key-${keys.size + 1}`, { key, quota: {} });
  }
  return keys;
}

function fromJson(text: string, path: string): Map<string, KeyEntry> {
  let value: JsonValue;
  try {
    value = parseJson(text, quote(path), { maxDepth: 4, uniqueKeys: true });
  } catch {
    // The parser's message may quote what stands there.
    throw new UsageError(`Cannot use the key file ${quote(path)}: it starts as JSON and is none, or names a key twice`);
  }
  const entries = isJsonObject(value) ? Object.entries(value) : [];
  return new Map(
    entries.map(([name, entry]) => {
      const what = `the key file ${quote(path)}: the key ${quote(name, 80)}`;
      if (typeof entry === "string") return [name, { key: entry, quota: {} }];
      if (!isJsonObject(entry)) throw new UsageError(`Cannot use ${what} is no string and no object`);
      const { key, ...limits } = entry;
      if (typeof key !== "string") throw new UsageError(`Cannot use ${what} has no "key" that is a string`);
      return [name, { key, quota: quotaOf(limits, what) }];
    }),
  );
}

/** A quota's fields, by their names in the file. */
const quotaFields = { tokens_per_minute: "tokensPerMinute", requests: "requests" } as const;

function quotaOf(limits: Readonly<Record<string, JsonValue>>, what: string): Quota {
  const quota: { -readonly [name in keyof Quota]: Quota[name] } = {};
  for (const [field, limit] of Object.entries(limits)) {
    const name = Object.hasOwn(quotaFields, field) ? quotaFields[field as keyof typeof quotaFields] : undefined;
    // What stands there is not quoted: it may be a key.
    if (name === undefined) {
      throw new UsageError(
        `Cannot use ${what} has a field that is none of "key", "${Object.keys(quotaFields).join('", "')}"`,
      );
    }
    if (limit !== null && !(Number.isSafeInteger(limit) && (limit as number) >= 1)) {
      throw new UsageError(`Cannot use ${what} has a "${field}" that is no whole number from 1 on, and not null`);
    }
    quota[name] = limit === null ? undefined : (limit as number);
  }
  return quota;
}

function digestOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

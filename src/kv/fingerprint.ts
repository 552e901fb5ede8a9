import { randomUUID } from "node:crypto";
import { open, readdir, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { makeFolder } from "../files/outputs.js";
import { type FileState, fileState, hashFile, sameState } from "./file-digest.js";
import { hashFields } from "./hash-fields.js";

/**
 * A file that was touched less than this before it was hashed may be changed again without its time showing it, on file
 * systems that count in 2 s (FAT). Its digest is not remembered.
 */
const MIN_AGE_MS = 2_000;

/** Nobody writes the remembered digests for longer: a temporary file of that age is of a process that was killed. */
const MAX_WRITE_MS = 600_000;

export interface HashProgress {
  readonly path: string;
  /** Of all files whose digests were not remembered. */
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

export interface FingerprintOptions {
  /** Every file whose bytes decide the model's arithmetic or its ids. Their order and places do not count. */
  readonly files: readonly string[];
  /** How the weights are converted at load, for instance "keep" or "q8_0". */
  readonly weights: string;
  /** What else decides keys and values: the config as canonical text, the tokenizer's digest, an adapter. Order counts. */
  readonly extra: readonly string[];
  /** Where file digests are remembered (`userCacheDir`); undefined: nowhere. */
  readonly cacheDir: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called for each MiB or so. */
  readonly onProgress?: ((progress: HashProgress) => void) | undefined;
  /** In ms since 1970; for tests. */
  readonly now?: (() => number) | undefined;
}

/**
 * The fingerprint of a model: SHA-256 over its files' content and how it is read. Part of every block id.
 *
 * Big files are hashed once, while the event loop runs on, and remembered by path, size, times and inode.
 *
 * @returns 64 hexadecimal digits.
 * @throws Error if a file cannot be read or changes meanwhile; the signal's reason.
 */
export async function modelFingerprint(options: FingerprintOptions): Promise<string> {
  const { weights, extra, cacheDir, signal, onProgress, now = Date.now } = options;
  signal?.throwIfAborted();
  const memory = cacheDir === undefined ? undefined : new DigestMemory(cacheDir);
  const digests: string[] = [];
  const unknown: { path: string; state: FileState }[] = [];
  for (const file of options.files) {
    const state = await fileState(file);
    const path = await realpath(file);
    const known = await memory?.recall(path, state);
    if (known !== undefined) digests.push(known);
    else unknown.push({ path, state });
  }

  const bytesTotal = unknown.reduce((sum, { state }) => sum + Number(state.size), 0);
  let bytesDone = 0;
  for (const { path, state } of unknown) {
    const startMs = now();
    const onBytes = (numBytes: number): void => {
      bytesDone += numBytes;
      onProgress?.({ path, bytesDone, bytesTotal });
    };
    const digest = await hashFile(path, state, { signal, onBytes });
    digests.push(digest);
    // After each file: a cancelled start need not hash the first shards again.
    if (isQuiet(state, startMs)) await memory?.remember([{ path, state, digest }]);
  }
  return hashFields("block-attention model fingerprint", [
    weights,
    String(digests.length),
    ...digests.sort(),
    ...extra,
  ]);
}

function isQuiet(state: FileState, nowMs: number): boolean {
  const touchedMs = Math.max(Number(state.mtimeNs), Number(state.ctimeNs)) / 1e6;
  return nowMs - touchedMs > MIN_AGE_MS;
}

const MAX_REMEMBERED = 1_000;
const MAX_FILE_BYTES = 4 << 20;

const decimal = z.string().regex(/^\d{1,20}$/);
const rememberedSchema = z.object({
  version: z.literal(1),
  /** Oldest first. */
  files: z.array(
    z.object({
      path: z.string(),
      state: z.object({ size: decimal, mtimeNs: decimal, ctimeNs: decimal, device: decimal, inode: decimal }),
      digest: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
});

type Remembered = z.infer<typeof rememberedSchema>["files"];

/**
 * File digests remembered in the user's cache folder, by path and state, in one small JSON file.
 *
 * It only saves time: a missing, damaged or unwritable file means that digests are computed again. Written under a
 * temporary name and renamed, so that a reader sees one whole version; when two processes write at once, one's new
 * digests may be forgotten.
 */
class DigestMemory {
  readonly #path: string;

  /** @param cacheDir made when something is first remembered. */
  constructor(cacheDir: string) {
    this.#path = path.join(cacheDir, "file-digests.json");
  }

  /** The digest of a file in exactly that state, if it is remembered. */
  async recall(filePath: string, state: FileState): Promise<string | undefined> {
    const files = await this.#read();
    return files.find((file) => file.path === filePath && sameState(file.state, state))?.digest;
  }

  /** Remembers digests in place of what was known of those paths; beyond 1,000 files the oldest are forgotten. */
  async remember(files: Remembered): Promise<void> {
    const paths = new Set(files.map((file) => file.path));
    const others = (await this.#read()).filter((file) => !paths.has(file.path));
    const text = JSON.stringify({ version: 1, files: [...others, ...files].slice(-MAX_REMEMBERED) });
    const temporary = `${this.#path}.${randomUUID()}.tmp`;
    try {
      await makeFolder(path.dirname(this.#path));
      const file = await open(temporary, "wx", 0o600);
      try {
        await file.writeFile(text);
        // Without it, a power cut may leave the new name on an empty file.
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, this.#path);
      await this.#removeOldTemporaries();
    } catch {
      // A read-only or full disk costs time at the next start, no more.
      await rm(temporary, { force: true }).catch(() => {});
    }
  }

  /** Those of processes that were killed while they wrote. */
  async #removeOldTemporaries(): Promise<void> {
    const { dir, base } = path.parse(this.#path);
    for (const name of await readdir(dir)) {
      if (!name.startsWith(`${base}.`) || !name.endsWith(".tmp")) continue;
      const file = path.join(dir, name);
      if (Date.now() - (await stat(file)).mtimeMs > MAX_WRITE_MS) await rm(file);
    }
  }

  async #read(): Promise<Remembered> {
    try {
      const stats = await stat(this.#path);
      if (!stats.isFile() || stats.size > MAX_FILE_BYTES) return [];
      return rememberedSchema.parse(JSON.parse(await readFile(this.#path, "utf8"))).files;
    } catch {
      return [];
    }
  }
}

import { realpath } from "node:fs/promises";
import { DigestMemory } from "./digest-memory.js";
import { type FileState, fileState, hashFile } from "./file-digest.js";
import { hashFields } from "./hash-fields.js";

/**
 * A file that was touched less than this before it was hashed may be changed again without its time showing it, on file
 * systems that count in 2 s (FAT). Its digest is not remembered.
 */
const MIN_AGE_MS = 2_000;

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

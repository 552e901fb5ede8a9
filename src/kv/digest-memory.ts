import { randomUUID } from "node:crypto";
import { open, readdir, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { makeFolder } from "../files/outputs.js";
import { changedError, type FileState, fileState, sameState } from "./file-digest.js";

/**
 * A file that was touched less than this before it was hashed may be changed again without its time showing it, on file
 * systems that count in 2 s (FAT). Its digest is not remembered.
 */
const MIN_AGE_MS = 2_000;

/** Nobody writes the remembered digests for longer: a temporary file of that age is of a process that was killed. */
const MAX_WRITE_MS = 600_000;

export interface DigestedFiles {
  /** What is read of the files, and how: 64 hexadecimal digits. */
  readonly of: string;
  readonly files: readonly string[];
  /** Where digests are remembered (`userCacheDir`). */
  readonly cacheDir: string;
  /** Reads the files. */
  readonly compute: () => Promise<string>;
  /** In ms since 1970; for tests. */
  readonly now?: (() => number) | undefined;
}

/**
 * A digest of what files hold: computed once, and remembered by the files' paths, sizes, times and inodes.
 *
 * @throws Error if a file cannot be read or changes meanwhile; what `compute` throws.
 */
export async function rememberedDigest({
  of,
  files,
  cacheDir,
  compute,
  now = Date.now,
}: DigestedFiles): Promise<string> {
  const startMs = now();
  const found = await statesOf(files);
  const memory = new DigestMemory(cacheDir);
  const known = await memory.recall(of, found);
  if (known !== undefined) return known;
  const digest = await compute();
  const after = await statesOf(files);
  const changed = found.findIndex(({ state }, i) => !sameState(state, (after[i] as FoundFile).state));
  if (changed >= 0) throw changedError(files[changed] as string);
  if (found.every(({ state }) => isQuiet(state, startMs))) await memory.remember({ of, files: found, digest });
  return digest;
}

interface FoundFile {
  readonly path: string;
  readonly state: FileState;
}

function statesOf(files: readonly string[]): Promise<FoundFile[]> {
  return Promise.all(files.map(async (file) => ({ state: await fileState(file), path: await realpath(file) })));
}

function isQuiet(state: FileState, nowMs: number): boolean {
  const touchedMs = Math.max(Number(state.mtimeNs), Number(state.ctimeNs)) / 1e6;
  return nowMs - touchedMs > MIN_AGE_MS;
}

const MAX_REMEMBERED = 1_000;
const MAX_FILE_BYTES = 4 << 20;

const decimal = z.string().regex(/^\d{1,20}$/);
const digest = z.string().regex(/^[0-9a-f]{64}$/);
const rememberedSchema = z.object({
  version: z.literal(2),
  /** Oldest first. */
  digests: z.array(
    z.object({
      of: digest,
      files: z.array(
        z.object({
          path: z.string(),
          state: z.object({ size: decimal, mtimeNs: decimal, ctimeNs: decimal, device: decimal, inode: decimal }),
        }),
      ),
      digest,
    }),
  ),
});

type Remembered = z.infer<typeof rememberedSchema>["digests"][number];

/** Whether two digests are of the same, read from the same files. */
function isSame(a: Pick<Remembered, "of" | "files">, b: { readonly of: string; readonly files: readonly FoundFile[] }) {
  return (
    a.of === b.of && a.files.length === b.files.length && a.files.every(({ path }, i) => path === b.files[i]?.path)
  );
}

/**
 * Digests remembered in the user's cache folder, by what they are of and the files' states, in one small JSON file.
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

  /** The digest of that, read from files in exactly those states, if it is remembered. */
  async recall(of: string, files: readonly FoundFile[]): Promise<string | undefined> {
    const known = (await this.#read()).find((one) => isSame(one, { of, files }));
    return known?.files.every(({ state }, i) => sameState(state, (files[i] as FoundFile).state))
      ? known.digest
      : undefined;
  }

  /** Remembers a digest in place of what was known of the same; beyond 1,000 the oldest are forgotten. */
  async remember(one: Remembered): Promise<void> {
    const others = (await this.#read()).filter((other) => !isSame(other, one));
    const text = JSON.stringify({ version: 2, digests: [...others, one].slice(-MAX_REMEMBERED) });
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

  async #read(): Promise<Remembered[]> {
    try {
      const stats = await stat(this.#path);
      if (!stats.isFile() || stats.size > MAX_FILE_BYTES) return [];
      return rememberedSchema.parse(JSON.parse(await readFile(this.#path, "utf8"))).digests;
    } catch {
      return [];
    }
  }
}

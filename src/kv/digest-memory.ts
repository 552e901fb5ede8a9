import { randomUUID } from "node:crypto";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { makeFolder } from "../files/outputs.js";
import { type FileState, sameState } from "./file-digest.js";

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
export class DigestMemory {
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
    } catch {
      // A read-only or full disk costs time at the next start, no more.
      await rm(temporary, { force: true }).catch(() => {});
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

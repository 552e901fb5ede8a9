import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { lstat, open, readdir, rename, rm, stat, statfs, unlink, utimes } from "node:fs/promises";
import { basename, dirname, join, relative, resolve } from "node:path";
import { Limit } from "../files/limit.js";
import { holdLock, type Lock, Watch } from "../files/lock.js";
import { makeFolder, syncPath } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { describeFileError, describeWriteError } from "../files/regular-file.js";
import { bytesInFile } from "./block-bytes.js";
import type { BlockBytes } from "./block-codec.js";
import { type BlockId, isBlockId } from "./block-id.js";
import { FolderShare } from "./folder-share.js";

/** Files that are read or written at a time. */
const atATime = 8;
/** Other machines' clocks may go before this one's by so much. */
const clockSkewMs = 60_000;
/** What files are called while they are written: nothing else is removed of a folder that was not made for this. */
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** Of the cap, for files that turned out damaged; the oldest of them go. */
const quarantineShare = 1 / 64;

/** A file of a block, as it is found. */
export interface BlockFile {
  readonly id: BlockId;
  readonly path: string;
  /** That it takes on the file system. */
  readonly numBytes: number;
  /** Now, where its time has yet to come. */
  readonly usedMs: number;
}

/** A place of many blocks' files, to look at, whatever keeps them. */
export interface BlockPlace extends AsyncDisposable {
  /** Why nothing may be removed. */
  readonly reason: string;
  /** Paths, or names of objects, in no order. */
  files(): AsyncIterable<string>;
  read<T>(path: string, read: (bytes: BlockBytes, at: BlockFile) => Promise<T>): Promise<T | undefined>;
  /** @returns whether blocks may be removed. */
  tryToWrite(): Promise<boolean>;
  remove(path: string): Promise<void>;
}

/**
 * A folder with a file for each block, `blocks/ab/abcd….kv`. A file is there whole or not at all: it is written under another name,
 * synced, and renamed, and its folder is synced. One process, which holds `writer.lock`, forgets files, and writes within the cap;
 * others write within what it leaves them.
 */
export class BlockFolder implements BlockPlace {
  readonly path: string;
  #lock: Lock | undefined;
  readonly #watch = new Watch();
  #share: FolderShare | undefined;
  #unit = 4096;
  #reason = "";
  readonly #turns = new Limit(atATime);
  readonly #moves = new Limit(1);
  /** Folders that are there. */
  readonly #made = new Set<string>();

  private constructor(
    path: string,
    private readonly capBytes: number,
  ) {
    this.path = resolve(path);
  }

  /**
   * @param capBytes of all that it takes on its file system.
   * @throws Error for a folder that is none, or cannot be made.
   */
  static async open(path: string, capBytes: number): Promise<BlockFolder> {
    await makeFolder(path);
    const folder = await BlockFolder.openToRead(path, capBytes);
    if (!(await folder.tryToWrite())) await folder.tryToShare();
    return folder;
  }

  /** One that is there, whoever writes into it. @throws Error where there is none. */
  static async openToRead(path: string, capBytes = Number.MAX_SAFE_INTEGER): Promise<BlockFolder> {
    const found = await stat(path).catch((error: unknown) => {
      throw describeFileError(error, path);
    });
    if (!found.isDirectory()) throw new Error(`Cannot read ${quote(path)}: it is no folder`);
    const folder = new BlockFolder(path, capBytes);
    folder.#unit = await statfs(path).then(
      ({ bsize }) => bsize,
      () => 4096,
    );
    return folder;
  }

  /** Whether this process is the one that holds the lock, as far as it knows. */
  get isWriter(): boolean {
    return this.#lock?.isLost === false;
  }

  /** Whether this process writes, with the lock or within what is left to it. */
  get canWrite(): boolean {
    return this.isWriter || this.#share !== undefined;
  }

  /** Why this process does not hold the lock. */
  get reason(): string {
    return this.#reason;
  }

  /** Of the cap, for blocks and what others write: all but what lies in quarantine, and locks and claims. */
  get blockBytes(): number {
    const locks = 2 * this.#unit + Math.min(64 * this.#unit, Math.ceil(this.capBytes * quarantineShare));
    return Math.max(1, Math.floor(this.capBytes * (1 - quarantineShare)) - locks);
  }

  /** Becomes the process that holds the lock, if no other does and the folder can be written. @returns whether it does. */
  async tryToWrite(): Promise<boolean> {
    if (this.isWriter) return true;
    try {
      await this.#lock?.[Symbol.asyncDispose]();
      this.#lock = await holdLock(join(this.path, "writer.lock"), `write into ${quote(this.path)}`, this.#watch);
    } catch (error) {
      this.#reason = (error as Error).message;
      return false;
    }
    // What a process that was killed left.
    const partial = join(this.path, "partial");
    const left = (await readdir(partial).catch(() => [])).filter((name) => uuid.test(name));
    for (const name of left) await rm(join(partial, name), { force: true }).catch(() => undefined);
    await this.#leaveShare();
    return true;
  }

  /** Writes beside the process that holds the lock, if the folder can be written. */
  async tryToShare(): Promise<void> {
    if (await this.#share?.isHeld().catch(() => true)) return;
    await this.#leaveShare();
    this.#share = await FolderShare.open(this.path).catch(() => undefined);
  }

  async #leaveShare(): Promise<void> {
    const share = this.#share;
    this.#share = undefined;
    if (share === undefined) return;
    await share[Symbol.asyncDispose]();
    await rm(share.path, { recursive: true, force: true }).catch(() => undefined);
  }

  pathOf(id: BlockId): string {
    return join(this.path, "blocks", id.slice(0, 2), `${id}.kv`);
  }

  /** What so many bytes take on the file system. */
  onDisk(numBytes: number): number {
    return Math.ceil(numBytes / this.#unit) * this.#unit;
  }

  /** All files of blocks, in no order. @throws Error for a folder that is there and cannot be read. */
  async *files(): AsyncGenerator<string> {
    const root = join(this.path, "blocks");
    for (const shard of await readdir(root).catch(noneIfGone)) {
      for (const name of await readdir(join(root, shard)).catch(noneIfGone)) {
        if (/\.kv$/.test(name) && isBlockId(name.slice(0, -3))) yield join(root, shard, name);
      }
    }
  }

  /** Reads a file; undefined where it is gone, or is none. */
  async read<T>(path: string, read: (bytes: BlockBytes, at: BlockFile) => Promise<T>): Promise<T | undefined> {
    return await this.#turns.run(async () => {
      // Opening a pipe would wait for a writer for ever.
      const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)).catch(undefinedIfGone);
      if (file === undefined) return undefined;
      try {
        const found = await file.stat();
        if (!found.isFile()) {
          await this.moveAside(path);
          return undefined;
        }
        const { size, mtimeMs } = found;
        // A clock that was set wrong would have it used last for years.
        if (mtimeMs > Date.now() + clockSkewMs && this.isWriter) await this.markUsed(path);
        return await read(bytesInFile(file, size), {
          id: idOf(path),
          path,
          numBytes: this.onDisk(size),
          usedMs: Math.min(mtimeMs, Date.now()),
        });
      } finally {
        await file.close();
      }
    });
  }

  /**
   * Writes a file within the cap: whoever holds the lock has seen to that, others wait for room.
   *
   * @param numBytes at most, of all parts.
   * @throws Error where it cannot; nothing is left of it then.
   */
  async write(path: string, numBytes: number, parts: () => Promise<readonly Uint8Array[]>): Promise<void> {
    const share = this.#share;
    const writeBelow = (folder: string) => this.#turns.run(() => this.#write(path, folder, parts));
    // Looked at each time: whoever stood still for long may have lost it.
    if (this.isWriter && (await this.#lock?.isHeld())) return await writeBelow(join(this.path, "partial"));
    if (share === undefined) throw new Error(`Cannot write ${quote(path)}: another process has the folder's lock`);
    await share.write(relative(this.path, path), this.onDisk(numBytes), () => writeBelow(share.path));
  }

  async #write(path: string, folder: string, parts: () => Promise<readonly Uint8Array[]>): Promise<void> {
    const partial = join(folder, randomUUID());
    try {
      await this.#make(folder, dirname(path));
      const file = await open(partial, "wx", 0o600);
      try {
        for (const part of await parts()) await file.writeFile(part);
        await file.datasync();
      } finally {
        await file.close();
      }
      // Others may have emptied the folder meanwhile.
      await rename(partial, path).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
        this.#made.clear();
        await this.#make(dirname(path));
        await rename(partial, path);
      });
      // Windows opens no folders: there the rename itself is all that can be had.
      await syncPath(dirname(path), "r").catch(() => undefined);
    } catch (error) {
      this.#made.clear();
      await unlink(partial).catch(() => undefined);
      throw error;
    }
  }

  async #make(...folders: readonly string[]): Promise<void> {
    for (const folder of folders) {
      if (folder === this.path || this.#made.has(folder)) continue;
      await this.#make(dirname(folder));
      await makeFolder(folder);
      // Else a power cut may take it away, with the files in it.
      await syncPath(dirname(folder), "r").catch(() => undefined);
      this.#made.add(folder);
    }
  }

  /** @throws Error for a file that cannot be removed. */
  async remove(path: string): Promise<void> {
    await unlink(path)
      .catch(undefinedIfGone)
      .catch((error: unknown) => {
        throw describeWriteError(error, path);
      });
  }

  async has(path: string): Promise<boolean> {
    return await stat(path).then(
      (found) => found.isFile(),
      () => false,
    );
  }

  async markUsed(path: string): Promise<void> {
    const now = new Date();
    await utimes(path, now, now);
  }

  /** Keeps a damaged file for whoever wants to know why, within bounds. Only who writes moves it. */
  async moveAside(path: string): Promise<void> {
    // One after another: each counts what is there.
    if (this.isWriter) await this.#moves.run(() => this.#moveAside(path));
  }

  async #moveAside(path: string): Promise<void> {
    const folder = join(this.path, "quarantine");
    const most = this.capBytes * quarantineShare;
    try {
      await makeFolder(folder);
      let total = this.onDisk((await stat(path)).size);
      if (total > most) throw new Error("it is larger than all of them may be");
      // Their names begin with the time.
      for (const name of (await readdir(folder)).filter(isMovedAside).sort().reverse()) {
        total += this.onDisk((await lstat(join(folder, name))).size);
        if (total > most) await rm(join(folder, name), { recursive: true, force: true });
      }
      await rename(path, join(folder, `${Date.now()}-${basename(path)}`));
    } catch {
      await unlink(path).catch(() => undefined);
    }
  }

  /** What lies there of damaged files. @param isRemoved whether it is removed. @returns bytes. */
  async quarantined(isRemoved = false): Promise<number> {
    const folder = join(this.path, "quarantine");
    let numBytes = 0;
    for (const name of (await readdir(folder).catch(noneIfGone)).filter(isMovedAside)) {
      numBytes += this.onDisk((await lstat(join(folder, name))).size);
      if (isRemoved) await rm(join(folder, name), { recursive: true, force: true });
    }
    return numBytes;
  }

  /** Lets others write. */
  async [Symbol.asyncDispose](): Promise<void> {
    const lock = this.#lock;
    this.#lock = undefined;
    await lock?.[Symbol.asyncDispose]();
    await this.#share?.[Symbol.asyncDispose]();
    this.#share = undefined;
  }
}

/** Whether a file in quarantine was moved there: a user's own stays. */
function isMovedAside(name: string): boolean {
  return /^\d+-[0-9a-f]{64}\.kv$/.test(name);
}

/** The block that a file's or an object's name names, where it names one. */
export function idOf(path: string): BlockId {
  return path.replace(/\.kv$/, "").slice(-64) as BlockId;
}

function undefinedIfGone(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
  return undefined;
}

/** What is no folder holds no files. */
function noneIfGone(error: NodeJS.ErrnoException): string[] {
  if (error.code === "ENOTDIR") return [];
  return undefinedIfGone(error) ?? [];
}

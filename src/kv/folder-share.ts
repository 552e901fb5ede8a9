import { randomUUID } from "node:crypto";
import { type FileHandle, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Limit } from "../files/limit.js";
import { livesHere, ownName, Watch } from "../files/lock.js";
import { makeFolder } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { undefinedIfMissing } from "../files/regular-file.js";

// Each process that writes without the folder's lock has a folder of its own, `shares/NAME`:
//   notes  its name; "NUMBER BYTES PATH" before it writes a file, "NUMBER" once that is there or given up; "end" at its end
//   grant  the one with the lock writes "TOTAL LARGEST": the bytes of all notes may be as many, of one note so many
// What it is writing lies there too. The sum of grants, less what is noted as ended, is reserved within the cap.

/** Of the cap, for all shares together. */
const shareOfCap = 1 / 4;
/** Of a file, at most. */
const notesBytes = 256;
const renewMs = 5_000;
/** How long a write waits for more room: the one with the lock looks more often. */
const patienceMs = 5_000;

/** A process's own share. */
export class FolderShare implements AsyncDisposable {
  #numNotes = 0;
  #notedBytes = 0;
  #granted = 0;
  #grantedMs = 0;
  #turn: Promise<unknown> = Promise.resolve();
  /** Of the notes: a full disk may not have taken them. */
  #unwritten = "";
  readonly #noting = new Limit(1);
  readonly #renewals: NodeJS.Timeout;

  private constructor(
    readonly path: string,
    private readonly notes: FileHandle,
  ) {
    const renew = () => notes.utimes(new Date(), new Date()).catch(() => undefined);
    this.#renewals = setInterval(() => void renew(), renewMs).unref();
  }

  /** @param folder with blocks. @throws Error where it cannot be written. */
  static async open(folder: string): Promise<FolderShare> {
    const path = join(folder, "shares", randomUUID());
    await makeFolder(path);
    let share: FolderShare | undefined;
    try {
      share = new FolderShare(path, await open(join(path, "notes"), "ax", 0o600));
      await share.#note(ownName());
      return share;
    } catch (error) {
      await share?.[Symbol.asyncDispose]();
      await rm(path, { recursive: true, force: true });
      throw error;
    }
  }

  /** Whether this process may still write: its share is not taken away. */
  async isHeld(): Promise<boolean> {
    return (await stat(join(this.path, "notes")).catch(undefinedIfMissing)) !== undefined;
  }

  /**
   * Writes a file within the share.
   *
   * @param path of the file, from the folder on.
   * @throws Error where no room is set apart for it; what `write` throws.
   */
  async write(path: string, numBytes: number, write: () => Promise<void>): Promise<void> {
    // In turn, so that a large file is not for ever behind small ones.
    const startMs = performance.now();
    const withNotes = numBytes + notesBytes;
    const having = this.#turn.then(() => this.#haveRoom(path, withNotes, startMs));
    this.#turn = having.catch(() => undefined);
    await having;
    const number = this.#numNotes++;
    this.#notedBytes += withNotes;
    try {
      await this.#note(`${number} ${withNotes} ${path}`);
      await write();
    } finally {
      // Else it is noted with the next one: the room is not lost.
      await this.#note(`${number}`).catch(() => undefined);
    }
  }

  /** Lines are written in order, each whole at last. */
  async #note(line: string): Promise<void> {
    this.#unwritten += `${line}\n`;
    await this.#noting.run(async () => {
      while (this.#unwritten !== "") {
        const { bytesWritten } = await this.notes.write(this.#unwritten);
        this.#unwritten = this.#unwritten.slice(bytesWritten);
      }
    });
  }

  async #haveRoom(path: string, numBytes: number, startMs: number): Promise<void> {
    for (; ; await sleep(50)) {
      const grant = await readGrant(this.path);
      if (grant !== undefined && numBytes <= grant.total - this.#notedBytes) return;
      if (grant !== undefined && grant.total > this.#granted) {
        this.#granted = grant.total;
        this.#grantedMs = performance.now();
      }
      const waitedMs = performance.now() - Math.max(startMs, this.#grantedMs);
      if ((grant !== undefined && numBytes > grant.largest) || waitedMs > patienceMs) {
        throw new Error(`Cannot write ${quote(path)}: the process that holds the folder's lock leaves no room for it`);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#renewals);
    // The notes stay until the one with the lock has read them.
    await this.#note("end").catch(() => undefined);
    await this.notes.close();
  }
}

interface Grant {
  readonly total: number;
  readonly largest: number;
}

async function readGrant(path: string): Promise<Grant | undefined> {
  const text = await readFile(join(path, "grant"), "utf8").catch(undefinedIfMissing);
  const [total = Number.NaN, largest = Number.NaN] = (text ?? "").split(" ").map(Number);
  return total >= 0 && largest >= 0 ? { total, largest } : undefined;
}

/** What the process with the lock does about others' shares. */
export interface ShareKeeper {
  /** Of the folder, for blocks. */
  readonly capBytes: number;
  onDisk(numBytes: number): number;
  /** Sets room apart within the cap, or gives it back. @returns whether it could. */
  reserve(numBytes: number): Promise<boolean>;
  /** Counts a file that another process may have written. @param path from the folder on. */
  learn(path: string): Promise<void>;
}

/** A share as the process with the lock knows it. */
interface KnownShare {
  readonly watch: Watch;
  /** Of its notes, what was read. */
  readBytes: number;
  name: string;
  rest: string;
  hasEnded: boolean;
  readonly begun: Map<string, { readonly numBytes: number; readonly path: string }>;
  endedBytes: number;
  granted: number;
  /** Of the cap. */
  reserved: number;
}

/** The shares of a folder's other processes, in the one that holds its lock. */
export class SharedSpace {
  readonly #shares = new Map<string, KnownShare>();

  constructor(
    private readonly folder: string,
    private readonly keeper: ShareKeeper,
  ) {}

  /** Whether other processes write. */
  get isShared(): boolean {
    return this.#shares.size > 0;
  }

  /** Reserves what other processes were granted, by another one perhaps, and learns what they have written. */
  async meet(): Promise<readonly (readonly [name: string, share: KnownShare, path: string])[]> {
    const root = join(this.folder, "shares");
    const names = (await readdir(root).catch(undefinedIfMissing)) ?? [];
    const met: [string, KnownShare, string][] = [];
    for (const name of new Set([...names, ...this.#shares.keys()])) {
      const path = join(root, name);
      const share = this.#shares.get(name) ?? (await this.#newShare(name, path));
      await this.#read(share, path);
      met.push([name, share, path]);
    }
    return met;
  }

  /** Learns what others have written, ends the shares of those that are gone, and gives the others room for more. */
  async tend(): Promise<void> {
    for (const [name, share, path] of await this.meet()) {
      // Its name is the first that it writes.
      const hasDied = share.name !== "" && (await livesHere(share.name)) === false;
      const isGone = share.hasEnded || hasDied || (await share.watch.isStale(join(path, "notes")));
      if (isGone) await this.#end(name, share, path);
      else await this.#give(share, path);
    }
  }

  /** Gives back all that is reserved: another process has the lock. */
  async forget(): Promise<void> {
    for (const { reserved } of this.#shares.values()) await this.keeper.reserve(-reserved);
    this.#shares.clear();
  }

  async #newShare(name: string, path: string): Promise<KnownShare> {
    const granted = (await readGrant(path))?.total ?? 0;
    const share: KnownShare = {
      ...{ watch: new Watch(), readBytes: 0, name: "", rest: "", hasEnded: false, begun: new Map() },
      ...{ endedBytes: 0, granted, reserved: 0 },
    };
    this.#shares.set(name, share);
    return share;
  }

  async #read(share: KnownShare, path: string): Promise<void> {
    const notes = await open(join(path, "notes")).catch(undefinedIfMissing);
    if (notes === undefined) return;
    let text = "";
    try {
      const size = (await notes.stat()).size - share.readBytes;
      if (size <= 0) return;
      const { buffer, bytesRead } = await notes.read(Buffer.alloc(size), 0, size, share.readBytes);
      text = buffer.toString("latin1", 0, bytesRead);
    } finally {
      await notes.close();
    }
    share.readBytes += text.length;
    const lines = (share.rest + text).split("\n");
    share.rest = lines.pop() as string;
    if (share.name === "") share.name = lines.shift() ?? "";
    for (const line of lines) {
      const [number = "", numBytes, ...rest] = line.split(" ");
      const begun = share.begun.get(number);
      if (number === "end") share.hasEnded = true;
      if (numBytes !== undefined) share.begun.set(number, { numBytes: Number(numBytes), path: rest.join(" ") });
      else if (begun !== undefined) {
        share.begun.delete(number);
        await this.keeper.learn(begun.path);
        share.endedBytes += begun.numBytes;
      }
    }
    await this.#reserve(share);
  }

  /** What may yet be written, the notes, of which there are some more by now, and two files of the grant. */
  async #reserve(share: KnownShare, granted = share.granted): Promise<boolean> {
    const files = this.keeper.onDisk(share.readBytes) + 3 * this.keeper.onDisk(1);
    const wanted = granted - share.endedBytes + files;
    if (!(await this.keeper.reserve(wanted - share.reserved))) return false;
    share.reserved = wanted;
    return true;
  }

  async #give(share: KnownShare, path: string): Promise<void> {
    const largest = Math.floor((this.keeper.capBytes * shareOfCap) / this.#shares.size);
    const total = share.endedBytes + largest;
    if (total <= share.granted || !(await this.#reserve(share, total))) return;
    const partial = join(path, "grant.partial");
    await writeFile(partial, `${total} ${largest}`, { mode: 0o600 });
    await rename(partial, join(path, "grant"));
    share.granted = total;
  }

  async #end(name: string, share: KnownShare, path: string): Promise<void> {
    // First what lets it write: it may only have stood still.
    await rm(join(path, "grant"), { force: true });
    await rm(path, { recursive: true, force: true });
    for (const begun of share.begun.values()) await this.keeper.learn(begun.path);
    await this.keeper.reserve(-share.reserved);
    this.#shares.delete(name);
  }
}

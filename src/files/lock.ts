import { randomUUID } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { quote } from "./quote.js";
import { describeWriteError, undefinedIfMissing } from "./regular-file.js";

/** How often a holder gives its lock a new time. */
const renewMs = 5_000;
/** A lock whose time stays the same for so long is nobody's. Longer than a busy holder needs for a renewal. */
const leaseMs = 30_000;

/** A lock file that this process holds. */
export interface Lock extends AsyncDisposable {
  /** Whether it was taken away, as far as is known: it is looked at now and then. */
  readonly isLost: boolean;
  /** Looks whether it is still this process's. @throws Error where it cannot be read. */
  isHeld(): Promise<boolean>;
}

/** Sees whether a file changes, by this process's own clock: others' clocks may be set otherwise. */
export class Watch {
  #state = "";
  #sinceMs = 0;

  /** @returns for how long the file has been as it is, in milliseconds. */
  async look(path: string): Promise<number> {
    const found = await stat(path, { bigint: true }).catch(undefinedIfMissing);
    const state = `${found?.ino} ${found?.size} ${found?.mtimeNs}`;
    if (state !== this.#state) this.#sinceMs = performance.now();
    this.#state = state;
    return performance.now() - this.#sinceMs;
  }

  async isStale(path: string): Promise<boolean> {
    return (await this.look(path)) > leaseMs;
  }
}

/** Names this process, where its number means something, and when it started: a number may come again. */
export function ownName(): string {
  return `${process.pid} ${Math.round(performance.timeOrigin)} ${placeOfNumbers()}`;
}

/** Where processes have numbers of their own: a start of a machine, and on Linux a container in it. */
function placeOfNumbers(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot}/${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return hostname().replaceAll(" ", "-");
  }
}

/** Of a process by its `ownName()`, whether it lives; undefined where this one cannot know. */
export async function livesHere(name: string): Promise<boolean | undefined> {
  const [pid, startedMs, place = placeOfNumbers()] = name.split(" ");
  if (!(Number(pid) > 0)) return false;
  if (place !== placeOfNumbers()) return undefined;
  if (Number(pid) === process.pid) return startedMs === ownName().split(" ")[1];
  return await isAlive(Number(pid));
}

/**
 * Holds a lock file for this process, and renews its time meanwhile; what a process that is gone left is taken over.
 *
 * @param what is done under it, for the error: for instance `write "a.jsonl"`.
 * @param watch of somebody who asks again and again: a lock of another machine or container, whose processes cannot be asked for,
 * is taken over once it has not been renewed for half a minute.
 * @throws Error if another process holds it, or it cannot be written.
 */
export async function holdLock(path: string, what: string, watch?: Watch): Promise<Lock> {
  const own = `${ownName()} ${randomUUID()}`;
  for (let attempt = 0; ; attempt++) {
    try {
      await writeFile(path, `${own}\n`, { flag: "wx" });
      return new HeldLock(path, own);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 9) {
        // On a full disk it is there, and empty.
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") await rm(path, { force: true });
        throw describeWriteError(error, path);
      }
      const holder = (await readFile(path, "utf8").catch(undefinedIfMissing))?.trim() ?? "";
      // Made just now, perhaps, by one that has yet to write its name.
      if (holder === "" && attempt < 6) {
        await sleep(50);
        continue;
      }
      const lives = await livesHere(holder);
      if (lives !== false && (await watch?.isStale(path)) !== true) {
        const pid = holder.split(" ")[0];
        const where = lives === undefined ? ", on another machine or in another container" : "";
        throw new Error(`Cannot ${what}: process ${pid}${where} does; if that is none of ours, remove ${quote(path)}`);
      }
      await takeAway(path, holder);
    }
  }
}

class HeldLock implements Lock {
  isLost = false;
  readonly #renewals: NodeJS.Timeout;

  constructor(
    private readonly path: string,
    private readonly own: string,
  ) {
    const renew = async () => {
      const now = new Date();
      if (await this.isHeld()) await utimes(path, now, now);
    };
    this.#renewals = setInterval(() => void renew().catch(() => undefined), renewMs).unref();
  }

  async isHeld(): Promise<boolean> {
    const holder = await readFile(this.path, "utf8").catch(undefinedIfMissing);
    if (holder?.trim() !== this.own) this.isLost = true;
    return !this.isLost;
  }

  /** What others have taken, after somebody removed the file or the folder around it, stays theirs. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#renewals);
    if (await this.isHeld().catch(() => false)) await rm(this.path, { force: true });
  }
}

/** Removes what a process that is gone left, if it is still that: of those that start together, each may find it, and one have it. */
async function takeAway(path: string, holder: string): Promise<void> {
  const turn = `${path}.turn`;
  try {
    await writeFile(turn, "", { flag: "wx" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw describeWriteError(error, path);
    // Held for two calls, unless its process was killed amid them.
    const found = await stat(turn).catch(() => undefined);
    if (found !== undefined && Date.now() - found.mtimeMs > 5_000) await rm(turn, { force: true });
    await sleep(20);
    return;
  }
  try {
    const now = await readFile(path, "utf8").catch(undefinedIfMissing);
    if (now?.trim() === holder) await rm(path, { force: true });
  } finally {
    await rm(turn, { force: true });
  }
}

async function isAlive(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  // Linux keeps what has ended, and takes signals for it, until it is waited for; in a container that may be never.
  return !/\) Z /.test(await readFile(`/proc/${pid}/stat`, "latin1").catch(() => ""));
}

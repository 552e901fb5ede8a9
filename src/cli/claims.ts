import { createHash } from "node:crypto";
import { readdir, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { PassageInput } from "../blocks/passage.js";
import { holdLock, Watch } from "../files/lock.js";
import { makeFolder } from "../files/outputs.js";
import { undefinedIfMissing } from "../files/regular-file.js";

const claimsFolder = "claims";

const nothing: AsyncDisposable = { [Symbol.asyncDispose]: async () => undefined };

/** Which passages each of several processes encodes into one folder: a lock file for those that one of them encodes now. */
export class Claims {
  readonly #watches = new Map<string, Watch>();

  /** @param folder none: nothing is shared. @param rule all that makes blocks of passages. */
  constructor(
    private readonly folder: string | undefined,
    private readonly rule: string,
  ) {}

  /**
   * @param waiting waits until no other process encodes them.
   * @returns undefined where another process encodes them now.
   */
  async claim(passages: readonly PassageInput[], waiting?: AbortSignal): Promise<AsyncDisposable | undefined> {
    if (this.folder === undefined) return nothing;
    const text = JSON.stringify([this.rule, passages]);
    const path = join(this.folder, claimsFolder, createHash("sha256").update(text).digest("hex"));
    const watch = this.#watches.get(path) ?? new Watch();
    this.#watches.set(path, watch);
    for (let numTries = 0; ; numTries++) {
      try {
        await makeFolder(dirname(path));
        const lock = await holdLock(path, "encode these passages", watch);
        this.#watches.delete(path);
        return lock;
      } catch {
        // In a folder that cannot be written nobody shares anything.
        const isHeld = (await stat(path).catch(() => undefined)) !== undefined;
        if (!isHeld && numTries > 2) return nothing;
        if (isHeld && waiting === undefined) return undefined;
        await sleep(isHeld ? 500 : 20, undefined, { signal: waiting });
      }
    }
  }
}

/** Removes the claims of processes that were killed, and nothing else. @param folder of a store. */
export async function removeClaims(folder: string): Promise<void> {
  const path = join(folder, claimsFolder);
  for (const name of (await readdir(path).catch(undefinedIfMissing)) ?? []) {
    if (/^[0-9a-f]{64}(\.|$)/.test(name)) await rm(join(path, name), { force: true });
  }
  // It stays where it holds anything else.
  await rmdir(path).catch(() => undefined);
}

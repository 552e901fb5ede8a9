import { readdir, readFile, stat, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Limit } from "../files/limit.js";
import { syncPath } from "../files/outputs.js";
import { describeWriteError, undefinedIfMissing } from "../files/regular-file.js";
import { BlockKeys, openText, sealText } from "./block-cipher.js";
import type { BlockFolder } from "./block-folder.js";
import type { ListedTexts } from "./documents.js";

export const documentsFolder = "documents";
/** Of the cap: when others have written so much, all are counted anew. */
const recountShare = 1 / 64;

/** Texts in a folder of blocks, below `documents/`, within its cap. */
export class FolderTexts implements ListedTexts {
  /** Of the cap, in bytes. */
  #counted = 0;
  /** All that was ever given back. */
  #freed = 0;
  /** What others have written since all were counted. It may have taken the place of older texts, and they may have deleted some. */
  #fromOthers = 0;
  readonly #counts = new Limit(1);

  /**
   * @param reserve room within the cap, or gives it back; where this process holds the folder's lock.
   * @param keys of owners, the first parts of names, that texts are encrypted with.
   */
  constructor(
    private readonly folder: BlockFolder,
    private readonly reserve: (numBytes: number) => Promise<boolean>,
    private readonly keys: BlockKeys = BlockKeys.none(),
  ) {}

  async put(name: string, text: string): Promise<void> {
    const bytes = await sealText(this.keys, name, text);
    const path = this.#pathOf(name);
    const numBytes = this.folder.onDisk(bytes.length);
    const before = await this.#sizeOf(name);
    const { isWriter } = this.folder;
    if (isWriter && !(await this.#count(numBytes))) throw new Error("Cannot keep a document: its store is full");
    try {
      await this.folder.write(path, bytes.length, async () => [bytes]);
    } catch (error) {
      if (isWriter) await this.#count(-numBytes);
      throw error;
    }
    if (isWriter) await this.#count(-before);
  }

  async get(name: string): Promise<string | undefined> {
    const bytes = await readFile(this.#pathOf(name)).catch(undefinedIfMissing);
    return bytes && (await openText(this.keys, name, bytes));
  }

  async delete(name: string): Promise<void> {
    const path = this.#pathOf(name);
    const before = await this.#sizeOf(name);
    await unlink(path)
      .catch(undefinedIfMissing)
      .catch((error: unknown) => {
        throw describeWriteError(error, path);
      });
    await syncPath(dirname(path), "r").catch(() => undefined);
    if (this.folder.isWriter) await this.#count(-before);
  }

  async *list(folder: string): AsyncGenerator<string> {
    const names = (await readdir(this.#pathOf(folder)).catch(undefinedIfMissing)) ?? [];
    for (const name of names) if (name.endsWith(".json")) yield `${folder}/${name}`;
  }

  /** Owners' names. */
  async owners(): Promise<readonly string[]> {
    return (await readdir(this.#pathOf("")).catch(undefinedIfMissing)) ?? [];
  }

  /** Counts all of them anew: others may have had the lock. */
  countAll(): Promise<void> {
    return this.#counts.run(async () => {
      const [counted, freed] = [this.#counted, this.#freed];
      this.#fromOthers = 0;
      let numBytes = 0;
      for (const owner of await this.owners()) {
        for await (const name of this.list(owner)) numBytes += await this.#sizeOf(name);
      }
      // What changed meanwhile may have been seen or not: rather too much is counted.
      await this.#count(numBytes + this.#freed - freed - counted);
    });
  }

  /** Counts one that another process has written. */
  async countOne(name: string): Promise<void> {
    const numBytes = await this.#sizeOf(name);
    await this.#count(numBytes);
    this.#fromOthers += numBytes;
    // Beside the rest: who writes waits for no count of very many.
    const isMuch = this.#fromOthers > this.folder.blockBytes * recountShare;
    if (isMuch) void this.countAll().catch(() => undefined);
  }

  async #count(change: number): Promise<boolean> {
    if (!(await this.reserve(change))) return false;
    this.#counted += change;
    this.#freed += Math.max(0, -change);
    return true;
  }

  async #sizeOf(name: string): Promise<number> {
    return this.folder.onDisk((await stat(this.#pathOf(name)).catch(undefinedIfMissing))?.size ?? 0);
  }

  #pathOf(name: string): string {
    return join(this.folder.path, documentsFolder, name);
  }
}

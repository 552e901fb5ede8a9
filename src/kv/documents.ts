import { createHash } from "node:crypto";
import { Limit } from "../files/limit.js";
import { type BlockId, ownerName } from "./block-id.js";

/** Small texts by name, each there whole or not at all: what a medium needs to keep an index of documents. */
export interface NamedTexts {
  /** Resolves once it outlives the process, where anything does. @throws Error where it cannot be kept. */
  put(name: string, text: string): Promise<void>;
  get(name: string): Promise<string | undefined>;
  /** Resolves once it stays away. @throws Error where it cannot be removed. */
  delete(name: string): Promise<void>;
  /** The names in a folder of names, in no order. */
  list(folder: string): AsyncIterable<string>;
}

/** Those of all owners. */
export interface ListedTexts extends NamedTexts {
  /** Owners' names: the first parts of texts'. */
  owners(): Promise<readonly string[]>;
}

/** What is kept of a document: whatever passages have its id. */
export interface DocumentEntry {
  readonly id: string | number;
  readonly metadata?: Readonly<Record<string, unknown>> | undefined;
  /** Of its passages' titles and texts: the same document has the same. */
  readonly digest: string;
  readonly blocks: readonly DocumentBlock[];
}

/** A document as its owner sees it. */
export interface DocumentInfo extends Pick<DocumentEntry, "id" | "metadata"> {
  /** Its passages' blocks, as they were told; some may have been evicted. */
  readonly blocks: readonly Pick<DocumentBlock, "id" | "tokens">[];
}

export interface DocumentBlock {
  readonly id: BlockId;
  readonly tokens: number;
  /** `passageName()` of its text: all that saw it is found by that. */
  readonly name: string;
}

/**
 * Which passages' blocks are to be forgotten, with all that saw them.
 * @param ids those of them that are known: what lists nothing finds them alone.
 */
export type Forget = (names: ReadonlySet<string>, owner: string, ids: readonly BlockId[]) => Promise<void>;

/**
 * The documents of each owner, and their blocks. A document that is replaced or deleted takes its blocks with it, unless another
 * of its owner's has them too.
 *
 * An entry goes after its blocks: what was interrupted is done again.
 */
export class Documents {
  /** What one call forgets another may be about to keep. */
  readonly #turns = new Limit(1);

  /** @param nameOwner names an owner where others may read it; they are given by name already where it changes nothing. */
  constructor(
    private readonly texts: NamedTexts,
    private readonly forget: Forget,
    private readonly nameOwner: (owner: string) => string = ownerName,
  ) {}

  /**
   * Keeps documents, in place of those of their ids. Other blocks of the same document are added: of another model or repair.
   * @throws Error where that failed: entries are the old ones then, or the new ones.
   */
  put(owner: string, entries: readonly DocumentEntry[]): Promise<void> {
    return this.#turns.run(() => this.#put(owner, entries));
  }

  async #put(owner: string, entries: readonly DocumentEntry[]): Promise<void> {
    const old = await Promise.all(entries.map(({ id }) => this.#get(this.#nameOf(owner, id))));
    const replaced = old.filter((one, i) => one !== undefined && one.digest !== entries[i]?.digest);
    await this.#forgetBlocks(owner, replaced as DocumentEntry[], entries);
    const written = entries.map(async (entry, i) => {
      const text = JSON.stringify(mergedEntry(old[i], entry));
      // Corpora are encoded again to go on, or to be sure: most is there.
      if (text !== JSON.stringify(old[i])) await this.texts.put(this.#nameOf(owner, entry.id), text);
    });
    await Promise.all(written);
  }

  /** @returns whether there was one. @throws Error where it, or a block of it, is still there. */
  delete(owner: string, id: string | number): Promise<boolean> {
    return this.#turns.run(() => this.#delete(owner, id));
  }

  async #delete(owner: string, id: string | number): Promise<boolean> {
    const name = this.#nameOf(owner, id);
    const entry = await this.#get(name);
    if (entry === undefined) return false;
    await this.#forgetBlocks(owner, [entry], []);
    await this.texts.delete(name);
    return true;
  }

  /** Some documents of an owner, in an order of their own. @param after the id of the last one that is known. */
  async list(owner: string, limit: number, after?: string | number): Promise<readonly DocumentEntry[]> {
    const start = after === undefined ? "" : this.#nameOf(owner, after);
    const names: string[] = [];
    for await (const name of this.texts.list(this.nameOwner(owner))) if (name > start) names.push(name);
    const found: DocumentEntry[] = [];
    for (const name of names.sort()) {
      const entry = await this.#get(name);
      if (entry !== undefined) found.push(entry);
      if (found.length === limit) break;
    }
    return found;
  }

  /** Forgets the blocks of entries that no other document has. @param kept those that take their place. */
  async #forgetBlocks(owner: string, gone: readonly DocumentEntry[], kept: readonly DocumentEntry[]): Promise<void> {
    const blocks = gone.flatMap((entry) => entry.blocks);
    const names = new Set(blocks.map(({ name }) => name));
    const keep = ({ blocks }: DocumentEntry) => {
      for (const { name } of blocks) names.delete(name);
    };
    for (const entry of kept) keep(entry);
    if (names.size === 0) return;
    const own = new Set([...gone, ...kept].map(({ id }) => this.#nameOf(owner, id)));
    for await (const name of this.texts.list(this.nameOwner(owner))) {
      const entry = own.has(name) ? undefined : await this.#get(name);
      if (entry !== undefined) keep(entry);
    }
    const ids = blocks.flatMap(({ id, name }) => (names.has(name) ? [id] : []));
    if (names.size > 0) await this.forget(names, owner, ids);
  }

  /** "7" and 7 are one document: paths and flags know texts alone. */
  #nameOf(owner: string, id: string | number): string {
    return `${this.nameOwner(owner)}/${createHash("sha256").update(String(id)).digest("hex")}.json`;
  }

  /** What is damaged is none. */
  async #get(name: string): Promise<DocumentEntry | undefined> {
    return readEntry(await this.texts.get(name));
  }
}

export function readEntry(text: string | undefined): DocumentEntry | undefined {
  try {
    const entry = JSON.parse(text ?? "null") as DocumentEntry | null;
    return entry?.id !== undefined && Array.isArray(entry.blocks) ? entry : undefined;
  } catch {
    return undefined;
  }
}

/** A document as it is now, with the blocks that it has already where it is the same. */
export function mergedEntry(old: DocumentEntry | undefined, entry: DocumentEntry): DocumentEntry {
  const before = old?.digest === entry.digest ? old.blocks : [];
  const blocks = new Map([...before, ...entry.blocks].map((block) => [block.id, block]));
  return { ...entry, blocks: [...blocks.values()] };
}

/** Texts in memory: of so many bytes, the oldest go first. */
export class MemoryTexts implements NamedTexts {
  readonly #texts = new Map<string, string>();
  #numBytes = 0;

  constructor(private readonly capBytes = 2 ** 26) {}

  async put(name: string, text: string): Promise<void> {
    await this.delete(name);
    this.#texts.set(name, text);
    this.#numBytes += text.length;
    for (const oldest of this.#texts.keys()) {
      if (this.#numBytes <= this.capBytes) break;
      await this.delete(oldest);
    }
  }

  async get(name: string): Promise<string | undefined> {
    return this.#texts.get(name);
  }

  async delete(name: string): Promise<void> {
    this.#numBytes -= this.#texts.get(name)?.length ?? 0;
    this.#texts.delete(name);
  }

  async *list(folder: string): AsyncGenerator<string> {
    for (const name of [...this.#texts.keys()]) if (name.startsWith(`${folder}/`)) yield name;
  }
}

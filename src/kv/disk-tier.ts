import { stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { BlockKeys } from "./block-cipher.js";
import { type BlockBytes, BlockCodecError, type BlockCodecFault } from "./block-codec.js";
import { type BlockFile, type BlockFolder, idOf } from "./block-folder.js";
import type { BlockFileFormat } from "./block-format.js";
import type { BlockId } from "./block-id.js";
import type { BlockKV, BlockKVShape, BlockMemory } from "./block-kv.js";
import type { BlockRequest } from "./block-store.js";
import { SharedSpace } from "./folder-share.js";
import { documentsFolder, FolderTexts } from "./folder-texts.js";
import { idsWith } from "./ids-with.js";
import { LowerTier } from "./lower-tier.js";
import type { FoundBlock, SavedBlock, TierMedium } from "./tier-medium.js";

const othersFaults: ReadonlySet<BlockCodecFault> = new Set(["producer", "compute", "pairs", "key"]);
const otherFormats: ReadonlySet<BlockCodecFault> = new Set(["version", "requires", "key"]);
/** Shapes and owners that are kept once. */
const maxShared = 100_000;
const noShape = { numLayers: 0, numKvHeads: 0, headSize: 0, numTokens: 0, type: "f16" } as const;

/** How often the one with the lock looks after others' shares, and for others; others try for the lock, and uses are noted. */
const [tendMs, meetMs, tryMs, noteMs] = [100, 500, 2_000, 30_000];

/** Of a file whose block cannot be told. */
export function noRequest(id: BlockId): BlockRequest {
  return { id, shape: noShape, owner: "", tokenIds: new Int32Array(), isFromFile: true };
}

/**
 * A tier of blocks in a folder. It finds what others have put there at once, and writes when it has looked at all files: the process
 * that holds the folder's lock within the cap, others within what that one leaves them.
 */
export class DiskTier<M extends BlockMemory> implements AsyncDisposable {
  readonly tier: LowerTier<M>;
  readonly #folder: BlockFolder;
  readonly #format: BlockFileFormat<M>;
  readonly #ending = new AbortController();
  readonly #rounds: NodeJS.Timeout;
  readonly #others: SharedSpace;
  /** The index of documents beside the blocks. */
  readonly texts: FolderTexts;
  #round: Promise<void>;
  #numRounds = 0;
  #isInRound = false;
  /** Whether this process holds the lock and has looked at all files since it does. */
  #isKnown = false;
  readonly #shared = new SharedParts();

  /**
   * @param folder its own from then on.
   * @param keys that the format's files and documents' entries are encrypted with.
   */
  constructor(folder: BlockFolder, format: BlockFileFormat<M>, keys = BlockKeys.none()) {
    this.#folder = folder;
    this.#format = format;
    const medium: TierMedium<M> = {
      name: "disk",
      numBytes: (block, request) => folder.onDisk(format.numBytes(block, request)),
      save: async (block, request) => {
        const path = folder.pathOf(request.id);
        await folder.write(path, format.numBytes(block, request), () => format.encode(block, request));
        return new SavedFile(folder, format, request.id);
      },
      lookUp: async (id) => await folder.read(folder.pathOf(id), (bytes, at) => this.#found(bytes, at)),
      idsWith: (names, owner) => idsWith(this.#heads(), names, owner),
      knowsAll: () => this.#isKnown && folder.isWriter && !this.#others.isShared,
    };
    const capBytes = folder.blockBytes;
    this.tier = new LowerTier<M>({ capBytes, medium, isLasting: true, isReadOnly: true });
    this.#others = new SharedSpace(folder.path, {
      capBytes,
      onDisk: (numBytes) => folder.onDisk(numBytes),
      reserve: (numBytes) => this.tier.reserve(numBytes),
      learn: async (path) => {
        const name = relative(documentsFolder, path);
        if (!name.startsWith("..")) return await this.texts.countOne(name);
        const found = await folder.read(join(folder.path, path), (file, at) => this.#found(file, at));
        if (found !== undefined) this.tier.restore(found);
      },
    });
    this.texts = new FolderTexts(folder, (numBytes) => this.tier.reserve(numBytes), keys);
    this.#round = this.#learn();
    this.#rounds = setInterval(() => {
      if (this.#isInRound) return;
      this.#isInRound = true;
      this.#round = this.#round
        .then(() => this.#nextRound())
        .finally(() => {
          this.#isInRound = false;
        });
    }, tendMs).unref();
  }

  /** Resolves once all files have been looked at. */
  get known(): Promise<void> {
    return this.#round;
  }

  /** After the store has ended, which waits for what is being written. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#rounds);
    this.#ending.abort(new Error("Cannot look at files: the store ends"));
    await this.#round;
    await this.#folder[Symbol.asyncDispose]();
  }

  async #nextRound(): Promise<void> {
    this.#numRounds += 1;
    const isTime = (everyMs: number) => this.#numRounds % (everyMs / tendMs) === 0;
    if (isTime(noteMs)) await this.tier.noteUse();
    if (this.#isKnown && this.#folder.isWriter) {
      if (this.#others.isShared || isTime(meetMs)) await this.#others.tend().catch(() => undefined);
    } else if (isTime(tryMs)) await this.#tryToWrite();
  }

  /** One that had the lock may have lost it. */
  async #tryToWrite(): Promise<void> {
    if (this.#isKnown) await this.#others.forget();
    this.#isKnown = false;
    if (await this.#folder.tryToWrite()) await this.#learn();
    else await this.#folder.tryToShare();
  }

  /** Looks at all files; then the tier writes. Where some could not be looked at it does not yet: the cap is over all. */
  async #learn(): Promise<void> {
    await this.#lookAtAll().catch(() => undefined);
  }

  /** Those that were used least recently first. */
  async #lookAtAll(): Promise<void> {
    const gone = new Set(this.tier.ids);
    // Beside the rest: blocks that come before the tier writes are kept in memory alone.
    const isWriter = this.#folder.isWriter;
    const counting = isWriter ? Promise.all([this.texts.countAll(), this.#others.meet()]) : undefined;
    counting?.catch(() => undefined);
    const all: { readonly found: FoundBlock<M>; readonly usedMs: number }[] = [];
    const reads: Promise<void>[] = [];
    for await (const path of this.#folder.files()) {
      if (this.#ending.signal.aborted) return;
      gone.delete(idOf(path));
      const read = this.#folder.read(path, async (bytes, at) => {
        const found = await this.#found(bytes, at);
        if (found !== undefined) all.push({ found, usedMs: at.usedMs });
      });
      const unread = async () => {
        // It takes its room all the same.
        const { size, mtimeMs } = await stat(path);
        const numBytes = this.#folder.onDisk(size);
        all.push({ found: this.#foundAs(noRequest(idOf(path)), numBytes), usedMs: mtimeMs });
      };
      reads.push(read.catch(unread).catch(() => undefined));
      if (reads.length % 256 === 0) await Promise.all(reads.splice(0));
    }
    await Promise.all(reads);
    if (this.#ending.signal.aborted) return;
    for (const id of gone) this.tier.drop(id);
    for (const { found } of all.sort((a, b) => a.usedMs - b.usedMs)) this.tier.restore(found);
    await counting;
    this.#isKnown = isWriter && this.#folder.isWriter;
    if (this.#folder.canWrite) this.tier.write();
  }

  /** What a file holds, if that is the block that its name says. */
  async #found(bytes: BlockBytes, { id, path, numBytes }: BlockFile): Promise<FoundBlock<M> | undefined> {
    return await unlessDamaged(this.#folder, path, async () => {
      const request = await this.#format.readRequest(bytes).catch((error: unknown) => {
        if (!(error instanceof BlockCodecError && otherFormats.has(error.fault))) throw error;
        // Of another version or key: it goes when it is the oldest, or when it is asked for and cannot be read.
        return noRequest(id);
      });
      if (request.id !== id) throw new BlockCodecError("id", `its id is "${request.id}", wanted "${id}"`);
      return this.#foundAs(request, numBytes);
    });
  }

  #foundAs(request: BlockRequest, numBytes: number): FoundBlock<M> {
    const saved = new SavedFile(this.#folder, this.#format, request.id);
    return { request: this.#shared.of(request), numBytes, saved };
  }

  /** Of all files: to keep what each of them saw would take more memory than all else. */
  async *#heads() {
    for await (const path of this.#folder.files()) {
      yield { id: idOf(path), request: this.#folder.read(path, (bytes) => this.#format.readRequest(bytes)) };
    }
  }
}

/** A block's file. */
class SavedFile<M extends BlockMemory> implements SavedBlock<M> {
  constructor(
    private readonly folder: BlockFolder,
    private readonly format: BlockFileFormat<M>,
    private readonly id: BlockId,
  ) {}

  load(request: BlockRequest): Promise<BlockKV<M> | undefined> {
    return this.folder.read(this.#path, (bytes) =>
      unlessDamaged(this.folder, this.#path, () => this.format.decode(bytes, request)),
    );
  }

  /** Who only reads may know less: another process may have written it anew. */
  free(): Promise<void> | undefined {
    return this.folder.isWriter ? this.folder.remove(this.#path) : undefined;
  }

  async freeForAll(): Promise<void> {
    if (!this.folder.isWriter) await this.folder.remove(this.#path);
  }

  isThere(): Promise<boolean> {
    return this.folder.has(this.#path);
  }

  markUsed(): Promise<void> {
    return this.folder.markUsed(this.#path);
  }

  get #path(): string {
    return this.folder.pathOf(this.id);
  }
}

async function unlessDamaged<T>(folder: BlockFolder, path: string, read: () => Promise<T>): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof BlockCodecError)) throw error;
    // What another build computed or another key encrypted is sound, and of no use here: what this one computes takes its place.
    if (!othersFaults.has(error.fault)) await folder.moveAside(path);
    else if (folder.isWriter) await folder.remove(path);
    return undefined;
  }
}

/** What very many blocks have in common, once for all. */
class SharedParts {
  readonly #shapes = new Map<string, BlockKVShape>();
  readonly #owners = new Map<string, string>();

  of(request: BlockRequest): BlockRequest {
    const { shape, owner } = request;
    const key = Object.values(shape).join();
    const [knownShape, knownOwner] = [this.#shapes.get(key) ?? shape, this.#owners.get(owner) ?? owner];
    if (this.#shapes.size + this.#owners.size < maxShared) {
      this.#shapes.set(key, knownShape);
      this.#owners.set(owner, knownOwner);
    }
    return { ...request, shape: knownShape, owner: knownOwner, documents: undefined };
  }
}

import { type BlockBytes, BlockCodecError, type BlockCodecFault } from "./block-codec.js";
import type { BlockFile, BlockFolder } from "./block-folder.js";
import type { BlockId } from "./block-id.js";
import type { BlockKV, BlockKVShape, BlockMemory } from "./block-kv.js";
import type { BlockRequest } from "./block-store.js";
import { type FoundBlock, LowerTier, type SavedBlock, type TierMedium } from "./lower-tier.js";

/** What a file of a block holds. */
export interface BlockFileFormat<M extends BlockMemory> {
  /** Names the bits that it reads and writes, where others are kept too: of what computed them, in which order. */
  readonly place: string;
  /** How many bytes a block's file has. */
  numBytes(block: BlockKV<M>, request: BlockRequest): number;
  /** The bytes of a block's file, in order. */
  encode(block: BlockKV<M>, request: BlockRequest): Promise<readonly Uint8Array[]>;
  /** What a file says that it holds, from its beginning alone. @throws BlockCodecError for what is no such file. */
  readRequest(bytes: BlockBytes): Promise<BlockRequest>;
  /** @throws BlockCodecError where a byte is not what it should be, or another build computed it; Error where there is no memory. */
  decode(bytes: BlockBytes, request: BlockRequest): Promise<BlockKV<M>>;
}

const othersFaults: ReadonlySet<BlockCodecFault> = new Set(["producer", "compute", "pairs", "key"]);
const otherFormats: ReadonlySet<BlockCodecFault> = new Set(["version", "requires", "key"]);
/** Shapes and owners that are kept once. */
const maxShared = 100_000;
const noShape = { numLayers: 0, numKvHeads: 0, headSize: 0, numTokens: 0, type: "f16" } as const;

/** Of a file whose block cannot be told. */
export function noRequest(id: BlockId): BlockRequest {
  return { id, shape: noShape, owner: "", tokenIds: new Int32Array(), isFromFile: true };
}

/** How often uses are noted, and a process that reads tries to write. */
const roundMs = 30_000;

/**
 * A tier of blocks in a folder. It finds what others have put there at once, and writes when this process is the one that does and
 * has looked at all files.
 */
export class DiskTier<M extends BlockMemory> implements AsyncDisposable {
  readonly tier: LowerTier<M>;
  readonly #folder: BlockFolder;
  readonly #format: BlockFileFormat<M>;
  readonly #ending = new AbortController();
  readonly #rounds: NodeJS.Timeout;
  #round: Promise<void>;
  #isKnown = false;
  readonly #shared = new SharedParts();

  /** @param folder its own from then on. */
  constructor(folder: BlockFolder, format: BlockFileFormat<M>) {
    this.#folder = folder;
    this.#format = format;
    const medium: TierMedium<M> = {
      name: "disk",
      numBytes: (block, request) => folder.onDisk(format.numBytes(block, request)),
      save: async (block, request) => {
        await folder.write(folder.pathOf(request.id), () => format.encode(block, request));
        return new SavedFile(folder, format, request.id);
      },
      lookUp: async (id) =>
        this.#isKnown && folder.isWriter
          ? undefined
          : await folder.read(folder.pathOf(id), (bytes, at) => this.#found(bytes, at)),
    };
    const capBytes = folder.blockBytes;
    this.tier = new LowerTier<M>({ capBytes, medium, isLasting: true, isReadOnly: true });
    this.#round = this.#learn();
    this.#rounds = setInterval(() => {
      this.#round = this.#round.then(() => this.#nextRound());
    }, roundMs).unref();
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
    await this.tier.noteUse();
    if (!this.#isKnown && (await this.#folder.tryToWrite())) await this.#learn();
  }

  /** Looks at all files; then the tier writes. Where some could not be looked at it does not yet: the cap is over all. */
  async #learn(): Promise<void> {
    await this.#lookAtAll().catch(() => undefined);
  }

  /** Those that were used least recently first. */
  async #lookAtAll(): Promise<void> {
    const all: { readonly found: FoundBlock<M>; readonly usedMs: number }[] = [];
    const reads: Promise<void>[] = [];
    for await (const path of this.#folder.files()) {
      if (this.#ending.signal.aborted) return;
      const read = this.#folder.read(path, async (bytes, at) => {
        const found = await this.#found(bytes, at);
        if (found !== undefined) all.push({ found, usedMs: at.usedMs });
      });
      reads.push(read.then(undefined, () => undefined));
      if (reads.length % 256 === 0) await Promise.all(reads.splice(0));
    }
    await Promise.all(reads);
    if (this.#ending.signal.aborted) return;
    for (const { found } of all.sort((a, b) => a.usedMs - b.usedMs)) this.tier.restore(found);
    this.#isKnown = this.#folder.isWriter;
    if (this.#isKnown) this.tier.write();
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
      const saved = new SavedFile(this.#folder, this.#format, request.id);
      return { request: this.#shared.of(request), numBytes, saved };
    });
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
    return { ...request, shape: knownShape, owner: knownOwner };
  }
}

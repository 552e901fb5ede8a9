import { hkdfSync, randomBytes, webcrypto } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { quote } from "../files/quote.js";
import { describeFileError } from "../files/regular-file.js";
import { bytesInMemory } from "./block-bytes.js";
import { type BlockBytes, BlockCodecError } from "./block-codec.js";
import type { BlockPlace } from "./block-folder.js";
import type { BlockFileFormat } from "./block-format.js";
import { ownerName } from "./block-id.js";
import type { BlockMemory } from "./block-kv.js";
import { hashFields } from "./hash-fields.js";

// The envelope of an encrypted block's file: docs/block-kv-format.md.
const magic = Buffer.from("BKVAES01");
const headerBytes = 64;
/** Encrypted by itself, so that a file's head is read without its keys and values. */
const chunkBytes = 2 ** 16;
const tagBytes = 16;
const purpose = "block-attention block envelope 1";

interface SecretKey {
  /** 8 bytes, in hexadecimal digits. */
  readonly id: string;
  readonly secret: Uint8Array;
}

/** Keys of owners, each with older ones that still read. Without any, nothing is encrypted, and what is encrypted is not read. */
export class BlockKeys {
  #isTold = false;

  private constructor(
    /** By the owner's name; "default" of all others. The first of each writes. */
    private readonly byOwner: ReadonlyMap<string, readonly SecretKey[]>,
    private readonly onWarning: (warning: string) => void,
  ) {}

  static none(onWarning: (warning: string) => void = () => undefined): BlockKeys {
    return new BlockKeys(new Map(), onWarning);
  }

  /**
   * @param path a file with a key a line, 64 hexadecimal digits each, of which the first writes; or a folder of such files, `OWNER.key` by
   *   the owner's name, and `default.key` of all others.
   * @param onWarning told once where a block cannot be read for lack of its key.
   * @throws Error for a file that is missing or holds no keys.
   */
  static async read(path: string, onWarning?: (warning: string) => void): Promise<BlockKeys> {
    const describe = (error: unknown): never => {
      throw describeFileError(error, path);
    };
    const isFolder = (await stat(path).catch(describe)).isDirectory();
    const names = isFolder ? (await readdir(path).catch(describe)).filter((name) => name.endsWith(".key")) : [];
    const files = isFolder
      ? names.map((name) => [name.slice(0, -4), join(path, name)] as const)
      : [["default", path] as const];
    const byOwner = new Map<string, readonly SecretKey[]>();
    for (const [owner, file] of files) byOwner.set(owner, keysOf(await readFile(file, "utf8").catch(describe), file));
    if (byOwner.size === 0) throw new Error(`Cannot read keys from ${quote(path)}: it has no file "….key"`);
    return new BlockKeys(byOwner, onWarning ?? (() => undefined));
  }

  get isEmpty(): boolean {
    return this.byOwner.size === 0;
  }

  /** Whether what is an owner's can be written: with a key, or as it is where there are no keys. @param owner as files name it. */
  has(owner: string): boolean {
    return this.isEmpty || this.#keysOf(owner).length > 0;
  }

  /** How long the envelope of so many bytes is. */
  sizeOf(numBytes: number): number {
    return this.isEmpty ? numBytes : headerBytes + numBytes + tagBytes * Math.ceil(numBytes / chunkBytes);
  }

  /** @param owner as files name it. @throws Error for an owner without a key. */
  async seal(owner: string, plain: Uint8Array): Promise<Uint8Array> {
    if (this.isEmpty) return plain;
    const [key] = this.#keysOf(owner);
    if (key === undefined) throw new Error(`Cannot encrypt a block: its owner ${owner} has no key`);
    const sealed = Buffer.alloc(this.sizeOf(plain.length));
    const header = sealed.subarray(0, headerBytes);
    magic.copy(header);
    header.write(key.id, 8, "hex");
    randomBytes(32).copy(header, 16);
    header.writeBigUInt64LE(BigInt(plain.length), 48);
    header.writeUInt32LE(chunkBytes, 56);
    const cipher = await cipherOf(key, header);
    const chunks = Array.from({ length: Math.ceil(plain.length / chunkBytes) }, async (_, i) => {
      const chunk = plain.subarray(i * chunkBytes, (i + 1) * chunkBytes) as Uint8Array<ArrayBuffer>;
      const bytes = await webcrypto.subtle.encrypt(cipher.params(i), cipher.key, chunk);
      sealed.set(new Uint8Array(bytes), headerBytes + i * (chunkBytes + tagBytes));
    });
    await Promise.all(chunks);
    return sealed;
  }

  /**
   * The bytes that were sealed, decrypted as they are read.
   *
   * @param owner whose block it must be. Default: anybody's.
   * @throws BlockCodecError, also while they are read: "key" where the key is not there, or bytes are not encrypted that should be.
   */
  async open(sealed: BlockBytes, owner?: string): Promise<BlockBytes> {
    const isSealed = sealed.size >= magic.length && magic.equals(await sealed.read(magic.length));
    if (!isSealed && this.isEmpty) return sealed;
    if (!isSealed) throw this.#noKey("it is not encrypted");
    if (sealed.size < headerBytes) throw new BlockCodecError("length", `it has ${sealed.size} bytes`);
    const header = Buffer.from(await sealed.read(headerBytes));
    const id = header.toString("hex", 8, 16);
    const keys = owner === undefined ? [...this.byOwner.values()].flat() : this.#keysOf(owner);
    const key = keys.find((one) => one.id === id);
    if (key === undefined) throw this.#noKey(`it is encrypted with the key ${id}, which is not there`);
    const size = Number(header.readBigUInt64LE(48));
    if (header.readUInt32LE(56) !== chunkBytes || header.readUInt32LE(60) !== 0) {
      throw new BlockCodecError("version", "its envelope is another one");
    }
    if (this.sizeOf(size) !== sealed.size) throw new BlockCodecError("length", `it has ${sealed.size} bytes`);
    const cipher = await cipherOf(key, header);
    const read = async (count: number, position = 0): Promise<Uint8Array> => {
      if (position + count > size) throw new BlockCodecError("length", `it ends after ${size} bytes`);
      const [first, end] = [Math.floor(position / chunkBytes), Math.ceil((position + count) / chunkBytes)];
      const start = headerBytes + first * (chunkBytes + tagBytes);
      const bytes = await sealed.read(
        Math.min(sealed.size, start + (end - first) * (chunkBytes + tagBytes)) - start,
        start,
      );
      const plain = new Uint8Array(Math.min(size, end * chunkBytes) - first * chunkBytes);
      const chunks = Array.from({ length: end - first }, async (_, i) => {
        const at = i * (chunkBytes + tagBytes);
        const chunk = bytes.subarray(at, at + chunkBytes + tagBytes) as Uint8Array<ArrayBuffer>;
        const opened = webcrypto.subtle.decrypt(cipher.params(first + i), cipher.key, chunk).catch(() => {
          throw new BlockCodecError("digest", `what is encrypted was changed`);
        });
        plain.set(new Uint8Array(await opened), i * chunkBytes);
      });
      await Promise.all(chunks);
      const skipped = position - first * chunkBytes;
      return plain.subarray(skipped, skipped + count);
    };
    return { size, read };
  }

  #keysOf(owner: string): readonly SecretKey[] {
    return this.byOwner.get(owner) ?? this.byOwner.get("default") ?? [];
  }

  #noKey(what: string): BlockCodecError {
    if (!this.#isTold) this.onWarning(`Blocks of the store cannot be read, and are computed again: ${what}`);
    this.#isTold = true;
    return new BlockCodecError("key", what);
  }
}

/** A format whose files are encrypted where there are keys, and where they must be. */
export function sealedFormat<M extends BlockMemory>(format: BlockFileFormat<M>, keys: BlockKeys): BlockFileFormat<M> {
  return {
    place: format.place,
    numBytes: (block, request) => keys.sizeOf(format.numBytes(block, request)),
    encode: async (block, request) => {
      const parts = await format.encode(block, request);
      return keys.isEmpty ? parts : [await keys.seal(ownerName(request.owner), Buffer.concat(parts))];
    },
    readRequest: async (bytes) => await format.readRequest(await keys.open(bytes)),
    decode: async (bytes, request) => await format.decode(await keys.open(bytes, ownerName(request.owner)), request),
  };
}

/** A text's bytes, encrypted where there are keys. @param name its owner's, a slash, and more. */
export async function sealText(keys: BlockKeys, name: string, text: string): Promise<Uint8Array> {
  return await keys.seal(ownerOf(name), Buffer.from(text));
}

/** The text again; undefined where its bytes are damaged, or of a key that is not there. */
export async function openText(keys: BlockKeys, name: string, bytes: Uint8Array): Promise<string | undefined> {
  try {
    const opened = await keys.open(bytesInMemory(bytes), ownerOf(name));
    return Buffer.from(await opened.read(opened.size)).toString();
  } catch (error) {
    if (error instanceof BlockCodecError) return undefined;
    throw error;
  }
}

function ownerOf(name: string): string {
  return name.split("/")[0] as string;
}

/** Bytes of which none can be read. */
export function unreadable(error: unknown): BlockBytes {
  return { size: 0, read: () => Promise.reject(error) };
}

/** A place whose blocks are read as they were before they were encrypted. */
export function keyedPlace(place: BlockPlace, keys: BlockKeys): BlockPlace {
  return {
    get reason() {
      return place.reason;
    },
    files: () => place.files(),
    read: (path, read) =>
      place.read(path, async (bytes, at) => await read(await keys.open(bytes).catch(unreadable), at)),
    tryToWrite: () => place.tryToWrite(),
    remove: (path) => place.remove(path),
    [Symbol.asyncDispose]: () => place[Symbol.asyncDispose](),
  };
}

function keysOf(text: string, path: string): readonly SecretKey[] {
  const lines = text.split(/\r?\n/).filter((line) => line !== "");
  if (lines.length === 0 || !lines.every((line) => /^[0-9a-fA-F]{64}$/.test(line))) {
    throw new Error(`Cannot read keys from ${quote(path)}: wanted a key a line, 64 hexadecimal digits each`);
  }
  return lines.map((line) => {
    const secret = new Uint8Array(Buffer.from(line, "hex"));
    return { id: hashFields("block-attention key id", [secret]).slice(0, 16), secret };
  });
}

/** Each file has a key of its own, made from the owner's and random bytes: so its chunks are counted in their nonces. */
async function cipherOf({ secret }: SecretKey, header: Uint8Array) {
  const derived = hkdfSync("sha256", secret, header.subarray(16, 48), purpose, 32);
  const key = await webcrypto.subtle.importKey("raw", derived, "AES-GCM", false, ["encrypt", "decrypt"]);
  const additionalData = new Uint8Array(header);
  const params = (chunk: number) => {
    const iv = new Uint8Array(12);
    new DataView(iv.buffer).setUint32(0, chunk, true);
    return { name: "AES-GCM", iv, additionalData, tagLength: 8 * tagBytes };
  };
  return { key, params };
}

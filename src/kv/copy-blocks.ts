import { bytesInMemory } from "./block-bytes.js";
import { type BlockKeys, keyedPlace, unreadable } from "./block-cipher.js";
import { type BlockBytes, BlockCodecError, type BlockHead, readBlockHead, requireLayers } from "./block-codec.js";
import type { BlockFolder, BlockPlace } from "./block-folder.js";
import type { BlockId } from "./block-id.js";
import { mergedEntry, readEntry } from "./documents.js";
import { readFolder } from "./folder-report.js";
import { FolderTexts } from "./folder-texts.js";

/** A folder, with the keys of what is encrypted there. */
export interface KeyedFolder {
  readonly folder: BlockFolder;
  readonly keys: BlockKeys;
}

/** What became of a block that was to be copied. */
export interface CopiedBlock {
  readonly id: BlockId;
  readonly bytes: number;
  /** "no-key": its owner has no key where it was to go. */
  readonly outcome: "copied" | "there" | "unsound" | "no-key" | "full";
  /** Of one that is unsound, or was not written. */
  readonly error?: string;
}

/**
 * Copies blocks from one folder into another one, each checked whole before it is written, in no order. What is there already,
 * and whole, stays: who was interrupted begins again. What is there and damaged is written anew. What is encrypted stays so, or is encrypted anew where the other folder has keys.
 *
 * Nothing is evicted for them, but where another process holds the lock, which makes room as for what it writes itself.
 *
 * @param isMeant which of the blocks.
 * @throws the signal's reason; Error where a folder cannot be read or written.
 */
export async function* copyBlocks(
  { folder: from, keys }: KeyedFolder,
  { folder: to, keys: toKeys }: KeyedFolder,
  isMeant: (head: BlockHead) => boolean,
  signal: AbortSignal,
): AsyncGenerator<CopiedBlock> {
  const there = new Set<BlockId>();
  let room = to.blockBytes;
  const reserve = async (numBytes: number) => {
    const hasRoom = !to.isWriter || numBytes <= room;
    if (hasRoom) room -= numBytes;
    return hasRoom;
  };
  const texts = new FolderTexts(to, reserve, toKeys.isEmpty ? keys : toKeys);
  await texts.countAll();
  const copied = new Set<BlockId>();
  const target = keyedPlace(to, toKeys);
  for await (const entry of readFolder(target, { isWhole: false, signal })) {
    room -= entry.numBytes;
    if (!("error" in entry)) there.add(entry.id);
  }
  for await (const entry of readFolder(keyedPlace(from, keys), { isWhole: false, signal })) {
    const { id, numBytes } = entry;
    if ("error" in entry) {
      yield { id, bytes: numBytes, outcome: "unsound", error: `${entry.path}: ${entry.error}` };
      continue;
    }
    if (!isMeant(entry.head)) continue;
    copied.add(id);
    if (there.has(id) && (await isWholeIn(target, to.pathOf(id), id))) {
      yield { id, bytes: numBytes, outcome: "there" };
      continue;
    }
    const read = await from.read(entry.path, (bytes) => bytes.read(bytes.size));
    const plain = read && (await keys.open(bytesInMemory(read)).catch(unreadable));
    const error = plain === undefined ? "it is gone" : await faultOf(plain, id);
    if (error !== undefined) {
      yield { id, bytes: numBytes, outcome: "unsound", error: `${entry.path}: ${error}` };
      continue;
    }
    if (!toKeys.has(entry.head.owner)) {
      copied.delete(id);
      const error = `${entry.path}: its owner ${entry.head.owner} has no key there`;
      yield { id, bytes: numBytes, outcome: "no-key", error };
      continue;
    }
    const bytes = toKeys.isEmpty
      ? (read as Uint8Array)
      : await toKeys.seal(entry.head.owner, await (plain as BlockBytes).read((plain as BlockBytes).size));
    const written = to.onDisk(bytes.length);
    if (to.isWriter && written > room) {
      copied.delete(id);
      yield { id, bytes: numBytes, outcome: "full" };
      continue;
    }
    try {
      await to.write(to.pathOf(id), bytes.length, async () => [bytes]);
    } catch (error) {
      if (to.isWriter) throw error;
      yield { id, bytes: numBytes, outcome: "full", error: (error as Error).message };
      continue;
    }
    room -= written;
    yield { id, bytes: numBytes, outcome: "copied" };
  }
  await copyDocuments(new FolderTexts(from, async () => true, keys), texts, copied);
}

/** Documents of which a block was copied. Those that are another text there stay as they are. */
async function copyDocuments(from: FolderTexts, to: FolderTexts, copied: ReadonlySet<BlockId>): Promise<void> {
  for (const owner of await from.owners()) {
    for await (const name of from.list(owner)) {
      const [entry, there] = [readEntry(await from.get(name)), readEntry(await to.get(name))];
      if (entry === undefined || !entry.blocks.some(({ id }) => copied.has(id))) continue;
      if (there === undefined || there.digest === entry.digest)
        await to.put(name, JSON.stringify(mergedEntry(there, entry)));
    }
  }
}

/** Whether a block is in a place, with keys and values as its digests say. */
async function isWholeIn(place: BlockPlace, path: string, id: BlockId): Promise<boolean> {
  return (await place.read(path, async (bytes) => (await faultOf(bytes, id)) === undefined)) ?? false;
}

/** What is wrong with a file's bytes; undefined where they are the block. */
async function faultOf(bytes: BlockBytes, id: BlockId): Promise<string | undefined> {
  try {
    const head = await readBlockHead(bytes.size, (numBytes) => bytes.read(numBytes));
    if (head.id !== id) return `its id is "${head.id}"`;
    await requireLayers(head, (numBytes, position) => bytes.read(numBytes, position));
    return undefined;
  } catch (error) {
    if (error instanceof BlockCodecError) return error.fault;
    throw error;
  }
}

import { lstat } from "node:fs/promises";
import { describeFileError } from "../files/regular-file.js";
import { BlockCodecError, type BlockCodecFault, type BlockHead, readBlockHead, requireLayers } from "./block-codec.js";
import { type BlockFile, type BlockPlace, idOf } from "./block-folder.js";

/** A file of a block as it is found, or what is wrong with it. */
export type FolderEntry = BlockFile &
  (
    | { readonly head: BlockHead }
    | {
        readonly error: string;
        /** Of bytes that are no sound block. */
        readonly fault?: BlockCodecFault;
      }
  );

/**
 * Looks at all files of a folder, a few at a time, in no order.
 *
 * @param isWhole whether keys and values are read and checked too, or the heads alone.
 * @throws the signal's reason; Error where the folder cannot be read.
 */
export async function* readFolder(
  folder: BlockPlace,
  { isWhole, signal }: { readonly isWhole: boolean; readonly signal: AbortSignal },
): AsyncGenerator<FolderEntry> {
  let reads: Promise<FolderEntry | undefined>[] = [];
  const readAll = async () => {
    const entries = await Promise.all(reads);
    reads = [];
    return entries.filter((entry) => entry !== undefined);
  };
  for await (const path of folder.files()) {
    signal.throwIfAborted();
    const unread = (error: string): FolderEntry => {
      return { id: idOf(path), path, numBytes: 0, usedMs: 0, error };
    };
    const reading = folder.read(path, async (bytes, at): Promise<FolderEntry> => {
      try {
        const head = await readBlockHead(bytes.size, (count) => bytes.read(count));
        if (head.id !== at.id) throw new BlockCodecError("id", `its id is "${head.id}", its name's "${at.id}"`);
        if (isWhole) await requireLayers(head, (count, position) => bytes.read(count, position));
        return { ...at, head };
      } catch (error) {
        if (!(error instanceof BlockCodecError)) throw error;
        return { ...at, error: error.message.replace(/^Cannot decode a block KV: /, ""), fault: error.fault };
      }
    });
    reads.push(
      reading.then(
        async (entry) => {
          const isThere = entry !== undefined || (await lstat(path).catch(() => undefined)) !== undefined;
          return entry ?? (isThere ? unread("it is no file") : undefined);
        },
        (error: unknown) => unread(describeFileError(error, path).message.replace(/^Cannot read ".*": /, "")),
      ),
    );
    if (reads.length === 64) yield* await readAll();
  }
  yield* await readAll();
}

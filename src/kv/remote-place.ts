import { bytesInObject } from "./block-bytes.js";
import { type BlockPlace, idOf } from "./block-folder.js";
import { isBlockId } from "./block-id.js";
import type { RemoteObject, RemoteObjects } from "./remote-objects.js";

/** Of an operation, for who looks at a server and serves nobody meanwhile. */
const timeoutMs = 30_000;

/** A server's objects as blocks' files, to look at. */
export class RemotePlace implements BlockPlace {
  readonly reason = "";
  /** Those that are listed and not read yet. */
  readonly #listed = new Map<string, RemoteObject>();

  constructor(private readonly objects: RemoteObjects) {}

  async *files(): AsyncGenerator<string> {
    try {
      for await (const object of this.objects.list(new AbortController().signal)) {
        if (!isBlockId(idOf(object.key))) continue;
        this.#listed.set(object.key, object);
        yield object.key;
      }
    } catch (error) {
      throw new Error(`Cannot list ${this.objects.address}: ${(error as Error).message}`);
    }
  }

  async read<T>(key: string, read: Parameters<BlockPlace["read"]>[1]): Promise<T | undefined> {
    const object = this.#listed.get(key);
    this.#listed.delete(key);
    if (object === undefined) return undefined;
    const { size, usedMs } = object;
    let isGone = false;
    const bytes = bytesInObject(size, async (count, position) => {
      const found = await this.objects.get(key, count, position, AbortSignal.timeout(timeoutMs));
      isGone ||= found === undefined;
      return found;
    });
    const result = (await read(bytes, { id: idOf(key), path: key, numBytes: size, usedMs })) as T;
    // Evicted or deleted since it was listed: nothing is wrong with it.
    return isGone ? undefined : result;
  }

  async tryToWrite(): Promise<boolean> {
    return true;
  }

  async remove(key: string): Promise<void> {
    await this.objects.remove(key, AbortSignal.timeout(timeoutMs));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.objects[Symbol.asyncDispose]();
  }
}

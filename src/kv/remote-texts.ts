import type { BlockKeys } from "./block-cipher.js";
import { openText, sealText } from "./block-cipher.js";
import type { ListedTexts } from "./documents.js";
import type { RemoteObjects } from "./remote-objects.js";

const folder = "documents/";
/** Of one text: more is none of ours. */
const maxTextBytes = 2 ** 24;
/** To list names: a server with many takes its time. */
const listTimeoutMs = 600_000;

/** How operations on a server are run. */
export interface ServerOperations {
  read<T>(numBytes: number, operation: (signal: AbortSignal) => Promise<T>): Promise<T>;
  write<T>(numBytes: number, operation: (signal: AbortSignal) => Promise<T>): Promise<T>;
}

/** Texts on a server, below `documents/`. */
export class RemoteTexts implements ListedTexts {
  /** @param keys of owners, the first parts of names, that texts are encrypted with. */
  constructor(
    private readonly objects: RemoteObjects,
    private readonly server: ServerOperations,
    private readonly keys: BlockKeys,
  ) {}

  async put(name: string, text: string): Promise<void> {
    const bytes = await sealText(this.keys, name, text);
    await this.server.write(bytes.length, (signal) => this.objects.put(folder + name, bytes, signal));
  }

  async get(name: string): Promise<string | undefined> {
    const bytes = await this.server.read(0, (signal) => this.objects.get(folder + name, maxTextBytes, 0, signal));
    return bytes && (await openText(this.keys, name, bytes));
  }

  async delete(name: string): Promise<void> {
    await this.server.write(0, (signal) => this.objects.remove(folder + name, signal));
  }

  async *list(owner: string): AsyncGenerator<string> {
    const signal = AbortSignal.timeout(listTimeoutMs);
    for await (const { key } of this.objects.list(signal, `${folder}${owner}/`)) yield key.slice(folder.length);
  }

  async owners(): Promise<readonly string[]> {
    const owners = new Set<string>();
    for await (const { key } of this.objects.list(AbortSignal.timeout(listTimeoutMs), folder)) {
      owners.add(key.slice(folder.length).split("/")[0] as string);
    }
    return [...owners];
  }
}

import { type BigIntStats, closeSync, fstatSync, openSync, statfsSync } from "node:fs";
import { basename } from "node:path";
import koffi from "koffi";
import { quote } from "../files/quote.js";
import { describeFileError } from "../files/regular-file.js";
import { type Bound, callAsync, type Pointer } from "./symbols.js";

/** Where tensors must begin, in bytes, for ggml's kernels. */
export const tensorAlignment = 32;

const protRead = 1;
const mapShared = 1;
const adviseWillNeed = 3;
/** Linux 5.14 and later: gives the pages that are there, and reads those that are not. */
const advisePopulateRead = 22;
const failed = BigInt.asUintN(64, -1n);
/** The largest size of pages on the systems that are known: 64 KiB. */
const pageBytes = 65_536;
/** What `statfs` calls file systems whose files other machines may write to, which is seen seconds later: NFS, SMB, 9p, Ceph, AFS, Lustre, FUSE. */
const sharedFileSystems: ReadonlySet<number> = new Set([
  0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x01021997, 0x00c36400, 0x5346414f, 0x0bd00bd0, 0x65735546,
]);

/**
 * A file's bytes as memory of the process, shared with every other process that maps it. It owns the mapping.
 *
 * A page that is read is the file's as it is then: where the file is overwritten, `requireUnchanged()` finds out, and where it is
 * cut, reading what is gone ends the process (SIGBUS).
 */
export class MappedFile implements Disposable {
  readonly #calls: { readonly unmap: Bound; readonly advise: Bound };
  readonly #state: BigIntStats;
  #changed: Error | undefined;
  #isClosed = false;

  private constructor(
    readonly path: string,
    readonly address: Pointer,
    private readonly fd: number,
    state: BigIntStats,
    calls: { readonly unmap: Bound; readonly advise: Bound },
  ) {
    this.#state = state;
    this.#calls = calls;
  }

  /** Whether a file may be mapped here: not on Windows, nor where a change could go unnoticed. */
  static isPossible(path: string, fileSystem = (of: string) => statfsSync(of).type): boolean {
    if (process.platform === "linux") return !sharedFileSystems.has(fileSystem(path));
    return process.platform !== "win32";
  }

  /** @returns undefined where the system does not map it. @throws Error for a file that cannot be opened. */
  static open(path: string): MappedFile | undefined {
    let fd: number | undefined;
    try {
      if (!MappedFile.isPossible(path)) return undefined;
      fd = openSync(path, "r");
      const state = fstatSync(fd, { bigint: true });
      const libc = koffi.load(null);
      const bind = (prototype: string) => libc.func(prototype) as unknown as Bound;
      const map = bind("void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)");
      const address = state.isFile() && state.size > 0n && map(null, Number(state.size), protRead, mapShared, fd, 0);
      if (address && address !== failed) {
        const unmap = bind("int munmap(void *address, size_t length)");
        const advise = bind("int madvise(void *address, size_t length, int advice)");
        return new MappedFile(path, address, fd, state, { unmap, advise });
      }
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      throw describeFileError(error, path);
    }
    closeSync(fd);
    return undefined;
  }

  get byteLength(): number {
    return Number(this.#state.size);
  }

  /** Reads bytes ahead, off the event loop, so that the first graph does not wait for the disk. */
  async populate(offset: number, byteLength: number): Promise<void> {
    const start = offset - (offset % pageBytes);
    const range = [this.address + BigInt(start), offset - start + byteLength] as const;
    if (process.platform === "linux" && Number(await callAsync(this.#calls.advise, ...range, advisePopulateRead)) === 0)
      return;
    await callAsync(this.#calls.advise, ...range, adviseWillNeed);
  }

  /** @throws Error, from then on each time, if the file was written to or cut since it was mapped. */
  requireUnchanged(): void {
    if (this.#changed === undefined) {
      const { size, mtimeNs } = fstatSync(this.fd, { bigint: true });
      if (size === this.#state.size && mtimeNs === this.#state.mtimeNs) return;
      const what = size < this.#state.size ? `it was cut to ${size} bytes` : "it was written to";
      this.#changed = new Error(
        `Cannot go on with the weights of ${quote(basename(this.path))}: ${what} while it was mapped; replace files by renaming`,
      );
    }
    throw this.#changed;
  }

  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#calls.unmap(this.address, this.byteLength);
    closeSync(this.fd);
  }
}

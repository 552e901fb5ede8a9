import { Limit } from "../files/limit.js";
import { bytesInMemory, bytesInObject } from "./block-bytes.js";
import { BlockKeys } from "./block-cipher.js";
import { BlockCodecError } from "./block-codec.js";
import { idOf } from "./block-folder.js";
import type { BlockFileFormat } from "./block-format.js";
import type { BlockId } from "./block-id.js";
import type { BlockKV, BlockMemory } from "./block-kv.js";
import type { BlockRequest } from "./block-store.js";
import { noRequest } from "./disk-tier.js";
import { idsWith } from "./ids-with.js";
import { LowerTier } from "./lower-tier.js";
import type { RemoteObjects } from "./remote-objects.js";
import { RemoteTexts } from "./remote-texts.js";

/** Slower servers than this are not worth waiting for. */
const leastBytesPerMs = 16_000;
/** A server that failed is asked again after so long, twice as long each time. */
const firstPauseMs = 250;
const longestPauseMs = 30_000;
/** Objects that are read at a time, and that are written. */
const [readsAtATime, writesAtATime] = [16, 4];
/** More than an object has beside keys and values. */
const headRoomBytes = 2 ** 22;
/** To list all blocks of a server. */
const listTimeoutMs = 600_000;
/** Ids that are remembered of blocks to be written anew. */
const maxUnsound = 10_000;

/**
 * A server that may fail, so that nobody waits for it long: each operation has a time limit, and while the server does not answer no
 * operation is tried but a probe, in the background.
 */
class GuardedServer implements AsyncDisposable {
  readonly #reads = new Limit(readsAtATime);
  readonly #writes = new Limit(writesAtATime);
  #probing: NodeJS.Timeout | undefined;
  #pauseMs = firstPauseMs;
  #isFailing = false;
  #isEnded = false;

  constructor(
    readonly objects: RemoteObjects,
    private readonly probeKey: string,
    private readonly timeoutMs: number,
    private readonly onWarning: (warning: string) => void,
  ) {}

  /** Whether it is passed by. */
  get isFailing(): boolean {
    return this.#isFailing;
  }

  /** @param numBytes that are to be read, about. */
  async read<T>(numBytes: number, operation: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return await this.#reads.run(() => this.#run(numBytes, operation, () => true));
  }

  /** What the server refuses to write does not keep it from being read. */
  async write<T>(numBytes: number, operation: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return await this.#writes.run(() => this.#run(numBytes, operation, (error) => !this.objects.isAnswer(error)));
  }

  async #run<T>(
    numBytes: number,
    operation: (signal: AbortSignal) => Promise<T>,
    isFailure: (error: unknown) => boolean,
  ): Promise<T> {
    if (this.#isFailing) throw new Error(`Cannot use ${this.objects.address}: it does not answer`);
    try {
      const result = await inTime(this.timeoutMs + numBytes / leastBytesPerMs, operation);
      this.#pauseMs = firstPauseMs;
      return result;
    } catch (error) {
      if (isFailure(error)) this.#passBy(error as Error);
      throw error;
    }
  }

  #passBy({ message }: Error): void {
    if (this.#isFailing || this.#isEnded) return;
    this.#isFailing = true;
    const { address } = this.objects;
    this.onWarning(`Blocks are neither read from ${address} nor written there until it answers again: ${message}`);
    this.#probeLater();
  }

  #probeLater(): void {
    this.#probing = setTimeout(() => {
      inTime(this.timeoutMs, (signal) => this.objects.touch(this.probeKey, signal)).then(
        () => {
          this.#isFailing = false;
        },
        () => {
          if (!this.#isEnded) this.#probeLater();
        },
      );
    }, this.#pauseMs).unref();
    // Until an operation has gone well: a server may answer probes alone.
    this.#pauseMs = Math.min(longestPauseMs, 2 * this.#pauseMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnded = true;
    clearTimeout(this.#probing);
    await this.objects[Symbol.asyncDispose]();
  }
}

/** @throws what the operation throws; Error after so long, whatever it does. */
async function inTime<T>(ms: number, operation: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const ending = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const end = () => {
      const error = new Error(`there was no answer within ${Math.ceil(ms)} ms`);
      reject(error);
      ending.abort(error);
    };
    // An answer that came while this process was busy is read first.
    timer = setTimeout(() => setImmediate(end), ms);
  });
  try {
    return await Promise.race([operation(ending.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * A tier of blocks on a server that many processes share. It has limits of its own, and nothing of it is listed here: blocks are found by their
 * ids. What cannot be read with these bits, such as another build's, lies under other keys.
 */
export class RemoteTier<M extends BlockMemory> implements AsyncDisposable {
  readonly tier: LowerTier<M>;
  readonly known = Promise.resolve();
  readonly texts: RemoteTexts;
  readonly #server: GuardedServer;

  /**
   * @param objects its own from then on.
   * @param options.timeoutMs of an operation, beside what its bytes take.
   */
  constructor(
    objects: RemoteObjects,
    format: BlockFileFormat<M>,
    options: {
      readonly timeoutMs: number;
      /** That the format's objects and documents' entries are encrypted with. What is encrypted with others is written anew. */
      readonly keys?: BlockKeys;
      readonly onWarning?: ((warning: string) => void) | undefined;
    },
  ) {
    const { timeoutMs, onWarning = () => undefined, keys = BlockKeys.none() } = options;
    /** What is damaged there: it is written over, without being asked for. */
    const unsound = new Set<BlockId>();
    const server = new GuardedServer(objects, `${format.place}/probe`, timeoutMs, onWarning);
    this.#server = server;
    this.texts = new RemoteTexts(objects, server, keys);
    const keyOf = (id: BlockId) => `${format.place}/${id}`;
    const medium = {
      name: objects.name,
      numBytes: format.numBytes,
      save: async (block: BlockKV<M>, request: BlockRequest) => {
        const key = keyOf(request.id);
        const saved = { load: async () => undefined, free: () => undefined };
        const isReplaced = unsound.delete(request.id);
        if (!isReplaced && (await server.write(0, (signal) => objects.touch(key, signal)))) return saved;
        const bytes = Buffer.concat(await format.encode(block, request));
        if (bytes.length > objects.maxBytes) throw new Error(`Cannot keep a block: it has ${bytes.length} bytes`);
        await server.write(bytes.length, (signal) => objects.put(key, bytes, signal));
        return saved;
      },
      get lookUp() {
        return server.isFailing ? undefined : lookUp;
      },
      idsWith: (names: ReadonlySet<string>, owner: string) => idsWith(heads(), names, owner),
      remove: (id: BlockId) => server.write(0, (signal) => objects.remove(keyOf(id), signal)),
    };
    async function* heads() {
      for await (const { key, size } of objects.list(AbortSignal.timeout(listTimeoutMs), `${format.place}/`)) {
        const get = (count: number, position: number) =>
          server.read(count, (signal) => objects.get(key, count, position, signal));
        yield { id: idOf(key), request: format.readRequest(bytesInObject(size, get)) };
      }
    }
    const lookUp = async (id: BlockId, numBytes = 0) => {
      // Nothing that only lies under a block's key fills the memory.
      const most = numBytes === 0 ? objects.maxBytes : Math.min(objects.maxBytes, 2 * numBytes + headRoomBytes);
      const bytes = await server.read(numBytes, (signal) => objects.get(keyOf(id), most, 0, signal));
      if (bytes === undefined) return undefined;
      const load = async (request: BlockRequest) => {
        try {
          return await format.decode(bytesInMemory(bytes), request);
        } catch (error) {
          if (!(error instanceof BlockCodecError)) throw error;
          const isReplaced = error.fault !== "key" || !keys.isEmpty;
          if (isReplaced && unsound.size < maxUnsound) unsound.add(id);
          return undefined;
        }
      };
      const request = await format.readRequest(bytesInMemory(bytes)).catch(() => noRequest(id));
      return { request, numBytes: bytes.length, saved: { load, free: () => undefined } };
    };
    this.tier = new LowerTier<M>({ medium, isLasting: true });
  }

  /** After the store has ended, which waits for what is being written. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
  }
}

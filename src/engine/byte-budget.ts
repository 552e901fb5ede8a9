import { totalmem } from "node:os";
import { EngineError } from "./engine-error.js";

/** A limit on the bytes of several holders together, for instance assembled contexts. They get theirs first come, first served. */
export class ByteBudget {
  /** Called when bytes have come back. */
  onFree: () => void = () => undefined;
  #usedBytes = 0;
  readonly #waiting: { readonly bytes: number; grant(): void }[] = [];

  constructor(readonly capBytes: number) {}

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** @throws EngineError "too_long" if the bytes are more than the whole budget: before a request waits for anything. */
  requireFit(bytes: number): void {
    if (bytes <= this.capBytes) return;
    throw new EngineError(
      "too_long",
      `Cannot assemble a context of ${bytes} bytes: the budget for contexts is ${this.capBytes} bytes`,
    );
  }

  /**
   * Takes bytes as soon as they are free; disposing gives them back.
   * @throws EngineError "too_long" as `requireFit`; the signal's reason.
   */
  async take(bytes: number, signal?: AbortSignal): Promise<Disposable> {
    signal?.throwIfAborted();
    this.requireFit(bytes);
    if (!this.has(bytes)) {
      await new Promise<void>((resolve, reject) => {
        const waiter = { bytes, grant: () => finish(resolve) };
        const finish = (settle: () => void) => {
          signal?.removeEventListener("abort", abort);
          settle();
        };
        const abort = () => {
          this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
          finish(() => reject(signal?.reason));
          this.#grant();
        };
        signal?.addEventListener("abort", abort, { once: true });
        this.#waiting.push(waiter);
      });
    } else {
      this.#usedBytes += bytes;
    }
    return this.#taken(bytes);
  }

  /** Whether so many are free now, and nobody waits for bytes. */
  has(bytes: number): boolean {
    return this.#waiting.length === 0 && this.#usedBytes + bytes <= this.capBytes;
  }

  /** Takes bytes that are free now. */
  takeNow(bytes: number): Disposable {
    if (!this.has(bytes))
      throw new Error(`Cannot take ${bytes} bytes now: ${this.#usedBytes} of ${this.capBytes} are taken`);
    this.#usedBytes += bytes;
    return this.#taken(bytes);
  }

  #taken(bytes: number): Disposable {
    let isBack = false;
    return {
      [Symbol.dispose]: () => {
        if (isBack) return;
        isBack = true;
        this.#usedBytes -= bytes;
        this.#grant();
        this.onFree();
      },
    };
  }

  #grant(): void {
    for (let next = this.#waiting[0]; next && this.#usedBytes + next.bytes <= this.capBytes; next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#usedBytes += next.bytes;
      next.grant();
    }
  }
}

/** The bytes that this process may use: the machine's, or fewer where a container or a service is held to a limit. */
export function usableMemory(machineBytes = totalmem(), limitBytes = process.constrainedMemory()): number {
  // 0, or a number no machine has: no limit.
  return limitBytes > 0 ? Math.min(machineBytes, limitBytes) : machineBytes;
}

/** What kept blocks, and contexts, have at least. */
export function leastShare(memoryBytes: number): number {
  return Math.floor(memoryBytes / 32);
}

/**
 * The default limit of kept blocks, and that of contexts: a quarter each of what the weights leave of memory.
 *
 * Weights may be larger than memory (on a device with its own, or swapped out), so each has a 32nd of memory at least.
 *
 * @example memoryShare(1.5 * 2 ** 30, 2 ** 31) is 2 ** 27: 128 MiB of the 512 that 1.5 GiB of weights leave in a container of 2 GiB
 */
export function memoryShare(weightBytes: number, memoryBytes = usableMemory()): number {
  return Math.max(Math.floor((memoryBytes - weightBytes) / 4), leastShare(memoryBytes));
}

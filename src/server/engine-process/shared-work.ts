import { setMaxListeners } from "node:events";
import { unlessAborted } from "../../engine/unless-aborted.js";

/** Work that several wait for: done once, and cancelled when nobody waits for it any more. */
export class SharedWork<T> {
  readonly #cancelling = new AbortController();
  readonly #result: Promise<T>;
  #numWaiting = 0;
  #isDone = false;

  constructor(start: (signal: AbortSignal) => Promise<T>) {
    setMaxListeners(0, this.#cancelling.signal);
    this.#result = start(this.#cancelling.signal).finally(() => {
      this.#isDone = true;
    });
    // Whoever waits hears of it.
    this.#result.catch(() => undefined);
  }

  /** Who comes now is too late. */
  get isCancelled(): boolean {
    return this.#cancelling.signal.aborted;
  }

  /** @throws what the work throws; the signal's reason. */
  async wait(signal?: AbortSignal): Promise<T> {
    this.#numWaiting += 1;
    try {
      return await (signal === undefined ? this.#result : unlessAborted(this.#result, signal));
    } finally {
      this.#numWaiting -= 1;
      if (this.#numWaiting === 0 && !this.#isDone) this.#cancelling.abort(new Error("Cancelled: nobody waits for it"));
    }
  }
}

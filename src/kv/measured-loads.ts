import type { BlockKV, BlockMemory } from "./block-kv.js";
import type { BlockRequest, TierStats } from "./block-store.js";

/** Of the sums that a rate is made of, what stays with each new sample. */
const kept = 0.9;
/** Less is not worth computing anything again: that takes cores from others. */
const negligibleMs = 100;
/** What was measured longer ago says nothing: a medium that was slow, or hung, is tried again. */
const forgottenAfterMs = 60_000;
/** Before a medium was measured it may take so long, and so long for each byte: 20 MB/s. */
const [unknownMs, unknownMsPerByte] = [1000, 1 / 20_000];

/** How long an amount of something takes, by what it took lately. */
export class MeasuredRate {
  #amount = 0;
  #ms = 0;

  /** @param minAmount less is not taken for a sample. */
  constructor(private readonly minAmount = 0) {}

  async during(amount: number, work: Promise<void>): Promise<void> {
    const start = performance.now();
    await work;
    this.add(amount, performance.now() - start);
  }

  add(amount: number, ms: number): void {
    if (amount < this.minAmount) return;
    this.#amount = kept * this.#amount + amount;
    this.#ms = kept * this.#ms + ms;
  }

  /** In ms; undefined before anything was measured. */
  timeOf(amount: number): number | undefined {
    return this.#amount > 0 ? (amount * this.#ms) / this.#amount : undefined;
  }
}

/** How long it takes to compute so many tokens' keys and values, in ms; undefined while that is not known. */
export type ComputeTime = (numTokens: number) => number | undefined;

/**
 * Loads from one medium, measured. A block is loaded where that is expected to take less time, with all that is being loaded, than to
 * compute the same; what takes much longer than expected is waited for no more. So a medium that is slow costs little, and one
 * that hangs at most what computing takes: twice the time of computing alone, once.
 */
export class MeasuredLoads<M extends BlockMemory> {
  readonly counts = { computed: 0, late: 0 } satisfies Partial<TierStats>;
  #rate = new MeasuredRate();
  /** What a load takes beside its bytes' time. */
  #latencyMs = 0;
  #measuredAt = Number.NEGATIVE_INFINITY;
  /** Nothing is loaded until then: something hangs. */
  #bypassedUntil = Number.NEGATIVE_INFINITY;
  /** When the last load ended, or when the first began that is under way now. */
  #since = 0;
  #numOpen = 0;
  #openBytes = 0;
  #openTokens = 0;

  /**
   * A block, if it is worth while to load it and comes in time. What comes later is freed.
   * @param load never throws.
   */
  async load(
    { shape: { numTokens } }: BlockRequest,
    numBytes: number,
    load: () => Promise<BlockKV<M> | undefined>,
    computeTime: ComputeTime,
  ): Promise<BlockKV<M> | undefined> {
    const start = performance.now();
    const [bytes, tokens] = [this.#openBytes + numBytes, this.#openTokens + numTokens];
    const bytesMs = this.#isForgotten(start) ? undefined : this.#rate.timeOf(bytes);
    const expectedMs = bytesMs === undefined ? undefined : this.#latencyMs + bytesMs;
    const knownMs = computeTime(tokens);
    const computeMs = Math.max(negligibleMs, knownMs ?? Number.POSITIVE_INFINITY);
    if (start < this.#bypassedUntil || (expectedMs ?? 0) > computeMs) {
      this.counts.computed += 1;
      return undefined;
    }
    const patienceMs = expectedMs === undefined ? unknownMs + bytes * unknownMsPerByte : 4 * expectedMs;
    if (this.#numOpen === 0) this.#since = start;
    [this.#numOpen, this.#openBytes, this.#openTokens] = [this.#numOpen + 1, bytes, tokens];
    let isLate = false;
    const loading = load().then((block) => {
      this.#ended(numBytes, numTokens, start, bytesMs, block !== undefined);
      if (!isLate) return block;
      block?.[Symbol.dispose]();
      return undefined;
    });
    return await new Promise((resolve) => {
      const timer = setTimeout(
        () => {
          isLate = true;
          this.counts.late += 1;
          this.#bypassedUntil = performance.now() + forgottenAfterMs;
          resolve(undefined);
        },
        Math.min(computeMs, Math.max(knownMs === undefined ? unknownMs : negligibleMs, patienceMs)),
      );
      void loading.then((block) => {
        clearTimeout(timer);
        resolve(block);
      });
    });
  }

  #isForgotten(now: number): boolean {
    return now - this.#measuredAt >= forgottenAfterMs;
  }

  #ended(numBytes: number, numTokens: number, start: number, bytesMs: number | undefined, isLoaded: boolean): void {
    const now = performance.now();
    this.#numOpen -= 1;
    this.#openBytes -= numBytes;
    this.#openTokens -= numTokens;
    this.#bypassedUntil = Number.NEGATIVE_INFINITY;
    // Nothing was there: that says little of what a load takes.
    if (!isLoaded) return;
    if (this.#isForgotten(now)) [this.#rate, this.#latencyMs] = [new MeasuredRate(), 0];
    this.#rate.add(numBytes, now - this.#since);
    this.#since = now;
    this.#measuredAt = now;
    if (bytesMs !== undefined) {
      this.#latencyMs = kept * this.#latencyMs + (1 - kept) * Math.max(0, now - start - bytesMs);
    }
  }
}

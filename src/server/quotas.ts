import { InputRangeError } from "../files/input-error.js";
import { ApiError } from "./api-error.js";

/** What one key may use; undefined: as much as there is. */
export interface Quota {
  /** Tokens that are computed within any minute: those of prompts that the store did not have, and of answers. */
  readonly tokensPerMinute?: number | undefined;
  /** Requests at once. */
  readonly requests?: number | undefined;
}

/** Whose quota it is. */
interface Holder {
  readonly salt: string;
  readonly quota: Quota;
}

/** Why a request was refused. */
export const quotaReasons = ["tokens", "requests"] as const;

export type QuotaReason = (typeof quotaReasons)[number];

/** What an answer's head may say of its key's quota, as OpenAI names it. */
export const quotaHeaders = [
  "x-ratelimit-limit-requests",
  "x-ratelimit-remaining-requests",
  "x-ratelimit-limit-tokens",
  "x-ratelimit-remaining-tokens",
  "x-ratelimit-reset-tokens",
] as const;

const windowMs = 60_000;
/** Keys whose use is remembered before those that are idle are looked for. */
const minSweep = 64;

/**
 * Tokens over the last minute. Each millisecond's tokens leave a minute after they came, so no edge lets twice as many in. What goes
 * over the limit, of a request that began below it, is booked as early as there is room: a later minute has less.
 *
 * @example limit 100, 130 tokens at 0 ms: 100 are booked at 0 and 30 at 60,000 ms. Then the next request may begin, with 70 left.
 */
export class TokenWindow {
  /** In the order of their times, none older than a minute before the last one. */
  readonly #entries: { readonly at: number; tokens: number }[] = [];
  #tokens = 0;

  /** Tokens that may be computed now; 0 while what went over is not made up for. */
  left(limit: number, now: number): number {
    const last = this.#entries.at(-1);
    if (last !== undefined && last.at > now) return 0;
    this.#forget(now);
    return Math.max(0, limit - this.#tokens);
  }

  /** @param now in whole milliseconds, never less than before. */
  book(tokens: number, limit: number, now: number): void {
    let at = Math.max(now, this.#entries.at(-1)?.at ?? now);
    for (let rest = tokens; rest > 0; ) {
      this.#forget(at);
      const taken = Math.min(rest, limit - this.#tokens);
      if (taken > 0) {
        const last = this.#entries.at(-1);
        if (last?.at === at) last.tokens += taken;
        else this.#entries.push({ at, tokens: taken });
        this.#tokens += taken;
        rest -= taken;
      }
      if (rest > 0) at = (this.#entries[0]?.at as number) + windowMs;
    }
  }

  /** Milliseconds until a request may begin. */
  waitMs(limit: number, now: number): number {
    if (this.left(limit, now) > 0) return 0;
    let readyAt = Math.max(now, this.#entries.at(-1)?.at ?? now);
    let tokens = this.#tokens;
    for (const entry of this.#entries) {
      if (tokens < limit) break;
      tokens -= entry.tokens;
      readyAt = Math.max(readyAt, entry.at + windowMs);
    }
    return readyAt - now;
  }

  /** Milliseconds until nothing is booked. */
  emptyMs(now: number): number {
    const last = this.#entries.at(-1)?.at;
    return last === undefined ? 0 : Math.max(0, last + windowMs - now);
  }

  #forget(now: number): void {
    const first = this.#entries.findIndex(({ at }) => at > now - windowMs);
    for (const { tokens } of this.#entries.splice(0, first < 0 ? this.#entries.length : first)) this.#tokens -= tokens;
  }
}

interface Use {
  readonly window: TokenWindow;
  running: number;
}

/** What each key uses of its quota. */
export class Quotas {
  /** By salt: a key that is renamed goes on where it was. */
  readonly #uses = new Map<string, Use>();
  #sweepAt = minSweep;

  /**
   * @param defaults of keys whose own quota says nothing.
   * @param now in whole milliseconds, never less than before.
   */
  constructor(
    private readonly defaults: Quota,
    private readonly now: () => number,
    private readonly onRefused: (reason: QuotaReason) => void,
  ) {
    for (const limit of Object.values(defaults)) {
      if (limit === undefined || (Number.isSafeInteger(limit) && limit > 0)) continue;
      throw new InputRangeError(`Cannot use the quota: a limit is ${limit}, wanted a whole number from 1 on`);
    }
  }

  /**
   * Lets a request begin. @returns what its answer's head says of the quota, and what ends the request.
   *
   * @throws ApiError 429 where its key has as many requests, or has used up its tokens.
   */
  begin(holder: Holder): { readonly headers: Readonly<Record<string, string>>; readonly end: () => void } {
    const { requests, tokensPerMinute } = this.#quotaOf(holder);
    const use = this.#useOf(holder.salt);
    const now = this.now();
    if (requests !== undefined && use.running >= requests) {
      const message = `Cannot serve: ${use.running} requests of this key are being served, its quota is ${requests}`;
      throw this.#refusal("requests", message, 1_000, this.#headers(holder, use, now));
    }
    const waitMs = tokensPerMinute === undefined ? 0 : use.window.waitMs(tokensPerMinute, now);
    if (waitMs > 0) {
      const message = `Cannot serve: this key's quota of ${tokensPerMinute} computed tokens a minute is used up, wanted a request in ${Math.ceil(waitMs / 1000)} s`;
      throw this.#refusal("tokens", message, waitMs, this.#headers(holder, use, now));
    }
    use.running += 1;
    let hasEnded = false;
    const end = (): void => {
      if (!hasEnded) use.running -= 1;
      hasEnded = true;
    };
    return { headers: this.#headers(holder, use, now), end };
  }

  /** Counts tokens that were computed for a request, whether there is room for them or not. */
  book(holder: Holder, tokens: number): void {
    const { tokensPerMinute } = this.#quotaOf(holder);
    if (tokensPerMinute !== undefined) this.#useOf(holder.salt).window.book(tokens, tokensPerMinute, this.now());
  }

  #quotaOf({ quota }: Holder): Quota {
    return { ...this.defaults, ...quota };
  }

  #useOf(salt: string): Use {
    let use = this.#uses.get(salt);
    if (use === undefined) {
      if (this.#uses.size >= this.#sweepAt) this.#sweep();
      use = { window: new TokenWindow(), running: 0 };
      this.#uses.set(salt, use);
    }
    return use;
  }

  /** Keys come and go: who uses nothing is forgotten. */
  #sweep(): void {
    const now = this.now();
    for (const [salt, { window, running }] of this.#uses) {
      if (running === 0 && window.emptyMs(now) === 0) this.#uses.delete(salt);
    }
    this.#sweepAt = 2 * this.#uses.size + minSweep;
  }

  #refusal(reason: QuotaReason, message: string, waitMs: number, headers: Readonly<Record<string, string>>): ApiError {
    this.onRefused(reason);
    const retryAfter = String(Math.ceil(waitMs / 1000));
    return new ApiError(429, message, {
      type: reason,
      code: "rate_limit_exceeded",
      headers: { ...headers, "retry-after": retryAfter },
    });
  }

  #headers(
    holder: Holder,
    { running, window }: Use,
    now: number,
  ): { [name in (typeof quotaHeaders)[number]]?: string } {
    const { requests, tokensPerMinute } = this.#quotaOf(holder);
    return {
      ...(requests !== undefined && {
        "x-ratelimit-limit-requests": String(requests),
        "x-ratelimit-remaining-requests": String(Math.max(0, requests - running)),
      }),
      ...(tokensPerMinute !== undefined && {
        "x-ratelimit-limit-tokens": String(tokensPerMinute),
        "x-ratelimit-remaining-tokens": String(window.left(tokensPerMinute, now)),
        "x-ratelimit-reset-tokens": `${(window.emptyMs(now) / 1000).toFixed(3)}s`,
      }),
    };
  }
}

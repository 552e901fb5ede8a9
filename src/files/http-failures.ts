/** What a server may ask for with Retry-After; more is cut. */
const longestWaitMs = 600_000;

/** How long a server asks to wait, seconds or a date, in milliseconds; undefined where there is none that can be read. */
export function retryAfterMs(header: string | null, nowMs: number, longestMs = longestWaitMs): number | undefined {
  if (header === null) return undefined;
  const seconds = /^\s*\d+(\.\d+)?\s*$/.test(header) ? Number(header) : (Date.parse(header) - nowMs) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.min(longestMs, Math.max(0, seconds * 1000));
}

/** Why fetch() failed: it says "fetch failed" or "terminated" and keeps the reason as its cause, or as the cause of that. */
export function networkFailure(error: unknown): { readonly reason: string; readonly code: string | undefined } {
  let cause = error;
  while (cause instanceof Error && cause.cause instanceof Error) cause = cause.cause;
  const first = cause instanceof AggregateError ? (cause.errors as unknown[])[0] : cause;
  if (!(first instanceof Error)) return { reason: String(first), code: undefined };
  const code = "code" in first && typeof first.code === "string" ? first.code : undefined;
  return { reason: first.message || code || first.name, code };
}

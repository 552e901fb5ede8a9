/** A whole number with separators. @example formatCount(12345) is "12,345" */
export function formatCount(value: number): string {
  return Math.round(value).toLocaleString("en");
}

/** @example formatNoun(1, "passage") is "1 passage" */
export function formatNoun(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Milliseconds with three digits or so. @example formatMs(1234) is "1.23 s" */
export function formatMs(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  return `${(ms / 1_000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** A rate with one decimal where it is small. @example formatRate(0.51) is "0.5" */
export function formatRate(perSecond: number): string {
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : formatCount(perSecond);
}

/** @example formatShare(0.987) is "98%": a share is never rounded up to all of it. */
export function formatShare(share: number): string {
  return `${Math.floor(share * 100)}%`;
}

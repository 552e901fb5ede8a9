import { type SplitStep, splitStep } from "./pattern.js";

/**
 * Whether a vocabulary that writes spaces as ▁ can be run word by word: no token holds a ▁ after another character, so
 * no merge crosses the place before a space. Long texts are then many short words instead of one long one; the ids are the same.
 */
export function canCutBeforeSpaces(mergedTokens: Iterable<string>): boolean {
  for (const token of mergedTokens) {
    if (/[^▁]▁/u.test(token)) return false;
  }
  return true;
}

/** Cuts before every run of ▁ that follows another character. */
export function cutBeforeSpaces(): SplitStep {
  return splitStep({ expression: /▁+[^▁]*|[^▁]+/gu, stopwatch: undefined }, "isolated", false);
}

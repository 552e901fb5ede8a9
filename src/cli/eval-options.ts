import { wholeNumber } from "../files/options.js";
import { someWords } from "../files/settings.js";
import { type Flag, type FlagsOf, flag, toggle } from "./command.js";
import type { ProgressBar } from "./progress-bar.js";
import { note, type Terminal } from "./terminal.js";

export const maxTokensFlag = flag("<n>", "the longest answer in tokens (default: 60)", wholeNumber(1, 2 ** 24));
const DEFAULT_MAX_TOKENS = 60;

export const concurrencyFlag = flag(
  "<n>",
  "questions at the same time (default: 1, so that times are a request's own)",
  wholeNumber(1, 256),
);

export const limitFlag = flag("<n>", "the first n questions of a set (default: all)", wholeNumber(1));

export const compareFlag = flag(
  "<path>",
  "a finished file or a run's folder over the same questions: paired differences from it",
  someWords,
);

export const lastSentenceFlag = toggle("score the answers' last sentences alone");

export const askAgainFlag = {
  about:
    "ask each question once: a second asking, for the first token alone, tells what it takes when all passages are there",
  isNegated: true,
} as Flag<boolean>;

/** How a command's questions are asked. */
export function askingOptions(
  flags: FlagsOf<{ maxTokens: typeof maxTokensFlag; concurrency: typeof concurrencyFlag }>,
  terminal: Terminal,
  bar: ProgressBar,
) {
  const { maxTokens = DEFAULT_MAX_TOKENS, concurrency = 1 } = flags;
  const onResume = (text: string): void => note(terminal, text);
  const onProgress = (answered: number, total: number): void => bar.update(answered, total);
  return { maxTokens, concurrency, signal: terminal.signal, onResume, onProgress };
}

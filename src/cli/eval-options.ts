import { Option } from "commander";
import { wholeNumber } from "../files/options.js";
import { someWords } from "../files/settings.js";
import { flag } from "./options.js";

export function maxTokensOption(): Option {
  return flag("--max-tokens <n>", "the longest answer in tokens (default: 60)", wholeNumber(1, 2 ** 24));
}
export const DEFAULT_MAX_TOKENS = 60;

export function concurrencyOption(): Option {
  return flag(
    "--concurrency <n>",
    "questions at the same time (default: 1, so that times are a request's own)",
    wholeNumber(1, 256),
  );
}

export function limitOption(): Option {
  return flag("--limit <n>", "the first n questions of a set (default: all)", wholeNumber(1));
}

export function compareOption(): Option {
  return flag(
    "--compare <path>",
    "a finished file or a run's folder over the same questions: paired differences from it",
    someWords,
  );
}

export function lastSentenceOption(): Option {
  return new Option("--last-sentence", "score the answers' last sentences alone");
}

export function askAgainOption(): Option {
  return new Option(
    "--no-ask-again",
    "ask each question once: a second asking, for the first token alone, tells what it takes when all passages are there",
  );
}

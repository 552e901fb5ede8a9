import { Option } from "commander";
import { nonEmpty, wholeNumber } from "./options.js";

export function maxTokensOption(): Option {
  return new Option("--max-tokens <n>", "the longest answer in tokens (default: 60)").argParser(
    wholeNumber("--max-tokens", 1, 2 ** 24),
  );
}
export const DEFAULT_MAX_TOKENS = 60;

export function concurrencyOption(): Option {
  return new Option(
    "--concurrency <n>",
    "questions at the same time (default: 1, so that times are a request's own)",
  ).argParser(wholeNumber("--concurrency", 1, 256));
}

export function limitOption(): Option {
  return new Option("--limit <n>", "the first n questions of a set (default: all)").argParser(
    wholeNumber("--limit", 1, Number.MAX_SAFE_INTEGER),
  );
}

export function compareOption(): Option {
  return new Option(
    "--compare <path>",
    "a finished file or a run's folder over the same questions: paired differences from it",
  ).argParser(nonEmpty("--compare"));
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

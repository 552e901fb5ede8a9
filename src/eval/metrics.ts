import { cutAtEndOfTurn, lastSentence, normalizeAnswer } from "./normalize.js";

/**
 * `subspan`: best-subspan match as the reference computes it, with its two defects: it matches inside words ("no" in
 * "know"), and a gold answer that normalizes to nothing ("The The") always scores. `word`: the same on word borders, where
 * such a gold answer never scores. `exact`: SQuAD's exact match. `f1`: SQuAD's F1 over words.
 */
export const METRICS = ["subspan", "word", "exact", "f1"] as const;
export type Metric = (typeof METRICS)[number];

/** As reports call them. */
export const METRIC_NAMES: Readonly<Record<Metric, string>> = {
  subspan: "Subspan",
  word: "Word borders",
  exact: "Exact",
  f1: "F1",
};

/** From 0 to 1 each; all but `f1` are 0 or 1. exact ≤ word ≤ subspan, and exact ≤ f1. */
export type AnswerScores = Readonly<Record<Metric, number>>;

export interface ScoreOptions {
  /** Scores the answer's last sentence alone: in a chain of sentences the others name what it goes through. Default false. */
  readonly lastSentence?: boolean | undefined;
}

/**
 * Scores a generated text, cut at its first end-of-turn token, against gold answers, any of which is right.
 *
 * @see docs/reference.md "Scores".
 * @example scoreAnswer("I know.", ["no"]) is { subspan: 1, word: 0, exact: 0, f1: 0 }
 */
export function scoreAnswer(generated: string, answers: readonly string[], options: ScoreOptions = {}): AnswerScores {
  const turn = cutAtEndOfTurn(generated);
  const output = normalizeAnswer(options.lastSentence === true ? lastSentence(turn) : turn);
  const golds = answers.map(normalizeAnswer);
  const named = golds.filter((gold) => gold !== "");
  const best = (score: (gold: string) => number) => Math.max(0, ...named.map(score));
  return {
    subspan: golds.some((gold) => output.includes(gold)) ? 1 : 0,
    word: best((gold) => (holdsOnBorders(output, gold) ? 1 : 0)),
    exact: best((gold) => (output === gold ? 1 : 0)),
    f1: best((gold) => wordF1(output, gold)),
  };
}

/** Tells of normalized texts whether they hold a gold answer on word borders, as `word` does. */
export function goldMatcher(answers: readonly string[]): (normalized: string) => boolean {
  const golds = answers.map(normalizeAnswer).filter((gold) => gold !== "");
  return (normalized) => golds.some((gold) => holdsOnBorders(normalized, gold));
}

/** Whether no gold answer can score but by the reference's defect: all normalize to nothing. */
export function hasEmptyGold(answers: readonly string[]): boolean {
  return answers.some((answer) => normalizeAnswer(answer) === "");
}

/** Whether a text holds another that begins and ends at borders of words. */
function holdsOnBorders(text: string, wanted: string): boolean {
  for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
    if (isBorder(text, at) && isBorder(text, at + wanted.length)) return true;
  }
  return false;
}

const wordCharacter = /[\p{L}\p{M}\p{N}\p{Pc}]/u;
/** Scripts that set no spaces between words: there any place may be a border. */
const unspacedScript =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;

function isBorder(text: string, at: number): boolean {
  const before = /[\s\S]$/u.exec(text.slice(Math.max(0, at - 2), at))?.[0];
  const after = /^[\s\S]/u.exec(text.slice(at, at + 2))?.[0];
  if (before === undefined || after === undefined) return true;
  if (!wordCharacter.test(before) || !wordCharacter.test(after)) return true;
  return !/^\p{M}/u.test(after) && (unspacedScript.test(before) || unspacedScript.test(after));
}

/** Harmonic mean of the shares of words that two texts have in common, each word as often as both hold it. */
function wordF1(output: string, gold: string): number {
  const wanted = new Map<string, number>();
  const goldWords = gold.split(" ");
  for (const word of goldWords) wanted.set(word, (wanted.get(word) ?? 0) + 1);
  const words = output === "" ? [] : output.split(" ");
  let common = 0;
  for (const word of words) {
    const left = wanted.get(word) ?? 0;
    if (left === 0) continue;
    wanted.set(word, left - 1);
    common += 1;
  }
  return common === 0 ? 0 : (2 * common) / (words.length + goldWords.length);
}

import { METRIC_NAMES, METRICS, type Metric, type ScoreOptions } from "./metrics.js";
import type { AnsweredLine } from "./rag-line.js";
import { markdownTable, points, SERVING_NOTE, scoreTable, servingTable, showDifference } from "./report.js";
import {
  compareRuns,
  type NamedRun,
  pairUp,
  type RunComparison,
  type RunSummary,
  scoreOf,
  summarizeRun,
} from "./summary.js";

/** Metrics that call an answer right or wrong. */
export const RIGHT_METRICS = ["subspan", "word", "exact"] as const satisfies readonly Metric[];
export type RightMetric = (typeof RIGHT_METRICS)[number];

export interface ComparisonOptions extends ScoreOptions {
  /** What decides which questions are won and lost. Default "word". */
  readonly metric?: RightMetric | undefined;
}

/** A question that one of two runs has right and the other wrong. */
export interface DecidedQuestion {
  /** Its id, or where there is none its place in the runs, from 0 on. */
  readonly id: string;
  readonly question: string;
  readonly answers: readonly string[];
  /** What the first run answered, and the second; why there is no answer where there is an error. */
  readonly first: string;
  readonly second: string;
}

/** Two runs over the same questions. */
export interface RunsComparison {
  readonly lastSentence: boolean;
  readonly metric: RightMetric;
  /** The first run, then the second. */
  readonly runs: readonly [RunSummary, RunSummary];
  /** The first less the second. */
  readonly comparison: RunComparison;
  /** McNemar's exact test, two-sided, by metric. */
  readonly mcnemar: Readonly<Record<RightMetric, number>>;
  /** Questions that the first run alone has right, in its order, and those that the second alone has. */
  readonly won: readonly DecidedQuestion[];
  readonly lost: readonly DecidedQuestion[];
}

/**
 * Compares two runs over the same questions: the paired difference with its interval, McNemar's exact test, and the questions
 * that only one of them has right.
 *
 * @throws Error as compareRuns(), and for runs that are not over the same questions and gold answers, naming the first that
 * only one of them has.
 */
export function compareInFull(first: NamedRun, second: NamedRun, options: ComparisonOptions = {}): RunsComparison {
  const { metric = "word", lastSentence = false } = options;
  const pairs = pairUp(first, second);
  checkSameQuestions(first, second, pairs);
  const comparison = compareRuns(first, second, options);
  const won: DecidedQuestion[] = [];
  const lost: DecidedQuestion[] = [];
  for (const [i, pair] of pairs.entries()) {
    const [ours, theirs] = pair.map((line) => scoreOf(line, options)[metric]) as [number, number];
    if (ours !== theirs) (ours > theirs ? won : lost).push(decided(pair, i));
  }
  const pValues = RIGHT_METRICS.map((one) => {
    const { won: numWon, lost: numLost } = comparison.differences[one];
    return [one, mcnemarExact(numWon, numLost)] as const;
  });
  return {
    lastSentence,
    metric,
    runs: [summarizeRun(first, options), summarizeRun(second, options)],
    comparison,
    mcnemar: Object.fromEntries(pValues) as Record<RightMetric, number>,
    won,
    lost,
  };
}

function decided([first, second]: readonly [AnsweredLine, AnsweredLine], place: number): DecidedQuestion {
  const said = ({ generated, error }: AnsweredLine) => (error === undefined ? generated : `(${error})`);
  const { id = String(place), question, answers } = first;
  return { id, question, answers, first: said(first), second: said(second) };
}

const maxNamed = 5;

function checkSameQuestions(
  first: NamedRun,
  second: NamedRun,
  pairs: readonly (readonly [AnsweredLine, AnsweredLine])[],
): void {
  const cannot = (why: string) =>
    new Error(`Cannot compare ${JSON.stringify(first.name)} with ${JSON.stringify(second.name)}: ${why}`);
  const inBoth = new Set(pairs.flat());
  for (const { name, answers } of [first, second]) {
    const alone = answers.filter((line) => !inBoth.has(line));
    if (alone.length === 0) continue;
    const named = alone.slice(0, maxNamed).map(({ id }) => JSON.stringify(id));
    const more = alone.length > maxNamed ? ` and ${alone.length - maxNamed} more` : "";
    const what = alone.length === 1 ? "a question stands" : `${alone.length} questions stand`;
    throw cannot(`${what} in ${JSON.stringify(name)} alone, ${named.join(", ")}${more}`);
  }
  for (const [i, [ours, theirs]] of pairs.entries()) {
    if (JSON.stringify(ours.answers) === JSON.stringify(theirs.answers)) continue;
    const which = ours.id === undefined ? `line ${i + 1}` : `the id ${JSON.stringify(ours.id)}`;
    throw cannot(`${which} has different gold answers`);
  }
}

/** The rows of a comparison, its head first: a metric each. */
export function comparisonTable({ comparison, mcnemar }: RunsComparison): string[][] {
  return [
    ["", "Difference", "Won", "Lost", "Tied", "McNemar p"],
    ...METRICS.map((metric) => {
      const difference = comparison.differences[metric];
      const p = metric === "f1" ? "" : showP(mcnemar[metric]);
      const counts = [difference.won, difference.lost, difference.tied].map(String);
      return [METRIC_NAMES[metric], showDifference(difference), ...counts, p];
    }),
  ];
}

function showP(p: number): string {
  return p < 0.0001 ? "< 0.0001" : p.toFixed(4);
}

/** What the figures come to, in one sentence. */
export function verdict({ comparison, metric, mcnemar }: RunsComparison): string {
  const { mean, low, high } = comparison.differences[metric];
  const by = `by ${METRIC_NAMES[metric].toLowerCase()} (McNemar's exact p ${showP(mcnemar[metric])})`;
  if (low <= 0 && high >= 0) {
    return `The interval holds 0: ${comparison.questions} questions do not tell the two apart ${by}.`;
  }
  const [better, worse] = mean > 0 ? [comparison.name, comparison.against] : [comparison.against, comparison.name];
  return `${better} is better than ${worse}, by ${points(Math.abs(mean)).replace("+", "")} points ${by}.`;
}

/** A comparison in Markdown, its questions listed in full. */
export function comparisonMarkdown(compared: RunsComparison): string {
  const { runs, comparison, metric, lastSentence, won, lost } = compared;
  const [first, second] = runs;
  const serving = servingTable(runs);
  const list = (title: string, questions: readonly DecidedQuestion[]) =>
    questions.length === 0
      ? []
      : [
          `## ${title}: ${questions.length}`,
          markdownTable([
            ["Id", "Question", "Gold", first.name, second.name],
            ...questions.map(({ id, question, answers, first: ours, second: theirs }) => [
              id,
              question,
              answers.join(" or "),
              ours,
              theirs,
            ]),
          ]),
        ];
  const parts = [
    `# ${first.name} less ${second.name}`,
    `Points over ${comparison.questions} questions, with 95% intervals of the paired bootstrap (10,000 resamples); ${lastSentence ? "the last sentence of each answer" : "each answer"} is scored. Won are questions that ${first.name} alone has right. McNemar's exact test, two-sided, looks at the questions won and lost alone.`,
    markdownTable(comparisonTable(compared)),
    verdict(compared),
    "## Each run",
    markdownTable(scoreTable(runs)),
    ...(serving.length === 1 ? [] : [SERVING_NOTE, markdownTable(serving)]),
    ...list(`Won by ${METRIC_NAMES[metric].toLowerCase()}`, won),
    ...list(`Lost by ${METRIC_NAMES[metric].toLowerCase()}`, lost),
  ];
  return `${parts.join("\n\n")}\n`;
}

/**
 * McNemar's exact test, two-sided: how likely two runs that are equally good would differ by this much or more, over the
 * questions that one of them has right and the other wrong. Those that both have right or both wrong say nothing.
 *
 * The smaller of the two counts is held against a binomial of won + lost fair draws.
 *
 * @throws RangeError for counts that are no whole numbers from 0 on.
 * @example mcnemarExact(8, 2) is 0.109375: 2 · (1 + 10 + 45) / 1024
 */
export function mcnemarExact(won: number, lost: number): number {
  for (const count of [won, lost]) {
    if (Number.isSafeInteger(count) && count >= 0) continue;
    throw new RangeError(`Cannot test a difference: a count is ${count}, wanted a whole number from 0 on`);
  }
  const numDraws = won + lost;
  const fewer = Math.min(won, lost);
  // Logarithms of the terms: 2^-n itself is 0 from 1075 draws on.
  let term = -numDraws * Math.LN2;
  const terms = [term];
  for (let k = 0; k < fewer; k++) {
    term += Math.log((numDraws - k) / (k + 1));
    terms.push(term);
  }
  // They grow up to the middle, so the last is the largest.
  const scale = term;
  const sum = terms.reduce((total, one) => total + Math.exp(one - scale), 0);
  return Math.min(1, 2 * Math.exp(scale) * sum);
}

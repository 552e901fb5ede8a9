import { bootstrapIntervals, type Interval, type PairedDifference, pairedDifferences, quantile } from "./interval.js";
import { type AnswerScores, hasEmptyGold, METRICS, type Metric, type ScoreOptions, scoreAnswer } from "./metrics.js";
import type { AnsweredLine } from "./rag-line.js";
import type { Start } from "./responder.js";

export type MetricIntervals = Readonly<Record<Metric, Interval>>;

/** Scores over some questions. */
export interface GroupSummary {
  readonly questions: number;
  /** Questions that score 1 by each metric. */
  readonly right: Readonly<Record<Metric, number>>;
  readonly scores: MetricIntervals;
}

/** One run's scores, as a row of a report. */
export interface RunSummary extends GroupSummary {
  readonly name: string;
  /** Questions that could not be asked; they count as wrong. */
  readonly failed: number;
  /** Why the first of them could not. */
  readonly firstError?: string | undefined;
  /** Questions with a gold answer that normalizes to nothing: `subspan` takes any answer for right there. */
  readonly emptyGold: number;
  /** By the kind that lines name, in order of names; empty where none does. */
  readonly kinds: Readonly<Record<string, GroupSummary>>;
  readonly serving?: ServingSummary | undefined;
}

/** Times to the first token in milliseconds. */
export interface TimeSummary {
  readonly requests: number;
  readonly p50: number;
  readonly p95: number;
}

/** What it took to answer. */
export interface ServingSummary {
  readonly requests: number;
  readonly promptTokens: number;
  /** Of them, not computed anew: they came from the block store. Undefined where a server does not tell. */
  readonly cachedTokens: number | undefined;
  readonly completionTokens: number;
  /** cachedTokens / promptTokens, over the requests that tell both. */
  readonly hitRate: number | undefined;
  /** The share of prompt tokens that was computed where all passages were there; undefined where that was never so, or is not told. */
  readonly computedWhenStored: number | undefined;
  /** Over each question's first asking; undefined where no request gave a token. */
  readonly ttftMs: TimeSummary | undefined;
  /** First askings of which some passages had to be computed. */
  readonly cold: TimeSummary | undefined;
  /** Askings, first or second, whose passages were all there. */
  readonly stored: TimeSummary | undefined;
  /** Requests that ran at the same time, at most: their waiting for each other is in the times. */
  readonly concurrency: number;
}

/** One question's measurements. */
export interface RequestTiming extends AskedTiming {
  readonly index: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Of its second asking, for the first token alone. */
  readonly again?: AskedTiming | undefined;
  readonly concurrency: number;
}

/** What differs from asking to asking. */
export interface AskedTiming {
  /** Undefined where a server does not tell. */
  readonly cachedTokens: number | undefined;
  /** Default "cold". */
  readonly start?: Start | undefined;
  readonly ttftMs: number | undefined;
}

/** How one run differs from another over the questions that both answered. */
export interface RunComparison {
  readonly name: string;
  readonly against: string;
  readonly questions: number;
  /** Questions that only one of the two holds; they are left out. */
  readonly onlyName: number;
  readonly onlyAgainst: number;
  /** `name` less `against`. */
  readonly differences: Readonly<Record<Metric, PairedDifference>>;
}

export interface SummaryOptions extends ScoreOptions {
  /** What the drawing of intervals goes by. Default "bootstrap". */
  readonly seed?: string | undefined;
}

/** A run's name and answers. */
export interface NamedRun {
  readonly name: string;
  readonly answers: readonly AnsweredLine[];
  /** Undefined where nothing was measured. */
  readonly timings?: readonly RequestTiming[] | undefined;
}

/** Scores a run's answers, in all and by kind, and tells what they took. @throws RangeError if there are none. */
export function summarizeRun({ name, answers, timings = [] }: NamedRun, options: SummaryOptions = {}): RunSummary {
  const scores = answers.map((line) => scoreOf(line, options));
  const kinds = new Map<string, AnswerScores[]>();
  for (const [i, { kind }] of answers.entries()) {
    if (kind === undefined) continue;
    const ofKind = kinds.get(kind) ?? [];
    ofKind.push(scores[i] as AnswerScores);
    kinds.set(kind, ofKind);
  }
  const byKind = [...kinds].sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    name,
    ...summarizeGroup(scores, options),
    failed: answers.filter(({ error }) => error !== undefined).length,
    firstError: answers.find(({ error }) => error !== undefined)?.error,
    emptyGold: answers.filter((line) => hasEmptyGold(line.answers)).length,
    kinds: Object.fromEntries(byKind.map(([kind, ofKind]) => [kind, summarizeGroup(ofKind, options)])),
    serving: summarizeServing(timings),
  };
}

/** What a run's requests took. @returns undefined where nothing was measured. */
export function summarizeServing(timings: readonly RequestTiming[]): ServingSummary | undefined {
  if (timings.length === 0) return undefined;
  const sum = (some: readonly RequestTiming[], count: (timing: RequestTiming) => number | undefined) =>
    some.reduce((total, one) => total + (count(one) ?? 0), 0);
  const told = timings.filter(({ cachedTokens, promptTokens }) => cachedTokens !== undefined && promptTokens > 0);
  const cachedTokens = told.length === 0 ? undefined : sum(told, (one) => one.cachedTokens);
  const stored = (one: AskedTiming) => one.start === "stored";
  const agains = timings.flatMap(({ again }) => again ?? []);
  const whole = timings.flatMap(({ promptTokens, again, ...first }) =>
    [first, again].flatMap((one) => (one && stored(one) ? [{ promptTokens, cachedTokens: one.cachedTokens }] : [])),
  );
  const wholeTokens = whole.reduce((total, one) => total + one.promptTokens, 0);
  const wholeCached = whole.reduce((total, one) => total + (one.cachedTokens ?? 0), 0);
  return {
    requests: timings.length,
    promptTokens: sum(timings, (one) => one.promptTokens),
    cachedTokens,
    completionTokens: sum(timings, (one) => one.completionTokens),
    hitRate: cachedTokens === undefined ? undefined : cachedTokens / sum(told, (one) => one.promptTokens),
    computedWhenStored: wholeTokens === 0 ? undefined : 1 - wholeCached / wholeTokens,
    ttftMs: summarizeTimes(timings),
    cold: summarizeTimes(timings.filter((one) => !stored(one))),
    stored: summarizeTimes([...timings, ...agains].filter(stored)),
    concurrency: timings.reduce((most, one) => Math.max(most, one.concurrency), 0),
  };
}

function summarizeTimes(asked: readonly AskedTiming[]): TimeSummary | undefined {
  const times = Float64Array.from(asked.flatMap(({ ttftMs }) => (ttftMs === undefined ? [] : [ttftMs]))).sort();
  if (times.length === 0) return undefined;
  return { requests: times.length, p50: quantile(times, 0.5), p95: quantile(times, 0.95) };
}

/**
 * Compares two runs question by question: by id where all lines of both have one, else by place.
 *
 * @throws Error for an id that stands twice, a question that differs from its pair's, runs of different length without
 * ids, or no question in common.
 */
export function compareRuns(run: NamedRun, against: NamedRun, options: SummaryOptions = {}): RunComparison {
  const pairs = pairUp(run, against);
  const columns = (side: 0 | 1) => columnsOf(pairs.map((pair) => scoreOf(pair[side], options)));
  const differences = pairedDifferences(columns(0), columns(1), options);
  return {
    name: run.name,
    against: against.name,
    questions: pairs.length,
    onlyName: run.answers.length - pairs.length,
    onlyAgainst: against.answers.length - pairs.length,
    differences: byMetric((_, m) => differences[m] as PairedDifference),
  };
}

/** The lines of two runs, question by question. @throws as compareRuns(). */
export function pairUp(run: NamedRun, against: NamedRun): [AnsweredLine, AnsweredLine][] {
  const cannot = (why: string) =>
    new Error(`Cannot compare ${JSON.stringify(run.name)} with ${JSON.stringify(against.name)}: ${why}`);
  const hasIds = [run, against].every(({ answers }) => answers.every(({ id }) => id !== undefined));
  let pairs: [AnsweredLine, AnsweredLine][];
  if (hasIds) {
    const [ours, theirs] = [run, against].map(({ name, answers }) => {
      const byId = new Map<string, AnsweredLine>();
      for (const line of answers) {
        const id = line.id as string;
        if (byId.has(id)) throw cannot(`the id ${JSON.stringify(id)} stands twice in ${JSON.stringify(name)}`);
        byId.set(id, line);
      }
      return byId;
    }) as [Map<string, AnsweredLine>, Map<string, AnsweredLine>];
    pairs = [...ours].flatMap(([id, line]) => {
      const other = theirs.get(id);
      return other === undefined ? [] : [[line, other]];
    });
  } else {
    if (run.answers.length !== against.answers.length) {
      throw cannot(
        `they have ${run.answers.length} and ${against.answers.length} lines, not all with an "id", wanted equally many`,
      );
    }
    pairs = run.answers.map((line, i) => [line, against.answers[i] as AnsweredLine]);
  }
  if (pairs.length === 0) throw cannot("no question stands in both");
  for (const [i, [line, other]] of pairs.entries()) {
    if (line.question === other.question) continue;
    const which = hasIds ? `the id ${JSON.stringify(line.id)}` : `line ${i + 1}`;
    throw cannot(`${which} asks different questions`);
  }
  return pairs;
}

/** What a reader of a run must know of the questions that could not be asked. */
export function failedRemark({ failed, questions, firstError }: RunSummary): string {
  const why = firstError === undefined ? "" : ` The first: ${firstError}`;
  return `${failed} of ${questions} questions could not be asked; they count as wrong.${why}`;
}

/** scoreAnswer() of a line; one that could not be asked scores nothing. */
export function scoreOf(line: AnsweredLine, options: ScoreOptions): AnswerScores {
  // An answer that is not there is wrong, whatever the reference's defect makes of an empty gold.
  if (line.error !== undefined) return byMetric(() => 0);
  return scoreAnswer(line.generated, line.answers, options);
}

function summarizeGroup(scores: readonly AnswerScores[], options: SummaryOptions): GroupSummary {
  const intervals = bootstrapIntervals(columnsOf(scores), options);
  return {
    questions: scores.length,
    right: byMetric((metric) => scores.filter((one) => one[metric] === 1).length),
    scores: byMetric((_, m) => intervals[m] as Interval),
  };
}

function columnsOf(scores: readonly AnswerScores[]): Float64Array[] {
  return METRICS.map((metric) => Float64Array.from(scores, (one) => one[metric]));
}

function byMetric<T>(value: (metric: Metric, index: number) => T): Record<Metric, T> {
  return Object.fromEntries(METRICS.map((metric, m) => [metric, value(metric, m)])) as Record<Metric, T>;
}

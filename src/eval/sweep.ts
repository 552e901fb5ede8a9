import { join } from "node:path";
import type { Entrant } from "./entrant.js";
import { folderName } from "./folder-name.js";
import { linePicture, type Series } from "./line-picture.js";
import { METRIC_NAMES } from "./metrics.js";
import type { GoldLine } from "./rag-line.js";
import { type AskingOptions, runQuestions } from "./rag-run.js";
import { markdownTable, SERVING_NOTE, showHitRate, showInterval, showTimes, writeFiles } from "./report.js";
import { failedRemark, type RunSummary, summarizeRun } from "./summary.js";
import { type GoldOrder, pointLines, sweepSet } from "./sweep-lines.js";

export interface SweepOptions extends AskingOptions {
  readonly name: string;
  readonly lines: readonly GoldLine[];
  /** What a reader must know of the set beside the figures. */
  readonly notes: readonly string[];
  readonly entrants: readonly Entrant[];
  /** Passages of a prompt at each point, in rising order. */
  readonly passages: readonly number[];
  readonly orders: readonly GoldOrder[];
  readonly seed: string;
  /** FOLDER/ENTRANT-ORDER-PASSAGES holds a run; the report stands in FOLDER. */
  readonly folder: string;
  readonly lastSentence: boolean;
  /** Told which point begins. */
  readonly onPoint?: ((entrant: string, order: GoldOrder, passages: number) => void) | undefined;
}

/** One entrant over prompts of one size and order. */
export interface SweepPoint {
  readonly entrant: string;
  readonly order: GoldOrder;
  readonly passages: number;
  /** Lines of the set that this point could use, those too long among them. */
  readonly lines: number;
  /** Lines left out: they need more gold passages, or the set has too few others for them. */
  readonly moreGold: number;
  readonly fewOthers: number;
  /** Prompts that did not fit the model's context; they are in no score. */
  readonly tooLong: number;
  /** "too_long": no prompt fitted. "no_lines": no line could be used. */
  readonly outcome:
    | { readonly kind: "scored"; readonly summary: RunSummary }
    | { readonly kind: "too_long" }
    | { readonly kind: "no_lines" };
}

export interface SweepReport {
  readonly title: string;
  readonly lastSentence: boolean;
  readonly seed: string;
  /** Lines of the set, and those of them that no point can use: a gold passage is not there, or none is known. */
  readonly lines: number;
  readonly missingSupport: number;
  readonly noGold: number;
  readonly points: readonly SweepPoint[];
  readonly notes: readonly string[];
}

/** What runSweep() writes beside the runs' folders. */
export const SWEEP_FILES = ["sweep.json", "sweep.md", "accuracy.svg", "hit-rate.svg", "ttft.svg"];

/**
 * How accuracy, hit rate and times to the first token go with the number of passages, and with where the gold ones stand.
 * Each point is a run in a folder of its own, as runQuestions() keeps it. Writes sweep.json, sweep.md and three pictures.
 *
 * @throws Error as runQuestions(), or if no line of the set can be used; the signal's reason.
 */
export async function runSweep(options: SweepOptions): Promise<SweepReport> {
  const { name, lines, notes, entrants, passages, orders, seed, folder, lastSentence, signal } = options;
  const set = await sweepSet(lines, { maxPassages: Math.max(...passages), seed, signal });
  const { missingSupport, noGold } = set;
  if (set.lines.length === 0) {
    throw new Error(
      `Cannot sweep ${JSON.stringify(name)}: of its ${lines.length} lines ${missingSupport} lack a passage that they name, and ${noGold} have none that holds a gold answer`,
    );
  }
  const points: SweepPoint[] = [];
  for (const entrant of entrants) {
    for (const order of orders) {
      for (const count of passages) {
        const { lines: laid, moreGold, fewOthers } = pointLines(set, count, order);
        const point = { entrant: entrant.name, order, passages: count, lines: laid.length, moreGold, fewOthers };
        if (laid.length === 0) {
          points.push({ ...point, tooLong: 0, outcome: { kind: "no_lines" } });
          continue;
        }
        options.onPoint?.(entrant.name, order, count);
        const run = `${folderName(entrant.name)}-${order}-${count}`;
        const { answers, timings } = await runQuestions({
          ...options,
          responder: entrant.responder(run),
          lines: laid,
          folder: join(folder, run),
        });
        const fitting = answers.filter(({ errorCode }) => errorCode !== "too_long");
        const tooLong = answers.length - fitting.length;
        if (fitting.length === 0) {
          points.push({ ...point, tooLong, outcome: { kind: "too_long" } });
          continue;
        }
        const isFitting = answers.map(({ errorCode }) => errorCode !== "too_long");
        const measured = timings.filter(({ index }) => isFitting[index] === true);
        const summary = summarizeRun({ name: run, answers: fitting, timings: measured }, { lastSentence });
        points.push({ ...point, tooLong, outcome: { kind: "scored", summary } });
      }
    }
  }
  const title = `Passages and their order over ${name}`;
  const report = { title, lastSentence, seed, lines: lines.length, missingSupport, noGold, points, notes };
  await writeFiles(folder, {
    "sweep.json": `${JSON.stringify(report, null, 2)}\n`,
    "sweep.md": sweepMarkdown(report),
    "accuracy.svg": picture(report, "accuracy"),
    "hit-rate.svg": picture(report, "hit-rate"),
    "ttft.svg": picture(report, "ttft"),
  });
  return report;
}

/** A row a point, the head first. */
export function sweepTable({ points }: Pick<SweepReport, "points">): string[][] {
  return [
    [
      "",
      "Passages",
      "Questions",
      "Too long",
      METRIC_NAMES.word,
      METRIC_NAMES.subspan,
      METRIC_NAMES.f1,
      "Prompt tokens",
      "Hit rate",
      "Cold p50",
      "Cold p95",
      "Stored p50",
      "Stored p95",
    ],
    ...points.map(({ entrant, order, passages, tooLong, outcome }) => {
      const head = [`${entrant}, ${order}`, String(passages)];
      const empty = Array.from({ length: 8 }, () => "");
      if (outcome.kind === "no_lines") return [...head, "0", "0", "no lines", ...empty];
      if (outcome.kind === "too_long") return [...head, "0", String(tooLong), "too long", ...empty];
      const { summary } = outcome;
      const { serving, scores } = summary;
      return [
        ...head,
        String(summary.questions),
        String(tooLong),
        ...[scores.word, scores.subspan, scores.f1].map(showInterval),
        // On average.
        serving === undefined ? "" : (serving.promptTokens / serving.requests).toFixed(0),
        serving === undefined ? "" : showHitRate(serving),
        ...showTimes(serving?.cold),
        ...showTimes(serving?.stored),
      ];
    }),
  ];
}

/** What a reader of a sweep must know, a sentence each. */
export function sweepRemarks(report: Omit<SweepReport, "title">): string[] {
  const { lines, missingSupport, noGold, seed, points, notes } = report;
  const told = [
    `${lines - missingSupport - noGold} of the set's ${lines} lines could be used; ${missingSupport} name a passage that is not among theirs, and in ${noGold} no passage is known to hold the answer.`,
    `Lines are filled up with their own other passages, then with other lines' (seed ${JSON.stringify(seed)}), none of which holds a gold answer.`,
  ];
  const ofSizes = new Map(points.map((point) => [point.passages, point]));
  for (const { passages, lines: used, moreGold, fewOthers } of ofSizes.values()) {
    if (moreGold + fewOthers === 0) continue;
    told.push(
      `${passages} ${passages === 1 ? "passage" : "passages"}: ${used} lines; ${moreGold} need more gold passages than that, and for ${fewOthers} the set has too few others.`,
    );
  }
  for (const { entrant, order, passages, outcome } of points) {
    if (outcome.kind !== "scored" || outcome.summary.failed === 0) continue;
    told.push(`${entrant}, ${order}, ${passages} passages: ${failedRemark(outcome.summary)}`);
  }
  return [...told, ...notes];
}

function sweepMarkdown(report: SweepReport): string {
  const { title, lastSentence } = report;
  const parts = [
    `# ${title}`,
    `Percent with 95% bootstrap intervals (10,000 resamples); ${lastSentence ? "the last sentence of each answer" : "each answer"} is scored. Prompts that do not fit the model's context are counted as too long and left out of the scores.`,
    markdownTable(sweepTable(report)),
    `![Accuracy](accuracy.svg)`,
    `![Hit rate](hit-rate.svg)`,
    `![Time to the first token](ttft.svg)`,
    SERVING_NOTE,
    sweepRemarks(report)
      .map((remark) => `- ${remark}`)
      .join("\n"),
  ];
  return `${parts.join("\n\n")}\n`;
}

function picture({ title, points }: SweepReport, what: "accuracy" | "hit-rate" | "ttft"): string {
  const byName = new Map<string, Series["points"][number][]>();
  const add = (name: string, point: Series["points"][number]): void => {
    byName.set(name, [...(byName.get(name) ?? []), point]);
  };
  for (const { entrant, order, passages: x, outcome } of points) {
    if (outcome.kind !== "scored") continue;
    const { scores, serving } = outcome.summary;
    const name = `${entrant}, ${order}`;
    if (what === "accuracy") add(name, { x, y: scores.word.mean, low: scores.word.low, high: scores.word.high });
    else if (what === "hit-rate") {
      if (serving?.hitRate !== undefined) add(name, { x, y: serving.hitRate });
    } else {
      for (const start of ["cold", "stored"] as const) {
        const times = serving?.[start];
        if (times !== undefined) add(`${name}, ${start}`, { x, y: times.p50 });
      }
    }
  }
  const looks = {
    accuracy: { yName: "percent right by word borders, with 95% intervals", scale: "percent" },
    "hit-rate": { yName: "percent of prompt tokens from the store", scale: "percent" },
    ttft: { yName: "milliseconds to the first token, median", scale: "log" },
  } as const;
  const series = [...byName].map(([name, all]) => ({ name, points: all }));
  return linePicture({ title, xName: "passages", ...looks[what], series });
}

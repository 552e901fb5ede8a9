import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describeWriteError, writeAtomically } from "../data/atomic-output.js";
import type { PairedDifference } from "./interval.js";
import { METRIC_NAMES, METRICS } from "./metrics.js";
import { accuracyPicture } from "./picture.js";
import type { GroupSummary, RunComparison, RunSummary } from "./summary.js";

/** Scores of runs, and how they differ. */
export interface EvaluationReport {
  readonly title: string;
  /** Whether the answers' last sentences alone were scored. */
  readonly lastSentence: boolean;
  readonly runs: readonly RunSummary[];
  readonly comparisons: readonly RunComparison[];
  /** What a reader must know beside the figures. */
  readonly notes: readonly string[];
}

/** A share and its 95% interval in percent. @example "72.3 [70.9, 73.7]" */
export function showInterval({ mean, low, high }: { mean: number; low: number; high: number }): string {
  return `${percent(mean)} [${percent(low)}, ${percent(high)}]`;
}

/** A difference in points. @example "+1.2 [+0.3, +2.1]" */
function showDifference({ mean, low, high }: PairedDifference): string {
  return `${points(mean)} [${points(low)}, ${points(high)}]`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}

function points(share: number): string {
  const text = (100 * share).toFixed(1);
  if (/^-?0\.0$/.test(text)) return "0.0";
  return share > 0 ? `+${text}` : text;
}

/** The rows of a report's main table, its head first: in all, then by kind. */
export function scoreTable(runs: readonly RunSummary[]): string[][] {
  const row = (name: string, group: GroupSummary) => [
    name,
    String(group.questions),
    ...METRICS.map((metric) => showInterval(group.scores[metric])),
  ];
  return [
    ["", "Questions", ...METRICS.map((metric) => METRIC_NAMES[metric])],
    ...runs.flatMap((run) => [
      row(run.name, run),
      ...Object.entries(run.kinds).map(([kind, group]) => row(`  ${kind}`, group)),
    ]),
  ];
}

/** The rows of the table of paired differences, its head first. */
export function differenceTable(comparisons: readonly RunComparison[]): string[][] {
  return [
    ["Difference", "Questions", ...METRICS.map((metric) => METRIC_NAMES[metric]), "Won / lost (word borders)"],
    ...comparisons.map(({ name, against, questions, differences }) => [
      `${name} less ${against}`,
      String(questions),
      ...METRICS.map((metric) => showDifference(differences[metric])),
      `${differences.word.won} / ${differences.word.lost}`,
    ]),
  ];
}

/** The rows of what serving took, its head first; head alone where nothing was measured. */
export function servingTable(runs: readonly RunSummary[]): string[][] {
  return [
    ["Serving", "Prompt tokens", "From the store", "Hit rate", "First token p50", "p95", "At once", "Answer tokens"],
    ...runs.flatMap(({ name, serving }) => {
      if (serving === undefined) return [];
      const { promptTokens, cachedTokens, hitRate, ttftMs, concurrency, completionTokens } = serving;
      const [p50, p95] = ttftMs === undefined ? ["", ""] : [ttftMs.p50, ttftMs.p95].map((ms) => `${ms.toFixed(1)} ms`);
      return [
        [
          name,
          ...[promptTokens, cachedTokens].map(String),
          `${percent(hitRate)}%`,
          p50 as string,
          p95 as string,
          String(concurrency),
          String(completionTokens),
        ],
      ];
    }),
  ];
}

/** What a reader of these runs must know, a sentence each. */
export function remarks(report: Pick<EvaluationReport, "runs" | "comparisons" | "notes">): string[] {
  const told: string[] = [...report.notes];
  for (const { name, failed, emptyGold, questions } of report.runs) {
    if (failed > 0) told.push(`${name}: ${failed} of ${questions} questions could not be asked; they count as wrong.`);
    if (emptyGold > 0) {
      told.push(
        `${name}: ${emptyGold} questions have a gold answer that normalizes to nothing: subspan takes any answer for right there, the others never take that gold answer.`,
      );
    }
  }
  for (const { name, against, onlyName, onlyAgainst } of report.comparisons) {
    if (onlyName + onlyAgainst === 0) continue;
    told.push(
      `${name} less ${against}: ${onlyName} questions stand in the first alone and ${onlyAgainst} in the second; they are left out.`,
    );
  }
  return told;
}

/** A report in Markdown; its picture stands beside it as `picture`. */
function markdownReport(report: EvaluationReport, picture?: string): string {
  const { title, lastSentence, runs, comparisons } = report;
  const serving = servingTable(runs);
  const parts = [
    `# ${title}`,
    `Percent with 95% bootstrap intervals (10,000 resamples); ${lastSentence ? "the last sentence of each answer" : "each answer"} is scored. Subspan is the paper's best-subspan match, word borders the same without matches inside words.`,
    markdownTable(scoreTable(runs)),
    ...(picture === undefined ? [] : [`![${title}](${picture})`]),
    ...(comparisons.length === 0
      ? []
      : [
          "## Paired differences\n\nPoints, question by question: an interval that does not hold 0 tells the two apart.",
          markdownTable(differenceTable(comparisons)),
        ]),
    ...(serving.length === 1 ? [] : ["## Serving", markdownTable(serving)]),
    remarks(report)
      .map((remark) => `- ${remark}`)
      .join("\n"),
  ];
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}

/** A table's rows, the head first, in Markdown; a cell that begins with two spaces is set in. */
export function markdownTable(rows: readonly (readonly string[])[]): string {
  const [head = [], ...body] = rows;
  const line = (cells: readonly string[]) => `| ${cells.map(markdownCell).join(" | ")} |`;
  const rule = `|${head.map((_, i) => (i === 0 ? "---|" : "--:|")).join("")}`;
  return [line(head), rule, ...body.map(line)].join("\n");
}

function markdownCell(text: string): string {
  const escaped = text
    .trim()
    .replace(/\s+/g, " ")
    .replace(/[\\|`*_<>[\]]/g, (mark) => (/[[\]]/.test(mark) ? mark : `\\${mark}`));
  return text.startsWith("  ") ? `&nbsp;&nbsp;${escaped}` : escaped;
}

/**
 * Writes a report as report.json, report.md and report.svg, each whole or not at all.
 *
 * @throws Error that names the file that cannot be written.
 */
export async function writeReport(folder: string, report: EvaluationReport): Promise<void> {
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw describeWriteError(error, folder);
  });
  const files = {
    "report.json": `${JSON.stringify(report, null, 2)}\n`,
    "report.md": markdownReport(report, "report.svg"),
    "report.svg": accuracyPicture(report.title, report.runs, "word"),
  };
  for (const [name, text] of Object.entries(files)) {
    await writeAtomically(join(folder, name), (partial) => writeFile(partial, text));
  }
}

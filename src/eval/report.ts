import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeAtomically } from "../files/outputs.js";
import type { PairedDifference } from "./interval.js";
import { METRIC_NAMES, METRICS, type Metric } from "./metrics.js";
import { PAPER_ROWS, paperAverage, paperSetOf } from "./paper-rows.js";
import { accuracyPicture } from "./picture.js";
import {
  failedRemark,
  type GroupSummary,
  type RunComparison,
  type RunSummary,
  type ServingSummary,
  type TimeSummary,
} from "./summary.js";

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
export function showDifference({ mean, low, high }: PairedDifference): string {
  return `${points(mean)} [${points(low)}, ${points(high)}]`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}

/** A difference of shares in points. @example "+1.2" */
export function points(share: number): string {
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
    [
      "Serving",
      "Prompt tokens",
      "From the store",
      "Hit rate",
      "Cold p50",
      "Cold p95",
      "Stored p50",
      "Stored p95",
      "At once",
      "Answer tokens",
    ],
    ...runs.flatMap(({ name, serving }) => {
      if (serving === undefined) return [];
      const { promptTokens, cachedTokens, cold, stored, concurrency, completionTokens } = serving;
      return [
        [
          name,
          String(promptTokens),
          cachedTokens === undefined ? notTold : String(cachedTokens),
          showHitRate(serving),
          ...showTimes(cold),
          ...showTimes(stored),
          String(concurrency),
          String(completionTokens),
        ],
      ];
    }),
  ];
}

/** What a server keeps to itself. */
const notTold = "not told";

/** @example "83.1%" */
export function showHitRate({ hitRate }: ServingSummary): string {
  return hitRate === undefined ? notTold : `${percent(hitRate)}%`;
}

/** p50 and p95; empty cells where nothing was measured. @example ["12.1 ms", "15.0 ms"] */
export function showTimes(times: TimeSummary | undefined): [string, string] {
  return times === undefined ? ["", ""] : [`${times.p50.toFixed(1)} ms`, `${times.p95.toFixed(1)} ms`];
}

/** What the columns of times mean. */
export const SERVING_NOTE =
  "Hit rate: prompt tokens of each question's first asking that were not computed anew. Time to the first token: cold, where some passages had to be computed; stored, where all of them were there, at first or when the question was asked a second time.";

/** What a reader of these runs must know, a sentence each. */
export function remarks(report: Pick<EvaluationReport, "runs" | "comparisons" | "notes">): string[] {
  const told: string[] = [...report.notes];
  for (const run of report.runs) {
    const { name, failed, emptyGold } = run;
    if (failed > 0) told.push(`${name}: ${failedRemark(run)}`);
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
function markdownReport(report: EvaluationReport, picture: string): string {
  return joinParts([`# ${report.title}`, introduction(report.lastSentence), ...reportParts(report, picture, "##")]);
}

function introduction(lastSentence: boolean): string {
  return `Percent with 95% bootstrap intervals (10,000 resamples); ${lastSentence ? "the last sentence of each answer" : "each answer"} is scored. Subspan is the paper's best-subspan match, word borders the same without matches inside words.`;
}

/** @param level the marks of its sections' headings. */
function reportParts(report: EvaluationReport, picture: string, level: string): string[] {
  const { title, runs, comparisons } = report;
  const serving = servingTable(runs);
  return [
    markdownTable(scoreTable(runs)),
    `![${title}](${picture})`,
    ...(comparisons.length === 0
      ? []
      : [
          `${level} Paired differences\n\nPoints, question by question: an interval that does not hold 0 tells the two apart.`,
          markdownTable(differenceTable(comparisons)),
        ]),
    ...(serving.length === 1 ? [] : [`${level} Serving`, SERVING_NOTE, markdownTable(serving)]),
    remarks(report)
      .map((remark) => `- ${remark}`)
      .join("\n"),
  ];
}

function joinParts(parts: readonly string[]): string {
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}

/** Reports over several sets, the same runs in each. */
export interface SetsReport {
  readonly title: string;
  readonly lastSentence: boolean;
  readonly sets: readonly (EvaluationReport & { /** Its picture is FOLDER.svg. */ readonly folder: string })[];
}

/** A row a run, a column a set, and the average of the sets, as the paper's table has it; its head first. */
export function setsTable({ sets }: SetsReport, metric: Metric): string[][] {
  const names = [...new Set(sets.flatMap(({ runs }) => runs.map(({ name }) => name)))];
  return [
    [METRIC_NAMES[metric], ...sets.map(({ title }) => title), "Average"],
    ...names.map((name) => {
      const found = sets.map(({ runs }) => runs.find((run) => run.name === name)?.scores[metric]);
      const known = found.flatMap((score) => score ?? []);
      const average = known.reduce((sum, { mean }) => sum + mean, 0) / known.length;
      return [
        name,
        ...found.map((score) => (score === undefined ? "" : showInterval(score))),
        known.length === sets.length ? percent(average) : "",
      ];
    }),
  ];
}

/** The paper's rows under a table of subspan, where sets are called as the paper's. */
export function paperTableRows({ sets }: SetsReport): string[][] {
  const columns = sets.map(({ title }) => paperSetOf(title));
  if (columns.every((column) => column === undefined)) return [];
  return Object.values(PAPER_ROWS).map((row) => [
    `Paper: ${row.name}`,
    ...columns.map((column) => (column === undefined ? "" : row[column].toFixed(1))),
    columns.length === 4 && new Set(columns).size === 4 && !columns.includes(undefined)
      ? paperAverage(row).toFixed(1)
      : "",
  ]);
}

function markdownSets(report: SetsReport): string {
  return joinParts([
    `# ${report.title}`,
    introduction(report.lastSentence),
    ...(report.sets.length === 1
      ? []
      : [
          markdownTable(setsTable(report, "word")),
          markdownTable([...setsTable(report, "subspan"), ...paperTableRows(report)]),
        ]),
    ...report.sets.flatMap((set) => [`## ${set.title}`, ...reportParts(set, `${set.folder}.svg`, "###")]),
  ]);
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

/** What writeReport() writes. */
export const REPORT_FILES = ["report.json", "report.md", "report.svg"];

/**
 * Writes a report as report.json, report.md and report.svg, each whole or not at all.
 *
 * @throws Error that names the file that cannot be written.
 */
export function writeReport(folder: string, report: EvaluationReport): Promise<void> {
  return writeFiles(folder, {
    "report.json": `${JSON.stringify(report, null, 2)}\n`,
    "report.md": markdownReport(report, "report.svg"),
    "report.svg": accuracyPicture(report.title, report.runs, "word"),
  });
}

/** Writes a report over several sets as report.json and report.md, and a picture a set. @throws as writeReport(). */
export function writeSetsReport(folder: string, report: SetsReport): Promise<void> {
  return writeFiles(folder, {
    "report.json": `${JSON.stringify(report, null, 2)}\n`,
    "report.md": markdownSets(report),
    ...Object.fromEntries(
      report.sets.map((set) => [`${set.folder}.svg`, accuracyPicture(set.title, set.runs, "word")]),
    ),
  });
}

/** Writes texts as files of a folder, each whole or not at all. @throws Error that names the file that cannot be written. */
export async function writeFiles(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, text] of Object.entries(files)) {
    await writeAtomically(join(folder, name), (partial) => writeFile(partial, text));
  }
}

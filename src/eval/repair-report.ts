import { linePicture } from "./line-picture.js";
import { METRIC_NAMES } from "./metrics.js";
import { markdownTable, type SetsReport, showDifference, showInterval, writeFiles } from "./report.js";
import type { RunSummary } from "./summary.js";

/** What each way brings and costs, over each set. */
export interface RepairReport {
  readonly title: string;
  /** A row a set and a way, the head first. */
  readonly table: readonly (readonly string[])[];
  readonly picture: string;
}

/** Answers against costs of the ways that took part; the first is full mode. */
export function repairReport({ title, sets }: SetsReport): RepairReport {
  const rows = sets.flatMap((set) =>
    set.runs.map((run) => {
      const less = set.comparisons.find(({ name, against }) => name === run.name && against === set.runs[0]?.name);
      const { scores, serving } = run;
      const times = serving?.stored ?? serving?.cold;
      return [
        set.title,
        run.name,
        String(run.questions),
        showInterval(scores.word),
        less === undefined ? "" : showDifference(less.differences.word),
        showInterval(scores.exact),
        showInterval(scores.f1),
        serving === undefined ? "" : (serving.completionTokens / serving.requests).toFixed(1),
        `${(100 * computedShare(run)).toFixed(1)}%`,
        times === undefined ? "" : `${times.p50.toFixed(0)} ms`,
      ];
    }),
  );
  const head = [
    ...["", "Way", "Questions", METRIC_NAMES.word, "Less full", METRIC_NAMES.exact, METRIC_NAMES.f1],
    ...["Answer tokens", "Computed", "First token, p50"],
  ];
  const series = sets.flatMap((set) =>
    set.runs.map((run) => {
      const { mean: y, low, high } = run.scores.word;
      const x = Math.max(0.1, Number((100 * computedShare(run)).toFixed(1)));
      return { name: `${set.title}: ${run.name}`, points: [{ x, y, low, high }] };
    }),
  );
  const picture = linePicture({
    title,
    xName: "percent of prompt tokens computed when all passages are stored",
    yName: "percent right by word borders, with 95% intervals",
    scale: "percent",
    series,
  });
  return { title, table: [head, ...rows], picture };
}

/** Of the prompt's tokens, where all passages are stored; full mode stores none. */
function computedShare({ serving }: RunSummary): number {
  return serving?.computedWhenStored ?? 1;
}

/** Writes the table beside the runs' report, as repair.md and repair.svg. @throws Error that names the file that cannot be written. */
export function writeRepairReport(folder: string, { title, table, picture }: RepairReport): Promise<void> {
  return writeFiles(folder, {
    "repair.md": `# ${title}\n\nComputed and time to the first token: where all passages are stored.\n\n${markdownTable(table)}\n\n![${title}](repair.svg)\n`,
    "repair.svg": picture,
  });
}

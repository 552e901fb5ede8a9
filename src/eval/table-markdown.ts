import { PAPER_ROWS, type PaperRowName, paperAverage } from "./paper-rows.js";
import { differenceTable, markdownTable, remarks, SERVING_NOTE, servingTable, showInterval } from "./report.js";
import type { RunComparison, RunSummary } from "./summary.js";

/** A row of the table over one set. */
export interface TableResult {
  readonly name: string;
  readonly paper: PaperRowName | undefined;
  /** "missing": there is no such model yet. */
  readonly outcome:
    | { readonly kind: "scored"; readonly summary: RunSummary }
    | { readonly kind: "missing"; readonly reason: string };
}

export interface TableSet {
  readonly name: string;
  readonly folder: string;
  readonly questions: number;
  readonly rows: readonly TableResult[];
  readonly baselines: readonly RunSummary[];
  readonly comparisons: readonly RunComparison[];
  /** Where the order of rows agrees with the paper's. */
  readonly agreement: string;
  /** What a reader must know of it beside the figures. */
  readonly notes: readonly string[];
}

export interface AccuracyTable {
  readonly maxTokens: number;
  readonly lastSentence: boolean;
  readonly sets: readonly TableSet[];
}

/** The accuracy table in Markdown, side by side with the paper's. */
export function tableMarkdown({ maxTokens, lastSentence, sets }: AccuracyTable): string {
  const parts = [
    "# Accuracy",
    `Percent with 95% bootstrap intervals. Right is an answer of at most ${maxTokens} tokens ${lastSentence ? "whose last sentence" : "that"} holds a gold answer on word borders; subspan is the paper's match, inside words too. The paper's figures are its best-subspan match of Llama-3-8B on 2WikiMultihop, HotpotQA, NQ and TriviaQA, and their average: of another model, so compare the order of rows and their distances, not the figures.`,
    ...sets.flatMap(setParts),
  ];
  return `${parts.join("\n\n")}\n`;
}

function setParts(set: TableSet): string[] {
  const runs = set.rows.flatMap(({ outcome }) => (outcome.kind === "scored" ? [outcome.summary] : []));
  const kinds = [...new Set([...runs, ...set.baselines].flatMap((run) => Object.keys(run.kinds)))].sort();
  const serving = servingTable(runs);
  const told = remarks({ runs: [...runs, ...set.baselines], comparisons: set.comparisons, notes: set.notes });
  return [
    `## ${set.name}, ${set.questions} questions`,
    markdownTable([
      ["", "Right", ...kinds, "Subspan", "F1", "Paper: average", "2wiki / HotpotQA / NQ / TriviaQA"],
      ...set.rows.map((row) => resultCells(row, kinds)),
      ...set.baselines.map((run) => [`Baseline: ${run.name}`, ...summaryCells(run, kinds), "", ""]),
    ]),
    `![Accuracy over ${set.name}](${set.folder}.svg)`,
    ...(set.comparisons.length === 0
      ? []
      : [
          "### Paired differences\n\nPoints, question by question: an interval that does not hold 0 tells the two apart.",
          markdownTable(differenceTable(set.comparisons)),
        ]),
    set.agreement,
    ...(serving.length === 1 ? [] : [SERVING_NOTE, markdownTable(serving)]),
    ...(told.length === 0 ? [] : [told.map((remark) => `- ${remark}`).join("\n")]),
  ];
}

function resultCells({ name, paper, outcome }: TableResult, kinds: readonly string[]): string[] {
  const row = paper === undefined ? undefined : PAPER_ROWS[paper];
  const theirs =
    row === undefined
      ? ["", ""]
      : [
          paperAverage(row).toFixed(1),
          [row.twoWiki, row.hotpotQA, row.nq, row.triviaQA].map((value) => value.toFixed(1)).join(" / "),
        ];
  const ours =
    outcome.kind === "scored"
      ? summaryCells(outcome.summary, kinds)
      : [`not there: ${outcome.reason}`, ...kinds.map(() => ""), "", ""];
  return [name, ...ours, ...theirs];
}

function summaryCells(run: RunSummary, kinds: readonly string[]): string[] {
  return [
    showInterval(run.scores.word),
    ...kinds.map((kind) => {
      const group = Object.hasOwn(run.kinds, kind) ? run.kinds[kind] : undefined;
      return group === undefined ? "" : (100 * group.scores.word.mean).toFixed(1);
    }),
    showInterval(run.scores.subspan),
    (100 * run.scores.f1.mean).toFixed(1),
  ];
}

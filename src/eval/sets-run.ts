import { join } from "node:path";
import type { Entrant } from "./entrant.js";
import { folderName } from "./folder-name.js";
import type { RagLine } from "./rag-line.js";
import { type AskingOptions, runQuestions } from "./rag-run.js";
import { type SetsReport, writeSetsReport } from "./report.js";
import { compareRuns, type NamedRun, type RunComparison, summarizeRun } from "./summary.js";

/** A set of questions. */
export interface QuestionSet {
  readonly name: string;
  readonly lines: readonly RagLine[];
  /** What a reader must know of it beside the figures. */
  readonly notes: readonly string[];
}

export interface SetsRunOptions extends AskingOptions {
  readonly sets: readonly QuestionSet[];
  readonly entrants: readonly Entrant[];
  /** FOLDER/SET/ENTRANT holds a run, or FOLDER/ENTRANT where there is one set; the report stands in FOLDER. */
  readonly folder: string;
  readonly lastSentence: boolean;
  /** Another run, that of the only set, which every entrant's is compared with. */
  readonly against?: NamedRun | undefined;
  /** After so many questions the next entrant has its turn, so that what one leaves in the store serves the others. Default: after all. */
  readonly turn?: number | undefined;
  /** Told which run begins. */
  readonly onRun?: ((set: string, entrant: string, numLines: number) => void) | undefined;
}

/**
 * Asks every entrant the questions of every set, each run in a folder of its own as runQuestions() keeps it, and writes one report:
 * each entrant beside the others, and its differences from the first.
 *
 * @throws RangeError for names whose folders would be one; Error as runQuestions(); the signal's reason.
 */
export async function runSets(options: SetsRunOptions): Promise<SetsReport> {
  const { sets, entrants, folder, lastSentence, against } = options;
  const setFolders = foldersOf(sets, "sets");
  const runFolders = foldersOf(entrants, "runs");
  const reports: SetsReport["sets"][number][] = [];
  for (const [s, set] of sets.entries()) {
    const runs: NamedRun[] = [];
    const { turn = set.lines.length } = options;
    for (let end = Math.min(turn, set.lines.length); end > 0; end = nextEnd(end, turn, set.lines.length)) {
      for (const [e, entrant] of entrants.entries()) {
        options.onRun?.(set.name, entrant.name, end);
        const parts = [...(sets.length > 1 ? [setFolders[s] as string] : []), runFolders[e] as string];
        const { answers, timings } = await runQuestions({
          ...options,
          responder: entrant.responder(set.name),
          lines: set.lines.slice(0, end),
          folder: join(folder, ...parts),
        });
        runs[e] = { name: entrant.name, answers, timings };
      }
    }
    reports.push({
      title: set.name,
      folder: setFolders[s] as string,
      lastSentence,
      runs: runs.map((run) => summarizeRun(run, { lastSentence })),
      comparisons: comparisonsOf(runs, against, lastSentence),
      notes: set.notes,
    });
  }
  const title = `Answers over ${sets.map(({ name }) => name).join(", ")}`;
  const report = { title, lastSentence, sets: reports };
  await writeSetsReport(folder, report);
  return report;
}

/** Where the next turn ends; 0 after the last. */
function nextEnd(end: number, turn: number, total: number): number {
  return end === total ? 0 : Math.min(end + turn, total);
}

/** What runSets() writes beside the runs' folders. */
export function setsReportFiles(sets: readonly { readonly name: string }[]): string[] {
  return ["report.json", "report.md", ...sets.map(({ name }) => `${folderName(name)}.svg`)];
}

/** Each run less the first, and each less another. */
function comparisonsOf(
  runs: readonly NamedRun[],
  against: NamedRun | undefined,
  lastSentence: boolean,
): RunComparison[] {
  const [first, ...others] = runs;
  return [
    ...others.map((run) => compareRuns(run, first as NamedRun, { lastSentence })),
    ...(against === undefined ? [] : runs.map((run) => compareRuns(run, against, { lastSentence }))),
  ];
}

/** A folder for each name. @throws RangeError if two would share one. */
export function foldersOf(named: readonly { readonly name: string }[], what: string): string[] {
  const folders = named.map(({ name }) => folderName(name));
  for (const [i, one] of folders.entries()) {
    if (folders.indexOf(one) < i) {
      throw new RangeError(`Cannot run: two ${what} are called ${JSON.stringify(named[i]?.name)}, or nearly so`);
    }
  }
  return folders;
}

import { writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import type { LocalEngine } from "../engine/local-engine.js";
import { repairField } from "../engine/repair.js";
import { readJson } from "../files/bounded-json.js";
import { writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { pathExists } from "../files/regular-file.js";
import { issueSentence } from "../files/schema-issue.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";
import { parseHubName } from "../model/hub-name.js";
import { findPackaged } from "../model/packaged-models.js";
import { folderName } from "./folder-name.js";
import { PAPER_ROW_NAMES, PAPER_ROWS, type PaperRowName, paperAverage } from "./paper-rows.js";
import { accuracyPicture } from "./picture.js";
import { type AskingOptions, runRag } from "./rag-run.js";
import { foldersOf, type QuestionSet } from "./sets-run.js";
import { compareRuns, type NamedRun, type RunComparison, type RunSummary, summarizeRun } from "./summary.js";
import { type AccuracyTable, type TableResult, type TableSet, tableMarkdown } from "./table-markdown.js";

/** A model evaluated in one way. */
export interface TableRow {
  readonly name: string;
  /** A model's folder or file. */
  readonly model: string;
  /** A folder or file that is merged into it. */
  readonly adapter: string | undefined;
  readonly mode: AttentionMode;
  readonly positionReencoding: boolean;
  /** Of block mode. Default: the model's own. */
  readonly repair: string | undefined;
  /** The paper's row that it stands beside. */
  readonly paper: PaperRowName | undefined;
  /** The name of a row that it is compared with, beside the first. */
  readonly against: string | undefined;
}

export interface AccuracyTableOptions extends AskingOptions {
  readonly rows: readonly TableRow[];
  readonly sets: readonly QuestionSet[];
  /** Answers and the table are kept there; an interrupted table goes on in it. */
  readonly folder: string;
  readonly lastSentence: boolean;
  readonly openEngine: (row: Pick<TableRow, "model" | "adapter">) => Promise<LocalEngine>;
  /** Told which run begins. */
  readonly onRun?: ((set: string, row: string) => void) | undefined;
}

const rowSchema = z.strictObject({
  name: z.string().min(1),
  model: z.string().min(1),
  mode: z.enum(attentionModes),
  positionReencoding: z.boolean().default(true),
  adapter: z.string().min(1).optional(),
  repair: repairField.schema,
  paper: z.enum(PAPER_ROW_NAMES as [PaperRowName, ...PaperRowName[]]).optional(),
  against: z.string().optional(),
});

/**
 * Reads the table's rows: a JSON array of {name, model, adapter?, mode, positionReencoding?, repair?, paper?, against?}. Models and
 * adapters are found from the file's own folder; those of the hub, hf:…, and those that `pull` knows keep their names.
 *
 * @throws Error that names the row and what is wrong with it.
 */
export async function readTableRows(path: string): Promise<TableRow[]> {
  const value = { rows: await readJson(path) };
  const parsed = z.object({ rows: z.array(rowSchema).min(1) }).safeParse(value);
  if (!parsed.success) throw new Error(`Cannot use ${quote(path)}: ${issueSentence(parsed.error, value)}`);
  const isName = (text: string) => parseHubName(text)?.isExplicit === true || findPackaged(text) !== undefined;
  const located = (text: string) => (isName(text) ? text : resolve(dirname(path), text));
  const rows = parsed.data.rows.map((row) => ({
    ...row,
    model: located(row.model),
    adapter: row.adapter && located(row.adapter),
    repair: row.repair,
    paper: row.paper,
    against: row.against,
  }));
  const folders = rows.map(({ name }) => folderName(name));
  for (const [i, { name, against }] of rows.entries()) {
    if (folders.indexOf(folders[i] as string) < i) {
      throw new Error(`Cannot use ${quote(path)}: two rows are called ${quote(name)}, or nearly so`);
    }
    if (against === name || (against !== undefined && !rows.some((row) => row.name === against))) {
      throw new Error(
        `Cannot use ${quote(path)}: row ${quote(name)} is compared with ${quote(against)}, which is no other row`,
      );
    }
  }
  return rows;
}

/**
 * The paper's accuracy table: every row runs over every set, in full as `runRag` does, beside a baseline that must be low, the
 * questions without passages. Writes accuracy.json, accuracy.md and a picture a set.
 *
 * @throws RangeError for sets whose folders would be one; Error as runRag(), or for a model that is there and cannot be loaded; the
 * signal's reason.
 */
export async function runAccuracyTable(options: AccuracyTableOptions): Promise<AccuracyTable> {
  const { folder, maxTokens, lastSentence } = options;
  const setFolders = foldersOf(options.sets, "sets");
  const sets: TableSet[] = [];
  for (const [s, set] of options.sets.entries()) sets.push(await runSet(set, setFolders[s] as string, options));
  const table: AccuracyTable = { maxTokens, lastSentence, sets };
  await writeWhole(join(folder, "accuracy.json"), `${JSON.stringify(table, null, 2)}\n`);
  await writeWhole(join(folder, "accuracy.md"), tableMarkdown(table));
  return table;
}

/** What runAccuracyTable() writes beside the sets' folders. */
export function tableFiles(sets: readonly { readonly name: string }[]): string[] {
  return ["accuracy.json", "accuracy.md", ...sets.map(({ name }) => `${folderName(name)}.svg`)];
}

async function runSet(set: QuestionSet, setFolder: string, options: AccuracyTableOptions): Promise<TableSet> {
  const { rows, signal, lastSentence } = options;
  const { name, lines, notes } = set;
  const folder = join(options.folder, setFolder);
  const run = async (row: TableRow, rowName: string, maxDocuments?: number): Promise<[NamedRun, RunSummary]> => {
    options.onRun?.(name, rowName);
    await using engine = await options.openEngine(row);
    const { answers, timings } = await runRag({
      ...options,
      engine,
      lines,
      folder: join(folder, folderName(rowName)),
      mode: row.mode,
      positionReencoding: row.positionReencoding,
      repair: row.repair,
      maxDocuments,
      asksAgain: true,
    });
    const named = { name: rowName, answers, timings };
    return [named, summarizeRun(named, { lastSentence })];
  };

  const scored = new Map<string, NamedRun>();
  const results: TableResult[] = [];
  for (const row of rows) {
    signal.throwIfAborted();
    const reason = await whyNotThere(row);
    if (reason !== undefined) {
      results.push({ name: row.name, paper: row.paper, outcome: { kind: "missing", reason } });
      continue;
    }
    const [named, summary] = await run(row, row.name);
    scored.set(row.name, named);
    results.push({ name: row.name, paper: row.paper, outcome: { kind: "scored", summary } });
  }

  const baselines: RunSummary[] = [];
  const reader = rows.find(({ name: rowName }) => scored.has(rowName));
  if (reader !== undefined) baselines.push((await run(reader, "question only", 0))[1]);

  const runs = [
    ...results.flatMap(({ outcome }) => (outcome.kind === "scored" ? [outcome.summary] : [])),
    ...baselines,
  ];
  await writeWhole(join(options.folder, `${setFolder}.svg`), accuracyPicture(`Accuracy over ${name}`, runs, "word"));
  return {
    name,
    folder: setFolder,
    questions: lines.length,
    rows: results,
    baselines,
    comparisons: comparisonsOf(rows, scored, lastSentence),
    agreement: orderAgreement(rows, scored, lastSentence),
    notes,
  };
}

async function whyNotThere({ model, adapter }: TableRow): Promise<string | undefined> {
  if (!(await pathExists(model))) return `no model at ${quote(model)}`;
  return adapter === undefined || (await pathExists(adapter)) ? undefined : `no adapter at ${quote(adapter)}`;
}

/** Each row against the first, and against the one that it names. */
function comparisonsOf(
  rows: readonly TableRow[],
  scored: ReadonlyMap<string, NamedRun>,
  lastSentence: boolean,
): RunComparison[] {
  return rows.flatMap(({ name, against }) => {
    const ours = scored.get(name);
    const others = new Set([rows[0]?.name, against]);
    return [...others].flatMap((other) => {
      const theirs = other === undefined || other === name ? undefined : scored.get(other);
      return ours === undefined || theirs === undefined ? [] : [compareRuns(ours, theirs, { lastSentence })];
    });
  });
}

function writeWhole(path: string, text: string): Promise<void> {
  return writeAtomically(path, (partial) => writeFile(partial, text));
}

/**
 * One sentence on where the order of rows agrees with the paper's averages: for each two rows that both have, whether the
 * same one stands higher. Two rows whose paired interval holds 0 are not told apart.
 */
function orderAgreement(
  rows: readonly Pick<TableResult, "name" | "paper">[],
  scored: ReadonlyMap<string, NamedRun>,
  lastSentence: boolean,
): string {
  const known = rows.flatMap(({ name, paper }) => {
    const run = scored.get(name);
    return run === undefined || paper === undefined ? [] : [{ name, run, average: averageOf(paper) }];
  });
  const same: string[] = [];
  const opposite: string[] = [];
  const open: string[] = [];
  for (const [i, first] of known.entries()) {
    for (const second of known.slice(i + 1)) {
      if (first.average === second.average) continue;
      const [higher, lower] = first.average > second.average ? [first, second] : [second, first];
      const { low, high } = compareRuns(higher.run, lower.run, { lastSentence }).differences.word;
      const pair = `${higher.name} over ${lower.name}`;
      (low > 0 ? same : high < 0 ? opposite : open).push(pair);
    }
  }
  const total = same.length + opposite.length + open.length;
  if (total === 0) return "Fewer than two of the paper's rows are here, so there is no order to compare.";
  const list = (pairs: readonly string[]) => (pairs.length === 0 ? "" : ` (${pairs.join("; ")})`);
  return `Of ${total} pairs of rows that the paper has too, ${same.length} stand in the paper's order${list(same)}, ${opposite.length} in the opposite${list(opposite)}, and ${open.length} are not told apart, their interval holds 0${list(open)}.`;
}

function averageOf(name: PaperRowName): number {
  return paperAverage(PAPER_ROWS[name]);
}

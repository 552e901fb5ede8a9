import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { Command, Option } from "commander";
import { readNoise } from "../data/synth/synth-file.js";
import { readTableRows, runAccuracyTable } from "../eval/accuracy-table.js";
import { answerFiles, oneAnswerFile } from "../eval/answer-files.js";
import { type ReadLines, readAnsweredLines, readRagLines } from "../eval/rag-line.js";
import { runRag } from "../eval/rag-run.js";
import {
  differenceTable,
  type EvaluationReport,
  remarks,
  scoreTable,
  servingTable,
  writeReport,
} from "../eval/report.js";
import { compareRuns, type NamedRun, summarizeRun, summarizeServing } from "../eval/summary.js";
import { tableMarkdown } from "../eval/table-markdown.js";
import { openEngine } from "./open-engine.js";
import {
  addEngineOptions,
  addModeOptions,
  type EngineFlags,
  jsonOption,
  nonEmpty,
  wholeNumber,
  wholeNumbers,
} from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatTable, note, type Terminal, write, writeJson } from "./terminal.js";
import { UsageError } from "./usage-error.js";

export interface EvalScoreFlags {
  readonly input: string;
  readonly compare?: string;
  readonly lastSentence?: boolean;
  readonly output?: string;
  readonly json?: boolean;
}

/** Declares `eval score`'s options. */
export function evalScoreOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--input <path>",
        "a finished file (JSON lines, a .json array, Parquet), a run's folder, or a folder of them; - is standard input",
      )
        .argParser(nonEmpty("--input"))
        .makeOptionMandatory(),
    )
    .addOption(compareOption())
    .addOption(lastSentenceOption())
    .addOption(
      new Option("--output <folder>", "also write report.json, report.md and report.svg there").argParser(
        nonEmpty("--output"),
      ),
    )
    .addOption(jsonOption("the report as one line of JSON"));
}

/** Scores finished files. @returns the exit code: 1 if a line could not be used. */
export async function runEvalScore(flags: EvalScoreFlags, terminal: Terminal): Promise<number> {
  const { lastSentence = false } = flags;
  const runs: NamedRun[] = [];
  let exitCode = 0;
  for (const { name, path } of await answerFiles(flags.input)) {
    const read = await readAnsweredLines(path, terminal.signal);
    if (tellBadLines(read, terminal)) exitCode = 1;
    runs.push({ name, answers: read.lines });
  }
  const against = await readCompared(flags.compare, terminal);
  if (against?.hasBadLines) exitCode = 1;
  const options = { lastSentence };
  const report: EvaluationReport = {
    title: `Scores of ${flags.input === "-" ? "standard input" : basename(resolve(flags.input))}`,
    lastSentence,
    runs: runs.map((run) => summarizeRun(run, options)),
    comparisons: against === undefined ? [] : runs.map((run) => compareRuns(run, against.run, options)),
    notes: [],
  };
  if (flags.output !== undefined) await writeReport(flags.output, report);
  await tellReport(report, flags.json === true, terminal);
  return exitCode;
}

export interface EvalRagFlags extends EngineFlags {
  readonly input: string;
  readonly output: string;
  readonly limit?: number;
  readonly maxTokens?: number;
  readonly maxDocuments?: number;
  readonly lastSentence?: boolean;
  readonly concurrency?: number;
  readonly compare?: string;
  readonly json?: boolean;
  readonly positionReencoding: boolean;
}

/** Declares `eval rag`'s options. */
export function evalRagOptions(command: Command): Command {
  command
    .addOption(
      new Option(
        "--input <file>",
        'questions (JSON lines, a .json array, Parquet): {"question","answers","documents","id"?,"kind"?}; - is standard input',
      )
        .argParser(nonEmpty("--input"))
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--output <folder>", "the run's folder: answers and report; an interrupted run goes on in it")
        .argParser(nonEmpty("--output"))
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--limit <n>", "the first n questions (default: all)").argParser(
        wholeNumber("--limit", 1, Number.MAX_SAFE_INTEGER),
      ),
    )
    .addOption(maxTokensOption())
    .addOption(
      new Option(
        "--max-documents <n>",
        "the best n documents of each; 0 asks the question alone (default: all)",
      ).argParser(wholeNumber("--max-documents", 0, 2 ** 24)),
    )
    .addOption(lastSentenceOption())
    .addOption(concurrencyOption())
    .addOption(compareOption())
    .addOption(jsonOption("the report as one line of JSON"));
  return addEngineOptions(addModeOptions(command));
}

/** Runs an engine over a set of questions. @returns the exit code: 1 if a line could not be used or asked. */
export async function runEvalRag(flags: EvalRagFlags, terminal: Terminal): Promise<number> {
  const { lastSentence = false, concurrency = 1, positionReencoding } = flags;
  const read = await readRagLines(flags.input, terminal.signal, flags.limit);
  const hasBadLines = tellBadLines(read, terminal);
  const against = await readCompared(flags.compare, terminal);
  await using engine = await openEngine({ ...flags }, terminal);
  const mode = engine.defaultMode;
  const bar = new ProgressBar(terminal, "Answering");
  const startedAt = performance.now();
  const run = await runRag({
    engine,
    lines: read.lines,
    folder: flags.output,
    mode,
    positionReencoding,
    maxDocuments: flags.maxDocuments,
    maxTokens: flags.maxTokens ?? 60,
    concurrency,
    signal: terminal.signal,
    onProgress: (answered, total) => bar.update(answered, total),
  }).finally(() => bar.end());
  const numAsked = run.answers.length - run.resumed;
  const seconds = (performance.now() - startedAt) / 1000;
  note(
    terminal,
    `${numAsked} questions answered in ${seconds.toFixed(1)} s${run.resumed > 0 ? `, ${run.resumed} were answered before` : ""}`,
  );
  const name = basename(resolve(flags.output));
  const named: NamedRun = { name, answers: run.answers };
  const options = { lastSentence };
  const report: EvaluationReport = {
    title: `${name}: ${mode} mode${positionReencoding ? "" : " without position re-encoding"}`,
    lastSentence,
    runs: [{ ...summarizeRun(named, options), serving: summarizeServing(run.timings) }],
    comparisons: against === undefined ? [] : [compareRuns(named, against.run, options)],
    notes: read.numBad === 0 ? [] : [`${read.numBad} lines of the set could not be used and are left out.`],
  };
  await writeReport(flags.output, report);
  await tellReport(report, flags.json === true, terminal);
  note(terminal, `Written: ${flags.output}, answers.jsonl with report.md, .json and .svg`);
  return hasBadLines || against?.hasBadLines || report.runs.some(({ failed }) => failed > 0) ? 1 : 0;
}

export interface EvalTableFlags extends Omit<EngineFlags, "model" | "mode" | "prefix" | "trainedModes"> {
  readonly rows: string;
  readonly output: string;
  readonly questions?: number;
  readonly passages?: readonly number[];
  readonly noise?: string;
  readonly hotpot?: string;
  readonly maxTokens?: number;
  readonly concurrency?: number;
  readonly json?: boolean;
}

/** Declares `eval table`'s options. */
export function evalTableOptions(command: Command): Command {
  command
    .addOption(
      new Option(
        "--rows <file>",
        'a JSON array of {"name","model","mode","positionReencoding"?,"paper"?,"against"?}; models from its own folder',
      )
        .argParser(nonEmpty("--rows"))
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--output <folder>", "sets, answers and table; an interrupted table goes on in it")
        .argParser(nonEmpty("--output"))
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--questions <n>", "questions of each held-out set (default: 4000)").argParser(
        wholeNumber("--questions", 1, 1_000_000),
      ),
    )
    .addOption(
      new Option("--passages <list>", "a held-out set for each number (default: 10,4)").argParser(passageCounts),
    )
    .addOption(
      new Option(
        "--noise <file>",
        'real passages {"title","text"} to stand among the others (default: none)',
      ).argParser(nonEmpty("--noise")),
    )
    .addOption(
      new Option(
        "--hotpot <file>",
        "HotpotQA's distractor questions as a set of their own; passed over if not there",
      ).argParser(nonEmpty("--hotpot")),
    )
    .addOption(maxTokensOption())
    .addOption(concurrencyOption());
  // Each row names its own model.
  for (const option of addEngineOptions(new Command()).options) {
    if (option.long !== "--model") command.addOption(option);
  }
  return command.addOption(jsonOption("the table as one line of JSON"));
}

/** Makes the paper's accuracy table. @returns the exit code: 1 if a question could not be asked. */
export async function runEvalTable(flags: EvalTableFlags, terminal: Terminal): Promise<number> {
  const rows = await readTableRows(flags.rows);
  const noise = flags.noise === undefined ? [] : await readNoise(flags.noise, terminal.signal);
  const isMissing = flags.hotpot !== undefined && !existsSync(flags.hotpot);
  if (isMissing) note(terminal, `Passed over: there is no file "${flags.hotpot}"`);
  const bar = new ProgressBar(terminal, "Answering");
  const table = await runAccuracyTable({
    rows,
    folder: flags.output,
    numQuestions: flags.questions ?? 4000,
    passages: flags.passages ?? [10, 4],
    noise,
    hotpot: isMissing ? undefined : flags.hotpot,
    maxTokens: flags.maxTokens ?? 60,
    concurrency: flags.concurrency ?? 1,
    openEngine: (model) => openEngine({ ...flags, model }, terminal),
    signal: terminal.signal,
    onRun: (set, row) => {
      bar.end();
      note(terminal, `${set}: ${row}`);
    },
    onProgress: (answered, total) => bar.update(answered, total),
  }).finally(() => bar.end());
  if (flags.json) await writeJson(terminal, table);
  else await write(terminal.stdout, tableMarkdown(table), terminal.signal);
  note(terminal, `Written: ${flags.output}, accuracy.md and accuracy.json with a picture for each set`);
  const outcomes = table.sets.flatMap((set) => set.rows.map(({ outcome }) => outcome));
  return outcomes.some((outcome) => outcome.kind === "scored" && outcome.summary.failed > 0) ? 1 : 0;
}

function passageCounts(text: string): number[] {
  const counts = wholeNumbers("--passages", 2)(text);
  const tooMany = counts.find((count) => count > 20);
  if (tooMany !== undefined) {
    throw new UsageError(`Cannot use --passages: it has ${tooMany}, wanted numbers from 2 to 20`);
  }
  if (new Set(counts).size < counts.length) {
    throw new UsageError(`Cannot use --passages: a number stands twice in "${text}"`);
  }
  return counts;
}

function maxTokensOption(): Option {
  return new Option("--max-tokens <n>", "the longest answer in tokens (default: 60)").argParser(
    wholeNumber("--max-tokens", 1, 2 ** 24),
  );
}

function concurrencyOption(): Option {
  return new Option(
    "--concurrency <n>",
    "questions at the same time (default: 1, so that times are a request's own)",
  ).argParser(wholeNumber("--concurrency", 1, 256));
}

function compareOption(): Option {
  return new Option(
    "--compare <path>",
    "a finished file or a run's folder over the same questions: paired differences from it",
  ).argParser(nonEmpty("--compare"));
}

function lastSentenceOption(): Option {
  return new Option("--last-sentence", "score the answers' last sentences alone");
}

async function readCompared(
  path: string | undefined,
  terminal: Terminal,
): Promise<{ readonly run: NamedRun; readonly hasBadLines: boolean } | undefined> {
  if (path === undefined) return undefined;
  const file = await oneAnswerFile(path);
  const read = await readAnsweredLines(file.path, terminal.signal);
  const hasBadLines = tellBadLines(read, terminal);
  return { run: { name: file.name, answers: read.lines }, hasBadLines };
}

/** @returns whether there are any. */
function tellBadLines({ numBad, errors }: ReadLines<unknown>, terminal: Terminal): boolean {
  for (const error of errors) note(terminal, error);
  if (numBad > errors.length) note(terminal, `${numBad - errors.length} more lines could not be used`);
  return numBad > 0;
}

async function tellReport(report: EvaluationReport, json: boolean, terminal: Terminal): Promise<void> {
  if (json) return writeJson(terminal, report);
  const tables = [scoreTable(report.runs), differenceTable(report.comparisons), servingTable(report.runs)];
  const parts = [
    "Percent with 95% bootstrap intervals",
    ...tables.filter((rows) => rows.length > 1).map(formatTable),
    ...remarks(report),
  ];
  await write(terminal.stdout, `${parts.join("\n\n")}\n`, terminal.signal);
}

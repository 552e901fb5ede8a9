import { existsSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import type { LocalEngine } from "../engine/local-engine.js";
import { readRagLines } from "../eval/rag-line.js";
import { runRag } from "../eval/rag-run.js";
import { type EvaluationReport, REPORT_FILES, writeReport } from "../eval/report.js";
import { prepareReport } from "../eval/run-folder.js";
import { type QuestionSet, runSets, setsReportFiles } from "../eval/sets-run.js";
import { compareRuns, type NamedRun, summarizeRun } from "../eval/summary.js";
import { wholeNumber } from "../files/options.js";
import { readSetting, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { command, type Flag, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { entrantFlags, type NamedText, openEntrants, readPeers, splitNamed } from "./eval-entrants.js";
import {
  askAgainFlag,
  askingOptions,
  compareFlag,
  concurrencyFlag,
  lastSentenceFlag,
  limitFlag,
  maxTokensFlag,
} from "./eval-options.js";
import { badLinesNotes, type ComparedRun, readComparedRun, tellBadLines, tellReport, tellSets } from "./eval-report.js";
import { openEngine } from "./open-engine.js";
import { engineFlags, forceFlag, modeFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { note, type Terminal } from "./terminal.js";

export const setsFlag = mandatory({
  takes: "<file>",
  about:
    'questions (JSON lines, a .json array, Parquet): {"question","answers","documents","id"?,"kind"?}; - is standard input; NAME=FILE names the set; may be given again',
  read: (text, before = []) => [...before, parseInput(text)],
} as Flag<readonly NamedText[]>);

const ragFlags = {
  input: setsFlag,
  output: mandatory(
    flag("<folder>", "answers and report, each run in a folder of its own; what was interrupted goes on", someWords),
  ),
  force: forceFlag,
  limit: limitFlag,
  maxTokens: maxTokensFlag,
  maxDocuments: flag(
    "<n>",
    "the best n documents of each; 0 asks the question alone (default: all)",
    wholeNumber(0, 2 ** 24),
  ),
  lastSentence: lastSentenceFlag,
  concurrency: concurrencyFlag,
  askAgain: askAgainFlag,
  compare: compareFlag,
  ...entrantFlags("as --mode says"),
  json: toggle("the report as one line of JSON"),
  ...modeFlags,
  ...engineFlags,
};

export const evalRagCommand = command({
  name: "rag",
  summary: "Answers questions over passages, keeps every answer, and scores them.",
  flags: ragFlags,
  run: runEvalRag,
  help: `
Examples:
  block-attention data hqa --input hotpot_dev_distractor_v1.json --output test.jsonl
  block-attention eval rag --input test.jsonl --mode full --last-sentence --output runs/full
  block-attention eval rag --input test.jsonl --mode block --last-sentence --output runs/block --compare runs/full
  block-attention eval rag --model ./Tulu3-Block-FT --modes block,full,no-reencoding --output runs/paper \\
    --input 2wiki=2wiki.jsonl --input hqa=hqa.jsonl --input nq=nq.jsonl --input tqa=tqa.jsonl
  block-attention eval rag --input nq.jsonl --peer vllm=http://127.0.0.1:8000/v1 --peer-model llama --output runs/peers

A line is {"question", "answers", "documents", "id"?, "kind"?}. The same command goes on where it was interrupted. With
--modes, --peer or several sets, each run has a folder in the output's, and one report stands over all. A peer's prompt is sent
to its server; its key comes from the environment alone.`,
});

/** Asks an engine, and others, the questions of sets. @returns the exit code: 1 if a line could not be used or asked. */
async function runEvalRag(flags: FlagsOf<typeof ragFlags>, terminal: Terminal): Promise<number> {
  const { modes, input, mode, positionReencoding, compare } = flags;
  const peers = readPeers(flags, terminal);
  if (modes !== undefined && (mode !== undefined || !positionReencoding)) {
    const flag = mode === undefined ? "--no-position-reencoding" : "--mode";
    throw new UsageError(`Cannot use ${flag}: --modes is given too`);
  }
  if (compare !== undefined && input.length > 1) {
    throw new UsageError(`Cannot use --compare: there are ${input.length} sets, wanted one`);
  }
  const isOneRun = modes === undefined && peers.length === 0 && input.length === 1;
  const names = isOneRun ? REPORT_FILES : setsReportFiles(input);
  const inputs = input.map(({ text }) => text);
  await prepareReport(flags.output, names, inputs, flags.force ?? false);
  const { sets, hasBadLines } = await readSets(flags, terminal);
  const against = compare === undefined ? undefined : await readComparedRun(compare, terminal);
  const failed = isOneRun
    ? await runOne(flags, sets[0] as QuestionSet, against, terminal)
    : await runMany(flags, sets, against, terminal);
  return failed > 0 || hasBadLines || against?.hasBadLines ? 1 : 0;
}

/** One mode over one set: the output's folder is the run's. @returns questions that could not be asked. */
async function runOne(
  flags: FlagsOf<typeof ragFlags>,
  set: QuestionSet,
  against: ComparedRun | undefined,
  terminal: Terminal,
): Promise<number> {
  const { lastSentence = false, positionReencoding } = flags;
  await using engine = await openEngine({ ...flags }, terminal);
  const mode = engine.defaultMode;
  const bar = new ProgressBar(terminal, "Answering");
  const startedAt = performance.now();
  const run = await runRag({
    engine,
    lines: set.lines,
    folder: flags.output,
    mode,
    positionReencoding,
    maxDocuments: flags.maxDocuments,
    ...askingOptions(flags, terminal, bar),
    asksAgain: flags.askAgain,
  }).finally(() => bar.end());
  const numAsked = run.answers.length - run.resumed;
  const seconds = (performance.now() - startedAt) / 1000;
  note(
    terminal,
    `${numAsked} questions answered in ${seconds.toFixed(1)} s${run.resumed > 0 ? `, ${run.resumed} were answered before` : ""}`,
  );
  const name = basename(resolve(flags.output));
  const named: NamedRun = { name, answers: run.answers, timings: run.timings };
  const options = { lastSentence };
  const summary = summarizeRun(named, options);
  const report: EvaluationReport = {
    title: `${name}: ${mode} mode${positionReencoding ? "" : " without position re-encoding"}`,
    lastSentence,
    runs: [summary],
    comparisons: against === undefined ? [] : [compareRuns(named, against.run, options)],
    notes: set.notes,
  };
  await writeReport(flags.output, report);
  await tellReport(report, flags.json === true, terminal);
  note(terminal, `Written: ${flags.output}, answers.jsonl with report.md, .json and .svg`);
  return summary.failed;
}

/** Several runs in one report. @returns questions that could not be asked. */
async function runMany(
  flags: FlagsOf<typeof ragFlags>,
  sets: readonly QuestionSet[],
  against: ComparedRun | undefined,
  terminal: Terminal,
): Promise<number> {
  const ownMode = (engine: LocalEngine) => [flags.positionReencoding ? engine.defaultMode : "no-reencoding"] as const;
  await using entrants = await openEntrants(flags, ownMode, terminal);
  const bar = new ProgressBar(terminal, "Answering");
  const report = await runSets({
    sets,
    entrants: entrants.list,
    folder: flags.output,
    lastSentence: flags.lastSentence ?? false,
    ...askingOptions(flags, terminal, bar),
    asksAgain: flags.askAgain,
    against: against?.run,
    onRun: (set, entrant) => {
      bar.end();
      note(terminal, `${set}: ${entrant}`);
    },
  }).finally(() => bar.end());
  await tellSets(report, flags.json === true, terminal);
  note(terminal, `Written: ${flags.output}, report.md and report.json with a picture for each set`);
  return report.sets.flatMap(({ runs }) => runs).reduce((sum, { failed }) => sum + failed, 0);
}

/** Reads the sets that setsFlag names; lines that cannot be used are told. @throws Error as readRagLines(). */
export async function readSets(
  { input, limit }: FlagsOf<{ input: typeof setsFlag; limit: typeof limitFlag }>,
  terminal: Terminal,
): Promise<{ readonly sets: readonly QuestionSet[]; readonly hasBadLines: boolean }> {
  const sets: QuestionSet[] = [];
  let hasBadLines = false;
  for (const { name, text: path } of input) {
    const read = await readRagLines(path, terminal.signal, limit);
    if (tellBadLines(read, terminal)) hasBadLines = true;
    sets.push({ name, lines: read.lines, notes: badLinesNotes(read) });
  }
  return { sets, hasBadLines };
}

/** FILE or NAME=FILE; a file is called by its own name. */
export function parseInput(text: string): NamedText {
  const path = readSetting(someWords, text, "--input");
  const named = splitNamed(path);
  if (named !== undefined && !existsSync(path)) return named;
  return { name: path === "-" ? "standard input" : basename(path, extname(path)), text: path };
}

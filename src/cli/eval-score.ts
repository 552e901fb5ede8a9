import { basename, join, resolve } from "node:path";
import { answerFiles, readAnswerFile } from "../eval/answer-files.js";
import { type EvaluationReport, REPORT_FILES, writeReport } from "../eval/report.js";
import { compareRuns, type NamedRun, summarizeRun } from "../eval/summary.js";
import { prepareOutputs } from "../files/outputs.js";
import { someWords } from "../files/settings.js";
import { command, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { compareFlag, lastSentenceFlag } from "./eval-options.js";
import { readComparedRun, tellBadLines, tellReport } from "./eval-report.js";
import { forceFlag, refuseLoneForce } from "./options.js";
import type { Terminal } from "./terminal.js";

const scoreFlags = {
  input: mandatory(
    flag(
      "<path>",
      "a finished file (JSON lines, a .json array, Parquet), a run's folder, or a folder of them; - is standard input",
      someWords,
    ),
  ),
  compare: compareFlag,
  lastSentence: lastSentenceFlag,
  output: flag("<folder>", "also write report.json, report.md and report.svg there", someWords),
  force: forceFlag,
  json: toggle("the report as one line of JSON"),
};

export const evalScoreCommand = command({
  name: "score",
  summary: "Scores finished files, without a model.",
  flags: scoreFlags,
  run: runEvalScore,
  help: `
Examples:
  block-attention eval score --input answers.jsonl
  block-attention eval score --input runs/ --last-sentence --json
  block-attention eval score --input block.jsonl --compare full.jsonl

A line is {"generated", "answers", "question"?, "id"?, "kind"?}. A line that cannot be used is told on standard error, the
others go on, and the exit code is 1.`,
});

/** Scores finished files. @returns the exit code: 1 if a line could not be used. */
async function runEvalScore(flags: FlagsOf<typeof scoreFlags>, terminal: Terminal): Promise<number> {
  const { lastSentence = false, output, force } = flags;
  refuseLoneForce(flags);
  const files = await answerFiles(flags.input);
  if (output !== undefined) {
    const inputs = files.map(({ path }) => path);
    await prepareOutputs({ inputs, outputs: REPORT_FILES.map((name) => join(output, name)), force });
  }
  const runs: NamedRun[] = [];
  let exitCode = 0;
  for (const file of files) {
    const { run, read } = await readAnswerFile(file, terminal.signal);
    if (tellBadLines(read, terminal)) exitCode = 1;
    runs.push(run);
  }
  const against = flags.compare === undefined ? undefined : await readComparedRun(flags.compare, terminal);
  if (against?.hasBadLines) exitCode = 1;
  const options = { lastSentence };
  const report: EvaluationReport = {
    title: `Scores of ${flags.input === "-" ? "standard input" : basename(resolve(flags.input))}`,
    lastSentence,
    runs: runs.map((run) => summarizeRun(run, options)),
    comparisons: against === undefined ? [] : runs.map((run) => compareRuns(run, against.run, options)),
    notes: [],
  };
  if (output !== undefined) await writeReport(output, report);
  await tellReport(report, flags.json === true, terminal);
  return exitCode;
}

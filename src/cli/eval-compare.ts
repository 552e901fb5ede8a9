import { join } from "node:path";
import { oneAnswerFile } from "../eval/answer-files.js";
import {
  compareInFull,
  comparisonMarkdown,
  comparisonTable,
  type DecidedQuestion,
  RIGHT_METRICS,
  type RunsComparison,
  verdict,
} from "../eval/compare.js";
import { METRIC_NAMES } from "../eval/metrics.js";
import { scoreTable, servingTable, writeFiles } from "../eval/report.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { prepareOutputs } from "../files/outputs.js";
import { someWords } from "../files/settings.js";
import { command, type FlagsOf, flag, operand, toggle } from "./command.js";
import { lastSentenceFlag } from "./eval-options.js";
import { type ComparedRun, readComparedRun, tellParts } from "./eval-report.js";
import { forceFlag, refuseLoneForce } from "./options.js";
import { formatTable, note, type Terminal, writeJson } from "./terminal.js";

const compareFlags = {
  first: operand(flag("<first>", "a finished file or a run's folder", someWords)),
  second: operand(flag("<second>", "another over the same questions", someWords)),
  metric: flag(
    "<name>",
    `what decides won and lost: ${RIGHT_METRICS.join(", ")} (default: word)`,
    oneOfTexts(RIGHT_METRICS),
  ),
  lastSentence: lastSentenceFlag,
  list: flag("<n>", "how many of the questions won and lost are shown, each (default: 10)", wholeNumber(0)),
  output: flag("<folder>", "also write compare.json and compare.md there, with all of them", someWords),
  force: forceFlag,
  json: toggle("the comparison as one line of JSON, with all of them"),
};

export const evalCompareCommand = command({
  name: "compare",
  summary: "Compares two runs over the same questions.",
  flags: compareFlags,
  run: runEvalCompare,
  help: `
Examples:
  block-attention eval compare runs/block runs/full --last-sentence
  block-attention eval compare runs/block runs/full --output runs/block-less-full --json

Tells the paired difference with its 95% bootstrap interval, McNemar's exact test, and the questions that one run alone has
right. Runs over different questions are refused.`,
});

/** Compares two runs over the same questions. @returns the exit code: 1 if a line could not be used. */
async function runEvalCompare(flags: FlagsOf<typeof compareFlags>, terminal: Terminal): Promise<number> {
  const { output, force } = flags;
  refuseLoneForce(flags);
  if (output !== undefined) {
    const files = await Promise.all([flags.first, flags.second].map(oneAnswerFile));
    const outputs = ["compare.json", "compare.md"].map((name) => join(output, name));
    await prepareOutputs({ inputs: files.map(({ path }) => path), outputs, force });
  }
  const first = await readComparedRun(flags.first, terminal);
  const second = await readComparedRun(flags.second, terminal);
  // Folders of one name are told apart by their paths.
  const isSame = first.run.name === second.run.name;
  const named = ({ run }: ComparedRun, path: string) => ({ ...run, name: isSame ? path : run.name });
  const compared = compareInFull(named(first, flags.first), named(second, flags.second), flags);
  if (output !== undefined) {
    await writeFiles(output, {
      "compare.json": `${JSON.stringify(compared, null, 2)}\n`,
      "compare.md": comparisonMarkdown(compared),
    });
  }
  if (flags.json === true) await writeJson(terminal, compared);
  else await tellParts(partsOf(compared, flags.list ?? 10), terminal);
  if (output !== undefined) note(terminal, `Written: ${output}, compare.md and compare.json`);
  return first.hasBadLines || second.hasBadLines ? 1 : 0;
}

function partsOf(compared: RunsComparison, numListed: number): string[] {
  const { runs, comparison, won, lost } = compared;
  const metric = METRIC_NAMES[compared.metric].toLowerCase();
  return [
    `${comparison.name} less ${comparison.against}, points over ${comparison.questions} questions with 95% intervals of the paired bootstrap`,
    formatTable(comparisonTable(compared)),
    verdict(compared),
    formatTable(scoreTable(runs)),
    ...tables(servingTable(runs)),
    ...listed(`Won by ${metric}`, won, runs, numListed),
    ...listed(`Lost by ${metric}`, lost, runs, numListed),
  ];
}

function listed(
  title: string,
  questions: readonly DecidedQuestion[],
  [first, second]: RunsComparison["runs"],
  numListed: number,
): string[] {
  if (questions.length === 0) return [];
  const shown = questions
    .slice(0, numListed)
    .map(({ id, question, answers, first: ours, second: theirs }) =>
      [
        `${plain(id)}: ${plain(question)} (${answers.map(plain).join(" or ")})`,
        `  ${first.name}: ${plain(ours)}`,
        `  ${second.name}: ${plain(theirs)}`,
      ].join("\n"),
    );
  const more = questions.length > numListed ? [`${questions.length - numListed} more; --output or --json has all`] : [];
  return [`${title}: ${questions.length}`, ...shown, ...more];
}

/** A table that has more than its head. */
function tables(rows: readonly (readonly string[])[]): string[] {
  return rows.length > 1 ? [formatTable(rows)] : [];
}

/** On one line, without what moves a terminal. */
function plain(text: string): string {
  return text.replace(/[\s\p{Cc}]+/gu, " ").trim();
}

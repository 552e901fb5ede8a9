import { repairField } from "../engine/repair.js";
import { repairEntrant } from "../eval/entrant.js";
import { repairReport, writeRepairReport } from "../eval/repair-report.js";
import { prepareReport } from "../eval/run-folder.js";
import { runSets, setsReportFiles } from "../eval/sets-run.js";
import { readSetting, someWords } from "../files/settings.js";
import { command, type Flag, type FlagsOf, flag, mandatory, repeated, toggle } from "./command.js";
import type { NamedText } from "./eval-entrants.js";
import { askingOptions, concurrencyFlag, limitFlag, maxTokensFlag } from "./eval-options.js";
import { pointFlags, pointNames, readPoints } from "./eval-points.js";
import { parseInput } from "./eval-rag.js";
import { tellParts } from "./eval-report.js";
import { openEngine } from "./open-engine.js";
import { engineFlags, forceFlag, trainingFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatTable, note, type Terminal, writeJson } from "./terminal.js";

/** The same words in all modes, fixed before anything was measured. */
const texts = {
  preamble: "Answer the question from the documents below.\n\n",
  final: "\n\nAnswer with the shortest exact words from the documents, no sentence.\nQuestion: {question}",
};
const defaultRepairs = ["lead"];
/** Questions that every way answers before the next ones come: their blocks fit the store together. */
const questionsATurn = 4;

const repairFlags = {
  input: mandatory({
    takes: "<file>",
    about:
      'questions (JSON lines, a .json array, Parquet): {"question","answers","documents"}, or {"question","answers","title","text"}; NAME=FILE names the set; may be given again',
    read: (text, before = []) => [...before, parseInput(text)],
  } as Flag<readonly NamedText[]>),
  output: mandatory(flag("<folder>", "a run for each way, and the report; what was interrupted goes on", someWords)),
  force: forceFlag,
  repairs: {
    ...repeated("<items>", "a repair beside full mode and plain blocks; may be given again (default: lead)", someWords),
    option: "repair",
    read: (text, before = [], origin) => [...before, readSetting(repairField, text, origin)],
  } as Flag<readonly string[] | undefined>,
  ...pointFlags,
  limit: limitFlag,
  maxTokens: maxTokensFlag,
  concurrency: concurrencyFlag,
  json: toggle("the report as one line of JSON"),
  ...trainingFlags,
  ...engineFlags,
};

export const evalRepairCommand = command({
  name: "repair",
  summary: "Tells what repairs of block mode bring and cost, beside full mode.",
  flags: repairFlags,
  run: runEvalRepair,
  help: `
Examples:
  block-attention eval repair --model model.gguf --input hqa.jsonl --output runs/repair
  block-attention eval repair --model model.gguf --input hqa.jsonl --input nq.jsonl --pool passages.jsonl --passages 2,10 \\
    --repair lead --repair lead,first=8 --repair lead,deviation=0.1 --output runs/repair

Gold passages are those that a line's "supports", "supporting_facts" or a document's "gold": true name, else those that hold a gold
answer; they stand at random among the others. Every way answers some questions, then the next ones, over one store.`,
});

/** Measures repairs. @returns the exit code: 1 if a line could not be used or asked. */
async function runEvalRepair(flags: FlagsOf<typeof repairFlags>, terminal: Terminal): Promise<number> {
  const { input, repairs = defaultRepairs } = flags;
  const inputs = [...input.map(({ text }) => text), ...(flags.pool === undefined ? [] : [flags.pool])];
  const outputs = [...setsReportFiles(pointNames(flags)), "repair.md", "repair.svg"];
  await prepareReport(flags.output, outputs, inputs, flags.force ?? false);
  const { sets, hasBadLines } = await readPoints(flags, terminal);
  await using engine = await openEngine(flags, terminal);
  const ways = ["full", "none", ...repairs.filter((one) => one !== "none")];
  const bar = new ProgressBar(terminal, "Answering");
  const report = await runSets({
    sets,
    entrants: ways.map((way) => repairEntrant({ engine, way, texts })),
    folder: flags.output,
    lastSentence: false,
    turn: questionsATurn,
    ...askingOptions(flags, terminal, bar),
    onResume: undefined,
    asksAgain: "cold",
  }).finally(() => bar.end());
  const told = repairReport(report);
  await writeRepairReport(flags.output, told);
  if (flags.json === true) await writeJson(terminal, told);
  else await tellParts([formatTable(told.table)], terminal);
  note(terminal, `Written: ${flags.output}, report.md and report.json, repair.svg, with a picture for each set`);
  return report.sets.flatMap(({ runs }) => runs).some(({ failed }) => failed > 0) || hasBadLines ? 1 : 0;
}

import { readGoldLines } from "../eval/rag-line.js";
import { prepareReport } from "../eval/run-folder.js";
import { runSweep, SWEEP_FILES, sweepRemarks, sweepTable } from "../eval/sweep.js";
import { GOLD_ORDERS } from "../eval/sweep-lines.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { listOf, someWords } from "../files/settings.js";
import { attentionModes } from "../model/block-attention-config.js";
import { command, type Flag, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { entrantFlags, type NamedText, openEntrants } from "./eval-entrants.js";
import {
  askAgainFlag,
  askingOptions,
  concurrencyFlag,
  lastSentenceFlag,
  limitFlag,
  maxTokensFlag,
} from "./eval-options.js";
import { parseInput } from "./eval-rag.js";
import { badLinesNotes, tellBadLines, tellParts } from "./eval-report.js";
import { engineFlags, forceFlag, trainingFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatTable, note, type Terminal, writeJson } from "./terminal.js";

const defaultPassages = [1, 2, 5, 10, 20, 50, 100, 200];

const sweepFlags = {
  input: mandatory({
    takes: "<file>",
    about:
      'questions (JSON lines, a .json array, Parquet): {"question","answers","documents","supports"?,"supporting_facts"?}; - is standard input; NAME=FILE names the set',
    read: (text) => parseInput(text),
  } as Flag<NamedText>),
  output: mandatory(flag("<folder>", "a run for each point, and the report; what was interrupted goes on", someWords)),
  force: forceFlag,
  passages: flag(
    "<list>",
    `passages of a prompt (default: ${defaultPassages.join(",")})`,
    listOf(wholeNumber(1, 10_000), { isUnique: true }),
  ),
  order: flag(
    "<list>",
    `where gold passages stand (default: ${GOLD_ORDERS.join(",")})`,
    listOf(oneOfTexts(GOLD_ORDERS), { isUnique: true }),
  ),
  seed: flag("<text>", "which passages of other lines a line gets (default: sweep)", someWords),
  limit: limitFlag,
  maxTokens: maxTokensFlag,
  lastSentence: lastSentenceFlag,
  concurrency: concurrencyFlag,
  askAgain: askAgainFlag,
  ...entrantFlags("block,full"),
  json: toggle("the report as one line of JSON"),
  ...trainingFlags,
  ...engineFlags,
};

export const evalSweepCommand = command({
  name: "sweep",
  summary: "Tells how answers go with the number of passages and their order.",
  flags: sweepFlags,
  run: runEvalSweep,
  help: `
Examples:
  block-attention eval sweep --input hqa.jsonl --passages 2,5,10,20 --modes block,full --output runs/sweep
  block-attention eval sweep --input nq.jsonl --passages 1,2,5,10,20,50,100,200 --order gold-first,gold-middle,gold-last --output runs/sweep

Gold passages are those that a line's "supports" or "supporting_facts" name, else those that hold a gold answer. A line is
filled up with its other passages, then with other lines', none of which holds a gold answer.`,
});

/** Sweeps over the number of passages and their order. @returns the exit code: 1 if a line could not be used or asked, but for its length. */
async function runEvalSweep(flags: FlagsOf<typeof sweepFlags>, terminal: Terminal): Promise<number> {
  const { name, text: path } = flags.input;
  await prepareReport(flags.output, SWEEP_FILES, [path], flags.force ?? false);
  const read = await readGoldLines(path, terminal.signal, flags.limit);
  const hasBadLines = tellBadLines(read, terminal);
  await using entrants = await openEntrants(flags, () => attentionModes, terminal);
  const bar = new ProgressBar(terminal, "Answering");
  const report = await runSweep({
    name,
    lines: read.lines,
    notes: badLinesNotes(read),
    entrants: entrants.list,
    passages: [...(flags.passages ?? defaultPassages)].sort((a, b) => a - b),
    orders: flags.order ?? GOLD_ORDERS,
    seed: flags.seed ?? "sweep",
    folder: flags.output,
    lastSentence: flags.lastSentence ?? false,
    ...askingOptions(flags, terminal, bar),
    asksAgain: flags.askAgain,
    onPoint: (entrant, order, passages) => {
      bar.end();
      note(terminal, `${entrant}, ${order}: ${passages} ${passages === 1 ? "passage" : "passages"}`);
    },
  }).finally(() => bar.end());
  if (flags.json === true) await writeJson(terminal, report);
  else await tellParts([report.title, formatTable(sweepTable(report)), ...sweepRemarks(report)], terminal);
  note(terminal, `Written: ${flags.output}, sweep.md and sweep.json with accuracy.svg, hit-rate.svg and ttft.svg`);
  const failed = report.points.some(({ outcome }) => outcome.kind === "scored" && outcome.summary.failed > 0);
  return hasBadLines || failed ? 1 : 0;
}

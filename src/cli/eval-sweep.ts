import { type Command, Option } from "commander";
import { readGoldLines } from "../eval/rag-line.js";
import { prepareReport } from "../eval/run-folder.js";
import { runSweep, SWEEP_FILES, sweepRemarks, sweepTable } from "../eval/sweep.js";
import { GOLD_ORDERS, type GoldOrder } from "../eval/sweep-lines.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { listOf, someWords } from "../files/settings.js";
import { attentionModes } from "../model/block-attention-config.js";
import { addEntrantOptions, type EntrantFlags, type NamedText, openEntrants } from "./eval-entrants.js";
import {
  askAgainOption,
  concurrencyOption,
  DEFAULT_MAX_TOKENS,
  lastSentenceOption,
  limitOption,
  maxTokensOption,
} from "./eval-options.js";
import { parseInput } from "./eval-rag.js";
import { badLinesNotes, tellBadLines, tellParts } from "./eval-report.js";
import { addEngineOptions, addTrainingOptions, flag, forceOption, jsonOption } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatTable, note, type Terminal, writeJson } from "./terminal.js";

export interface EvalSweepFlags extends EntrantFlags {
  readonly input: NamedText;
  readonly output: string;
  readonly force?: boolean;
  readonly passages?: readonly number[];
  readonly order?: readonly GoldOrder[];
  readonly seed?: string;
  readonly limit?: number;
  readonly maxTokens?: number;
  readonly lastSentence?: boolean;
  readonly concurrency?: number;
  readonly askAgain: boolean;
  readonly json?: boolean;
}

const defaultPassages = [1, 2, 5, 10, 20, 50, 100, 200];

/** Declares `eval sweep`'s options. */
export function evalSweepOptions(command: Command): Command {
  command
    .addOption(
      new Option(
        "--input <file>",
        'questions (JSON lines, a .json array, Parquet): {"question","answers","documents","supports"?,"supporting_facts"?}; - is standard input; NAME=FILE names the set',
      )
        .argParser(parseInput)
        .makeOptionMandatory(),
    )
    .addOption(
      flag(
        "--output <folder>",
        "a run for each point, and the report; what was interrupted goes on",
        someWords,
      ).makeOptionMandatory(),
    )
    .addOption(forceOption())
    .addOption(
      flag(
        "--passages <list>",
        `passages of a prompt (default: ${defaultPassages.join(",")})`,
        listOf(wholeNumber(1, 10_000), { isUnique: true }),
      ),
    )
    .addOption(
      flag(
        "--order <list>",
        `where gold passages stand (default: ${GOLD_ORDERS.join(",")})`,
        listOf(oneOfTexts(GOLD_ORDERS), { isUnique: true }),
      ),
    )
    .addOption(flag("--seed <text>", "which passages of other lines a line gets (default: sweep)", someWords))
    .addOption(limitOption())
    .addOption(maxTokensOption())
    .addOption(lastSentenceOption())
    .addOption(concurrencyOption())
    .addOption(askAgainOption());
  addEntrantOptions(command, "block,full").addOption(jsonOption("the report as one line of JSON"));
  return addEngineOptions(addTrainingOptions(command));
}

/** Sweeps over the number of passages and their order. @returns the exit code: 1 if a line could not be used or asked, but for its length. */
export async function runEvalSweep(flags: EvalSweepFlags, terminal: Terminal): Promise<number> {
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
    maxTokens: flags.maxTokens ?? DEFAULT_MAX_TOKENS,
    concurrency: flags.concurrency ?? 1,
    asksAgain: flags.askAgain,
    signal: terminal.signal,
    onResume: (text) => note(terminal, text),
    onPoint: (entrant, order, passages) => {
      bar.end();
      note(terminal, `${entrant}, ${order}: ${passages} ${passages === 1 ? "passage" : "passages"}`);
    },
    onProgress: (answered, total) => bar.update(answered, total),
  }).finally(() => bar.end());
  if (flags.json === true) await writeJson(terminal, report);
  else await tellParts([report.title, formatTable(sweepTable(report)), ...sweepRemarks(report)], terminal);
  note(terminal, `Written: ${flags.output}, sweep.md and sweep.json with accuracy.svg, hit-rate.svg and ttft.svg`);
  const failed = report.points.some(({ outcome }) => outcome.kind === "scored" && outcome.summary.failed > 0);
  return hasBadLines || failed ? 1 : 0;
}

import { existsSync } from "node:fs";
import { Command } from "commander";
import { readPassages } from "../data/synth/synth-file.js";
import type { EngineSettings } from "../engine/engine-options.js";
import { readTableRows, runAccuracyTable, tableFiles } from "../eval/accuracy-table.js";
import { prepareReport } from "../eval/run-folder.js";
import { tableMarkdown } from "../eval/table-markdown.js";
import { wholeNumber } from "../files/options.js";
import { listOf, someWords } from "../files/settings.js";
import { concurrencyOption, DEFAULT_MAX_TOKENS, maxTokensOption } from "./eval-options.js";
import { openEngine } from "./open-engine.js";
import { addEngineOptions, flag, forceOption, jsonOption } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";

export interface EvalTableFlags extends Omit<EngineSettings, "model" | "mode" | "prefix" | "trainedModes"> {
  readonly rows: string;
  readonly output: string;
  readonly force?: boolean;
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
      flag(
        "--rows <file>",
        'a JSON array of {"name","model","mode","positionReencoding"?,"paper"?,"against"?}; models from its own folder',
        someWords,
      ).makeOptionMandatory(),
    )
    .addOption(
      flag(
        "--output <folder>",
        "sets, answers and table; an interrupted table goes on in it",
        someWords,
      ).makeOptionMandatory(),
    )
    .addOption(forceOption())
    .addOption(flag("--questions <n>", "questions of each held-out set (default: 4000)", wholeNumber(1, 1_000_000)))
    .addOption(
      flag(
        "--passages <list>",
        "a held-out set for each number (default: 10,4)",
        listOf(wholeNumber(2, 20), { isUnique: true }),
      ),
    )
    .addOption(
      flag("--noise <file>", 'real passages {"title","text"} to stand among the others (default: none)', someWords),
    )
    .addOption(
      flag(
        "--hotpot <file>",
        "HotpotQA's distractor questions as a set of their own; passed over if not there",
        someWords,
      ),
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
  const passages = flags.passages ?? [10, 4];
  const inputs = [flags.rows, flags.noise, flags.hotpot].filter((path) => path !== undefined);
  await prepareReport(flags.output, tableFiles(passages), inputs, flags.force ?? false);
  const rows = await readTableRows(flags.rows);
  const noise = flags.noise === undefined ? [] : await readPassages(flags.noise, terminal.signal);
  const isMissing = flags.hotpot !== undefined && !existsSync(flags.hotpot);
  if (isMissing) note(terminal, `Passed over: there is no file "${flags.hotpot}"`);
  const bar = new ProgressBar(terminal, "Answering");
  const table = await runAccuracyTable({
    rows,
    folder: flags.output,
    numQuestions: flags.questions ?? 4000,
    passages,
    noise,
    hotpot: isMissing ? undefined : flags.hotpot,
    maxTokens: flags.maxTokens ?? DEFAULT_MAX_TOKENS,
    concurrency: flags.concurrency ?? 1,
    openEngine: (model) => openEngine({ ...flags, model }, terminal),
    signal: terminal.signal,
    onResume: (text) => note(terminal, text),
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

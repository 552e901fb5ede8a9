import { existsSync } from "node:fs";
import { readPassages } from "../data/synth/synth-file.js";
import { readTableRows, runAccuracyTable, tableFiles } from "../eval/accuracy-table.js";
import { prepareReport } from "../eval/run-folder.js";
import { tableMarkdown } from "../eval/table-markdown.js";
import { wholeNumber } from "../files/options.js";
import { listOf, someWords } from "../files/settings.js";
import { command, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { askingOptions, concurrencyFlag, maxTokensFlag } from "./eval-options.js";
import { openEngine } from "./open-engine.js";
import { deviceFlags, forceFlag } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { modelOnDisk } from "./pull-model.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";

const tableFlags = {
  rows: mandatory(
    flag(
      "<file>",
      'a JSON array of {"name","model","mode","positionReencoding"?,"paper"?,"against"?}; models from its own folder',
      someWords,
    ),
  ),
  output: mandatory(flag("<folder>", "sets, answers and table; an interrupted table goes on in it", someWords)),
  force: forceFlag,
  questions: flag("<n>", "questions of each held-out set (default: 4000)", wholeNumber(1, 1_000_000)),
  passages: flag(
    "<list>",
    "a held-out set for each number (default: 10,4)",
    listOf(wholeNumber(2, 20), { isUnique: true }),
  ),
  noise: flag("<file>", 'real passages {"title","text"} to stand among the others (default: none)', someWords),
  hotpot: flag("<file>", "HotpotQA's distractor questions as a set of their own; passed over if not there", someWords),
  maxTokens: maxTokensFlag,
  concurrency: concurrencyFlag,
  // Each row names its own model.
  ...deviceFlags,
  json: toggle("the table as one line of JSON"),
};

export const evalTableCommand = command({
  name: "table",
  summary: "Makes the paper's accuracy table over the held-out test.",
  flags: tableFlags,
  run: runEvalTable,
  help: `
Examples:
  block-attention eval table --rows rows.json --questions 40 --output runs/accuracy

"paper" names the paper's row that a row stands beside: full, full_in_block, block, block_in_full, no_reencoding, sft.
"against" names another row that it is compared with, beside the first. A row whose model is not there says so.`,
});

/** Makes the paper's accuracy table. @returns the exit code: 1 if a question could not be asked. */
async function runEvalTable(flags: FlagsOf<typeof tableFlags>, terminal: Terminal): Promise<number> {
  const passages = flags.passages ?? [10, 4];
  const inputs = [flags.rows, flags.noise, flags.hotpot].filter((path) => path !== undefined);
  await prepareReport(flags.output, tableFiles(passages), inputs, flags.force ?? false);
  const rows = await readTableRows(flags.rows);
  for (const [i, row] of rows.entries()) rows[i] = { ...row, model: await modelOnDisk(row.model, terminal) };
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
    ...askingOptions(flags, terminal, bar),
    openEngine: (model) => openEngine({ ...flags, model }, terminal),
    onRun: (set, row) => {
      bar.end();
      note(terminal, `${set}: ${row}`);
    },
  }).finally(() => bar.end());
  if (flags.json) await writeJson(terminal, table);
  else await write(terminal.stdout, tableMarkdown(table), terminal.signal);
  note(terminal, `Written: ${flags.output}, accuracy.md and accuracy.json with a picture for each set`);
  const outcomes = table.sets.flatMap((set) => set.rows.map(({ outcome }) => outcome));
  return outcomes.some((outcome) => outcome.kind === "scored" && outcome.summary.failed > 0) ? 1 : 0;
}

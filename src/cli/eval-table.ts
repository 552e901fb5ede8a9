import { readTableRows, runAccuracyTable, tableFiles } from "../eval/accuracy-table.js";
import { prepareReport } from "../eval/run-folder.js";
import { tableMarkdown } from "../eval/table-markdown.js";
import { someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { command, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { askingOptions, concurrencyFlag, lastSentenceFlag, limitFlag, maxTokensFlag } from "./eval-options.js";
import { pointFlags, pointNames, readPoints } from "./eval-points.js";
import { readSets, setsFlag } from "./eval-rag.js";
import { openEngine } from "./open-engine.js";
import { deviceFlags, forceFlag } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { modelOnDisk, otherOnDisk } from "./pull-model.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";

const tableFlags = {
  rows: mandatory(
    flag(
      "<file>",
      'a JSON array of {"name","model","adapter"?,"mode","positionReencoding"?,"repair"?,"paper"?,"against"?}; paths from its own folder',
      someWords,
    ),
  ),
  input: setsFlag,
  output: mandatory(flag("<folder>", "answers and table; an interrupted table goes on in it", someWords)),
  force: forceFlag,
  ...pointFlags,
  limit: limitFlag,
  lastSentence: lastSentenceFlag,
  maxTokens: maxTokensFlag,
  concurrency: concurrencyFlag,
  // Each row names its own model.
  ...deviceFlags,
  json: toggle("the table as one line of JSON"),
};

export const evalTableCommand = command({
  name: "table",
  summary: "Makes the paper's accuracy table over sets of questions.",
  flags: tableFlags,
  run: runEvalTable,
  help: `
Examples:
  block-attention eval table --rows rows.json --input 2wiki=2wiki.jsonl --input hqa=hqa.jsonl --output runs/accuracy

"paper" names the paper's row that a row stands beside: full, full_in_block, block, block_in_full, no_reencoding, sft.
"against" names another row that it is compared with, beside the first. A row whose model is not there says so.
Without --passages lines are asked over their own documents, else over so many each, as in "eval repair".`,
});

/** Makes the paper's accuracy table. @returns the exit code: 1 if a line could not be used or asked. */
async function runEvalTable(flags: FlagsOf<typeof tableFlags>, terminal: Terminal): Promise<number> {
  const { input } = flags;
  const isFilled = flags.passages !== undefined;
  if (!isFilled && (flags.pool ?? flags.seed) !== undefined)
    throw new UsageError("Cannot use --pool and --seed: lines are filled up where --passages says to how many");
  const inputs = [flags.rows, ...input.map(({ text }) => text), ...(flags.pool === undefined ? [] : [flags.pool])];
  const named = isFilled ? pointNames(flags) : input;
  await prepareReport(flags.output, tableFiles(named), inputs, flags.force ?? false);
  const rows = await readTableRows(flags.rows);
  const { sets, hasBadLines } = await (isFilled ? readPoints : readSets)(flags, terminal);
  for (const [i, row] of rows.entries()) {
    const adapter = row.adapter && (await otherOnDisk(row.adapter, terminal, "adapter"));
    rows[i] = { ...row, model: await modelOnDisk(row.model, terminal), adapter };
  }
  const bar = new ProgressBar(terminal, "Answering");
  const table = await runAccuracyTable({
    rows,
    sets,
    folder: flags.output,
    lastSentence: flags.lastSentence ?? false,
    ...askingOptions(flags, terminal, bar),
    openEngine: ({ model, adapter }) =>
      openEngine({ ...flags, model, ...(adapter !== undefined && { adapters: [{ path: adapter }] }) }, terminal),
    onRun: (set, row) => {
      bar.end();
      note(terminal, `${set}: ${row}`);
    },
  }).finally(() => bar.end());
  if (flags.json) await writeJson(terminal, table);
  else await write(terminal.stdout, tableMarkdown(table), terminal.signal);
  note(terminal, `Written: ${flags.output}, accuracy.md and accuracy.json with a picture for each set`);
  const outcomes = table.sets.flatMap((set) => set.rows.map(({ outcome }) => outcome));
  const hasFailed = outcomes.some((outcome) => outcome.kind === "scored" && outcome.summary.failed > 0);
  return hasFailed || hasBadLines ? 1 : 0;
}

import { z } from "zod";
import { mergeRows, mixRows, type SampleOptions, sampleRows } from "../data/mix-rows.js";
import { wholeNumber } from "../files/options.js";
import { quote } from "../files/quote.js";
import { aNumber, listOf, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { command, type FlagsOf, flag, operand, repeated, toggle } from "./command.js";
import { inputFlag, inputsFlag, outputFlag, prepareData, seedFlag, tellRows } from "./data-command.js";
import { forceFlag } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import type { Terminal } from "./terminal.js";

const maxCount = 2 ** 31;
const aWeight = aNumber("a number over 0", z.number().gt(0));
const aShare = aNumber("a number over 0 to 1", z.number().gt(0).lte(1));

const sampleFlags = {
  input: inputFlag("rows of any kind: a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the file of JSON lines to write"),
  force: forceFlag,
  count: flag("<n>", "how many rows", wholeNumber(1, maxCount)),
  share: flag("<p>", "which share of the rows, over 0 to 1", aShare),
  seed: seedFlag,
  json: toggle("the counts as one line of JSON"),
};

export const sampleCommand = command({
  name: "sample",
  summary: "Draws rows at random.",
  flags: sampleFlags,
  run: runSample,
  help: `
Examples:
  block-attention data sample --input train.jsonl --count 20000 --output sample.jsonl
  block-attention data sample --input train.jsonl --share 0.1 --seed 7 --output tenth.jsonl`,
});

/** Draws rows. @returns the exit code. */
async function runSample(flags: FlagsOf<typeof sampleFlags>, terminal: Terminal): Promise<number> {
  const { count, share: part } = flags;
  if ((count === undefined) === (part === undefined)) {
    throw new UsageError(
      `Cannot sample: ${count === undefined ? "there is neither --count nor --share" : "there are --count and --share"}, wanted one of them`,
    );
  }
  const size: SampleOptions["size"] =
    count === undefined ? { kind: "share", share: part as number } : { kind: "count", count };
  await prepareData([flags.input], [], [flags.output], flags.force);
  const { input, output, seed } = flags;
  const bar = new ProgressBar(terminal, "Sampling rows");
  const options = { input, output, size, seed, signal: terminal.signal, onProgress: (rows: number) => bar.count(rows) };
  const report = await sampleRows(options).finally(() => bar.end());
  return tellRows(flags, report, terminal);
}

const mergeFlags = {
  files: operand({
    ...repeated("<files...>", "files of rows of any kind, or folders, in this order", someWords),
    about: "files of rows of any kind, or folders, in this order",
  }),
  output: outputFlag("the file of JSON lines to write"),
  force: forceFlag,
  json: toggle("the counts as one line of JSON"),
};

export const mergeCommand = command({
  name: "merge",
  summary: "Puts files of rows together.",
  flags: mergeFlags,
  run: runMerge,
  help: `
Examples:
  block-attention data merge 2wiki.jsonl tqa.jsonl --output rag.jsonl`,
});

/** Puts files together. @returns the exit code. */
async function runMerge(flags: FlagsOf<typeof mergeFlags>, terminal: Terminal): Promise<number> {
  await prepareData(flags.files, [], [flags.output], flags.force);
  const { files: inputs, output } = flags;
  const bar = new ProgressBar(terminal, "Merging rows");
  const options = { inputs, output, signal: terminal.signal, onProgress: (rows: number) => bar.count(rows) };
  const report = await mergeRows(options).finally(() => bar.end());
  return tellRows(flags, report, terminal);
}

const mixFlags = {
  input: inputsFlag("rows of any kind: a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the file of JSON lines to write"),
  force: forceFlag,
  shares: flag("<list>", "what each input counts beside the others, as 2,1 (default: equal)", listOf(aWeight)),
  count: flag("<n>", "how many rows in all (default: as many as the shares allow)", wholeNumber(1, maxCount)),
  seed: seedFlag,
  json: toggle("the counts as one line of JSON"),
};

export const mixCommand = command({
  name: "mix",
  summary: "Mixes files of rows in given shares and random order.",
  flags: mixFlags,
  run: runMix,
  help: `
Examples:
  block-attention data mix --input rag.train.jsonl --input tulu3/block.train.jsonl --output train.jsonl
  block-attention data mix --input a.jsonl --input b.jsonl --shares 2,1 --count 30000 --output train.jsonl`,
});

/** Mixes files in random order. @returns the exit code. */
async function runMix(flags: FlagsOf<typeof mixFlags>, terminal: Terminal): Promise<number> {
  const { input: inputs, output, shares, count, seed } = flags;
  if (inputs.length < 2) throw new UsageError("Cannot mix: there is one --input, wanted two or more");
  if (shares !== undefined && shares.length !== inputs.length) {
    throw new UsageError(`Cannot use --shares: it has ${shares.length} numbers, there are ${inputs.length} inputs`);
  }
  await prepareData(inputs, [], [output], flags.force);
  const bar = new ProgressBar(terminal, "Mixing rows");
  const onProgress = (rows: number) => bar.count(rows);
  const options = { inputs, output, shares, count, seed, signal: terminal.signal, onProgress };
  const report = await mixRows(options).finally(() => bar.end());
  const taken = report.taken.map((rows, i) => `  ${rows} of ${quote(inputs[i] as string)}`);
  return tellRows(flags, report, terminal, taken);
}

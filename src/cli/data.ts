import { packTrainingData } from "../data/pack.js";
import { chosenModel } from "../engine/model.js";
import { modelFiles } from "../files/outputs.js";
import { command, type FlagsOf, toggle } from "./command.js";
import {
  badLines,
  conversationsFlag,
  cuttingFlags,
  cuttingSettings,
  inputsFlag,
  outputFlag,
  prepareData,
  tell,
} from "./data-command.js";
import { engineFlag, forceFlag } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import type { Terminal } from "./terminal.js";

const packFlags = {
  model: engineFlag("model"),
  input: inputsFlag("a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the Parquet file to write"),
  force: forceFlag,
  ...cuttingFlags("own"),
  conversations: conversationsFlag,
  json: toggle("the report as one line of JSON"),
};

export const packCommand = command({
  name: "pack",
  summary: "Cuts and tokenizes training data for the trainer.",
  flags: packFlags,
  run: runPack,
  help: `
Examples:
  block-attention data pack --input train.jsonl --output train.parquet
  block-attention data pack --model ./Tulu3-SFT --template tulu --prefix "[Block-Attention]" --input tulu3/ --output sft.parquet

A row is {"messages": [{"role", "content"}, …]} or {"prompt", "blocks" or "chunks", "response", "train_block"?}.`,
});

/** Packs training data. @returns the exit code. */
async function runPack(flags: FlagsOf<typeof packFlags>, terminal: Terminal): Promise<number> {
  const { input, output, force } = flags;
  await prepareData(input, await modelFiles(chosenModel(flags)), [output], force);
  const bar = new ProgressBar(terminal, "Packing rows");
  const report = await packTrainingData({
    ...cuttingSettings(flags, "own"),
    conversations: flags.conversations,
    inputs: input,
    output,
    signal: terminal.signal,
    onProgress: (rows) => bar.count(rows),
  }).finally(() => bar.end());
  const lines = [
    `${report.rows} rows, ${report.samples} samples: ${report.kept} kept (${report.keptBlock} in both modes), ${report.samples - report.kept} dropped`,
    ...Object.entries(report.dropped).map(([reason, count]) => `  ${count} dropped: ${reason}`),
    ...badLines(report, 5),
    `${report.tokens} tokens, ${report.responseTokens} of them to learn, in ${report.blocks} blocks`,
    `Written: ${output}, with .report.json, .lengths.svg and .manifest.json`,
  ];
  await tell(report, lines, flags.json, terminal);
  return 0;
}

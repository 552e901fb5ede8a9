import { formatBytes } from "../files/format-bytes.js";
import { writeGguf } from "../files/gguf-writer.js";
import { oneOfTexts } from "../files/options.js";
import { modelFiles, prepareOutputs, writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { ggufModelEntries, ggufTensors } from "../model/gguf-export.js";
import { openModel } from "../model/open-model.js";
import { ggufTokenizerEntries } from "../tokenizer/gguf-export.js";
import { readHuggingFaceFiles } from "../tokenizer/load-tokenizer.js";
import { command, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { adapterFlags, engineFlag, forceFlag, trainingFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { modelOnDisk } from "./pull-model.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";

const convertFlags = {
  model: mandatory({ ...flag("<folder>", "a Hugging Face folder, or hf:OWNER/REPO", someWords), locate: modelOnDisk }),
  to: mandatory(flag("<format>", "gguf, llama.cpp's", oneOfTexts(["gguf"]))),
  output: mandatory(flag("<file>", "whole or not there", someWords)),
  force: forceFlag,
  ...adapterFlags,
  weights: engineFlag("weights"),
  ...trainingFlags,
  json: toggle("one line of JSON"),
};

export const convertCommand = command({
  name: "convert",
  summary: "Converts a Hugging Face folder to GGUF.",
  flags: convertFlags,
  run: runConvert,
  help: `
Examples:
  block-attention convert --model runs/mine/export --to gguf --output mine.gguf
  block-attention convert --model ./llama --to gguf --weights q4_k --output llama-q4_k.gguf`,
});

/** Converts a model. @returns the exit code. */
async function runConvert(flags: FlagsOf<typeof convertFlags>, terminal: Terminal): Promise<number> {
  const { model, output, weights = "keep", force } = flags;
  const read = [model, ...(flags.adapters ?? []).map(({ path }) => path)];
  await prepareOutputs({ inputs: (await Promise.all(read.map(modelFiles))).flat(), outputs: [output], force });
  const source = await openModel(model, flags);
  if (source.kind === "gguf") throw new UsageError(`Cannot convert ${quote(model)}: it is GGUF already`);
  const files = await readHuggingFaceFiles(source.path);
  const tokenizer = ggufTokenizerEntries(files, source.config.vocabSize);
  const metadata = new Map([...ggufModelEntries(source, weights), ...tokenizer.entries]);
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  const tensors = ggufTensors(ggml, source, weights, terminal.signal);
  const totalBytes = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const warnings = [...source.warnings, ...tokenizer.warnings];
  for (const warning of warnings) {
    note(terminal, `${terminal.errorColors.yellow("Warning")}: ${warning}`);
  }
  note(terminal, `Writing ${quote(output)}: ${tensors.length} tensors, ${formatBytes(totalBytes)}`);
  const bar = new ProgressBar(terminal, "Converting");
  let writtenBytes = 0;
  try {
    await writeAtomically(output, (partial) =>
      writeGguf(partial, metadata, tensors, ({ byteLength }) => {
        writtenBytes += byteLength;
        bar.update(writtenBytes, totalBytes);
      }),
    );
  } finally {
    bar.end();
  }
  const told = { output, tensors: tensors.length, bytes: totalBytes, warnings };
  if (flags.json) await writeJson(terminal, told);
  else await write(terminal.stdout, `Written: ${output}\n`, terminal.signal);
  return 0;
}

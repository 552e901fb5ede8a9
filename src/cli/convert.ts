import { rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { formatBytes } from "../files/format-bytes.js";
import { readGguf } from "../files/gguf.js";
import { writeGguf } from "../files/gguf-writer.js";
import { oneOfTexts } from "../files/options.js";
import { makeFolder, modelFiles, prepareFolder, prepareOutputs, writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { findGgmlDirectory, loadGgml } from "../ggml/library.js";
import { ggufModelEntries, ggufTensors } from "../model/gguf-export.js";
import { huggingFaceConfig, writeSafetensors } from "../model/hugging-face-export.js";
import type { ModelSource } from "../model/model-source.js";
import { openModel } from "../model/open-model.js";
import { ggufTokenizerEntries } from "../tokenizer/gguf-export.js";
import { huggingFaceTokenizer } from "../tokenizer/hugging-face-export.js";
import { readHuggingFaceFiles } from "../tokenizer/load-tokenizer.js";
import { command, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { adapterFlags, engineFlag, forceFlag, trainingFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { modelOnDisk } from "./pull-model.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";

const convertFlags = {
  model: mandatory({
    ...flag("<folder>", "a Hugging Face folder, a .gguf file, or hf:OWNER/REPO", someWords),
    locate: modelOnDisk,
  }),
  to: mandatory(
    flag(
      "<format>",
      "gguf, llama.cpp's, of a folder; hf: a folder in BF16, for training, of GGUF",
      oneOfTexts(["gguf", "hf"] as const),
    ),
  ),
  output: mandatory(flag("<path>", "the file, or the folder: whole or not there", someWords)),
  force: forceFlag,
  ...adapterFlags,
  weights: engineFlag("weights"),
  ...trainingFlags,
  json: toggle("one line of JSON"),
};

export const convertCommand = command({
  name: "convert",
  summary: "Converts a Hugging Face folder to GGUF, or GGUF to a folder that can be trained.",
  flags: convertFlags,
  run: runConvert,
  help: `
Examples:
  block-attention convert --model runs/mine/export --to gguf --output mine.gguf
  block-attention convert --model ./llama --to gguf --weights q4_k --output llama-q4_k.gguf
  block-attention convert --model llama.gguf --to hf --output ./llama`,
});

/** Converts a model. @returns the exit code. */
async function runConvert(flags: FlagsOf<typeof convertFlags>, terminal: Terminal): Promise<number> {
  const { model, output, force } = flags;
  const read = [model, ...(flags.adapters ?? []).map(({ path }) => path)];
  const inputs = (await Promise.all(read.map(modelFiles))).flat();
  if (flags.to === "hf") await prepareFolder(output, inputs, "config.json", force);
  else await prepareOutputs({ inputs, outputs: [output], force });
  const source = await openModel(model, flags);
  const wanted = flags.to === "hf" ? "gguf" : "hugging-face";
  if (source.kind !== wanted) {
    throw new UsageError(`Cannot convert ${quote(model)}: it is ${flags.to === "hf" ? "a folder" : "GGUF"} already`);
  }
  const told = await (flags.to === "hf" ? toFolder(source, flags, terminal) : toGguf(source, flags, terminal));
  if (flags.json) await writeJson(terminal, { output, ...told });
  else await write(terminal.stdout, `Written: ${output}\n`, terminal.signal);
  return 0;
}

type Converted = { readonly tensors: number; readonly bytes: number; readonly warnings: readonly string[] };
type ConvertFlags = FlagsOf<typeof convertFlags>;

async function toGguf(source: ModelSource, flags: ConvertFlags, terminal: Terminal): Promise<Converted> {
  const { output, weights = "keep" } = flags;
  const files = await readHuggingFaceFiles(source.path);
  const tokenizer = ggufTokenizerEntries(files, source.config.vocabSize);
  const metadata = new Map([...ggufModelEntries(source, weights), ...tokenizer.entries]);
  const tensors = ggufTensors(await cpuGgml(), source, weights, terminal.signal);
  const bytes = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const warnings = [...source.warnings, ...tokenizer.warnings];
  await withProgress({ tensors: tensors.length, bytes, warnings }, output, terminal, (onBytes) =>
    writeAtomically(output, (partial) =>
      writeGguf(partial, metadata, tensors, ({ byteLength }) => onBytes(byteLength)),
    ),
  );
  return { tensors: tensors.length, bytes, warnings };
}

/** Written under another name, which the folder then takes. */
async function toFolder(source: ModelSource, flags: ConvertFlags, terminal: Terminal): Promise<Converted> {
  const { output } = flags;
  if ((flags.weights ?? "bf16") !== "bf16") throw new UsageError("Cannot use --weights: a folder is written in BF16");
  const config = huggingFaceConfig(source);
  const files = { ...huggingFaceTokenizer((await readGguf(source.path)).metadata), "config.json": config };
  const elements = [...source.tensors.values()].map(({ shape }) => shape.reduce((product, size) => product * size, 1));
  const bytes = 2 * elements.reduce((sum, count) => sum + count, 0);
  const told = { tensors: elements.length, bytes, warnings: source.warnings };
  const partial = `${output}.partial`;
  await rm(partial, { recursive: true, force: true });
  await makeFolder(partial);
  try {
    const ggml = await cpuGgml();
    await withProgress(told, output, terminal, (onBytes) =>
      writeSafetensors(join(partial, "model.safetensors"), ggml, source, terminal.signal, onBytes),
    );
    for (const [name, value] of Object.entries(files)) await writeFile(join(partial, name), JSON.stringify(value));
    await rm(output, { recursive: true, force: true });
    await rename(partial, output);
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  return told;
}

async function cpuGgml() {
  return loadGgml(await findGgmlDirectory("cpu"));
}

async function withProgress(
  { tensors, bytes, warnings }: Converted,
  output: string,
  terminal: Terminal,
  convert: (onBytes: (byteLength: number) => void) => Promise<void>,
): Promise<void> {
  for (const warning of warnings) {
    note(terminal, `${terminal.errorColors.yellow("Warning")}: ${warning}`);
  }
  note(terminal, `Writing ${quote(output)}: ${tensors} tensors, ${formatBytes(bytes)}`);
  const bar = new ProgressBar(terminal, "Converting");
  let writtenBytes = 0;
  try {
    await convert((byteLength) => {
      writtenBytes += byteLength;
      bar.update(writtenBytes, bytes);
    });
  } finally {
    bar.end();
  }
}

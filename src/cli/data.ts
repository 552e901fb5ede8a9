import { availableParallelism } from "node:os";
import { packTrainingData } from "../data/pack.js";
import { QUESTION_KINDS } from "../data/synth/question.js";
import { realNames } from "../data/synth/real-names.js";
import { readPassages, writeSynthFile } from "../data/synth/synth-file.js";
import { SYNTH_FORMATS } from "../data/synth/synth-work.js";
import { chosenModel } from "../engine/model.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { modelFiles } from "../files/outputs.js";
import { listOf, someWords } from "../files/settings.js";
import { command, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import {
  aProbability,
  badLines,
  conversationsFlag,
  cuttingFlags,
  cuttingSettings,
  inputsFlag,
  outputFlag,
  passageRangeFlag,
  prepareData,
  seedFlag,
  tell,
  workersFlag,
} from "./data-command.js";
import { engineFlag, forceFlag } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { note, type Terminal, writeJson } from "./terminal.js";

const packFlags = {
  model: engineFlag("model"),
  input: inputsFlag("a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the Parquet file to write"),
  force: forceFlag,
  ...cuttingFlags("own"),
  conversations: conversationsFlag,
  respell: flag(
    "<p>",
    "share of capitalized words that a context spells by smaller tokens, for small models to copy names they have not seen (default: 0)",
    aProbability,
  ),
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
    respelledShare: flags.respell,
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

const synthFlags = {
  model: engineFlag("model"),
  split: mandatory(
    flag(
      "<name>",
      "train, dev or test; no two share a person, a work or a town",
      oneOfTexts(["train", "dev", "test"] as const),
    ),
  ),
  contexts: mandatory(flag("<n>", "how many sets of passages", wholeNumber(1, 2 ** 31))),
  first: flag("<n>", "the first one's number (default: 0)", wholeNumber(0, 2 ** 31)),
  passages: passageRangeFlag("passages of a context, also as 2-10 (default: 10)"),
  questions: flag("<n>", "questions over one context (default: 1)", wholeNumber(1, 100)),
  kinds: flag(
    "<names>",
    `of ${QUESTION_KINDS.join(", ")}, by commas (default: all)`,
    listOf(oneOfTexts(QUESTION_KINDS)),
  ),
  format: flag(
    "<name>",
    "rag: questions and documents; train: cut into the model's blocks; reading: a line a context, all questions with " +
      "their answers to learn (default: rag)",
    oneOfTexts(SYNTH_FORMATS),
  ),
  noise: flag("<file>", 'real passages {"title","text"} to stand among the others', someWords),
  names: flag(
    "<file>",
    'real passages {"title","text"} about people and works, whose titles some of those made up are named by',
    someWords,
  ),
  output: outputFlag("the file of JSON lines to write"),
  force: forceFlag,
  seed: seedFlag,
  workers: workersFlag,
  json: toggle("the counts as one line of JSON"),
};

export const synthCommand = command({
  name: "synth",
  summary: "Makes passages and multi-hop questions over them.",
  flags: synthFlags,
  run: runSynth,
  help: `
Examples:
  block-attention data synth --split train --contexts 10000 --passages 2-10 --questions 7 --format train --output train.jsonl
  block-attention data synth --split test --contexts 4000 --passages 10 --output test.jsonl`,
});

/** Makes passages and questions. @returns the exit code. */
async function runSynth(flags: FlagsOf<typeof synthFlags>, terminal: Terminal): Promise<number> {
  const [minPassages, maxPassages] = flags.passages ?? [10, 10];
  const { signal } = terminal;
  const model = chosenModel(flags);
  const others = [flags.noise, flags.names].filter((path) => path !== undefined);
  await prepareData([], [...others, ...(await modelFiles(model))], [flags.output], flags.force);
  const noise = flags.noise === undefined ? [] : await readPassages(flags.noise, signal);
  const names = flags.names === undefined ? undefined : realNames(await readPassages(flags.names, signal));
  const bar = new ProgressBar(terminal, "Making contexts");
  const report = await writeSynthFile({
    seed: flags.seed,
    split: flags.split,
    minPassages,
    maxPassages,
    numQuestions: flags.questions ?? 1,
    kinds: flags.kinds,
    noise,
    noiseFile: flags.noise,
    realNames: names,
    namesFile: flags.names,
    format: flags.format ?? "rag",
    model,
    output: flags.output,
    numContexts: flags.contexts,
    firstContext: flags.first ?? 0,
    numWorkers: flags.workers ?? availableParallelism(),
    signal,
    onProgress: (contexts) => bar.update(contexts, flags.contexts),
  }).finally(() => bar.end());
  if (flags.json) await writeJson(terminal, report);
  else {
    const kinds = Object.entries(report.kinds).map(([kind, count]) => `${count} ${kind}`);
    note(terminal, `${report.contexts} contexts, ${report.questions} questions: ${kinds.join(", ")}`);
  }
  return 0;
}

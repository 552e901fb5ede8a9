import { availableParallelism } from "node:os";
import { type Command, Option } from "commander";
import { packTrainingData } from "../data/pack.js";
import { QUESTION_KINDS } from "../data/synth/question.js";
import { realNames } from "../data/synth/real-names.js";
import { readPassages, writeSynthFile } from "../data/synth/synth-file.js";
import { SYNTH_FORMATS, type SynthFormat } from "../data/synth/synth-work.js";
import { embeddedModelPath } from "../engine/model.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { modelFiles } from "../files/outputs.js";
import { listOf, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import {
  addCuttingOptions,
  aProbability,
  badLines,
  type CuttingFlags,
  cuttingSettings,
  inputsOption,
  outputOption,
  prepareData,
  seedOption,
  tell,
  workersOption,
} from "./data-command.js";
import { engineOption, flag, forceOption } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { note, type Terminal, writeJson } from "./terminal.js";

export interface PackFlags extends CuttingFlags {
  readonly input: readonly string[];
  readonly output: string;
  readonly force?: boolean;
  readonly json?: boolean;
  readonly respell?: number;
}

/** Declares `data pack`'s options. */
export function packOptions(command: Command): Command {
  const packed = command
    .addOption(engineOption("model"))
    .addOption(inputsOption("a file of JSON lines, a .json array, Parquet, or a folder"))
    .addOption(outputOption("the Parquet file to write"))
    .addOption(forceOption());
  return addCuttingOptions(packed, "own")
    .addOption(
      flag(
        "--respell <p>",
        "share of capitalized words that a context spells by smaller tokens, for small models to copy names they have not seen (default: 0)",
        aProbability,
      ),
    )
    .addOption(new Option("--json", "the report as one line of JSON"));
}

/** Packs training data. @returns the exit code. */
export async function runPack(flags: PackFlags, terminal: Terminal): Promise<number> {
  const { input, output, force } = flags;
  await prepareData(input, await modelFiles(flags.model ?? embeddedModelPath()), [output], force);
  const bar = new ProgressBar(terminal, "Packing rows");
  const report = await packTrainingData({
    ...cuttingSettings(flags, "own"),
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

export interface SynthFlags {
  readonly model?: string;
  readonly split: "train" | "dev" | "test";
  readonly contexts: number;
  readonly first?: number;
  readonly passages?: readonly [number, number];
  readonly questions?: number;
  readonly kinds?: readonly ("single" | "bridge" | "inference" | "comparison")[];
  readonly format?: SynthFormat;
  readonly noise?: string;
  readonly names?: string;
  readonly output: string;
  readonly force?: boolean;
  readonly seed?: string;
  readonly workers?: number;
  readonly json?: boolean;
}

/** Declares `data synth`'s options. */
export function synthOptions(command: Command): Command {
  return command
    .addOption(engineOption("model"))
    .addOption(
      flag(
        "--split <name>",
        "train, dev or test; no two share a person, a work or a town",
        oneOfTexts(["train", "dev", "test"] as const),
      ).makeOptionMandatory(),
    )
    .addOption(flag("--contexts <n>", "how many sets of passages", wholeNumber(1, 2 ** 31)).makeOptionMandatory())
    .addOption(flag("--first <n>", "the first one's number (default: 0)", wholeNumber(0, 2 ** 31)))
    .addOption(
      new Option("--passages <n>", "passages of a context, also as 2-10 (default: 10)").argParser(range("--passages")),
    )
    .addOption(flag("--questions <n>", "questions over one context (default: 1)", wholeNumber(1, 100)))
    .addOption(
      flag(
        "--kinds <names>",
        `of ${QUESTION_KINDS.join(", ")}, by commas (default: all)`,
        listOf(oneOfTexts(QUESTION_KINDS)),
      ),
    )
    .addOption(
      flag(
        "--format <name>",
        "rag: questions and documents; train: cut into the model's blocks; reading: a line a context, all questions with " +
          "their answers to learn (default: rag)",
        oneOfTexts(SYNTH_FORMATS),
      ),
    )
    .addOption(flag("--noise <file>", 'real passages {"title","text"} to stand among the others', someWords))
    .addOption(
      flag(
        "--names <file>",
        'real passages {"title","text"} about people and works, whose titles some of those made up are named by',
        someWords,
      ),
    )
    .addOption(outputOption("the file of JSON lines to write"))
    .addOption(forceOption())
    .addOption(seedOption())
    .addOption(workersOption())
    .addOption(new Option("--json", "the counts as one line of JSON"));
}

/** Makes passages and questions. @returns the exit code. */
export async function runSynth(flags: SynthFlags, terminal: Terminal): Promise<number> {
  const [minPassages, maxPassages] = flags.passages ?? [10, 10];
  const { signal } = terminal;
  const model = flags.model ?? embeddedModelPath();
  const others = [flags.noise, flags.names].filter((path) => path !== undefined);
  await prepareData([], [...others, ...(await modelFiles(model))], [flags.output], flags.force);
  const noise = flags.noise === undefined ? [] : await readPassages(flags.noise, signal);
  const names = flags.names === undefined ? undefined : realNames(await readPassages(flags.names, signal));
  const bar = new ProgressBar(terminal, "Making contexts");
  const report = await writeSynthFile({
    seed: flags.seed ?? "42",
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

function range(flag: string): (text: string) => readonly [number, number] {
  return (text) => {
    const [, from, to = from] = /^(\d{1,2})(?:-(\d{1,2}))?$/.exec(text.trim()) ?? [];
    const [min, max] = [Number(from), Number(to)];
    if (from === undefined || min < 2 || max > 20 || min > max) {
      throw new UsageError(`Cannot use ${flag}: it is "${text}", wanted a number from 2 to 20, or two as in 2-10`);
    }
    return [min, max];
  };
}

import { availableParallelism } from "node:os";
import { type Command, Option } from "commander";
import { PASSAGE_ORDERS, type PassageOrder } from "../data/rag/best-passages.js";
import { RAW_SPLITS, type RawSplit, writeRagFile } from "../data/raw/rag-file.js";
import type { RawFormat } from "../data/raw/raw-question.js";
import { type Tulu3FileReport, tulu3Paths, writeTulu3 } from "../data/raw/tulu3.js";
import { VALID_FORMATS, type ValidFormat, validateFile } from "../data/raw/validate.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { modelFiles } from "../files/outputs.js";
import { readSetting, someWords } from "../files/settings.js";
import {
  addCuttingOptions,
  badLines,
  type CuttingFlags,
  cuttingSettings,
  droppedLines,
  inputOption,
  outputOption,
  prepareData,
  tell,
  workersOption,
} from "./data-command.js";
import { engineOption, flag, forceOption, jsonOption } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import type { Terminal } from "./terminal.js";

export interface Tulu3Flags extends CuttingFlags {
  readonly input: string;
  readonly outputDir: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

/** Declares `data tulu3`'s options. */
export function tulu3Options(command: Command): Command {
  const declared = command
    .addOption(engineOption("model"))
    .addOption(inputOption("the Parquet files' folder, or one file"))
    .addOption(
      flag(
        "--output-dir <folder>",
        "sft.train.jsonl and block.train.jsonl are written there",
        someWords,
      ).makeOptionMandatory(),
    )
    .addOption(forceOption());
  return addCuttingOptions(declared, "tulu").addOption(jsonOption("the report as one line of JSON"));
}

/** Makes training lines of conversations. @returns the exit code. */
export async function runTulu3(flags: Tulu3Flags, terminal: Terminal): Promise<number> {
  const settings = cuttingSettings(flags, "tulu");
  const { sft, block } = tulu3Paths(flags.outputDir);
  await prepareData([flags.input], await modelFiles(settings.model), [sft, block], flags.force);
  const bar = new ProgressBar(terminal, "Cutting conversations");
  const report = await writeTulu3({
    ...settings,
    input: flags.input,
    outputDir: flags.outputDir,
    signal: terminal.signal,
    onProgress: (rows) => bar.count(rows),
  }).finally(() => bar.end());
  const lines = [
    `${report.rows} rows, ${report.samples} samples`,
    ...badLines(report),
    ...fileLines(report.sft),
    ...fileLines(report.block),
  ];
  return await tell(report, lines, flags.json, terminal);
}

function fileLines({ path, written, inBlockMode, tokens, dropped }: Tulu3FileReport): string[] {
  const modes = inBlockMode === 0 ? "" : `, ${inBlockMode} of them in both modes`;
  return [
    `${path}: ${written} samples${modes}, ${tokens} tokens; with .lengths.svg and .manifest.json`,
    ...droppedLines(dropped),
  ];
}

export interface RawFlags {
  readonly input: string;
  readonly output: string;
  readonly force?: boolean;
  readonly split?: RawSplit;
  readonly limit?: number;
  readonly order?: PassageOrder;
  readonly passages?: number;
  readonly scores?: string;
  readonly workers?: number;
  readonly json?: boolean;
}

/** Declares the options of `data 2wiki`, `hqa`, `nq` and `tqa`. */
export function rawOptions(command: Command): Command {
  return command
    .addOption(inputOption("the raw file, or a folder of them"))
    .addOption(outputOption("the file of RAG lines to write"))
    .addOption(forceOption())
    .addOption(
      flag(
        "--split <name>",
        `${RAW_SPLITS.join(", ")}: of a folder the files named so; in the ids of questions that have none`,
        oneOfTexts(RAW_SPLITS),
      ),
    )
    .addOption(flag("--limit <n>", "how many lines are written at most (default: all)", wholeNumber(1)))
    .addOption(
      flag(
        "--order <name>",
        `of passages that have scores: ${PASSAGE_ORDERS.join(", ")} (default: best-first)`,
        oneOfTexts(PASSAGE_ORDERS),
      ),
    )
    .addOption(
      new Option("--passages <n>", 'how many passages of a question are kept, or "all" (default: 10)').argParser(
        (text: string) => (text === "all" ? Infinity : readSetting(wholeNumber(1, 1_000_000), text, "--passages")),
      ),
    )
    .addOption(flag("--scores <file>", '{"id", "scores"} a line, as "data retrieve" writes them', someWords))
    .addOption(workersOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Makes RAG lines of a raw question set. @returns the exit code. */
export async function runRaw(format: RawFormat, flags: RawFlags, terminal: Terminal): Promise<number> {
  const others = flags.scores === undefined ? [] : [flags.scores];
  await prepareData([flags.input], others, [flags.output], flags.force);
  const bar = new ProgressBar(terminal, "Reading questions");
  const report = await writeRagFile({
    format,
    input: flags.input,
    output: flags.output,
    split: flags.split,
    limit: flags.limit ?? Infinity,
    order: flags.order ?? "best-first",
    numPassages: flags.passages ?? 10,
    numWorkers: flags.workers ?? availableParallelism(),
    scores: flags.scores,
    signal: terminal.signal,
    onProgress: (rows) => bar.count(rows),
  }).finally(() => bar.end());
  const { rows, written, dropped, passages, emptyPassages, unscored } = report;
  const lines = [
    `${rows} rows: ${written} lines, ${passages} passages`,
    ...droppedLines(dropped),
    ...badLines(report),
    ...(emptyPassages > 0 ? [`${emptyPassages} passages without text were left out`] : []),
    ...(unscored > 0 ? [`${unscored} lines have passages without scores: the first ones were kept`] : []),
    `Written: ${flags.output}, with .lengths.svg, .passages.svg and .manifest.json`,
  ];
  return await tell(report, lines, flags.json, terminal);
}

export interface ValidateFlags {
  readonly file: string;
  readonly format: ValidFormat;
  readonly workers?: number;
  readonly json?: boolean;
}

/** Declares `data validate`'s options. */
export function validateOptions(command: Command): Command {
  return command
    .argument("<file>", "JSON lines, a .json array or Parquet; - is standard input", (path: string) => {
      command.setOptionValue("file", readSetting(someWords, path, "<file>"));
      return path;
    })
    .addOption(flag("--format <name>", VALID_FORMATS.join(", "), oneOfTexts(VALID_FORMATS)).makeOptionMandatory())
    .addOption(workersOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Checks a file row by row. @returns the exit code: 1 if a row is not what it should be. */
export async function runValidate(flags: ValidateFlags, terminal: Terminal): Promise<number> {
  const bar = new ProgressBar(terminal, "Checking rows");
  const numWorkers = flags.workers ?? availableParallelism();
  const count = (rows: number) => bar.count(rows);
  const checked = validateFile(flags.file, flags.format, terminal.signal, count, numWorkers);
  const report = await checked.finally(() => bar.end());
  const { rows, bad, dropped, errors } = report;
  const lines = [
    ...errors,
    ...(bad > errors.length ? [`and ${bad - errors.length} more`] : []),
    `${rows} rows: ${bad === 0 ? "all are" : `${rows - bad} are`} of the format "${flags.format}"${bad === 0 ? "" : `, ${bad} are not`}`,
    ...droppedLines(dropped),
  ];
  return await tell(report, lines, flags.json, terminal);
}

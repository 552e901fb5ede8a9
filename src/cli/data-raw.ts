import { availableParallelism } from "node:os";
import { PASSAGE_ORDERS } from "../data/rag/best-passages.js";
import { writeNeedles } from "../data/raw/needles.js";
import { RAW_SPLITS, writeRagFile } from "../data/raw/rag-file.js";
import type { RawFormat } from "../data/raw/raw-question.js";
import { writeSquadFile } from "../data/raw/squad.js";
import { type Tulu3FileReport, tulu3Paths, writeTulu3 } from "../data/raw/tulu3.js";
import { VALID_FORMATS, validateFile } from "../data/raw/validate.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { modelFiles } from "../files/outputs.js";
import { readSetting, someWords } from "../files/settings.js";
import { command, type Flag, type FlagsOf, flag, mandatory, operand, toggle } from "./command.js";
import {
  aProbability,
  badLines,
  cuttingFlags,
  cuttingSettings,
  droppedLines,
  inputFlag,
  outputFlag,
  passageRangeFlag,
  prepareData,
  seedFlag,
  tell,
  tellRows,
  workersFlag,
} from "./data-command.js";
import { engineFlag, forceFlag } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import type { Terminal } from "./terminal.js";

const tulu3Flags = {
  model: engineFlag("model"),
  input: inputFlag("the Parquet files' folder, or one file"),
  outputDir: mandatory(flag("<folder>", "sft.train.jsonl and block.train.jsonl are written there", someWords)),
  force: forceFlag,
  ...cuttingFlags("tulu"),
  json: toggle("the report as one line of JSON"),
};

export const tulu3Command = command({
  name: "tulu3",
  summary: "Makes training lines of the Tulu 3 mixture, for full mode and for block mode.",
  flags: tulu3Flags,
  run: runTulu3,
  help: `
Examples:
  block-attention data tulu3 --model ./Llama-3.1-8B --prefix "[Block-Attention]" --input tulu-3-sft-mixture/data --output-dir tulu3

A row is {"messages": [{"role", "content"}, …], "id"?, "source"?}. A row that is none is told, the others go on, and the exit
code is 1.`,
});

/** Makes training lines of conversations. @returns the exit code. */
async function runTulu3(flags: FlagsOf<typeof tulu3Flags>, terminal: Terminal): Promise<number> {
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

const rawFlags = {
  input: inputFlag("the raw file, or a folder of them"),
  output: outputFlag("the file of RAG lines to write"),
  force: forceFlag,
  split: flag(
    "<name>",
    `${RAW_SPLITS.join(", ")}: of a folder the files named so; in the ids of questions that have none`,
    oneOfTexts(RAW_SPLITS),
  ),
  limit: flag("<n>", "how many lines are written at most (default: all)", wholeNumber(1)),
  order: flag(
    "<name>",
    `of passages that have scores: ${PASSAGE_ORDERS.join(", ")} (default: best-first)`,
    oneOfTexts(PASSAGE_ORDERS),
  ),
  passages: {
    takes: "<n>",
    about: 'how many passages of a question are kept, or "all" (default: 10)',
    read: (text, _, origin) => (text === "all" ? Infinity : readSetting(wholeNumber(1, 1_000_000), text, origin)),
  } as Flag<number | undefined>,
  scores: flag("<file>", '{"id", "scores"} a line, as "data retrieve" writes them', someWords),
  workers: workersFlag,
  json: toggle("the counts as one line of JSON"),
};

/** Raw question sets: the command, the set's name, a file of it. */
const rawSets = [
  ["2wiki", "2WikiMultihopQA", "2wiki/dev.parquet"],
  ["hqa", "HotpotQA", "hotpot_dev_distractor_v1.json"],
  ["musique", "MuSiQue", "musique_ans_v1.0_train.jsonl"],
  ["nq", "Natural Questions in FiD's format", "nq/test.json"],
  ["tqa", "TriviaQA in FiD's format", "tqa/test.json"],
] as const;

export const rawCommands = rawSets.map(([format, name, example]) =>
  command({
    name: format,
    summary: `Makes RAG lines of ${name}.`,
    flags: rawFlags,
    run: (flags, terminal) => runRaw(format, flags, terminal),
    help: `
Examples:
  block-attention data ${format} --input ${example} --output ${format}.jsonl
  block-attention data ${format} --input ${example} --passages all --order as-is --output all.jsonl

A row that cannot be used is told, the others go on, and the exit code is 1. docs/training-data.md describes the lines.`,
  }),
);

/** Makes RAG lines of a raw question set. @returns the exit code. */
async function runRaw(format: RawFormat, flags: FlagsOf<typeof rawFlags>, terminal: Terminal): Promise<number> {
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

const squadFlags = {
  input: inputFlag("the raw file, or a folder of them"),
  output: outputFlag("the file of RAG lines to write"),
  force: forceFlag,
  passages: passageRangeFlag("paragraphs that share a context, also as 2-10 (default: 4-10)"),
  mixed: flag("<p>", "share of contexts whose paragraphs are of several articles (default: 0.25)", aProbability),
  seed: seedFlag,
  json: toggle("the counts as one line of JSON"),
};

export const squadCommand = command({
  name: "squad",
  summary: "Makes RAG lines of SQuAD: paragraphs share a context, with all their questions.",
  flags: squadFlags,
  run: runSquad,
  help: `
Examples:
  block-attention data squad --input train-v1.1.json --output squad.jsonl
  block-attention data squad --input train-v1.1.json --passages 5 --mixed 0 --output hard.jsonl

A row is SQuAD's own file, {"data": [{"title", "paragraphs"}, …]}, or a paragraph, {"title", "text", "questions": [{"id",
"question", "answers"}, …]}.`,
});

/** Makes RAG lines of SQuAD. @returns the exit code. */
async function runSquad(flags: FlagsOf<typeof squadFlags>, terminal: Terminal): Promise<number> {
  const { input, output, passages = [4, 10], mixed = 0.25, seed } = flags;
  await prepareData([input], [], [output], flags.force);
  const report = await writeSquadFile({ input, output, passages, mixed, seed, signal: terminal.signal });
  return tellRows(flags, report, terminal);
}

const needlesFlags = {
  input: inputFlag('passages: JSON lines {"title","text"}'),
  output: outputFlag("the file of RAG lines to write"),
  force: forceFlag,
  count: flag("<n>", "lines of each kind (default: 50)", wholeNumber(1, 576)),
  hops: flag("<n>", "passages that lead to a tracked value (default: 3)", wholeNumber(1, 16)),
  seed: seedFlag,
  json: toggle("the counts as one line of JSON"),
};

export const needlesCommand = command({
  name: "needles",
  summary: "Hides numbers in real passages and asks for them, as RULER does.",
  flags: needlesFlags,
  run: runNeedles,
  help: `
Examples:
  block-attention data needles --input passages.jsonl --output needles.jsonl
  block-attention eval repair --input needles.jsonl --pool passages.jsonl --passages 5,20,50,200 --output runs/needles

Of each passage one line at most is made. A needle is one number in one passage; tracking leads over several passages to it.`,
});

/** Hides needles. @returns the exit code. */
async function runNeedles(flags: FlagsOf<typeof needlesFlags>, terminal: Terminal): Promise<number> {
  const { input, output, count = 50, hops = 3, seed } = flags;
  await prepareData([input], [], [output], flags.force);
  const report = await writeNeedles({ input, output, count, hops, seed, signal: terminal.signal });
  return tellRows(flags, report, terminal);
}

const validateFlags = {
  file: operand(flag("<file>", "JSON lines, a .json array or Parquet; - is standard input", someWords)),
  format: mandatory(flag("<name>", VALID_FORMATS.join(", "), oneOfTexts(VALID_FORMATS))),
  workers: workersFlag,
  json: toggle("the counts as one line of JSON"),
};

export const validateCommand = command({
  name: "validate",
  summary: "Checks a data file row by row.",
  flags: validateFlags,
  run: runValidate,
  help: `
Examples:
  block-attention data validate --format rag nq.jsonl
  block-attention data validate --format packed train.parquet

The first 20 rows that are not of the format are told, all are counted, and the exit code is 1.`,
});

/** Checks a file row by row. @returns the exit code: 1 if a row is not what it should be. */
async function runValidate(flags: FlagsOf<typeof validateFlags>, terminal: Terminal): Promise<number> {
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

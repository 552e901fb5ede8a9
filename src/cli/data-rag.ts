import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { type AnswerReport, answerRows, errorsPath, journalPath } from "../data/answer/answer-rows.js";
import { type InspectedSample, inspectRow } from "../data/inspect-sample.js";
import { PASSAGE_ORDERS } from "../data/rag/best-passages.js";
import { convertRows } from "../data/rag/convert-rows.js";
import { retrievePassages, type Scoring } from "../data/rag/retrieve.js";
import { chosenModel } from "../engine/model.js";
import { isJsonObject, type JsonObject, parseJson } from "../files/bounded-json.js";
import { isInputError } from "../files/input-error.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { modelFiles } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { pathExists } from "../files/regular-file.js";
import { flagOf, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { checkModelFolder } from "../train/check-run.js";
import { PythonEmbedder } from "../train/text-embedder.js";
import { command, type Flag, type FlagsOf, flag, mandatory, operand, toggle } from "./command.js";
import {
  conversationsFlag,
  inputFlag,
  inputsFlag,
  outputFlag,
  prepareData,
  tellRows,
  templateFlag,
  workersFlag,
} from "./data-command.js";
import { mergeCommand, mixCommand, sampleCommand } from "./data-rows.js";
import { engineFlag, forceFlag } from "./options.js";
import { cleanText, paintBlocks } from "./paint-blocks.js";
import { ProgressBar } from "./progress-bar.js";
import { otherOnDisk } from "./pull-model.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";
import { commandPython, pythonFlag } from "./trainer-python.js";

const maxCount = 2 ** 31;

const retrieveFlags = {
  input: inputFlag("RAG lines: a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the file of RAG lines to write"),
  force: forceFlag,
  method: flag("<name>", "bm25: words; dense: embeddings (default: bm25)", oneOfTexts(["bm25", "dense"] as const)),
  embeddingModel: flag(
    "<folder>",
    "a Hugging Face encoder, or hf:OWNER/REPO, for instance hf:facebook/contriever-msmarco",
    someWords,
  ),
  withTitle: toggle("score title and text (default: the text alone)"),
  scores: flag("<file>", "choose by scores that --scores-output wrote, not by a method", someWords),
  scoresOutput: flag("<file>", 'also write the scores of all passages, {"id","scores"} a line', someWords),
  passages: passagesFlag("how many passages are kept, the best ones (default: 10)"),
  order: flag(
    "<name>",
    `how they are laid: ${PASSAGE_ORDERS.join(", ")} (default: best-first)`,
    oneOfTexts(PASSAGE_ORDERS),
  ),
  batchSize: flag("<n>", "texts that the embedding model computes at once (default: 32)", wholeNumber(1, 65_536)),
  python: pythonFlag,
  json: toggle("the counts as one line of JSON"),
};

const retrieveCommand = command({
  name: "retrieve",
  summary: "Keeps the passages of RAG lines that fit their question best.",
  flags: retrieveFlags,
  run: runRetrieve,
  help: `
Examples:
  block-attention data retrieve --input all.jsonl --output best.jsonl
  block-attention data retrieve --input all.jsonl --method dense --embedding-model hf:facebook/contriever-msmarco \\
    --scores-output scores.jsonl --output best.jsonl
  block-attention data retrieve --input all.jsonl --scores scores.jsonl --passages 5 --output five.jsonl`,
});

/** Keeps the best passages of RAG lines. @returns the exit code. */
async function runRetrieve(flags: FlagsOf<typeof retrieveFlags>, terminal: Terminal): Promise<number> {
  checkRetrieveFlags(flags);
  const model = flags.embeddingModel && (await otherOnDisk(flags.embeddingModel, terminal, "transformers"));
  const others = [
    ...(flags.scores === undefined ? [] : [flags.scores]),
    ...(model === undefined ? [] : await modelFiles(model)),
  ];
  const outputs = [flags.output, ...(flags.scoresOutput === undefined ? [] : [flags.scoresOutput])];
  await prepareData([flags.input], others, outputs, flags.force);
  const retrieve = async (scoring: Scoring): Promise<number> => {
    const bar = new ProgressBar(terminal, "Retrieving");
    const report = await retrievePassages({
      input: flags.input,
      output: flags.output,
      scoring,
      scoresOutput: flags.scoresOutput,
      maxPassages: flags.passages ?? 10,
      order: flags.order ?? "best-first",
      signal: terminal.signal,
      onResume: (text) => note(terminal, text),
      onProgress: (_, rows) => bar.count(rows),
    }).finally(() => bar.end());
    return tellRows(flags, report, terminal, [`${report.kept} of ${report.passages} passages kept`]);
  };
  const withTitle = flags.withTitle ?? false;
  if (flags.scores !== undefined) return retrieve({ kind: "file", path: flags.scores });
  if (flags.method !== "dense" || model === undefined) return retrieve({ kind: "bm25", withTitle });
  await checkModelFolder(model);
  const { python, folder } = await commandPython(flags.python, terminal);
  await using embedder = await PythonEmbedder.start({
    python,
    pythonFolder: folder,
    model,
    batchSize: flags.batchSize ?? 32,
    env: terminal.env,
    platform: process.platform,
    onText: (line) => note(terminal, line),
    signal: terminal.signal,
  });
  return await retrieve({ kind: "dense", withTitle, model, embedder });
}

/** Options that nothing would read are no options. */
function checkRetrieveFlags(flags: FlagsOf<typeof retrieveFlags>): void {
  const { method = "bm25", scores } = flags;
  const given = (names: readonly (keyof typeof retrieveFlags)[]) => names.find((name) => flags[name] !== undefined);
  if (scores !== undefined) {
    const unread = given(["method", "embeddingModel", "withTitle", "scoresOutput", "batchSize", "python"]);
    if (unread) throw new UsageError(`Cannot use ${flagOf(unread)}: --scores is given, and nothing is scored`);
  } else if (method === "bm25") {
    const unread = given(["embeddingModel", "batchSize", "python"]);
    if (unread) throw new UsageError(`Cannot use ${flagOf(unread)}: the method is bm25, wanted dense`);
  } else if (flags.embeddingModel === undefined) {
    throw new UsageError("Cannot retrieve: the method is dense, --embedding-model is missing");
  }
}

const convertFlags = {
  input: inputsFlag("RAG lines: a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the file of training lines to write"),
  force: forceFlag,
  model: engineFlag("model"),
  template: templateFlag("own"),
  passages: passagesFlag("how many passages a prompt has, the first ones (default: all)"),
  order: flag(
    "<name>",
    "lines come best first; best-last turns the passages round (default: best-first)",
    oneOfTexts(["best-first", "best-last"] as const),
  ),
  system: flag("<text>", "a system message in place of the RAG prompt's preamble", someWords),
  learnAnswers: toggle("of rows without an answer to learn, learn the first right one"),
  workers: workersFlag,
  json: toggle("the counts as one line of JSON"),
};

const convertCommand = command({
  name: "convert",
  summary: "Turns answered RAG lines into training lines.",
  flags: convertFlags,
  run: runConvertRows,
  help: `
Examples:
  block-attention data convert --input answered.jsonl --output rag.train.jsonl
  block-attention data convert --model ./Tulu3-SFT --template tulu --input answered.jsonl --output rag.train.jsonl`,
});

/** Turns RAG lines into training lines. @returns the exit code. */
async function runConvertRows(flags: FlagsOf<typeof convertFlags>, terminal: Terminal): Promise<number> {
  const model = chosenModel(flags);
  await prepareData(flags.input, await modelFiles(model), [flags.output], flags.force);
  const bar = new ProgressBar(terminal, "Converting rows");
  const report = await convertRows({
    inputs: flags.input,
    output: flags.output,
    model,
    template: flags.template ?? "own",
    maxDocuments: flags.passages,
    order: flags.order ?? "best-first",
    system: flags.system,
    learnsAnswers: flags.learnAnswers,
    numWorkers: flags.workers ?? availableParallelism(),
    signal: terminal.signal,
    onProgress: (rows) => bar.count(rows),
  }).finally(() => bar.end());
  return tellRows(flags, report, terminal);
}

const answerFlags = {
  input: inputFlag("RAG lines: a file of JSON lines, a .json array, Parquet, or a folder"),
  output: outputFlag("the file of RAG lines to write"),
  force: forceFlag,
  baseUrl: mandatory({
    takes: "<url>",
    about: "a server that speaks OpenAI's API, for instance http://127.0.0.1:8000/v1",
    read: address,
  } as Flag<URL>),
  model: mandatory(flag("<name>", "the model's name on the server", someWords)),
  apiKeyEnv: flag("<variable>", "the environment variable that holds the key (default: no key)", someWords),
  concurrency: flag("<n>", "questions under way at the same time (default: 8)", wholeNumber(1, 1024)),
  maxTokens: flag("<n>", "the longest answer in tokens (default: 200)", wholeNumber(1, 2 ** 24)),
  extraBody: {
    takes: "<json>",
    about: 'fields of the request over ours, null takes one out: {"max_tokens":null,"max_completion_tokens":200}',
    read: jsonObject,
  } as Flag<JsonObject | undefined>,
  retries: flag("<n>", "how often a request is tried again (default: 5)", wholeNumber(0, 100)),
  timeout: flag("<seconds>", "how long one try may take (default: 300)", wholeNumber(1, 300)),
  replace: toggle("ask also what has an answer already"),
  json: toggle("the counts as one line of JSON"),
};

const answerCommand = command({
  name: "answer",
  summary: "Fills the answers of RAG lines from a server that speaks OpenAI's API.",
  flags: answerFlags,
  run: runAnswer,
  help: `
Examples:
  block-attention data answer --input rag.jsonl --base-url http://127.0.0.1:8000/v1 --model my-model --output answered.jsonl
  block-attention data answer --input rag.jsonl --base-url https://api.openai.com/v1 --model gpt-4o --api-key-env OPENAI_API_KEY \\
    --concurrency 32 --output answered.jsonl

The same command goes on where it was interrupted. A question that the server refuses is told in OUTPUT.errors.jsonl, the others
go on, and the exit code is 1.`,
});

/** Fills answers in. @returns the exit code: 1 if a question was refused or a row could not be used. */
async function runAnswer(flags: FlagsOf<typeof answerFlags>, terminal: Terminal): Promise<number> {
  const { apiKeyEnv } = flags;
  const apiKey = apiKeyEnv === undefined ? undefined : terminal.env[apiKeyEnv]?.trim();
  if (apiKeyEnv !== undefined && !apiKey) {
    throw new UsageError(`Cannot use --api-key-env: the variable ${quote(apiKeyEnv)} is not set, or empty`);
  }
  // An output that has its journal is gone on with, or made again from it.
  const isOurs = await pathExists(journalPath(flags.output));
  await prepareData([flags.input], [], [flags.output], flags.force || isOurs);
  const bar = new ProgressBar(terminal, "Asking questions");
  const report = await answerRows({
    input: flags.input,
    output: flags.output,
    chat: {
      baseUrl: flags.baseUrl,
      model: flags.model,
      apiKey,
      maxTokens: flags.maxTokens ?? 200,
      extraBody: flags.extraBody ?? {},
      retries: flags.retries ?? 5,
      timeoutMs: (flags.timeout ?? 300) * 1000,
    },
    concurrency: flags.concurrency ?? 8,
    replace: flags.replace ?? false,
    dependencies: {
      fetch: globalThis.fetch,
      sleep: (ms, signal) => sleep(ms, undefined, { signal }),
      random: Math.random,
      now: Date.now,
    },
    signal: terminal.signal,
    onResume: (text) => note(terminal, text),
    onProgress: (rows) => bar.count(rows),
  }).finally(() => bar.end());
  const code = await tellRows(flags, report, terminal, answerLines(report, flags.output));
  return report.failed > 0 ? 1 : code;
}

function answerLines({ answered, kept, failed, cut, resumed }: AnswerReport, output: string): string[] {
  return [
    `${answered} answered${resumed > 0 ? ` (${resumed} rows by an earlier run)` : ""}, ${kept} had an answer already`,
    ...(cut > 0 ? [`${cut} answers were cut at the longest length`] : []),
    ...(failed > 0 ? [`${failed} questions were refused: ${quote(errorsPath(output))} tells why`] : []),
  ];
}

const inspectFlags = {
  file: operand(flag("<file>", "RAG lines, training lines or a packed Parquet file", someWords)),
  row: flag("<n>", "which row, from 1 on (default: 1)", wholeNumber(1, maxCount)),
  model: engineFlag("model"),
  template: templateFlag("own"),
  conversations: conversationsFlag,
  json: toggle("one line of JSON for each sample"),
};

const inspectCommand = command({
  name: "inspect",
  summary: "Shows a sample of a data file as blocks.",
  flags: inspectFlags,
  run: runInspect,
  help: `
Examples:
  block-attention data inspect rag.jsonl --row 3
  block-attention data inspect --model ./Tulu3-SFT train.parquet`,
});

/** Shows samples as blocks. @returns the exit code. */
async function runInspect(flags: FlagsOf<typeof inspectFlags>, terminal: Terminal): Promise<number> {
  const samples = await inspectRow({
    path: flags.file,
    row: flags.row ?? 1,
    model: chosenModel(flags),
    template: flags.template ?? "own",
    conversations: flags.conversations,
    signal: terminal.signal,
  });
  for (const sample of samples) {
    if (flags.json) await writeJson(terminal, sample);
    else await write(terminal.stdout, paintSample(sample, terminal), terminal.signal);
  }
  return 0;
}

function paintSample({ format, id, parts, notes }: InspectedSample, terminal: Terminal): string {
  const names = { rag: "RAG line", train: "training line", conversation: "conversation", packed: "packed sample" };
  const head = `${names[format]}${id === "" ? "" : ` ${quote(id)}`}`;
  const lines = [head, ...notes].map((line) => `${terminal.colors.dim(cleanText(line).replaceAll("\n", " "))}\n`);
  return `${lines.join("")}${parts.length === 0 ? "" : paintBlocks(parts, terminal)}\n`;
}

function passagesFlag(what: string) {
  return flag("<n>", what, wholeNumber(1, 100_000));
}

function address(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && /^https?:$/.test(url.protocol) && url.username === "" && url.password === "") return url;
  // The address is not repeated: it may hold a password.
  throw new UsageError(
    "Cannot use --base-url: wanted an address as http://127.0.0.1:8000/v1, without a name and a password",
  );
}

function jsonObject(text: string, _: unknown, origin: string): JsonObject {
  try {
    const value = parseJson(text, origin);
    if (isJsonObject(value)) return value;
  } catch (error) {
    // Told below.
    if (!isInputError(error)) throw error;
  }
  throw new UsageError(`Cannot use ${origin}: it is ${quote(text, 80)}, wanted a JSON object`);
}

/** What stands between raw question sets and training. */
export const ragDataCommands = [
  retrieveCommand,
  sampleCommand,
  mergeCommand,
  answerCommand,
  convertCommand,
  mixCommand,
  inspectCommand,
];

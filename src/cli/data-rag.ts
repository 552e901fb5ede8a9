import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, Option } from "commander";
import { type AnswerReport, answerRows, errorsPath, journalPath } from "../data/answer/answer-rows.js";
import { type InspectedSample, inspectRow } from "../data/inspect-sample.js";
import { mergeRows } from "../data/merge-rows.js";
import { mixRows } from "../data/mix-rows.js";
import { PASSAGE_ORDERS, type PassageOrder } from "../data/rag/best-passages.js";
import { convertRows } from "../data/rag/convert-rows.js";
import { type RetrieveReport, retrievePassages, type Scoring } from "../data/rag/retrieve.js";
import type { RowReport } from "../data/row-tally.js";
import { type SampleOptions, sampleRows } from "../data/sample-rows.js";
import { embeddedModelPath } from "../engine/model.js";
import { isJsonObject, type JsonObject, parseJson } from "../files/bounded-json.js";
import { modelFiles } from "../files/outputs.js";
import { pathExists } from "../files/path-exists.js";
import { quote } from "../files/quote.js";
import { checkModelFolder } from "../train/check-run.js";
import { PythonEmbedder } from "../train/text-embedder.js";
import { outputOption, prepareData, workersOption } from "./data.js";
import { forceOption, jsonOption, modelOption, nonEmpty, oneOf, wholeNumber } from "./options.js";
import { cleanText, paintBlocks } from "./paint-blocks.js";
import { ProgressBar } from "./progress-bar.js";
import type { Subcommand } from "./subcommand.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";
import { commandPython, pythonOption } from "./trainer-python.js";
import { UsageError } from "./usage-error.js";

const maxCount = 2 ** 31;

interface CommonFlags {
  readonly output: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

interface RetrieveFlags extends CommonFlags {
  readonly input: string;
  readonly method?: "bm25" | "dense";
  readonly embeddingModel?: string;
  readonly withTitle?: boolean;
  readonly scores?: string;
  readonly scoresOutput?: string;
  readonly passages?: number;
  readonly order?: PassageOrder;
  readonly batchSize?: number;
  readonly python?: string;
}

/** Declares `data retrieve`'s options. */
function retrieveOptions(command: Command): Command {
  return command
    .addOption(inputOption("RAG lines: a file of JSON lines, a .json array, Parquet, or a folder"))
    .addOption(outputOption("the file of RAG lines to write"))
    .addOption(forceOption())
    .addOption(
      new Option("--method <name>", "bm25: words; dense: embeddings (default: bm25)").argParser(
        oneOf("--method", ["bm25", "dense"] as const),
      ),
    )
    .addOption(
      new Option("--embedding-model <folder>", "a Hugging Face encoder, for instance contriever-msmarco").argParser(
        nonEmpty("--embedding-model"),
      ),
    )
    .addOption(new Option("--with-title", "score title and text (default: the text alone)"))
    .addOption(
      new Option("--scores <file>", "choose by scores that --scores-output wrote, not by a method").argParser(
        nonEmpty("--scores"),
      ),
    )
    .addOption(
      new Option("--scores-output <file>", 'also write the scores of all passages, {"id","scores"} a line').argParser(
        nonEmpty("--scores-output"),
      ),
    )
    .addOption(passagesOption("how many passages are kept, the best ones (default: 10)"))
    .addOption(
      new Option("--order <name>", `how they are laid: ${PASSAGE_ORDERS.join(", ")} (default: best-first)`).argParser(
        oneOf("--order", PASSAGE_ORDERS),
      ),
    )
    .addOption(
      new Option("--batch-size <n>", "texts that the embedding model computes at once (default: 32)").argParser(
        wholeNumber("--batch-size", 1, 65_536),
      ),
    )
    .addOption(pythonOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Keeps the best passages of RAG lines. @returns the exit code. */
async function runRetrieve(flags: RetrieveFlags, terminal: Terminal): Promise<number> {
  checkRetrieveFlags(flags);
  const others = [
    ...(flags.scores === undefined ? [] : [flags.scores]),
    ...(flags.embeddingModel === undefined ? [] : await modelFiles(flags.embeddingModel)),
  ];
  const outputs = [flags.output, ...(flags.scoresOutput === undefined ? [] : [flags.scoresOutput])];
  await prepareData([flags.input], others, outputs, flags.force);
  const retrieve = (scoring: Scoring): Promise<number> =>
    withBar(terminal, "Retrieving", async (bar) => {
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
      });
      return tell(flags, report, terminal, retrieveLines(report));
    });
  const withTitle = flags.withTitle ?? false;
  if (flags.scores !== undefined) return retrieve({ kind: "file", path: flags.scores });
  if (flags.method !== "dense") return retrieve({ kind: "bm25", withTitle });
  const model = flags.embeddingModel as string;
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
function checkRetrieveFlags(flags: RetrieveFlags): void {
  const { method = "bm25", scores } = flags;
  const given = (names: readonly (keyof RetrieveFlags)[]) => names.find((name) => flags[name] !== undefined);
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

function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function retrieveLines({ passages, kept }: RetrieveReport): string[] {
  return [`${kept} of ${passages} passages kept`];
}

interface SampleFlags extends CommonFlags {
  readonly input: string;
  readonly count?: number;
  readonly share?: number;
  readonly seed: string;
}

/** Declares `data sample`'s options. */
function sampleOptions(command: Command): Command {
  return command
    .addOption(inputOption("rows of any kind: a file of JSON lines, a .json array, Parquet, or a folder"))
    .addOption(outputOption("the file of JSON lines to write"))
    .addOption(forceOption())
    .addOption(new Option("--count <n>", "how many rows").argParser(wholeNumber("--count", 1, maxCount)))
    .addOption(new Option("--share <p>", "which share of the rows, over 0 to 1").argParser(share("--share", 1)))
    .addOption(seedOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Draws rows. @returns the exit code. */
async function runSample(flags: SampleFlags, terminal: Terminal): Promise<number> {
  const { count, share: part } = flags;
  if ((count === undefined) === (part === undefined)) {
    throw new UsageError(
      `Cannot sample: ${count === undefined ? "there is neither --count nor --share" : "there are --count and --share"}, wanted one of them`,
    );
  }
  const size: SampleOptions["size"] =
    count === undefined ? { kind: "share", share: part as number } : { kind: "count", count };
  await prepareData([flags.input], [], [flags.output], flags.force);
  return withBar(terminal, "Sampling rows", async (bar) => {
    const { input, output, seed } = flags;
    const onProgress = (rows: number) => bar.count(rows);
    const report = await sampleRows({ input, output, size, seed, signal: terminal.signal, onProgress });
    return tell(flags, report, terminal);
  });
}

interface MergeFlags extends CommonFlags {
  readonly files: readonly string[];
}

/** Declares `data merge`'s options. */
function mergeOptions(command: Command): Command {
  return command
    .argument("<files...>", "files of rows of any kind, or folders, in this order", (path: string, before: unknown) => {
      const files = [...(Array.isArray(before) ? before : []), nonEmpty("<files>")(path)];
      command.setOptionValue("files", files);
      return files;
    })
    .addOption(outputOption("the file of JSON lines to write"))
    .addOption(forceOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Puts files together. @returns the exit code. */
async function runMerge(flags: MergeFlags, terminal: Terminal): Promise<number> {
  await prepareData(flags.files, [], [flags.output], flags.force);
  return withBar(terminal, "Merging rows", async (bar) => {
    const { files: inputs, output } = flags;
    const onProgress = (rows: number) => bar.count(rows);
    return tell(flags, await mergeRows({ inputs, output, signal: terminal.signal, onProgress }), terminal);
  });
}

interface ConvertFlags extends CommonFlags {
  readonly input: readonly string[];
  readonly model?: string;
  readonly template?: "own" | "tulu";
  readonly passages?: number;
  readonly order?: "best-first" | "best-last";
  readonly workers?: number;
}

/** Declares `data convert`'s options. */
function convertOptions(command: Command): Command {
  return command
    .addOption(inputsOption("RAG lines: a file of JSON lines, a .json array, Parquet, or a folder"))
    .addOption(outputOption("the file of training lines to write"))
    .addOption(forceOption())
    .addOption(modelOption())
    .addOption(templateOption())
    .addOption(passagesOption("how many passages a prompt has, the first ones (default: all)"))
    .addOption(
      new Option(
        "--order <name>",
        "lines come best first; best-last turns the passages round (default: best-first)",
      ).argParser(oneOf("--order", ["best-first", "best-last"] as const)),
    )
    .addOption(workersOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Turns RAG lines into training lines. @returns the exit code. */
async function runConvertRows(flags: ConvertFlags, terminal: Terminal): Promise<number> {
  const model = flags.model ?? embeddedModelPath();
  await prepareData(flags.input, await modelFiles(model), [flags.output], flags.force);
  return withBar(terminal, "Converting rows", async (bar) => {
    const report = await convertRows({
      inputs: flags.input,
      output: flags.output,
      model,
      template: flags.template ?? "own",
      maxDocuments: flags.passages,
      order: flags.order ?? "best-first",
      numWorkers: flags.workers ?? availableParallelism(),
      signal: terminal.signal,
      onProgress: (rows) => bar.count(rows),
    });
    return tell(flags, report, terminal);
  });
}

interface MixFlags extends CommonFlags {
  readonly input: readonly string[];
  readonly shares?: readonly number[];
  readonly count?: number;
  readonly seed: string;
}

/** Declares `data mix`'s options. */
function mixOptions(command: Command): Command {
  return command
    .addOption(inputsOption("rows of any kind: a file of JSON lines, a .json array, Parquet, or a folder"))
    .addOption(outputOption("the file of JSON lines to write"))
    .addOption(forceOption())
    .addOption(
      new Option("--shares <list>", "what each input counts beside the others, as 2,1 (default: equal)").argParser(
        (text: string) => text.split(",").map((part) => share("--shares", Number.MAX_SAFE_INTEGER)(part.trim())),
      ),
    )
    .addOption(
      new Option("--count <n>", "how many rows in all (default: as many as the shares allow)").argParser(
        wholeNumber("--count", 1, maxCount),
      ),
    )
    .addOption(seedOption())
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Mixes files in random order. @returns the exit code. */
async function runMix(flags: MixFlags, terminal: Terminal): Promise<number> {
  const { input: inputs, output, shares, count, seed } = flags;
  if (inputs.length < 2) throw new UsageError("Cannot mix: there is one --input, wanted two or more");
  if (shares !== undefined && shares.length !== inputs.length) {
    throw new UsageError(`Cannot use --shares: it has ${shares.length} numbers, there are ${inputs.length} inputs`);
  }
  await prepareData(inputs, [], [output], flags.force);
  return withBar(terminal, "Mixing rows", async (bar) => {
    const onProgress = (rows: number) => bar.count(rows);
    const report = await mixRows({ inputs, output, shares, count, seed, signal: terminal.signal, onProgress });
    const taken = report.taken.map((rows, i) => `  ${rows} of ${quote(inputs[i] as string)}`);
    return tell(flags, report, terminal, taken);
  });
}

interface AnswerFlags extends CommonFlags {
  readonly input: string;
  readonly baseUrl: URL;
  readonly model: string;
  readonly apiKeyEnv?: string;
  readonly concurrency?: number;
  readonly maxTokens?: number;
  readonly extraBody?: JsonObject;
  readonly retries?: number;
  readonly timeout?: number;
  readonly replace?: boolean;
}

/** Declares `data answer`'s options. */
function answerOptions(command: Command): Command {
  return command
    .addOption(inputOption("RAG lines: a file of JSON lines, a .json array, Parquet, or a folder"))
    .addOption(outputOption("the file of RAG lines to write"))
    .addOption(forceOption())
    .addOption(
      new Option("--base-url <url>", "a server that speaks OpenAI's API, for instance http://127.0.0.1:8000/v1")
        .argParser(address)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--model <name>", "the model's name on the server")
        .argParser(nonEmpty("--model"))
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--api-key-env <variable>", "the environment variable that holds the key (default: no key)").argParser(
        nonEmpty("--api-key-env"),
      ),
    )
    .addOption(
      new Option("--concurrency <n>", "questions under way at the same time (default: 8)").argParser(
        wholeNumber("--concurrency", 1, 1024),
      ),
    )
    .addOption(
      new Option("--max-tokens <n>", "the longest answer in tokens (default: 200)").argParser(
        wholeNumber("--max-tokens", 1, 2 ** 24),
      ),
    )
    .addOption(
      new Option(
        "--extra-body <json>",
        'fields of the request over ours, null takes one out: {"max_tokens":null,"max_completion_tokens":200}',
      ).argParser(jsonObject("--extra-body")),
    )
    .addOption(
      new Option("--retries <n>", "how often a request is tried again (default: 5)").argParser(
        wholeNumber("--retries", 0, 100),
      ),
    )
    .addOption(
      new Option("--timeout <seconds>", "how long one try may take (default: 300)").argParser(
        wholeNumber("--timeout", 1, 300),
      ),
    )
    .addOption(new Option("--replace", "ask also what has an answer already"))
    .addOption(jsonOption("the counts as one line of JSON"));
}

/** Fills answers in. @returns the exit code: 1 if a question was refused or a row could not be used. */
async function runAnswer(flags: AnswerFlags, terminal: Terminal): Promise<number> {
  const { apiKeyEnv } = flags;
  const apiKey = apiKeyEnv === undefined ? undefined : terminal.env[apiKeyEnv]?.trim();
  if (apiKeyEnv !== undefined && !apiKey) {
    throw new UsageError(`Cannot use --api-key-env: the variable ${quote(apiKeyEnv)} is not set, or empty`);
  }
  // An output that has its journal is gone on with, or made again from it.
  const isOurs = await pathExists(journalPath(flags.output));
  await prepareData([flags.input], [], [flags.output], flags.force || isOurs);
  return withBar(terminal, "Asking questions", async (bar) => {
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
    });
    const code = await tell(flags, report, terminal, answerLines(report, flags.output));
    return report.failed > 0 ? 1 : code;
  });
}

function answerLines({ answered, kept, failed, cut, resumed }: AnswerReport, output: string): string[] {
  return [
    `${answered} answered${resumed > 0 ? ` (${resumed} rows by an earlier run)` : ""}, ${kept} had an answer already`,
    ...(cut > 0 ? [`${cut} answers were cut at the longest length`] : []),
    ...(failed > 0 ? [`${failed} questions were refused: ${quote(errorsPath(output))} tells why`] : []),
  ];
}

interface InspectFlags {
  readonly file: string;
  readonly row?: number;
  readonly model?: string;
  readonly template?: "own" | "tulu";
  readonly json?: boolean;
}

/** Declares `data inspect`'s options. */
function inspectOptions(command: Command): Command {
  return command
    .argument("<file>", "RAG lines, training lines or a packed Parquet file", (path: string) => {
      command.setOptionValue("file", nonEmpty("<file>")(path));
      return path;
    })
    .addOption(
      new Option("--row <n>", "which row, from 1 on (default: 1)").argParser(wholeNumber("--row", 1, maxCount)),
    )
    .addOption(modelOption())
    .addOption(templateOption())
    .addOption(jsonOption("one line of JSON for each sample"));
}

/** Shows samples as blocks. @returns the exit code. */
async function runInspect(flags: InspectFlags, terminal: Terminal): Promise<number> {
  const samples = await inspectRow({
    path: flags.file,
    row: flags.row ?? 1,
    model: flags.model ?? embeddedModelPath(),
    template: flags.template ?? "own",
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

/** Runs work under a bar, which is gone afterwards whatever happens. */
async function withBar(
  terminal: Terminal,
  title: string,
  work: (bar: ProgressBar) => Promise<number>,
): Promise<number> {
  const bar = new ProgressBar(terminal, title);
  try {
    return await work(bar);
  } finally {
    bar.end();
  }
}

/** Tells what was read and written. @returns the exit code: 1 if a row could not be used. */
async function tell(
  flags: CommonFlags,
  report: RowReport,
  terminal: Terminal,
  more: readonly string[] = [],
): Promise<number> {
  if (flags.json) {
    await writeJson(terminal, report);
    return report.bad === 0 ? 0 : 1;
  }
  const { rows, written, bad, dropped, errors } = report;
  const lines = [
    `${rows} rows, ${written} written`,
    ...Object.entries(dropped).map(([reason, count]) => `  ${count} left out: ${reason}`),
    ...(bad > 0 ? [`${bad} rows could not be used; the first of them:`] : []),
    ...errors.slice(0, 5).map((error) => `  ${error}`),
    ...more,
    `Written: ${flags.output}, with .manifest.json`,
  ];
  await write(terminal.stdout, lines.map((line) => `${cleanText(line)}\n`).join(""), terminal.signal);
  return bad === 0 ? 0 : 1;
}

function inputOption(what: string): Option {
  return new Option("--input <path>", what).argParser(nonEmpty("--input")).makeOptionMandatory();
}

function inputsOption(what: string): Option {
  return new Option("--input <path>", `${what}; may be given again`)
    .argParser((path: string, before: readonly string[] | undefined) => [...(before ?? []), nonEmpty("--input")(path)])
    .makeOptionMandatory();
}

function passagesOption(what: string): Option {
  return new Option("--passages <n>", what).argParser(wholeNumber("--passages", 1, 100_000));
}

function seedOption(): Option {
  return new Option("--seed <text>", "what random choices go by").argParser(nonEmpty("--seed")).default("42");
}

function templateOption(): Option {
  return new Option("--template <name>", "own: the model's chat template; tulu: the paper's (default: own)").argParser(
    oneOf("--template", ["own", "tulu"] as const),
  );
}

/** Parses numbers above 0. */
function share(flag: string, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d*\.?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
    if (value > 0 && value <= max) return value;
    throw new UsageError(
      `Cannot use ${flag}: it is ${quote(text, 80)}, wanted a number over 0${max === 1 ? " to 1" : ""}`,
    );
  };
}

function address(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && /^https?:$/.test(url.protocol) && url.username === "" && url.password === "") return url;
  // The address is not repeated: it may hold a password.
  throw new UsageError(
    "Cannot use --base-url: wanted an address as http://127.0.0.1:8000/v1, without a name and a password",
  );
}

function jsonObject(flag: string): (text: string) => JsonObject {
  return (text) => {
    try {
      const value = parseJson(text, flag);
      if (isJsonObject(value)) return value;
    } catch {
      // Told below.
    }
    throw new UsageError(`Cannot use ${flag}: it is ${quote(text, 80)}, wanted a JSON object`);
  };
}

/** What stands between raw question sets and training. */
export const ragDataCommands: readonly Subcommand[] = [
  {
    name: "retrieve",
    summary: "Keeps the passages of RAG lines that fit their question best.",
    declare: retrieveOptions,
    run: runRetrieve,
    help: `
Examples:
  block-attention data retrieve --input all.jsonl --output best.jsonl
  block-attention data retrieve --input all.jsonl --method dense --embedding-model ./contriever-msmarco \\
    --scores-output scores.jsonl --output best.jsonl
  block-attention data retrieve --input all.jsonl --scores scores.jsonl --passages 5 --output five.jsonl`,
  },
  {
    name: "sample",
    summary: "Draws rows at random.",
    declare: sampleOptions,
    run: runSample,
    help: `
Examples:
  block-attention data sample --input train.jsonl --count 20000 --output sample.jsonl
  block-attention data sample --input train.jsonl --share 0.1 --seed 7 --output tenth.jsonl`,
  },
  {
    name: "merge",
    summary: "Puts files of rows together.",
    declare: mergeOptions,
    run: runMerge,
    help: `
Examples:
  block-attention data merge 2wiki.jsonl tqa.jsonl --output rag.jsonl`,
  },
  {
    name: "answer",
    summary: "Fills the answers of RAG lines from a server that speaks OpenAI's API.",
    declare: answerOptions,
    run: runAnswer,
    help: `
Examples:
  block-attention data answer --input rag.jsonl --base-url http://127.0.0.1:8000/v1 --model my-model --output answered.jsonl
  block-attention data answer --input rag.jsonl --base-url https://api.openai.com/v1 --model gpt-4o --api-key-env OPENAI_API_KEY \\
    --concurrency 32 --output answered.jsonl

The same command goes on where it was interrupted. A question that the server refuses is told in OUTPUT.errors.jsonl, the others
go on, and the exit code is 1.`,
  },
  {
    name: "convert",
    summary: "Turns answered RAG lines into training lines.",
    declare: convertOptions,
    run: runConvertRows,
    help: `
Examples:
  block-attention data convert --input answered.jsonl --output rag.train.jsonl
  block-attention data convert --model ./Tulu3-SFT --template tulu --input answered.jsonl --output rag.train.jsonl`,
  },
  {
    name: "mix",
    summary: "Mixes files of rows in given shares and random order.",
    declare: mixOptions,
    run: runMix,
    help: `
Examples:
  block-attention data mix --input rag.train.jsonl --input tulu3/block.train.jsonl --output train.jsonl
  block-attention data mix --input a.jsonl --input b.jsonl --shares 2,1 --count 30000 --output train.jsonl`,
  },
  {
    name: "inspect",
    summary: "Shows a sample of a data file as blocks.",
    declare: inspectOptions,
    run: runInspect,
    help: `
Examples:
  block-attention data inspect rag.jsonl --row 3
  block-attention data inspect --model ./Tulu3-SFT train.parquet`,
  },
];

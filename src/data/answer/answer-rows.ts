import { setMaxListeners } from "node:events";
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { ragPrompt } from "../../blocks/rag-prompt.js";
import type { JsonObject } from "../../files/bounded-json.js";
import { holdLock } from "../../files/lock.js";
import { makeFolder, writeAtomically } from "../../files/outputs.js";
import { quote } from "../../files/quote.js";
import { digestInputs, type ManifestInput, writeManifest } from "../manifest.js";
import { type RagRow, readRagRows, withFields } from "../rag/rag-row.js";
import { type RowReport, RowTally, refusePipes } from "../row-tally.js";
import { dataFiles } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import { AnswerJournal } from "./answer-journal.js";
import { ChatClient, type ChatClientDependencies, type ChatSettings, publicAddress } from "./chat-client.js";

export interface AnswerOptions {
  /** A file of RAG lines, or a folder of them. */
  readonly input: string;
  /** The file of RAG lines to write; journal, errors and manifest stand beside it. */
  readonly output: string;
  readonly chat: ChatSettings;
  /** Questions under way at the same time. */
  readonly concurrency: number;
  /** Whether rows that have an answer already are asked too. */
  readonly replace: boolean;
  readonly dependencies: ChatClientDependencies;
  readonly signal: AbortSignal;
  /** Told, in a sentence, what an earlier run has left that is gone on with. */
  readonly onResume?: ((text: string) => void) | undefined;
  readonly onProgress?: ((done: number) => void) | undefined;
}

export interface AnswerReport extends RowReport {
  /** Rows with an answer of this server's. */
  readonly answered: number;
  /** Rows that had an answer already. */
  readonly kept: number;
  /** Rows whose question was refused; they stand in the output as they came. */
  readonly failed: number;
  /** Answers that the longest answer cut. */
  readonly cut: number;
  /** Answers and refusals that an earlier run had left. */
  readonly resumed: number;
}

/** Where answers are kept as they come. */
export function journalPath(output: string): string {
  return `${output}.journal.jsonl`;
}

/** Where refused questions are told. */
export function errorsPath(output: string): string {
  return `${output}.errors.jsonl`;
}

/**
 * Fills `generated` of RAG lines with a server's answers to their RAG prompts, many at once.
 *
 * Answers are kept in a journal as they come, in any order; the output is written from it at the end, in the order of the
 * input. The same call goes on where an interrupted one stopped, asks nothing that was answered, and ends with the bytes of
 * an undisturbed run. A question that the server refuses gets a line in the file of errors, and its row stays as it came.
 *
 * @throws Error for files that cannot be read or written, a journal of other settings, another process that writes the same
 * output, a server that cannot be reached or refuses all; the signal's reason. The journal stays.
 */
export async function answerRows(options: AnswerOptions): Promise<AnswerReport> {
  const { output, chat, replace, signal } = options;
  const client = new ChatClient(chat, options.dependencies);
  const files = await dataFiles(options.input);
  const inputs = await digestInputs(files, signal);
  refusePipes(inputs);
  await makeFolder(dirname(output));
  await using _lock = await holdLock(`${output}.lock`, `write ${quote(output)}`);
  const decisive: JsonObject = {
    model: chat.model,
    max_tokens: chat.maxTokens,
    extra_body: chat.extraBody,
    replace,
  };
  const digests = inputs.map(({ sha256 }) => sha256);
  await using journal = await AnswerJournal.open(journalPath(output), { ...decisive, input: digests });
  const resumed = journal.numAnswered + journal.numFailed;
  if (resumed > 0) options.onResume?.(`Going on with ${quote(journalPath(output))}: ${resumed} questions were asked`);
  await askAll(options, client, files, journal);
  signal.throwIfAborted();
  const report = { ...(await writeOutput(options, files, journal)), resumed };
  await writeErrors(options, files, journal, report);
  const manifestOptions = { base_url: publicAddress(chat.baseUrl), ...decisive };
  await writeAnswerManifest(options, inputs, manifestOptions, report);
  return report;
}

/** Asks what the journal does not hold. */
async function askAll(
  options: AnswerOptions,
  client: ChatClient,
  files: readonly string[],
  journal: AnswerJournal,
): Promise<void> {
  const failed = new AbortController();
  // Each question under way listens to it.
  setMaxListeners(0, failed.signal);
  const stop = () => failed.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  options.signal.addEventListener("abort", stop, { once: true });
  const rows = readRagRows(files, new RowTally(), failed.signal);
  let done = 0;
  const lane = async (): Promise<void> => {
    try {
      for (;;) {
        failed.signal.throwIfAborted();
        // A generator hands its rows out one by one, whoever asks.
        const { done: isOver, value: row } = await rows.next();
        if (isOver) return;
        if (!journal.has(row.index) && (options.replace || row.generated === undefined)) {
          await askOne(row, client, journal, failed.signal);
        }
        options.onProgress?.(++done);
      }
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  };
  try {
    await Promise.allSettled(Array.from({ length: options.concurrency }, lane));
  } finally {
    options.signal.removeEventListener("abort", stop);
    await rows.return();
  }
  // The first failure; the others follow from it.
  if (failed.signal.aborted) throw failed.signal.reason;
}

async function askOne(row: RagRow, client: ChatClient, journal: AnswerJournal, signal: AbortSignal): Promise<void> {
  const { index, question, documents } = row;
  const prompt = ragPrompt({ question, documents }).blocks.map(({ text }) => text);
  const outcome = await client.ask(prompt.join(""), signal);
  if (outcome.kind === "answered") {
    const { text: generated, finishReason } = outcome;
    await journal.append({ kind: "answered", index, generated, finishReason });
    return;
  }
  const { status, error } = outcome;
  if (concernsAll(status, journal.numAnswered)) throw new Error(`Cannot ask ${quote(client.address)}: ${error}`);
  await journal.append({ kind: "failed", index, status, error });
}

/**
 * Whether a refusal is one of every question: a key that is not valid; until a first answer has come also what a wrong
 * address, a wrong model or a server that is down gives.
 */
function concernsAll(status: number, numAnswered: number): boolean {
  if (status === 401) return true;
  return numAnswered === 0 && (status === 403 || status === 404 || status >= 500 || (status >= 300 && status < 400));
}

async function writeOutput(
  { output, replace, signal }: AnswerOptions,
  files: readonly string[],
  journal: AnswerJournal,
): Promise<Omit<AnswerReport, "resumed">> {
  const tally = new RowTally();
  const counts = { answered: 0, kept: 0, failed: 0, cut: 0 };
  async function* texts(): AsyncGenerator<string, void> {
    for await (const row of readRagRows(files, tally, signal)) {
      tally.written += 1;
      const entry = replace || row.generated === undefined ? await journal.read(row.index) : undefined;
      if (entry === undefined) counts.kept += 1;
      else if (entry.kind === "failed") counts.failed += 1;
      else {
        counts.answered += 1;
        if (entry.finishReason === "length") counts.cut += 1;
        yield `${JSON.stringify(withFields(row.value, { generated: entry.generated }))}\n`;
        continue;
      }
      yield `${JSON.stringify(row.value)}\n`;
    }
    tally.throwIfEmpty("Cannot answer");
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  return { ...tally.report(), ...counts };
}

/** A line for each refused question; no file where there is none. */
async function writeErrors(
  { output, signal }: AnswerOptions,
  files: readonly string[],
  journal: AnswerJournal,
  { failed }: { readonly failed: number },
): Promise<void> {
  const path = errorsPath(output);
  if (failed === 0) {
    await rm(path, { force: true });
    return;
  }
  async function* texts(): AsyncGenerator<string, void> {
    for await (const { index, id, question } of readRagRows(files, new RowTally(), signal)) {
      const entry = await journal.read(index);
      if (entry?.kind !== "failed") continue;
      yield `${JSON.stringify({ index, id, question, status: entry.status, error: entry.error })}\n`;
    }
  }
  await writeAtomically(path, (partial) => writeTexts(partial, texts()));
}

async function writeAnswerManifest(
  { output, signal }: AnswerOptions,
  inputs: readonly ManifestInput[],
  options: JsonObject,
  report: AnswerReport,
): Promise<void> {
  const { rows, written, bad, answered, kept, failed, cut } = report;
  const counts = { rows, written, bad, answered, kept, failed, cut };
  await writeManifest(output, { command: "data answer", options, inputs, counts }, signal);
}

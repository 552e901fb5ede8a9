import { createHash } from "node:crypto";
import { join } from "node:path";
import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import { prepareOutputs } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { type EngineResponderOptions, engineResponder } from "./engine-responder.js";
import { type AnsweredLine, parseAnsweredLine, type RagLine } from "./rag-line.js";
import type { AnsweredReply, Responder, Start } from "./responder.js";
import {
  ANSWERS_FILE,
  agreeOnSettings,
  appendLine,
  keepWholeLines,
  lockFolder,
  openAppend,
  runFiles,
  TIMINGS_FILE,
} from "./run-folder.js";
import type { RequestTiming } from "./summary.js";

/** How questions are asked, whoever answers them. */
export interface AskingOptions {
  /** The longest answer, in tokens. */
  readonly maxTokens: number;
  /** Requests at the same time. */
  readonly concurrency: number;
  /**
   * Whether each question is asked a second time, for its first token alone, where passages are kept: what it takes when they
   * are all there; or only where they were not at first. Default false.
   */
  readonly asksAgain?: boolean | "cold" | undefined;
  readonly signal: AbortSignal;
  /** Told, in a sentence, what an earlier run has left that is gone on with. */
  readonly onResume?: ((text: string) => void) | undefined;
  readonly onProgress?: ((answered: number, total: number) => void) | undefined;
}

interface RunOptions extends AskingOptions {
  readonly lines: readonly RagLine[];
  /** The run's own folder; it is made where it is not there. */
  readonly folder: string;
}

export interface RagRunOptions extends RunOptions, EngineResponderOptions {}

export interface QuestionRunOptions extends RunOptions {
  readonly responder: Responder;
}

export interface RagRun {
  readonly answers: readonly AnsweredLine[];
  readonly timings: readonly RequestTiming[];
  /** Answers that an earlier run had left. */
  readonly resumed: number;
}

/** A finished request, as its two files hold it. */
interface Answered {
  readonly answer: JsonObject;
  readonly timing: JsonObject;
}

/** runQuestions() of an engine. @throws as runQuestions(). */
export function runRag(options: RagRunOptions): Promise<RagRun> {
  return runQuestions({ ...options, responder: engineResponder(options) });
}

/**
 * Asks the questions of a set, greedily, several at once, and writes a line for each to the folder's answers.jsonl, in the
 * order of the set, as they come: what was answered stays, whatever happens. The same call goes on where an interrupted one
 * stopped; at the end the file has the bytes of an undisturbed run. What differs from run to run, times and hits, stands in
 * timings.jsonl; the settings in run.json.
 *
 * A question that cannot be asked, for instance because it is too long, gets a line with "error".
 *
 * @throws Error if the folder holds answers of another model, other settings or other questions, is in use, or cannot be
 * written; if nothing can be asked any more; the signal's reason.
 */
export async function runQuestions(options: QuestionRunOptions): Promise<RagRun> {
  const { responder, lines, folder, concurrency, maxTokens, signal } = options;
  if (!Number.isInteger(concurrency) || concurrency < 1) {
    throw new RangeError(`Cannot run: concurrency is ${concurrency}, wanted a whole number from 1 on`);
  }
  await prepareOutputs({ inputs: [], outputs: runFiles(folder), force: true });
  const settings = { ...(await responder.settings()), max_tokens: maxTokens };
  await using _lock = await lockFolder(folder);
  await agreeOnSettings(folder, settings);
  const answersPath = join(folder, ANSWERS_FILE);
  const timingsPath = join(folder, TIMINGS_FILE);
  const answers = (await keepWholeLines(answersPath)).map((value, index) => readAnswer(value, index, answersPath));
  for (const [i, { digest }] of answers.slice(0, lines.length).entries()) {
    if (digest === lineDigest(lines[i] as RagLine)) continue;
    throw new Error(
      `Cannot go on in ${quote(folder)}: its answer ${i + 1} is to another question than the set's number ${i + 1}`,
    );
  }
  const resumed = answers.length;
  if (resumed > 0) options.onResume?.(`Going on in ${quote(folder)}: ${resumed} questions were answered`);
  const timings = (await keepWholeLines(timingsPath, (value) => Number(value.index) < resumed)).map(readTiming);
  const answered = answers.map(({ line }) => line);

  if (answered.length < lines.length) {
    await using answersHandle = await openAppend(answersPath);
    await using timingsHandle = await openAppend(timingsPath);
    await askAll(answered.length, options, async ({ answer, timing }) => {
      // Times first: what is answered is never asked again, and so its times would be lost.
      await appendLine(timingsHandle, timing, timingsPath);
      await appendLine(answersHandle, answer, answersPath);
      answered.push(parseAnsweredLine(answer));
      timings.push(readTiming(timing));
      options.onProgress?.(answered.length, lines.length);
    });
    await answersHandle.sync();
  }
  signal.throwIfAborted();
  return {
    answers: answered.slice(0, lines.length),
    timings: timings.filter(({ index }) => index < lines.length),
    resumed: Math.min(resumed, lines.length),
  };
}

/** Asks the questions from number `first` on and gives each answer to `take`, in order, one at a time. */
async function askAll(
  first: number,
  options: QuestionRunOptions,
  take: (answered: Answered) => Promise<void>,
): Promise<void> {
  const { lines, concurrency } = options;
  const failed = new AbortController();
  const signal = AbortSignal.any([options.signal, failed.signal]);
  const finished = new Map<number, Answered>();
  let next = first;
  let nextToTake = first;
  let taking = Promise.resolve();
  const takeReady = async (): Promise<void> => {
    for (let ready = finished.get(nextToTake); ready !== undefined; ready = finished.get(nextToTake)) {
      finished.delete(nextToTake);
      nextToTake += 1;
      await take(ready);
    }
  };
  const lane = async (): Promise<void> => {
    try {
      while (next < lines.length) {
        signal.throwIfAborted();
        const index = next++;
        finished.set(index, await ask(lines[index] as RagLine, index, options, signal));
        taking = taking.then(takeReady);
        await taking;
      }
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  };
  const lanes = Array.from({ length: Math.min(concurrency, lines.length - first) }, lane);
  const outcomes = await Promise.allSettled(lanes);
  options.signal.throwIfAborted();
  // The first failure; the others follow from it.
  if (failed.signal.aborted) throw failed.signal.reason;
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}

async function ask(line: RagLine, index: number, options: QuestionRunOptions, signal: AbortSignal): Promise<Answered> {
  const { responder, maxTokens, concurrency, asksAgain = false } = options;
  const { id, kind, question, answers } = line;
  const head = {
    index,
    id: id ?? String(index),
    ...(kind !== undefined && { kind }),
    question,
    answers,
  };
  const tail = { line: lineDigest(line) };
  const reply = await responder.ask(line, maxTokens, signal);
  if (reply.kind === "refused") {
    const timing = { index, cached_tokens: null, ttft_ms: null, concurrency };
    return { answer: { ...head, generated: "", error: reply.message, error_code: reply.code, ...tail }, timing };
  }
  const isAsked = asksAgain === true || (asksAgain === "cold" && reply.start === "cold");
  const again = isAsked && responder.keepsPassages ? await responder.ask(line, 1, signal) : undefined;
  const { text, finishReason, promptTokens, completionTokens } = reply;
  const counts = {
    ...(promptTokens !== undefined && { prompt_tokens: promptTokens }),
    ...(completionTokens !== undefined && { completion_tokens: completionTokens }),
  };
  const times = Object.entries(reply.times).map(([name, ms]) => [name, round(ms)] as const);
  return {
    answer: { ...head, generated: text, finish_reason: finishReason, ...counts, ...tail },
    timing: {
      index,
      ...counts,
      ...askedFields(reply, "cold"),
      ...Object.fromEntries(times),
      // A server that tells nothing else has had the time to keep it.
      ...(again?.kind === "answered" && { again: askedFields(again, again.cachedTokens === 0 ? "cold" : "stored") }),
      concurrency,
    },
  };
}

/** What differs from asking to asking. @param otherwise what stands for a start that nobody tells. */
function askedFields({ cachedTokens, start, ttftMs }: AnsweredReply, otherwise: Start): JsonObject {
  return {
    cached_tokens: cachedTokens ?? null,
    start: start ?? otherwise,
    ttft_ms: ttftMs === undefined ? null : round(ttftMs),
  };
}

/** To a microsecond. */
const round = (ms: number): number => Math.round(ms * 1000) / 1000;

/** Names what a line asks: its question, documents and gold answers. */
function lineDigest({ id, question, documents, answers }: RagLine): string {
  const text = JSON.stringify([id ?? null, question, documents, answers]);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

function readAnswer(value: JsonObject, index: number, path: string): { line: AnsweredLine; digest: string } {
  try {
    const { line: digest } = value;
    if (value.index !== index || typeof digest !== "string") {
      throw new Error(`its "index" is ${JSON.stringify(value.index)}, wanted ${index}, beside a "line"`);
    }
    return { line: parseAnsweredLine(value), digest };
  } catch (error) {
    throw new Error(
      `Cannot go on: line ${index + 1} of ${quote(path)} is none of a run's: ${(error as Error).message}`,
    );
  }
}

/** A line of timings.jsonl. */
export function readTiming(value: JsonObject): RequestTiming {
  const count = (key: string) => (typeof value[key] === "number" ? value[key] : 0);
  const { again } = value;
  return {
    index: count("index"),
    promptTokens: count("prompt_tokens"),
    completionTokens: count("completion_tokens"),
    ...readAsked(value),
    again: isJsonObject(again) ? readAsked(again) : undefined,
    concurrency: count("concurrency"),
  };
}

function readAsked({ cached_tokens, start, ttft_ms }: JsonObject): {
  cachedTokens: number | undefined;
  start: Start;
  ttftMs: number | undefined;
} {
  const optional = (value: JsonValue | undefined) => (typeof value === "number" ? value : undefined);
  return {
    cachedTokens: optional(cached_tokens),
    start: start === "stored" ? "stored" : "cold",
    ttftMs: optional(ttft_ms),
  };
}

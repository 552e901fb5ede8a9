import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describeWriteError, writeAtomically } from "../data/atomic-output.js";
import type { Engine } from "../engine/engine.js";
import { EngineError } from "../engine/engine-error.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson, readJson } from "../files/bounded-json.js";
import { pathExists } from "../files/path-exists.js";
import { quote } from "../files/quote.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import { type AnsweredLine, parseAnsweredLine, type RagLine } from "./rag-line.js";
import type { RequestTiming } from "./summary.js";

export interface RagRunOptions {
  readonly engine: Engine;
  readonly lines: readonly RagLine[];
  /** The run's own folder; it is made where it is not there. */
  readonly folder: string;
  readonly mode: AttentionMode;
  /** Default true. */
  readonly positionReencoding?: boolean | undefined;
  /** How many of a line's documents are used, the best ones. Default all. */
  readonly maxDocuments?: number | undefined;
  /** The longest answer, in tokens. */
  readonly maxTokens: number;
  /** Requests at the same time. */
  readonly concurrency: number;
  readonly signal: AbortSignal;
  readonly onProgress?: ((answered: number, total: number) => void) | undefined;
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

/** What decides answers: a run goes on only under equal settings. */
type Settings = Readonly<Record<string, string | number | boolean | null>>;

export const SETTINGS_FILE = "run.json";
export const ANSWERS_FILE = "answers.jsonl";
const timingsFile = "timings.jsonl";
const lockFile = "run.lock";
const formatVersion = 1;

/**
 * Asks an engine the questions of a set, greedily, several at once, and writes a line for each to the folder's answers.jsonl,
 * in the order of the set, as they come: what was answered stays, whatever happens. The same call goes on where an
 * interrupted one stopped; at the end the file has the bytes of an undisturbed run. What differs from run to run,
 * times and hits, stands in timings.jsonl; the settings in run.json.
 *
 * A question that the engine cannot be asked, for instance because it is too long, gets a line with "error".
 *
 * @throws Error if the folder holds answers of another model, other settings or other questions, is in use, or cannot be
 * written; if the device fails; the signal's reason.
 */
export async function runRag(options: RagRunOptions): Promise<RagRun> {
  const { lines, folder, concurrency, signal } = options;
  if (!Number.isInteger(concurrency) || concurrency < 1) {
    throw new RangeError(`Cannot run: concurrency is ${concurrency}, wanted a whole number from 1 on`);
  }
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw describeWriteError(error, folder);
  });
  const settings = await settingsOf(options);
  await using _lock = await lockFolder(folder);
  await agreeOnSettings(folder, settings);
  const answersPath = join(folder, ANSWERS_FILE);
  const timingsPath = join(folder, timingsFile);
  const answers = (await keepWholeLines(answersPath)).map((value, index) => readAnswer(value, index, answersPath));
  for (const [i, { digest }] of answers.slice(0, lines.length).entries()) {
    if (digest === lineDigest(lines[i] as RagLine)) continue;
    throw new Error(
      `Cannot go on in ${quote(folder)}: its answer ${i + 1} is to another question than the set's number ${i + 1}`,
    );
  }
  const resumed = answers.length;
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
  options: RagRunOptions,
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

async function ask(line: RagLine, index: number, options: RagRunOptions, signal: AbortSignal): Promise<Answered> {
  const { engine, mode, positionReencoding, maxDocuments, maxTokens, concurrency } = options;
  const { id, kind, question, answers, firstHop } = line;
  const head = {
    index,
    id: id ?? String(index),
    ...(kind !== undefined && { kind }),
    question,
    answers,
    ...(firstHop !== undefined && { first_hop: firstHop }),
  };
  const tail = { line: lineDigest(line) };
  try {
    const rag = maxDocuments === undefined ? undefined : { maxDocuments };
    const result = await engine.complete(
      { question, documents: line.documents, rag },
      { mode, positionReencoding, maxTokens, temperature: 0, logprobs: false, signal },
    );
    if (result.finishReason === "cancelled") throw signal.reason;
    const { promptTokens, cachedTokens, completionTokens } = result.usage;
    const { ttftMs, encodeMs, prefillMs, decodeMs } = result.timings;
    const counts = { prompt_tokens: promptTokens, completion_tokens: completionTokens };
    return {
      answer: { ...head, generated: result.text, finish_reason: result.finishReason, ...counts, ...tail },
      timing: {
        index,
        ...counts,
        cached_tokens: cachedTokens,
        ttft_ms: ttftMs === undefined ? null : round(ttftMs),
        encode_ms: round(encodeMs),
        prefill_ms: round(prefillMs),
        decode_ms: round(decodeMs),
        concurrency,
      },
    };
  } catch (error) {
    if (!(error instanceof EngineError) || error.code === "queue_full") throw error;
    const timing = { index, prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0, ttft_ms: null, concurrency };
    return { answer: { ...head, generated: "", error: error.message, ...tail }, timing };
  }
}

/** To a microsecond. */
const round = (ms: number): number => Math.round(ms * 1000) / 1000;

/** Names what a line asks: its question, documents and gold answers. */
function lineDigest({ id, question, documents, answers }: RagLine): string {
  const text = JSON.stringify([id ?? null, question, documents, answers]);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

async function settingsOf(options: RagRunOptions): Promise<Settings> {
  const { engine, mode, positionReencoding = true, maxDocuments, maxTokens } = options;
  const template = engine.model.tokenizer.chatTemplate ?? "";
  return {
    version: formatVersion,
    model: await engine.model.fingerprint,
    chat_template: createHash("sha256").update(template).digest("hex"),
    kv_type: engine.kvType,
    device: engine.model.backend.device.name,
    mode,
    position_reencoding: positionReencoding,
    max_documents: maxDocuments ?? null,
    max_tokens: maxTokens,
  };
}

/** Writes the settings of a new run; holds those of an older one to them. */
async function agreeOnSettings(folder: string, settings: Settings): Promise<void> {
  const path = join(folder, SETTINGS_FILE);
  if (!(await pathExists(path))) {
    if (await pathExists(join(folder, ANSWERS_FILE))) {
      throw new Error(
        `Cannot go on in ${quote(folder)}: it holds answers, but no ${SETTINGS_FILE} with their settings`,
      );
    }
    await writeAtomically(path, (partial) => writeFile(partial, `${JSON.stringify(settings, null, 2)}\n`));
    return;
  }
  const before = await readJson(path);
  if (!isJsonObject(before)) throw new Error(`Cannot go on in ${quote(folder)}: its ${SETTINGS_FILE} is no object`);
  const names = [...new Set([...Object.keys(settings), ...Object.keys(before)])];
  const differing = names.filter((name) => (Object.hasOwn(before, name) ? before[name] : undefined) !== settings[name]);
  if (differing.length === 0) return;
  const shown = differing.map(
    (name) => `${name} was ${JSON.stringify(before[name])}, now it is ${JSON.stringify(settings[name])}`,
  );
  throw new Error(`Cannot go on in ${quote(folder)}: ${shown.join("; ")}; take another folder for another run`);
}

/**
 * The values of a file's lines. What a torn write left, an end that is no line or no JSON, is cut off, and with it all from
 * the first line on that is not to be kept.
 */
async function keepWholeLines(
  path: string,
  isKept: (value: JsonObject) => boolean = () => true,
): Promise<JsonObject[]> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw describeWriteError(error, path);
  });
  if (bytes === undefined) return [];
  const values: JsonObject[] = [];
  let start = 0;
  for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
    let value: JsonValue;
    try {
      value = parseJson(bytes.subarray(start, end), `line ${values.length + 1} of ${quote(path)}`);
    } catch (error) {
      if (bytes.indexOf(0x0a, end + 1) >= 0) throw error;
      break;
    }
    if (!isJsonObject(value)) throw new Error(`Cannot go on: line ${values.length + 1} of ${quote(path)} is no object`);
    if (!isKept(value)) break;
    values.push(value);
    start = end + 1;
  }
  if (start < bytes.length) await truncate(path, start);
  return values;
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

function readTiming(value: JsonObject): RequestTiming {
  const count = (key: string) => (typeof value[key] === "number" ? value[key] : 0);
  return {
    index: count("index"),
    promptTokens: count("prompt_tokens"),
    cachedTokens: count("cached_tokens"),
    completionTokens: count("completion_tokens"),
    ttftMs: typeof value.ttft_ms === "number" ? value.ttft_ms : undefined,
    concurrency: count("concurrency"),
  };
}

async function openAppend(path: string): Promise<FileHandle> {
  return open(path, "a").catch((error: unknown) => {
    throw describeWriteError(error, path);
  });
}

async function appendLine(file: FileHandle, value: JsonObject, path: string): Promise<void> {
  await file.appendFile(`${JSON.stringify(value)}\n`).catch((error: unknown) => {
    throw describeWriteError(error, path);
  });
}

/** Holds a folder for this process; what a process that is gone left is taken over. @throws Error if another one runs in it. */
async function lockFolder(folder: string): Promise<AsyncDisposable> {
  const path = join(folder, lockFile);
  // A number may come again, in a container at each start; with the time it does not.
  const own = `${process.pid} ${Math.round(performance.timeOrigin)}`;
  for (let attempt = 0; ; attempt++) {
    try {
      await writeFile(path, `${own}\n`, { flag: "wx" });
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 2) throw describeWriteError(error, path);
      const holder = (await readFile(path, "utf8").catch(() => "")).trim();
      const pid = Number(holder.split(" ")[0]);
      if (pid > 0 && (pid === process.pid ? holder === own : isAlive(pid))) {
        throw new Error(
          `Cannot run in ${quote(folder)}: process ${pid} runs in it; if that is none of ours, remove ${lockFile}`,
        );
      }
      await rm(path, { force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

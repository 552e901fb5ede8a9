import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { AdapterInput } from "../../src/model/adapters.js";

/** How llama.cpp runs. The defaults are those of the comparison: F32 keys and values, no flash attention. */
export interface LlamaCppOptions {
  readonly threads?: number;
  /** In tokens, of one graph. */
  readonly batchSize?: number;
  readonly flashAttention?: boolean;
  readonly kvType?: "F32" | "F16" | "BF16";
  /** GGUF files of LoRA adapters. */
  readonly adapters?: readonly AdapterInput[];
}

export interface LlamaCppStep {
  /** The likeliest token. */
  readonly token: number;
  /** How far it stands before the next, in nats. */
  readonly margin: number;
  /** The five likeliest, best first, as [id, natural log-probability]. */
  readonly top: readonly (readonly [number, number])[];
}

/** Milliseconds, each the median of the runs; undefined where no token was asked for. */
export interface LlamaCppTimings {
  readonly prefillMs: number;
  /** The whole of `decodeTokens`, token by token. */
  readonly decodeMs: number | undefined;
  /** `finalTokens` at once over the `prefillTokens` that are kept. */
  readonly finalMs: number | undefined;
  readonly threads: number;
  readonly batchSize: number;
  readonly flashAttention: boolean;
}

interface LlamaCppInfo {
  readonly release: string;
  readonly threads: number;
  readonly system: string;
}

/** What llama.cpp calls itself: its release, and the machine as it sees it. */
async function llamaCppInfo(): Promise<LlamaCppInfo> {
  return (await ask({ kind: "info" }, 60_000)) as LlamaCppInfo;
}

/**
 * Why llama.cpp cannot be asked here, for tests that skip: it is not installed. Undefined where it is.
 * @throws Error where it is installed and does not answer, so that no failure looks like a machine without it.
 */
export async function whyNoLlamaCpp(): Promise<string | undefined> {
  try {
    await llamaCppInfo();
    return undefined;
  } catch (error) {
    if (error instanceof MissingError) return error.message;
    throw error;
  }
}

class MissingError extends Error {}

/** The token ids of each text, with nothing added. @param special whether text that spells a control token becomes it. */
export async function llamaCppTokenize(model: string, texts: readonly string[], special: boolean): Promise<number[][]> {
  return (await ask({ kind: "tokenize", model, texts, special }, 60_000)) as number[][];
}

/**
 * Continues each prompt greedily, `numSteps` times.
 *
 * @param model path of a .gguf file.
 * @param prompts token ids, BOS included where it is wanted; none empty.
 * @returns for each prompt its steps; step i predicts the token after the prompt and the i tokens before.
 * @throws Error where the model does not load, the process dies, or the time is up.
 */
export async function llamaCppGreedy(
  model: string,
  prompts: readonly (readonly number[])[],
  numSteps: number,
  options: LlamaCppOptions = {},
  timeoutMs = 60_000,
): Promise<LlamaCppStep[][]> {
  return (await ask({ kind: "greedy", model, prompts, numSteps, ...options }, timeoutMs)) as LlamaCppStep[][];
}

/**
 * The log-probability of each continuation token in full mode after each prompt, with what llama.cpp holds likeliest
 * there.
 */
export async function llamaCppScores(
  model: string,
  prompts: readonly (readonly number[])[],
  continuation: readonly number[],
  options: LlamaCppOptions = {},
  timeoutMs = 60_000,
): Promise<(LlamaCppStep & { readonly logprob: number })[][]> {
  const request = { kind: "scores", model, prompts, continuation, ...options };
  return (await ask(request, timeoutMs)) as (LlamaCppStep & { logprob: number })[][];
}

/** How long llama.cpp takes, for the benchmarks; `kvType` "F16" is its own default. */
export async function llamaCppTimings(
  model: string,
  sizes: {
    readonly prefillTokens: number;
    readonly decodeTokens: number;
    readonly finalTokens: number;
    readonly repeats?: number;
  },
  options: LlamaCppOptions,
  timeoutMs: number,
): Promise<LlamaCppTimings> {
  return (await ask({ kind: "timings", model, ...sizes, ...options }, timeoutMs)) as LlamaCppTimings;
}

/** One request to one child process, whose death is an error here and nothing worse. */
function ask(request: object, timeoutMs: number): Promise<unknown> {
  const script = fileURLToPath(new URL("llama-cpp-child.mjs", import.meta.url));
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script], { stdio: ["pipe", "pipe", "ignore"] });
    const fail = (what: string, Kind: new (message: string) => Error = Error) =>
      reject(new Kind(`Cannot ask llama.cpp: ${what}`));
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      child.kill("SIGKILL");
    }, timeoutMs);
    const chunks: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
    // The child may die before it has read all.
    child.stdin.on("error", () => {});
    child.on("error", (error) => {
      clearTimeout(timer);
      fail(error.message);
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (isLate) return fail(`no answer within ${timeoutMs} ms`);
      const lastLine = Buffer.concat(chunks).toString("utf8").trimEnd().split("\n").at(-1) ?? "";
      let reply: { answer?: unknown; error?: string; isMissing?: boolean };
      try {
        reply = JSON.parse(lastLine);
      } catch {
        return fail(`its process ended with ${signal ?? code} and without an answer`);
      }
      if (reply.error !== undefined) return fail(reply.error, reply.isMissing ? MissingError : Error);
      resolve(reply.answer);
    });
    child.stdin.end(JSON.stringify(request));
  });
}

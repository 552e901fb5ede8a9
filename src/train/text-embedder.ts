import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { TextEmbedder } from "../data/rag/score-passages.js";
import { isJsonObject, type JsonValue, parseJson } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { endOf, onLines, type ProcessEnd } from "./run-lines.js";

export interface TextEmbedderOptions {
  /** The interpreter; it has the trainer's packages. */
  readonly python: string;
  /** The folder of the package `block_attention_trainer`. */
  readonly pythonFolder: string;
  /** A folder of a Hugging Face encoder. */
  readonly model: string;
  /** Texts that the model computes at once. */
  readonly batchSize: number;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly platform: NodeJS.Platform;
  /** A library's words. */
  readonly onText: (line: string) => void;
  readonly signal: AbortSignal;
}

interface Waiting {
  resolve(line: string): void;
  reject(error: unknown): void;
}

const maxLineBytes = 2 ** 28;
const numKept = 3;
const errorStart = "error: ";
/** How long a process has to end by itself. */
const endMs = 5_000;

/**
 * Embeddings from the Python side: a process that is fed texts as lines of JSON and answers each line with one. Whoever
 * starts it closes it. When the signal ends it, or it dies, everything that waits for it fails.
 */
export class PythonEmbedder implements TextEmbedder, AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<ProcessEnd>;
  readonly #waiting: Waiting[] = [];
  readonly #lines: string[] = [];
  #writing: Promise<unknown> = Promise.resolve();
  #error: string | undefined;
  #failure: { readonly error: unknown } | undefined;
  readonly #stop: () => void;

  private constructor(private readonly options: TextEmbedderOptions) {
    const { python, pythonFolder, model, batchSize, env, platform, signal } = options;
    const separator = platform === "win32" ? ";" : ":";
    this.#child = spawn(
      python,
      ["-m", "block_attention_trainer", "embed", "--model", model, "--batch-size", String(batchSize)],
      {
        env: {
          ...env,
          PYTHONPATH: env.PYTHONPATH ? pythonFolder + separator + env.PYTHONPATH : pythonFolder,
          PYTHONIOENCODING: "utf-8",
        },
        stdio: ["pipe", "pipe", "pipe"],
      },
    );
    // A process that is gone is told by its end.
    this.#child.stdin?.on("error", () => undefined);
    onLines(this.#child.stdout, (line) => this.#waiting.shift()?.resolve(line));
    onLines(this.#child.stderr, (line) => this.#hear(line));
    this.#ended = endOf(this.#child);
    void this.#ended.then((end) => this.#fail(this.#describe(end)));
    this.#stop = () => {
      this.#fail(signal.reason);
      this.#child.kill("SIGTERM");
    };
    signal.addEventListener("abort", this.#stop, { once: true });
  }

  /**
   * Starts the process and waits until the model is loaded.
   *
   * @throws Error of one line: what is wrong with the model, or how the process died and its last words; the signal's reason.
   */
  static async start(options: TextEmbedderOptions): Promise<PythonEmbedder> {
    options.signal.throwIfAborted();
    const embedder = new PythonEmbedder(options);
    try {
      await embedder.#answer();
      return embedder;
    } catch (error) {
      await embedder[Symbol.asyncDispose]();
      throw error;
    }
  }

  async embed(texts: readonly string[]): Promise<readonly Float32Array[]> {
    if (texts.length === 0) return [];
    const request = this.#writing.then(() => {
      if (this.#failure) throw this.#failure.error;
      const answer = this.#answer();
      // It is looked at below; a failure while the request is written is no unhandled one.
      answer.catch(() => undefined);
      const isTaken = this.#child.stdin?.write(`${JSON.stringify({ texts })}\n`);
      return { answer, drained: isTaken ? undefined : this.#drained() };
    });
    // The next request waits until this one was taken.
    this.#writing = request.then(({ drained }) => drained).catch(() => undefined);
    const { answer } = await request;
    return readEmbeddings(await answer, texts.length);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.options.signal.removeEventListener("abort", this.#stop);
    this.#child.stdin?.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), endMs);
    await this.#ended;
    clearTimeout(timer);
  }

  /** Resolves when the process has taken what was written, or is gone. */
  async #drained(): Promise<void> {
    const stdin = this.#child.stdin;
    if (stdin?.writableNeedDrain) await Promise.race([once(stdin, "drain").catch(() => undefined), this.#ended]);
  }

  #answer(): Promise<string> {
    if (this.#failure) return Promise.reject(this.#failure.error);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
    });
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure.error);
  }

  #hear(line: string): void {
    if (line.startsWith(errorStart)) {
      this.#error ??= line.slice(errorStart.length);
      return;
    }
    if (line.trim() === "") return;
    this.#lines.push(line.trim());
    if (this.#lines.length > numKept) this.#lines.shift();
    this.options.onText(line);
  }

  #describe(end: ProcessEnd): Error {
    if (this.#error !== undefined) return new Error(this.#error);
    const { python } = this.options;
    if (end.kind === "not started") return new Error(`Cannot start Python ${quote(python)}: ${end.reason}`);
    const how = end.kind === "killed" ? end.signal : `exit code ${end.code}`;
    const words = this.#lines.map((line) => quote(line)).join(" ");
    return new Error(
      `Cannot embed on: the embedding process ended with ${how}${words === "" ? "" : `; its last lines: ${words}`}`,
    );
  }
}

/** @throws Error for a line that is no answer. */
function readEmbeddings(line: string, count: number): Float32Array[] {
  const value = parseJson(line, "the embedding process's line", { maxBytes: maxLineBytes });
  const list = isJsonObject(value) ? value.embeddings : undefined;
  if (!Array.isArray(list) || list.length !== count) {
    throw new Error(`Cannot embed: ${count} texts were asked, the answer begins ${quote(line, 60)}`);
  }
  return list.map((item: JsonValue) => {
    const bytes = Buffer.from(String(item), "base64");
    // Little-endian float32, copied so that the numbers are aligned.
    const vector = new Float32Array(bytes.length >> 2);
    for (let i = 0; i < vector.length; i++) vector[i] = bytes.readFloatLE(4 * i);
    return vector;
  });
}

import { type ChildProcess, fork } from "node:child_process";
import type { Readable } from "node:stream";
import type { FromChild, ToChild } from "./messages.js";

export interface ChildLinkOptions {
  readonly cwd: string;
  /** Node's own options for the process. */
  readonly execArgv: readonly string[];
  readonly onMessage: (message: FromChild) => void;
  /** What the process writes to standard output and error, line by line. */
  readonly onLog: (line: string) => void;
  /** Called once, after the last message: why the process is gone, for instance "signal SIGKILL". */
  readonly onEnd: (reason: string) => void;
}

const pingMs = 1000;
/** How much later than the process the channel may end. */
const channelEndMs = 1000;

/** One life of the engine's process. It owns the process. */
export class ChildLink {
  readonly #child: ChildProcess;
  readonly #options: ChildLinkOptions;
  readonly #pings: NodeJS.Timeout;
  readonly #ended: Promise<void>;
  #resolveEnded: () => void = () => undefined;
  #isEnded = false;
  #endReason: string | undefined;
  #killReason: string | undefined;
  #numUnanswered = 0;
  /** The process is killed after so long without any message, in ms; only time in which this process runs counts. */
  patienceMs: number;

  /** @throws Error if no process can be started at all. */
  constructor(options: ChildLinkOptions, patienceMs: number) {
    this.#options = options;
    this.patienceMs = patienceMs;
    this.#ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    this.#child = fork(new URL("./engine-child.js", import.meta.url), {
      cwd: options.cwd,
      execArgv: [...options.execArgv],
      // A failed assertion of ggml would start a debugger to print where it was.
      env: { GGML_NO_BACKTRACE: "1", ...process.env },
      // JSON would lose undefined, and numbers that are not finite.
      serialization: "advanced",
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    const child = this.#child;
    for (const output of [child.stdout, child.stderr]) if (output !== null) tellLines(output, options.onLog);
    child.on("message", (message: FromChild) => {
      this.#numUnanswered = 0;
      if (!this.#isEnded) options.onMessage(message);
    });
    child.on("error", (error) => {
      // Without a pid it was never started. Else a message or a signal did not get through, and `exit` follows.
      if (child.pid === undefined) this.#end(error.message);
    });
    child.on("exit", (code, signal) => {
      this.#endReason = signal === null ? `exit code ${code}` : `signal ${signal}`;
      // Messages may still lie in the channel.
      if (child.connected) setTimeout(() => this.#end(), channelEndMs).unref();
      else this.#end();
    });
    child.on("disconnect", () => {
      if (this.#endReason === undefined) this.kill();
      else this.#end();
    });
    this.#pings = setInterval(() => this.#ping(), pingMs);
    this.#pings.unref();
  }

  /**
   * @param onWritten called once no part of the message is in this process any more.
   * @throws DataCloneError for a message that is not plain data. Nothing is sent to a process that is gone: onEnd reports it.
   */
  send(message: ToChild, onWritten: () => void = () => undefined): void {
    if (this.#child.connected) this.#child.send(message, onWritten);
  }

  /** @param reason reported in place of the signal. */
  kill(reason?: string): void {
    this.#killReason ??= reason;
    this.#child.kill("SIGKILL");
  }

  /** Resolves when the process is gone. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  #ping(): void {
    if (this.#numUnanswered * pingMs >= this.patienceMs) {
      this.kill(`it did not answer for ${Math.round(this.patienceMs / 1000)} s`);
      return;
    }
    // Counted, not timed: a pause of this process or of the machine is no silence of the other.
    this.#numUnanswered += 1;
    this.send({ kind: "ping" });
  }

  #end(reason?: string): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    clearInterval(this.#pings);
    this.#options.onEnd(this.#killReason ?? reason ?? this.#endReason ?? "unknown");
    this.#resolveEnded();
  }
}

function tellLines(output: Readable, onLine: (line: string) => void): void {
  const lines = new LineSplitter(onLine);
  output.setEncoding("utf8");
  output.on("data", (text: string) => lines.push(text));
  output.on("end", () => lines.end());
  // A pipe that breaks has ended.
  output.on("error", () => undefined);
}

const inherited =
  /^--(max-old-space-size|max-semi-space-size|stack-trace-limit|stack-size)=|^--(enable-source-maps|no-warnings|no-deprecation)$/;

/**
 * Which of Node's own options, as process.execArgv has them, hold for the engine's process too: limits of memory and what
 * helps to understand errors; not an inspector's port, a watcher, or a script to evaluate.
 */
export function childExecArgv(execArgv: readonly string[]): string[] {
  return execArgv.filter((option) => inherited.test(option));
}

/** Cuts text that comes in pieces into lines. */
export class LineSplitter {
  readonly #onLine: (line: string) => void;
  readonly #longest: number;
  #rest = "";

  /** @param longest in UTF-16 units: longer lines are told in pieces, so that one without an end fills no memory. */
  constructor(onLine: (line: string) => void, longest = 8192) {
    this.#onLine = onLine;
    this.#longest = longest;
  }

  push(text: string): void {
    const lines = (this.#rest + text).split(/\r?\n/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#tell(line);
    for (; this.#rest.length > this.#longest; this.#rest = this.#rest.slice(this.#longest)) {
      this.#onLine(this.#rest.slice(0, this.#longest));
    }
  }

  /** Tells a last line that had no end. */
  end(): void {
    this.#tell(this.#rest);
    this.#rest = "";
  }

  #tell(line: string): void {
    for (let at = 0; at < line.length; at += this.#longest) this.#onLine(line.slice(at, at + this.#longest));
  }
}

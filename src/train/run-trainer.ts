import { execFile, spawn } from "node:child_process";
import { promisify } from "node:util";
import { quote } from "../files/quote.js";
import { endOf, onLines } from "./run-lines.js";
import { parseTrainerEvent, type TrainerEvent } from "./trainer-event.js";

/** Where signals come from: `process`. */
export interface SignalSource {
  on(signal: NodeJS.Signals, listener: (signal: NodeJS.Signals) => void): unknown;
  removeListener(signal: NodeJS.Signals, listener: (signal: NodeJS.Signals) => void): unknown;
}

export interface RunTrainerOptions {
  /** The interpreter. */
  readonly python: string;
  /** The folder of the package `block_attention_trainer`. */
  readonly pythonFolder: string;
  /** The trainer's own command line, sub-command first. */
  readonly args: readonly string[];
  /** On this machine; more than one run under torchrun. */
  readonly processes: number;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly platform: NodeJS.Platform;
  readonly signals: SignalSource;
  readonly onEvent: (event: TrainerEvent) => void;
  /** A line that is no event: a warning, a library's print. */
  readonly onText: (line: string) => void;
  /** A signal was passed on; the trainer still writes its checkpoint. */
  readonly onStopping: () => void;
}

/**
 * Runs the trainer to its end.
 *
 * The trainer has a process group of its own, so that Ctrl-C on the terminal reaches it once, through here: the first signal
 * is passed on and it writes a checkpoint; the second kills it.
 *
 * @returns its exit code: 130 or 143 after a signal that it obeyed, 137 where it was killed by a second one.
 * @throws Error of one line: what the trainer said was wrong, or how it died and its last words.
 */
export async function runTrainer(options: RunTrainerOptions): Promise<number> {
  const { args, processes, platform, signals, onText } = options;
  const isUnix = platform !== "win32";
  const child = spawn(options.python, [...launcher(processes), ...args], {
    env: environment(options),
    stdio: ["ignore", "pipe", "pipe"],
    detached: isUnix,
  });
  const words = new LastWords(onText);
  let ended: string | undefined;
  let step: number | undefined;
  let passedOn: NodeJS.Signals | undefined;
  let isKilled = false;

  const pass = (signal: NodeJS.Signals): void => {
    if (child.pid === undefined) return;
    if (passedOn !== undefined) {
      isKilled = true;
      void killTree(child.pid, isUnix);
      return;
    }
    passedOn = signal;
    // torchrun tells of the signal as of a failure.
    if (processes > 1) words.hold();
    options.onStopping();
    // A Windows console has told the trainer itself; the closed terminal's signal would find no handler there.
    if (isUnix) child.kill(signal === "SIGHUP" ? "SIGTERM" : signal);
  };
  for (const signal of passedSignals) signals.on(signal, pass);
  try {
    onLines(child.stdout, (line) => {
      const event = parseTrainerEvent(line);
      if (event === undefined) {
        words.take(line);
        return;
      }
      if (event.event === "end") ended = event.why;
      if (event.event === "step") step = event.step;
      options.onEvent(event);
    });
    onLines(child.stderr, (line) => words.take(line));
    const end = await endOf(child);
    if (isKilled) return killedCode;
    const stoppedBy = ended === undefined ? undefined : stopCodes.get(ended);
    if (stoppedBy !== undefined) return stoppedBy;
    words.release();
    if (end.kind === "not started") throw new Error(`Cannot start the trainer ${quote(options.python)}: ${end.reason}`);
    if (end.kind === "exited" && end.code === 0) return 0;
    // Stopped before its first step: there is nothing to write yet.
    if (passedOn !== undefined && words.error === undefined) return passedOn === "SIGINT" ? 130 : 143;
    if (words.error !== undefined) throw new Error(words.error);
    const how = end.kind === "killed" ? end.signal : `exit code ${end.code}`;
    throw new Error(
      `Cannot train on: the trainer ended with ${how} ${step === undefined ? "before its first step" : `after step ${step}`}${words.last}`,
    );
  } finally {
    for (const signal of passedSignals) signals.removeListener(signal, pass);
  }
}

const passedSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const killedCode = 137;
/** By what the trainer says ended it. */
const stopCodes: ReadonlyMap<string, number> = new Map([
  ["SIGINT", 130],
  ["SIGTERM", 143],
]);

function launcher(processes: number): string[] {
  if (processes === 1) return ["-m", "block_attention_trainer"];
  const torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", String(processes)];
  return [...torchrun, "-m", "block_attention_trainer"];
}

function environment({ env, pythonFolder, platform }: RunTrainerOptions): NodeJS.ProcessEnv {
  const separator = platform === "win32" ? ";" : ":";
  return {
    ...env,
    PYTHONPATH: env.PYTHONPATH ? pythonFolder + separator + env.PYTHONPATH : pythonFolder,
    PYTHONUNBUFFERED: "1",
    PYTHONIOENCODING: "utf-8",
    // In seconds: how long torchrun waits for the checkpoint of a large model before it kills.
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT: env.TORCH_ELASTIC_SHUTDOWN_TIMEOUT ?? "3600",
  };
}

/** The text that the trainer writes beside its events: handed on, but for the error that ends it. */
class LastWords {
  /** The first that any process told. */
  error: string | undefined;
  readonly #lines: string[] = [];
  #held: string[] | undefined;

  constructor(private readonly onText: (line: string) => void) {}

  take(line: string): void {
    if (line.startsWith(errorStart)) {
      this.error ??= line.slice(errorStart.length);
      return;
    }
    if (line.trim() !== "") this.#lines.push(line.trim());
    if (this.#lines.length > numKept) this.#lines.shift();
    if (this.#held !== undefined) this.#held.push(line);
    else this.onText(line);
  }

  /** From now on lines wait until it is known whether they matter. */
  hold(): void {
    this.#held ??= [];
  }

  release(): void {
    for (const line of this.#held ?? []) this.onText(line);
    this.#held = undefined;
  }

  get last(): string {
    return this.#lines.length === 0 ? "" : `; its last lines: ${this.#lines.map((line) => quote(line)).join(" ")}`;
  }
}

const errorStart = "error: ";
const numKept = 3;

/** Kills a process and all that it started: torchrun's workers have sessions of their own. */
async function killTree(pid: number, isUnix: boolean): Promise<void> {
  const pids = isUnix ? [...(await descendants(pid)), pid] : [pid];
  for (const each of pids) {
    try {
      process.kill(each, "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** The processes that a process started, and those that they started. None where there is no `ps`. */
async function descendants(pid: number): Promise<number[]> {
  const listed = await promisify(execFile)("ps", ["-A", "-o", "pid=,ppid="]).catch(() => ({ stdout: "" }));
  const parents = listed.stdout
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter((row): row is [number, number] => row.length === 2);
  const found = new Set([pid]);
  for (let before = 0; before < found.size; ) {
    before = found.size;
    for (const [child, parent] of parents) if (found.has(parent)) found.add(child);
  }
  found.delete(pid);
  return [...found];
}

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildDist, projectRoot } from "../build-dist.js";
import { Metrics } from "./metrics-text.js";

/** How a server is started: on 127.0.0.1 at a free port, with the embedded model on one thread, unless `args` say otherwise. */
export interface ServerOptions {
  /** After `serve --port 0 --threads 1`; a later option takes the place of an earlier one. */
  readonly args?: readonly string[];
  /** API keys, written to a file that the server reads. */
  readonly keys?: readonly string[];
  /** Environment variables beside this process's own. */
  readonly env?: Readonly<Record<string, string>>;
  /** Whether start() waits for the model too; default true. */
  readonly waitReady?: boolean;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A running process, as the system sees it. */
export interface RunningProcess {
  readonly pid: number;
  readonly parentPid: number;
  /** Resident memory in bytes. */
  readonly rssBytes: number;
}

/** A busy machine starts a process and loads a model in seconds. */
const startLimitMs = 30_000;
const stopLimitMs = 20_000;
/** What is kept of a stream, in characters. */
const maxKept = 4 * 1024 * 1024;

/**
 * The real program, `node dist/cli/main.js serve`, in a process of its own.
 *
 * @example
 * await using server = await ServerUnderTest.start();
 * const answer = await fetch(`${server.url}/health`);
 */
export class ServerUnderTest implements AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** The file of `keys`. */
  readonly keysFile: string;
  readonly exited: Promise<Exit>;
  readonly #program: Program;

  private constructor(program: Program, port: number) {
    this.#program = program;
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.pid = program.pid;
    this.keysFile = program.keysFile;
    this.exited = program.exited;
  }

  /**
   * Compiles src/ where dist/ is older, starts the server, and waits until it listens and has loaded its model.
   *
   * @throws Error with what the server wrote to standard error, if it ends or is not ready in time.
   */
  static async start(options: ServerOptions = {}): Promise<ServerUnderTest> {
    const program = await Program.start(options);
    try {
      const port = await program.listening();
      const server = new ServerUnderTest(program, port);
      if (options.waitReady !== false) await server.untilReady();
      return server;
    } catch (error) {
      await program[Symbol.asyncDispose]();
      throw error;
    }
  }

  get stdout(): string {
    return this.#program.stdout;
  }

  get stderr(): string {
    return this.#program.stderr;
  }

  /** Waits until GET /ready says 200. @throws Error if it does not within `limitMs`. */
  async untilReady(limitMs = startLimitMs): Promise<void> {
    await until("the server is ready", limitMs, async () => {
      if (this.#program.hasEnded) throw new Error(`Cannot wait for the server: it ended: ${this.stderr}`);
      const answer = await fetch(`${this.url}/ready`).catch(() => undefined);
      await answer?.arrayBuffer();
      return answer?.status === 200;
    }).catch((error: unknown) => {
      throw new Error(`${(error as Error).message}; standard error: ${this.stderr.slice(-2000)}`);
    });
  }

  /** @param key the API key, where the server wants one. */
  async metrics(key?: string): Promise<Metrics> {
    const answer = await fetch(`${this.url}/metrics`, key === undefined ? {} : { headers: bearer(key) });
    const text = await answer.text();
    if (answer.status !== 200) throw new Error(`Cannot read metrics: status ${answer.status}: ${text.slice(0, 300)}`);
    return Metrics.parse(text);
  }

  /** The engine's process, which the server started; undefined while there is none. */
  engineProcess(): RunningProcess | undefined {
    return childrenOf(this.pid)[0];
  }

  /** Resident memory of the server's process, in bytes. */
  rssBytes(): number {
    return listProcesses().find(({ pid }) => pid === this.pid)?.rssBytes ?? 0;
  }

  /** Open files and sockets of the server and its engine, where the system tells: on Linux. */
  openFiles(): number | undefined {
    if (process.platform !== "linux") return undefined;
    const pids = [this.pid, ...childrenOf(this.pid).map(({ pid }) => pid)];
    return pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).length, 0);
  }

  kill(signal: NodeJS.Signals): void {
    this.#program.kill(signal);
  }

  /** SIGTERM, then the end. @throws Error if the server is still there after 20 s; it is killed then. */
  async stop(): Promise<Exit> {
    this.kill("SIGTERM");
    return this.#program.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program[Symbol.asyncDispose]();
  }
}

/**
 * Runs `serve` where it must not come to listen: a refusal at start.
 *
 * @throws Error if it listens all the same, or is still there after 20 s.
 */
export async function refusedStart(
  options: ServerOptions,
): Promise<Exit & { readonly stdout: string; readonly stderr: string }> {
  await using program = await Program.start(options);
  const listens = program.listening().then(
    (port) => {
      throw new Error(`Cannot see a refusal: the server listens on port ${port}`);
    },
    () => program.exited,
  );
  const exit = await withLimit("a refusal", stopLimitMs, listens);
  return { ...exit, stdout: program.stdout, stderr: program.stderr };
}

class Program implements AsyncDisposable {
  stdout = "";
  stderr = "";
  readonly pid: number;
  /** Ended, and its streams read to their end. */
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  #hasEnded = false;

  private constructor(
    child: ChildProcess,
    folder: string,
    readonly keysFile: string,
  ) {
    this.#child = child;
    this.pid = child.pid ?? 0;
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.stdout = (this.stdout + text).slice(-maxKept);
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr = (this.stderr + text).slice(-maxKept);
    });
    this.exited = new Promise((resolve) => {
      child.once("close", (code, signal) => {
        this.#hasEnded = true;
        rmSync(folder, { recursive: true, force: true });
        resolve({ code, signal });
      });
    });
  }

  static async start(options: ServerOptions): Promise<Program> {
    await buildDist();
    const folder = mkdtempSync(join(tmpdir(), "block-attention-server-"));
    const args = ["serve", "--port", "0", "--threads", "1"];
    const file = join(folder, "keys");
    if (options.keys !== undefined) {
      writeFileSync(file, `${options.keys.join("\n")}\n`, { mode: 0o600 });
      args.push("--keys", file);
    }
    const child = spawn(process.execPath, [join(projectRoot, "dist/cli/main.js"), ...args, ...(options.args ?? [])], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...environment(), ...options.env },
    });
    return new Program(child, folder, file);
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** The port in the line that the server prints once it listens. */
  async listening(): Promise<number> {
    let port: string | undefined;
    await until("the server listens", startLimitMs, () => {
      port = /^Listening on http:\/\/\S+:(\d+)$/m.exec(this.stdout)?.[1];
      if (port === undefined && this.#hasEnded) {
        throw new Error(`Cannot start the server: it ended: ${this.stderr.slice(-2000)}`);
      }
      return port !== undefined;
    });
    return Number(port);
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async end(): Promise<Exit> {
    try {
      return await withLimit("the server's end", stopLimitMs, this.exited);
    } finally {
      await this[Symbol.asyncDispose]();
    }
  }

  /** Ends the server and whatever it started. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#hasEnded) return;
    const children = childrenOf(this.pid);
    this.#child.kill("SIGKILL");
    for (const { pid } of children) killProcess(pid);
    await this.exited;
  }
}

/** This process's environment without settings of a server, which somebody who runs the tests may have. */
function environment(): NodeJS.ProcessEnv {
  const isSetting = (name: string) => name.startsWith("BLOCK_ATTENTION_") && name !== "BLOCK_ATTENTION_GGML";
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isSetting(name)));
}

/** Waits until `condition` holds, asking every 20 ms. @throws Error after `limitMs`. */
export async function until(what: string, limitMs: number, condition: () => boolean | Promise<boolean>): Promise<void> {
  const endsAt = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > endsAt) throw new Error(`Cannot wait until ${what}: ${limitMs} ms have passed`);
    await sleep(20);
  }
}

/** @throws Error where the promise is not settled after `limitMs`. */
export async function withLimit<T>(what: string, limitMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Cannot wait for ${what}: ${limitMs} ms have passed`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export function bearer(key: string): { readonly authorization: string } {
  return { authorization: `Bearer ${key}` };
}

/** @returns whether there was such a process. */
export function killProcess(pid: number, signal: NodeJS.Signals = "SIGKILL"): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

export function childrenOf(pid: number): RunningProcess[] {
  return listProcesses().filter(({ parentPid }) => parentPid === pid);
}

/** Whether a process lives; one that ended and was not waited for does not. */
export function isAlive(pid: number): boolean {
  return listProcesses().some((running) => running.pid === pid);
}

/** All processes but those that ended already: from /proc where there is one, else from `ps`. */
function listProcesses(): RunningProcess[] {
  if (process.platform !== "linux") {
    const lines = execFileSync("ps", ["-A", "-o", "pid=,ppid=,rss=,state="], { encoding: "utf8" }).trim().split("\n");
    return lines.flatMap((line) => {
      const [pid, parentPid, rssKiB, state] = line.trim().split(/\s+/);
      if (state?.startsWith("Z")) return [];
      return [{ pid: Number(pid), parentPid: Number(parentPid), rssBytes: Number(rssKiB) * 1024 }];
    });
  }
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      // After the name in parentheses: state, parent, ….
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const [state, parentPid] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (state === "Z" || state === "X") return [];
      const rssKiB = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${name}/status`, "utf8"))?.[1] ?? "0";
      return [{ pid: Number(name), parentPid: Number(parentPid), rssBytes: Number(rssKiB) * 1024 }];
    } catch {
      // It ended meanwhile.
      return [];
    }
  });
}

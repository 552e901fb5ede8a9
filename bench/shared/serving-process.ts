import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { userCacheDir } from "../../src/files/user-cache-dir.js";

export interface ServingOptions {
  readonly model: string;
  readonly threads: number;
}

/** A server that may take this long to load its model, in ms. */
const loadLimitMs = 120_000;
/** What is kept of what it writes, in characters. */
const maxKept = 20_000;

const endingSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** A server under measurement, in a process of its own; it ends with this one at the latest. */
export class ServingProcess implements AsyncDisposable {
  /** The program and its arguments, as one would type them. */
  readonly command: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #endWithUs = (): void => void this.#child.kill("SIGKILL");
  /** A signal ends this process without its "exit" event, unless somebody listens. */
  readonly #exitOnSignal = (_: NodeJS.Signals, code: number): void => process.exit(128 + code);
  #output = "";
  #hasEnded = false;
  #url = "";

  private constructor(file: string, args: readonly string[]) {
    this.command = [file, ...args].join(" ");
    this.#child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#output = (this.#output + text).slice(-maxKept);
      });
    }
    this.#exited = new Promise((resolve) => {
      const end = () => {
        this.#hasEnded = true;
        process.off("exit", this.#endWithUs);
        for (const signal of endingSignals) process.off(signal, this.#exitOnSignal);
        resolve();
      };
      this.#child.once("exit", end);
      this.#child.once("error", (error) => {
        this.#output += error.message;
        end();
      });
    });
    process.once("exit", this.#endWithUs);
    for (const signal of endingSignals) process.once(signal, this.#exitOnSignal);
  }

  /** @throws Error with the end of what the server wrote, if it does not answer 200 at `readyPath` within two minutes. */
  static async start(file: string, args: readonly string[], readyPath: string): Promise<ServingProcess> {
    const server = new ServingProcess(file, args);
    try {
      await server.#untilReady(readyPath);
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** http://HOST:PORT */
  get url(): string {
    return this.#url;
  }

  async #untilReady(readyPath: string): Promise<void> {
    const endsAt = performance.now() + loadLimitMs;
    for (;;) {
      const url = /listening on (http:\/\/\S+:\d+)/i.exec(this.#output)?.[1];
      if (url !== undefined) {
        this.#url = url;
        const answer = await fetch(url + readyPath).catch(() => undefined);
        await answer?.arrayBuffer();
        if (answer?.status === 200) return;
      }
      const what = this.#hasEnded ? "it ended" : performance.now() > endsAt ? "it is not ready after 120 s" : undefined;
      if (what !== undefined) {
        throw new Error(`Cannot start "${this.command}": ${what}: ${this.#output.slice(-2000)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Asks it to end, and ends it where it does not. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#hasEnded) return;
    this.#child.kill("SIGTERM");
    const late = setTimeout(() => this.#child.kill("SIGKILL"), 5_000);
    await this.#exited;
    clearTimeout(late);
  }
}

/** This project's server, as `npm run bench` has compiled it. */
export function startBlockAttention(options: ServingOptions & { storeBytes: number }): Promise<ServingProcess> {
  const { model, threads, storeBytes } = options;
  const program = join("dist", "cli", "main.js");
  const args = ["serve", "--model", model, "--port", "0", "--threads", `${threads}`, "--store-bytes", `${storeBytes}`];
  return ServingProcess.start(process.execPath, [program, ...args], "/ready");
}

export function startLlamaServer(
  program: string,
  options: ServingOptions & { numSlots: number; slotTokens: number },
): Promise<ServingProcess> {
  const { model, threads, numSlots, slotTokens } = options;
  const args = ["-m", model, "--host", "127.0.0.1", "--port", "0", "-t", `${threads}`, "-tb", `${threads}`];
  // Continuous batching and the prompt cache are on by default; they are named so that nobody has to look it up.
  const batching = ["-np", `${numSlots}`, "-c", `${numSlots * slotTokens}`, "--cont-batching", "--cache-prompt"];
  return ServingProcess.start(program, [...args, ...batching], "/health");
}

/** LLAMA_SERVER_PATH, or what bench/build-llama-server.mjs built; undefined where there is neither. */
export function findLlamaServer(): string | undefined {
  const { LLAMA_SERVER_PATH: named } = process.env;
  if (named !== undefined && named !== "") {
    if (!existsSync(named))
      throw new Error(`Cannot find llama-server: LLAMA_SERVER_PATH is "${named}", which is absent`);
    return named;
  }
  const cache = userCacheDir({ platform: process.platform, env: process.env, homeDir: homedir() });
  const name = process.platform === "win32" ? "llama-server.exe" : "llama-server";
  return [["bin"], ["bin", "Release"]]
    .map((place) => join(cache, "llama-server", "build", ...place, name))
    .find((path) => existsSync(path));
}

/** What the head of a result says of the peer. */
export function describeLlamaServer(program: string | undefined): string {
  if (program === undefined) {
    return "llama-server is absent (build it with: node bench/build-llama-server.mjs), so that nothing is compared";
  }
  const { stdout, stderr } = spawnSync(program, ["--version"], { encoding: "utf8" });
  const version = `${stdout}${stderr}`.split("\n").find((line) => line.startsWith("version"));
  return `llama-server: ${version ?? program}`;
}

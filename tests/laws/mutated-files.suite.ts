import { type ChildProcessByStdio, spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { pathToFileURL } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { buildDist, projectRoot } from "../build-dist.js";
import { type MutatedModel, writeMutatedModel, writeSoundModels } from "../models/mutated-model.js";
import { lawFolder } from "./law-models.js";

/** What one model may take. */
interface Limits {
  readonly limitMs: number;
  /** Of memory. */
  readonly limitBytes: number;
}

/** A child serves so many models, so that what one of them leaves behind does not count for all. */
const modelsOfChild = 200;

type Outcome =
  | { readonly kind: "answer"; readonly answers: readonly string[]; readonly peakKilobytes: number }
  | { readonly kind: "error"; readonly message: string; readonly stack: string; readonly peakKilobytes: number }
  | { readonly kind: "ended"; readonly how: string };

/** Whatever a model's files say: an answer or an error of one line, within 20 seconds and 2 GB. */
export function mutatedFilesSuite(numModels: number): void {
  const folder = lawFolder();
  beforeAll(buildDist, 120_000);

  test(`Engine: ${numModels} mutated models end in an answer or in an error of one line`, {
    timeout: 60_000 + numModels * 1000,
  }, async () => {
    const sound = writeSoundModels(folder);
    await expectOneLine(sound, numModels, {}, (seed) =>
      writeMutatedModel(join(folder, `mutated ${seed}`), sound, seed),
    );
  });
}

/**
 * Expects an answer or an error of one line of each mutated model, and an answer of the sound ones.
 *
 * @param write makes the mutated model of a seed; it is removed when it was tried.
 */
export async function expectOneLine(
  sound: readonly string[],
  numModels: number,
  { limitMs = 20_000, limitBytes = 2 * 2 ** 30 }: Partial<Limits>,
  write: (seed: number) => MutatedModel,
): Promise<void> {
  const limits = { limitMs, limitBytes };
  let child: LoadingChild | undefined;
  const outcomeOf = async (path: string): Promise<Outcome> => {
    if (child === undefined || child.hasEnded || child.numServed >= modelsOfChild) {
      child?.end();
      child = new LoadingChild(limits);
    }
    return child.load(path);
  };
  try {
    for (const path of sound) expect(await outcomeOf(path)).toMatchObject({ kind: "answer" });
    const failed: string[] = [];
    const kinds = { answer: 0, error: 0 };
    for (let seed = 0; seed < numModels; seed++) {
      const { path, changes } = write(seed);
      const outcome = await outcomeOf(path);
      const wrong = whatIsWrong(outcome, limits);
      if (wrong !== undefined) failed.push(`model ${seed}, ${changes.join("; ")}: ${wrong}`);
      if (outcome.kind !== "ended") kinds[outcome.kind]++;
      rmSync(path, { recursive: true });
    }
    console.log(
      `mutated models: ${numModels} tried, ${kinds.answer} answered, ${kinds.error} refused, ${failed.length} failed`,
    );
    expect(failed).toEqual([]);
    // Mutations that change nothing, or that nothing survives, would test nothing.
    expect(Math.min(kinds.answer, kinds.error)).toBeGreaterThan(numModels / 20);
  } finally {
    child?.end();
  }
}

function whatIsWrong(outcome: Outcome, { limitBytes }: Limits): string | undefined {
  if (outcome.kind === "ended") return outcome.how;
  if (outcome.peakKilobytes * 1024 > limitBytes) return `it took ${outcome.peakKilobytes} KB`;
  if (outcome.kind === "answer") return undefined;
  const isOneLine = /^Cannot [^\n]{1,1500}$/.test(outcome.message);
  const isRaw = /^Cannot (read|set) propert|^Cannot convert undefined/.test(outcome.message);
  return isOneLine && !isRaw ? undefined : outcome.stack.slice(0, 600);
}

/** A process that loads models until it ends. */
class LoadingChild {
  numServed = 0;
  hasEnded = false;
  readonly #process: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #lines: Interface;
  #errors = "";
  #settle: ((outcome: Outcome) => void) | undefined;

  constructor(private readonly limits: Limits) {
    const script = join(projectRoot, "tests", "laws", "mutated-files-child.mjs");
    const library = pathToFileURL(join(projectRoot, "dist", "index.js")).href;
    const args = ["--max-old-space-size=1500", script, library];
    this.#process = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#process.stderr.on("data", (text) => {
      this.#errors = `${this.#errors}${text}`.slice(-1000);
    });
    this.#process.stdin.on("error", () => undefined);
    this.#process.on("exit", (code, signal) => this.#ended(`the process ended, ${signal ?? code}: ${this.#errors}`));
    this.#lines = createInterface({ input: this.#process.stdout });
    this.#lines.on("line", (line) => this.#settle?.(JSON.parse(line)));
  }

  async load(path: string): Promise<Outcome> {
    this.numServed++;
    const { limitMs, limitBytes } = this.limits;
    const settled = new Promise<Outcome>((resolve) => {
      this.#settle = resolve;
    });
    const timer = setTimeout(() => this.#kill(`it took more than ${limitMs} ms`), limitMs);
    const watch = setInterval(() => {
      if (residentBytes(this.#process.pid) > limitBytes) this.#kill(`it took more than ${limitBytes} bytes`);
    }, 100);
    this.#process.stdin.write(`${path}\n`);
    try {
      return await settled;
    } finally {
      clearTimeout(timer);
      clearInterval(watch);
    }
  }

  end(): void {
    this.#process.stdin.end();
  }

  #kill(how: string): void {
    this.#ended(how);
    this.#process.kill("SIGKILL");
  }

  #ended(how: string): void {
    this.hasEnded = true;
    this.#settle?.({ kind: "ended", how });
  }
}

/** What a process has in memory now; 0 where the system does not tell. */
function residentBytes(pid: number | undefined): number {
  try {
    return 4096 * Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]);
  } catch {
    return 0;
  }
}

import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../../src/files/test-files.suite.js";
import { buildDist, projectRoot } from "../build-dist.js";
import { LawModels } from "./law-models.js";

/** Calls that the store makes on files, and how each may fail. `write` also wakes Node's threads: for it a file system is filled. */
const failures = [
  ["openat", "EACCES"],
  ["openat", "EMFILE"],
  ["mkdir", "ENOSPC"],
  ["statx", "EIO"],
  ["getdents64", "EIO"],
  ["pread64", "EIO"],
  ["fdatasync", "EIO"],
  ["fsync", "ENOSPC"],
  ["rename", "EIO"],
  ["unlink", "EACCES"],
  ["utimensat", "EACCES"],
] as const;

interface Outcome {
  readonly error?: string;
  readonly blocks: readonly { id: string; hit: boolean; durable?: boolean; error?: string }[];
  readonly tokenIds: readonly number[];
  readonly hits: readonly boolean[];
}

/** A process that goes on from round to round. One thread makes its calls on files, so that they are counted one by one. */
class Rounds implements Disposable {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;

  private constructor(model: string) {
    const script = join(projectRoot, "tests", "laws", "failing-calls-child.mjs");
    const library = pathToFileURL(join(projectRoot, "dist", "index.js")).href;
    const env = { ...process.env, UV_THREADPOOL_SIZE: "1" };
    this.#child = spawn(process.execPath, [script, library, model], { env });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  static async start(model: string): Promise<Rounds> {
    const rounds = new Rounds(model);
    expect((await rounds.#lines.next()).value).toBe("ready");
    return rounds;
  }

  async run(store: string): Promise<Outcome> {
    this.#child.stdin.write(`${JSON.stringify({ store })}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`Cannot go on: the process ended with ${this.#child.exitCode ?? this.#child.signalCode}`);
    return JSON.parse(value);
  }

  /** The same while one call fails. @returns also whether that call was made. */
  async runFailing(store: string, call: string, error: string, when: number): Promise<Outcome & { isMade: boolean }> {
    const how = ["-f", "-e", `trace=${call}`, "-e", `inject=${call}:error=${error}:when=${when}`];
    const strace = spawn("strace", [...how, "-p", `${this.#child.pid}`]);
    let told = "";
    strace.stderr.setEncoding("utf8").on("data", (text) => {
      told += text;
    });
    // Told of every thread.
    const numThreads = readdirSync(`/proc/${this.#child.pid}/task`).length;
    const isAttached = () =>
      (told.match(/attached/g)?.length ?? 0) >= 1 && (numThreads === 1 || /with \d+ threads/.test(told));
    await expect.poll(isAttached).toBe(true);
    const outcome = await this.run(store);
    const ended = once(strace, "close");
    strace.kill("SIGINT");
    await ended;
    return { ...outcome, isMade: told.includes("(INJECTED)") };
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }
}

function has(program: string, ...args: string[]): boolean {
  try {
    execFileSync(program, args, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/**
 * Whatever call fails, each in its turn until none is left: a clear error or a sound end, no wrong answer, and what was acknowledged is found again. Wants strace, and for full
 * file systems root.
 */
export function failingCallsSuite(isTried: (call: string) => boolean): void {
  const canTrace = process.platform === "linux" && has("strace", "-e", "trace=none", "true");
  describe("store: a call of the system that fails", () => {
    const models = new LawModels();

    async function walk(runOnce: (rounds: Rounds, store: string, n: number) => Promise<Outcome & { isMade: boolean }>) {
      await buildDist();
      using rounds = await Rounds.start(models.huggingFace({ architecture: "llama", seed: 81 }));
      const wanted = await rounds.run(await temporaryFolder());
      expect(wanted).toMatchObject({ blocks: [{ durable: true }, { durable: true }], hits: [true, true] });
      let numFailed = 0;
      for (let n = 1; ; n++) {
        const store = join(await temporaryFolder(), "store");
        const found = await runOnce(rounds, store, n);
        // Of the model's files, too, with the system's own words.
        if (found.error !== undefined) expect(found.error).toMatch(/^(Cannot|E[A-Z]+:) [^\n]*$/);
        else expect([n, found.tokenIds]).toEqual([n, wanted.tokenIds]);
        const after = await rounds.run(store);
        expect([n, after.error, after.tokenIds]).toEqual([n, undefined, wanted.tokenIds]);
        for (const [i, block] of (found.blocks ?? []).entries()) {
          if (block.durable) expect([n, after.blocks[i]]).toMatchObject([n, { id: block.id, hit: true }]);
        }
        const partial = join(store, "partial");
        expect(existsSync(partial) ? readdirSync(partial) : []).toEqual([]);
        if (!found.isMade) break;
        numFailed += 1;
      }
      return numFailed;
    }

    test.skipIf(!canTrace).each(failures.filter(([call]) => isTried(call)))("%s ends with %s", async (call, error) => {
      expect(await walk((rounds, store, n) => rounds.runFailing(store, call, error, n))).toBeGreaterThan(0);
    });

    test.skipIf(!isTried("write") || !canMount())("write ends with ENOSPC", async () => {
      const mounted: string[] = [];
      try {
        const numFailed = await walk(async (rounds, store, n) => {
          mkdirSync(store);
          execFileSync("mount", ["-t", "tmpfs", "-o", `size=${4 * n}k`, "tmpfs", store]);
          mounted.push(store);
          const outcome = await rounds.run(store);
          const isMade = outcome.error !== undefined || outcome.blocks.some(({ durable }) => durable !== true);
          // From now on there is room.
          execFileSync("mount", ["-o", "remount,size=16m", store]);
          return { ...outcome, isMade };
        });
        expect(numFailed).toBeGreaterThan(0);
      } finally {
        for (const path of mounted) execFileSync("umount", [path]);
      }
    });
  });
}

function canMount(): boolean {
  return (
    process.platform === "linux" &&
    process.getuid?.() === 0 &&
    has("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
  );
}

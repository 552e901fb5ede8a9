import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import { engineSuite } from "../../src/engine/engine.suite.js";
import type { GenerateOptions } from "../../src/engine/engine-options.js";
import { LocalEngine } from "../../src/engine/local-engine.js";
import type { GenerateEvent } from "../../src/engine/results.js";
import type { EngineStatus } from "../../src/engine/status-source.js";
import type { SpawnEngineOptions } from "../../src/server/engine-process/spawn-engine.js";
import { buildDist, projectRoot } from "../build-dist.js";
import { noEnd as noEndOfRandom } from "../laws/law-models.js";
import { ggmlQuantizer } from "../models/ggml-quantizer.js";
import { writeRandomGguf } from "../models/random-gguf.js";

/** The module of the compiled program: a process cannot be started from TypeScript. */
const modulePath = join(projectRoot, "dist", "server", "engine-process", "spawn-engine.js");
const prompt = { blocks: ["- Title: The key\nThe red key hangs in the hall.\n", "Question: Where is the red key?"] };
/** The embedded model's end tokens, banned so that an answer has its length. */
const noEnd = { 0: -100, 1: -100, 2: -100, 3: -100 };
const fast = { firstDelayMs: 5, longestDelayMs: 20 };
/** A busy machine starts a process in seconds. */
const startMs = 20_000;
/** The place is free within 200 ms where the machine is not busy. */
const freedMs = 3000;

/** An answer of so many tokens. */
function long(maxTokens: number): GenerateOptions {
  return { maxTokens, logitBias: noEnd };
}

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const event of events) list.push(event);
  return list;
}

function text(events: readonly GenerateEvent[]): string {
  return events.map((event) => ("text" in event ? event.text : "")).join("");
}

/** Waits for a status. */
async function until(engine: Engine, ...states: EngineStatus["state"][]): Promise<EngineStatus> {
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      stop();
      reject(new Error(`The engine is ${JSON.stringify(engine.status)}, wanted ${states.join(" or ")}`));
    }, startMs);
    const check = (status: EngineStatus): void => {
      if (!states.includes(status.state)) return;
      clearTimeout(timer);
      // listen() may not have returned yet.
      queueMicrotask(() => stop());
      resolve(status);
    };
    const stop = engine.onStatus(check);
    check(engine.status);
  });
}

/** Waits until something holds. */
async function eventually(what: string, holds: () => boolean | Promise<boolean>, limitMs = 10_000): Promise<void> {
  const from = performance.now();
  while (!(await holds())) {
    if (performance.now() - from > limitMs) throw new Error(`After ${limitMs} ms still not so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** The ids of a process's engine processes; zombies are none. */
function engineProcesses(parent: number): number[] {
  return execFileSync("ps", ["-A", "-o", "pid=,ppid=,stat=,args="], { encoding: "utf8" })
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter(
      ([, ppid, stat, ...args]) =>
        ppid === `${parent}` && !stat?.startsWith("Z") && args.join(" ").includes("engine-child"),
    )
    .map(([pid]) => Number(pid));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !execFileSync("ps", ["-o", "stat=", "-p", `${pid}`], { encoding: "utf8" }).startsWith("Z");
  } catch {
    return false;
  }
}

function killEngine(signal: NodeJS.Signals = "SIGKILL"): void {
  const pids = engineProcesses(process.pid);
  expect(pids).toHaveLength(1);
  process.kill(pids[0]!, signal);
}

/** The engine's process and its watcher: what must hold, each moment of death so many times. */
export function engineProcessSuite(numKills: number): void {
  let spawnEngine: (options?: SpawnEngineOptions) => Engine;
  const engines: Engine[] = [];
  const start = (options: SpawnEngineOptions = {}): Engine => {
    const engine = spawnEngine({ threads: 1, restart: fast, ...options });
    engines.push(engine);
    return engine;
  };
  const startReady = async (options?: SpawnEngineOptions): Promise<Engine> => {
    const engine = start(options);
    await until(engine, "ready");
    return engine;
  };

  const startReadyAlone = async (): Promise<Engine> => {
    const engine = spawnEngine({ threads: 1 });
    await until(engine, "ready");
    return engine;
  };

  const endAll = async (): Promise<void> => {
    for (const engine of engines.splice(0)) await engine[Symbol.asyncDispose]();
    expect(engineProcesses(process.pid)).toEqual([]);
  };

  beforeAll(async () => {
    await buildDist();
    ({ spawnEngine } = await import(/* @vite-ignore */ pathToFileURL(modulePath).href));
  });

  describe("one engine", () => {
    let engine: Engine;
    beforeAll(async () => {
      engine = await startReadyAlone();
    });
    afterAll(async () => {
      await engine[Symbol.asyncDispose]();
      expect(engineProcesses(process.pid)).toEqual([]);
    });

    test("spawnEngine(): the answers, tokens and errors of an engine in this process", async () => {
      await using local = await LocalEngine.load({ threads: 1 });
      expect({ ...engine.info, loadedAt: 0 }).toEqual({ ...local.info, loadedAt: 0 });
      const detailed = { echo: true, spell: true, maxTokens: 20, topLogprobs: 3, seed: 7, temperature: 1 };
      const plain = (events: readonly GenerateEvent[]) =>
        events.map((event) => (event.kind === "done" ? { ...event, result: { ...event.result, timings: 0 } } : event));
      expect(plain(await all(engine.generate(prompt, detailed)))).toEqual(
        plain(await all(local.generate(prompt, detailed))),
      );
      const passages = ["one\n", "two\n", "one\n"];
      expect(await engine.encode(passages)).toEqual(await local.encode(passages));
      const asked = ["Wo ist der Schlüssel? <|eos|>", { special: true }] as const;
      expect(await engine.tokenize(...asked)).toEqual(await local.tokenize(...asked));
      expect((await engine.stats()).store.numBlocks).toBe((await local.stats()).store.numBlocks);
      const wrong = { temperature: -1 };
      const error = await all(engine.generate(prompt, wrong)).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ name: "EngineError", code: "invalid" });
      expect(error).toMatchObject({
        message: await all(local.generate(prompt, wrong)).catch((thrown: Error) => thrown.message),
      });
    });

    test("spawnEngine(): many answers at once come each to its reader", async () => {
      const lengths = Array.from({ length: 12 }, (_, i) => 3 + i);
      const answers = await Promise.all(lengths.map((maxTokens) => all(engine.generate(prompt, long(maxTokens)))));
      expect(answers.map((events) => events.filter(({ kind }) => kind === "token").length)).toEqual(lengths);
      for (const events of answers) expect(text(answers.at(-1)!).startsWith(text(events).trimEnd())).toBe(true);
    });

    test("spawnEngine(): a request that is no plain data is refused, and the engine goes on", async () => {
      const unplain = { stop: [() => "x"] } as unknown as GenerateOptions;
      await expect(all(engine.generate(prompt, unplain))).rejects.toMatchObject({ code: "invalid" });
      expect(engine.status.restarts).toBe(0);
      expect(await all(engine.generate(prompt, { maxTokens: 8 }))).not.toEqual([]);
    });

    test("spawnEngine(): a reader that leaves while the engine waits for it frees the place", async () => {
      const stalled = engine.generate(prompt, long(1000))[Symbol.asyncIterator]();
      await stalled.next();
      await all(engine.generate(prompt, long(100)));
      await stalled.return?.();
      const running = async () => (await engine.stats()).requests.running;
      await expect.poll(running, { timeout: freedMs }).toBe(0);
    });
  });

  engineSuite("spawnEngine()", startReadyAlone);

  describe("an engine each", () => {
    afterEach(endAll);

    test("spawnEngine(): a killed engine ends what ran with an error, in mid-stream too, and comes back", async () => {
      const engine = await startReady();
      const wanted = text(await all(engine.generate(prompt, { maxTokens: 8 })));
      const died = expect.objectContaining({
        name: "EngineError",
        code: "died",
        message: expect.stringMatching(/SIGKILL|before it was sent/),
      });
      const endOf = (events: AsyncIterable<unknown> | Promise<unknown>) =>
        (events instanceof Promise ? events : all(events)).catch((error: unknown) => error);
      const moments: Record<string, () => Promise<unknown[]>> = {
        queue: async () => {
          const many = Array.from({ length: 60 }, () => endOf(engine.generate(prompt, long(500))));
          await new Promise((resolve) => setTimeout(resolve, 20));
          killEngine();
          return await Promise.all(many);
        },
        "before the first event": async () => {
          const ending = endOf(engine.generate(prompt, long(500)));
          killEngine();
          return [await ending];
        },
        prefill: async () => {
          const events = engine.generate(prompt, long(500));
          expect((await events[Symbol.asyncIterator]().next()).value.kind).toBe("prompt");
          killEngine();
          return [await endOf(events)];
        },
        decode: async () => {
          const events = engine.generate(prompt, long(500))[Symbol.asyncIterator]();
          for (let i = 0; i < 4; i++) await events.next();
          killEngine();
          return [await endOf({ [Symbol.asyncIterator]: () => events })];
        },
        "encoding and telling": async () => {
          const passages = Array.from({ length: 1000 }, (_, i) => `A passage of its own, number ${i}.\n`);
          const encoding = endOf(engine.encode(passages));
          // Stopped, it cannot answer before it dies.
          killEngine("SIGSTOP");
          const asking = endOf(engine.stats() as Promise<unknown>);
          killEngine();
          return await Promise.all([encoding, asking]);
        },
      };
      const large = Array.from({ length: 12 }, () => ({ prompt: "word ".repeat(400_000) }));
      moments["waiting for room in the channel"] = async () => {
        // Stopped, it reads nothing.
        killEngine("SIGSTOP");
        const passages = ["word ".repeat(400_000)];
        const many = [
          ...large.map((asked) => endOf(engine.generate(asked))),
          ...large.map(() => endOf(engine.encode(passages))),
        ];
        await new Promise((resolve) => setTimeout(resolve, 20));
        killEngine();
        return await Promise.all(many);
      };
      let restarts = 0;
      for (let round = 0; round < numKills; round++) {
        for (const [moment, kill] of Object.entries(moments)) {
          const endings = await kill();
          expect(endings, moment).toEqual(endings.map(() => died));
          expect(engine.status).toMatchObject({ state: "restarting", lastError: expect.stringContaining("SIGKILL") });
          await expect(engine.stats(), moment).rejects.toMatchObject({ code: "unavailable" });
          // Killed while it loads again: it comes back all the same.
          if (round % 2 === 0 && moment === "decode") {
            await eventually("a process", () => engineProcesses(process.pid).length === 1);
            killEngine();
            restarts += 1;
          }
          restarts += 1;
          await until(engine, "ready");
          expect(engine.status.restarts).toBe(restarts);
          expect(text(await all(engine.generate(prompt, { maxTokens: 8 }))), moment).toBe(wanted);
        }
        // Those that died have given their room back.
        for (const ending of await Promise.all(large.map((asked) => endOf(engine.generate(asked))))) {
          expect(ending).toMatchObject({ code: "too_long" });
        }
      }
    }, 600_000);

    test("spawnEngine(): an engine killed while it loads for the first time loads again", async () => {
      const engine = start();
      killEngine();
      const status = await until(engine, "ready", "failed");
      expect(status).toMatchObject({
        state: "ready",
        restarts: 1,
        lastError: "the engine's process died: signal SIGKILL",
      });
    });

    test("spawnEngine(): one that dies at each first load fails after three", async () => {
      const states: string[] = [];
      const engine = start();
      engine.onStatus(({ state }) => states.push(state));
      for (let i = 0; i < 3; i++) {
        await eventually("a process", () => engineProcesses(process.pid).length === 1);
        killEngine();
        await eventually("none", () => engineProcesses(process.pid).length === 0 || engine.status.restarts > i);
      }
      await until(engine, "failed");
      expect(states).not.toContain("ready");
      expect(engine.status.restarts).toBe(2);
    });

    test("spawnEngine(): a model that cannot be loaded is told in one line, and not tried again", async () => {
      const engine = start({ model: "no-such-model.gguf" });
      const states: string[] = [];
      engine.onStatus(({ state }) => states.push(state));
      const { lastError } = await until(engine, "failed");
      expect(lastError).toMatch(/^Cannot [^\n]*"no-such-model\.gguf"[^\n]*$/);
      await eventually("no process", () => engineProcesses(process.pid).length === 0);
      expect(states).toEqual(["failed"]);
      expect(engine.status.restarts).toBe(0);
      await expect(all(engine.generate(prompt, { maxTokens: 8 }))).rejects.toMatchObject({
        code: "unavailable",
        message: "Cannot use the engine: it could not be loaded",
      });
      const wrong = start({ kvType: "f8" as "f16" });
      expect((await until(wrong, "failed")).lastError).toMatch(/^Cannot load the engine: kvType is "f8"/);
    });

    test("spawnEngine(): a mapped file that is written to or cut ends what runs with the reason, and never an answer", async () => {
      const folder = mkdtempSync(join(tmpdir(), "block-attention-mapped-"));
      onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
      const model = join(folder, "model.gguf");
      writeRandomGguf(model, { architecture: "llama", type: "Q8_0", seed: 61, quantizeRows: await ggmlQuantizer() });
      const whole = readFileSync(model);
      const engine = await startReady({ model, mapWeights: true });
      expect((await engine.stats()).mappedBytes).toBeGreaterThan(0);
      const asked = { prompt: "Where is the red key?" };
      const ended = { ...long(400), logitBias: noEndOfRandom };
      const wanted = text(await all(engine.generate(asked, { ...ended, maxTokens: 8 })));
      const changes: readonly [RegExp, () => void][] = [
        [
          /model\.gguf.* was written to while it was mapped; replace files by renaming/,
          // In place: without the flag the file is cut before it is written.
          () => writeFileSync(model, whole, { flag: "r+" }),
        ],
        [/model\.gguf.* was cut /, () => truncateSync(model, 4096)],
      ];
      for (const [reason, change] of changes) {
        const events = engine.generate(asked, ended)[Symbol.asyncIterator]();
        for (let i = 0; i < 4; i++) await events.next();
        change();
        const rest = all({ [Symbol.asyncIterator]: () => events });
        await expect(rest).rejects.toMatchObject({ code: "died", message: expect.stringMatching(reason) });
        await eventually("the reason", () => reason.test(engine.status.lastError ?? ""));
        writeFileSync(`${model}.new`, whole);
        renameSync(`${model}.new`, model);
        await eventually("an engine", () => engine.status.state === "ready", startMs);
        expect(text(await all(engine.generate(asked, { ...ended, maxTokens: 8 })))).toBe(wanted);
      }
      killEngine("SIGBUS");
      await eventually("the signal", () =>
        /SIGBUS: a file of .*model\.gguf.* was cut/.test(engine.status.lastError ?? ""),
      );
    });

    test("spawnEngine(): an engine that does not answer is killed and comes back", async () => {
      const engine = await startReady({ unresponsiveMs: 1000 });
      const running = all(engine.generate(prompt, long(500))).catch((error: unknown) => error);
      killEngine("SIGSTOP");
      expect(await running).toMatchObject({ code: "died", message: expect.stringContaining("did not answer for 1 s") });
      await until(engine, "ready");
      expect(engine.status.restarts).toBe(1);
    });

    test("spawnEngine(): closed at any moment, more than once, it ends all and leaves no process", async () => {
      const loading = start();
      await Promise.all([loading[Symbol.asyncDispose](), loading[Symbol.asyncDispose]()]);
      expect(engineProcesses(process.pid)).toEqual([]);
      expect(loading.status.state).toBe("closed");

      const busy = await startReady();
      const unavailable = { name: "EngineError", code: "unavailable" };
      const running = all(busy.generate(prompt, long(1000))).catch((error: unknown) => error);
      const asked = busy.stats();
      await new Promise((resolve) => setTimeout(resolve, 50));
      await busy[Symbol.asyncDispose]();
      expect(await running).toMatchObject(unavailable);
      expect(await asked).toHaveProperty("store");
      await expect(all(busy.generate(prompt))).rejects.toMatchObject(unavailable);
      expect(engineProcesses(process.pid)).toEqual([]);

      const restarting = await startReady({ restart: { firstDelayMs: 60_000, longestDelayMs: 60_000 } });
      killEngine();
      await until(restarting, "restarting");
      await restarting[Symbol.asyncDispose]();
      expect(restarting.status).toMatchObject({ state: "closed", restarts: 0 });
    });

    test("spawnEngine(): the process ends with its parent, says nothing on its output, and hears no Ctrl-C", async () => {
      const script = `
        import { spawnEngine } from ${JSON.stringify(pathToFileURL(modulePath).href)};
        process.on("SIGINT", () => console.log("interrupted"));
        process.env.NODE_DEBUG = "module";
        const engine = spawnEngine({ threads: 1, onLog: (line) => { if (/MODULE/.test(line)) heard = true; } });
        let heard = false;
        const passages = Array.from({ length: 5000 }, (_, i) => "A passage of its own, number " + i);
        engine.onStatus(async ({ state }) => {
          console.log(state, heard);
          await engine.encode(passages);
          console.log("encoded all");
        });
      `;
      for (const moment of ["loading", "busy"]) {
        const parent: ChildProcess = spawn(process.execPath, ["--input-type=module", "-e", script], {
          detached: true,
          stdio: ["ignore", "pipe", "inherit"],
        });
        onTestFinished(() => void parent.kill("SIGKILL"));
        let output = "";
        parent.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
          output += chunk;
        });
        const exited = new Promise((resolve) => parent.once("exit", resolve));
        await eventually("the engine's process", () => engineProcesses(parent.pid!).length === 1, startMs);
        const [child] = engineProcesses(parent.pid!) as [number];
        if (moment === "busy") {
          await eventually("the engine is ready", () => output.includes("ready"), startMs);
          // As a terminal does it: to the whole process group.
          process.kill(-parent.pid!, "SIGINT");
          await eventually("the parent heard it", () => output.includes("interrupted"));
          expect(isAlive(child)).toBe(true);
          expect(output).toBe("ready true\ninterrupted\n");
        }
        parent.kill("SIGKILL");
        await exited;
        await eventually("the child is gone", () => !isAlive(child), 2000);
      }
    });
  });
}

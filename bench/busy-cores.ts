// Tokens a second while other programs use the cores: all threads, one, and as many as others leave (the default).
// `npm run bench -- busy-cores [MODEL]`; without a model the 135M shape.
import { type ChildProcess, spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Engine } from "../src/engine/engine.js";
import { benchModel } from "./shared/models.js";
import { describeRun, median, printTable, TokenSource } from "./shared/report.js";

const rounds = 3;
const maxMs = 4000;
const model = process.argv[2] ?? (await benchModel("135m"));
const all = availableParallelism();
console.log(`Busy cores, ${describeRun()}, medians of ${rounds}\n`);

const programs: ChildProcess[] = [];
function beside(count: number): void {
  while (programs.length < count)
    programs.push(spawn(process.execPath, ["-e", "for (;;) performance.now()"], { stdio: "ignore" }));
  while (programs.length > count) programs.pop()?.kill("SIGKILL");
}

const kinds = [{ threads: all }, { threads: 1 }, {}];
const engines = await Promise.all(kinds.map((threads) => Engine.load({ model, keepPrefixes: false, ...threads })));
const source = new TokenSource(engines[0]?.model.source.config.vocabSize ?? 0);
const rows: (string | number)[][] = [];
for (const count of [0, ...new Set([1, all])]) {
  const rates: number[][] = engines.map(() => []);
  beside(count);
  // What the default sees is the last quarter of a second.
  await sleep(1000);
  for (let round = 0; round < rounds; round++) {
    for (const [i, engine] of engines.entries()) {
      let tokens = 0;
      let firstAt = 0;
      const signal = AbortSignal.timeout(maxMs);
      for await (const event of engine.generate({ blockTokenIds: [source.take(64)] }, { maxTokens: 150, signal })) {
        if (event.kind !== "token") continue;
        firstAt ||= performance.now();
        tokens++;
      }
      rates[i]?.push((1000 * Math.max(0, tokens - 1)) / (performance.now() - firstAt));
    }
  }
  rows.push([count, ...rates.map((of) => median(of).toFixed(1))]);
}
beside(0);
for (const engine of engines) await engine[Symbol.asyncDispose]();
printTable(["busy programs", `tokens/s, ${all} threads`, "1 thread", "default"], rows);

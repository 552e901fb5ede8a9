// How long until a model answers, and what memory two processes of it take: weights read, and mapped; from the disk, and from the page cache.
// `npm run bench -- loading MODEL...`; without a model the 135M shape. Linux only: memory is the proportional set size.
import { type ChildProcess, execFileSync, fork } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Engine } from "../src/engine/engine.js";
import { benchModel } from "./shared/models.js";
import { describeRun, median, printTable } from "./shared/report.js";

interface Loaded {
  readonly tokenizerMs: number;
  readonly loadMs: number;
  readonly firstMs: number;
  readonly weightBytes: number;
  readonly mappedBytes: number;
}

const rounds = 3;
const MiB = 2 ** 20;

/** Loads a model, answers once and tells; then tells its memory whenever it is asked. */
async function child(model: string, mapWeights: boolean): Promise<void> {
  const start = performance.now();
  let tokenizerMs = 0;
  const onEstimate = () => {
    tokenizerMs = performance.now() - start;
  };
  const engine = await Engine.load({ model, mapWeights, onEstimate });
  const loadMs = performance.now() - start;
  await engine.complete({ prompt: "Hello" }, { maxTokens: 1 });
  const firstMs = performance.now() - start - loadMs;
  const { weightBytes, mappedBytes } = engine.stats();
  process.on("message", () => {
    const [, kib] = /^Pss:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/smaps_rollup", "utf8")) ?? [];
    process.send?.(Number(kib) * 1024);
  });
  process.send?.({ tokenizerMs, loadMs, firstMs, weightBytes, mappedBytes } satisfies Loaded);
}

function start(model: string, mode: string): ChildProcess {
  return fork(fileURLToPath(import.meta.url), ["child", model, mode]);
}

function message<T>(of: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    of.once("message", (told) => resolve(told as T));
    of.once("exit", (code) => reject(new Error(`Cannot load the model: the process ended with ${code}`)));
  });
}

/** Makes the system forget what it has of a file in memory, where no process maps it. */
function forget(path: string): void {
  execFileSync("dd", [`if=${path}`, "iflag=nocache", "count=0"], { stdio: "ignore" });
}

const [first, ...others] = process.argv.slice(2);
if (first === "child") {
  await child(others[0] as string, others[1] === "mapped");
} else {
  console.log(`Loading, ${describeRun()}, medians of ${rounds}\n`);
  const rows: (string | number)[][] = [];
  for (const model of first === undefined ? [await benchModel("135m")] : [first, ...others]) {
    for (const mode of ["read", "mapped"]) {
      const load = async (isCold: boolean): Promise<Loaded> => {
        if (isCold) forget(model);
        const process = start(model, mode);
        const loaded = await message<Loaded>(process);
        process.kill();
        return loaded;
      };
      const cold: Loaded[] = [];
      const warm: Loaded[] = [];
      for (let i = 0; i < rounds; i++) {
        cold.push(await load(true));
        warm.push(await load(false));
      }
      const two = [start(model, mode), start(model, mode)];
      await Promise.all(two.map((one) => message<Loaded>(one)));
      const sizes = two.map((one) => {
        one.send("memory");
        return message<number>(one);
      });
      const bytes = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
      for (const one of two) one.kill();
      const ms = (of: readonly Loaded[], time: "tokenizerMs" | "loadMs" | "firstMs") =>
        Math.round(median(of.map((one) => one[time])));
      const { weightBytes, mappedBytes } = warm[0] as Loaded;
      const share = `${Math.round(mappedBytes / MiB)} of ${Math.round(weightBytes / MiB)}`;
      const name = model.split("/").at(-1) as string;
      const times = [ms(cold, "loadMs"), ms(warm, "loadMs"), ms(warm, "tokenizerMs"), ms(warm, "firstMs")];
      rows.push([name, mode, share, ...times, Math.round(bytes / MiB)]);
    }
  }
  const times = ["load ms, cold", "load ms, warm", "of it tokenizer", "first token ms"];
  printTable(["model", "weights", "MiB mapped", ...times, "two processes, MiB"], rows);
}

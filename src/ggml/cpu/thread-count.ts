import { readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";

const lookMs = 250;
/** So many looks in a row must find room for more threads: about a second. */
const looksBeforeMore = 4;
/** Above this share of a core, other programs cost the graph's threads more than one of them gives. */
const largestTakenShare = 0.5;

/** Times since the system, or the process, started, in ms. */
export interface CpuTimes {
  readonly atMs: number;
  /** Of all programs, on the cores that this process may use, summed over cores. */
  readonly busyMs: number;
  /** Of this process. */
  readonly ownMs: number;
}

/**
 * How many threads graphs get: as many as asked for, or fewer while other programs use the cores.
 *
 * ggml's threads wait for each other at every node by spinning. Where one of them has no core, all wait for the rest of a
 * time slice, at hundreds of nodes a graph, so that two threads beside another program are slower than one. Bytes do not
 * depend on the number.
 *
 * @example 2 threads on 2 cores, of which others use 0.7: 1 thread
 */
export class ThreadCount implements Disposable {
  #now: number;
  #others = 0;
  #looksWithRoom = 0;
  #last: CpuTimes | undefined;
  readonly #timer: NodeJS.Timeout | undefined;

  /** @param options.adapts whether it follows what other programs do. Default false. */
  constructor(
    readonly most: number,
    options: { readonly adapts?: boolean | undefined; readonly read?: () => CpuTimes; readonly cores?: number } = {},
  ) {
    const { adapts = false, read = readCpuTimes, cores = availableParallelism() } = options;
    this.#now = most;
    if (!adapts || most === 1) return;
    this.#timer = setInterval(() => this.look(read(), cores), lookMs);
    this.#timer.unref();
  }

  /** For the next graph. */
  get now(): number {
    return this.#now;
  }

  /** What other programs used between the last two looks, in cores. */
  get othersCores(): number {
    return this.#others;
  }

  /** Decides anew from what happened since the last look. */
  look(times: CpuTimes, cores: number): void {
    const last = this.#last;
    this.#last = times;
    const elapsedMs = times.atMs - (last?.atMs ?? times.atMs);
    if (last === undefined || elapsedMs <= 0) return;
    this.#others = Math.max(0, times.busyMs - last.busyMs - (times.ownMs - last.ownMs)) / elapsedMs;
    const room = Math.floor(cores - this.#others + largestTakenShare);
    const wanted = Math.max(1, Math.min(this.most, room));
    this.#looksWithRoom = wanted > this.#now ? this.#looksWithRoom + 1 : 0;
    if (wanted > this.#now && this.#looksWithRoom < looksBeforeMore) return;
    this.#now = wanted;
    this.#looksWithRoom = 0;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** What the system has counted so far, in steps of some 10 ms a core. */
export function readCpuTimes(): CpuTimes {
  const all = cpus();
  const allowed = allowedCpus().filter((index) => index < all.length);
  const used = allowed.length > 0 ? allowed.map((index) => all[index]) : all;
  const busyMs = used.reduce((sum, cpu) => {
    if (cpu === undefined) return sum;
    const { user, nice, sys, irq } = cpu.times;
    return sum + user + nice + sys + irq;
  }, 0);
  const { user, system } = process.cpuUsage();
  return { atMs: performance.now(), busyMs, ownMs: (user + system) / 1000 };
}

/** The cores that Linux lets this process use, where it is held to some; else none. */
function allowedCpus(): number[] {
  if (process.platform !== "linux") return [];
  const list = /^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "";
  return list.split(",").flatMap((range) => {
    const [first = 0, last = first] = range.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

import { readFileSync } from "node:fs";
import { cpus } from "node:os";

const lookMs = 250;
/** So many looks in a row must find room for more threads: about a second. */
const looksBeforeMore = 4;
/** Above this share of a core, other programs cost the graph's threads more than one of them gives. */
const largestTakenShare = 0.5;
/** Up to this share, the thread may come back: what lies in between changes nothing. */
const largestShareForMore = 0.3;

/** Times since the system, or the process, started, in ms. */
export interface CpuTimes {
  readonly atMs: number;
  /** How many cores this process may use. */
  readonly cores: number;
  /** Of all programs on them, summed over cores. */
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
export class ThreadCount {
  #now: number;
  #others = 0;
  #looksWithRoom = 0;
  #last: CpuTimes | undefined;

  constructor(
    readonly most: number,
    private readonly read: () => CpuTimes = readCpuTimes,
  ) {
    this.#now = most;
  }

  /** As decided when it last looked. */
  get now(): number {
    return this.#now;
  }

  /** What other programs used between the last two looks, in cores. */
  get othersCores(): number {
    return this.#others;
  }

  /** Decides anew from what happened since the last look, unless that was less than a quarter of a second ago. @returns `now` */
  look(): number {
    if (this.#last === undefined || performance.now() - this.#last.atMs >= lookMs) this.decide(this.read());
    return this.#now;
  }

  /** From what happened since the times before. */
  decide(times: CpuTimes): void {
    const last = this.#last;
    this.#last = times;
    const elapsedMs = times.atMs - (last?.atMs ?? times.atMs);
    if (last === undefined || elapsedMs <= 0) return;
    this.#others = Math.max(0, times.busyMs - last.busyMs - (times.ownMs - last.ownMs)) / elapsedMs;
    const roomWith = (share: number) =>
      Math.max(1, Math.min(this.most, Math.floor(times.cores - this.#others + share)));
    const more = roomWith(largestShareForMore);
    this.#looksWithRoom = more > this.#now ? this.#looksWithRoom + 1 : 0;
    const fewer = Math.min(this.#now, roomWith(largestTakenShare));
    this.#now = this.#looksWithRoom === looksBeforeMore ? more : fewer;
    if (this.#now === more) this.#looksWithRoom = 0;
  }
}

/** What the system has counted so far, in steps of some 10 ms a core. */
export function readCpuTimes(): CpuTimes {
  const all = process.platform === "linux" ? linuxCores() : undefined;
  const used = all ?? cpus().map(({ times: { user, nice, sys, irq } }) => user + nice + sys + irq);
  const { user, system } = process.cpuUsage();
  return {
    atMs: performance.now(),
    cores: used.length,
    busyMs: used.reduce((sum, busyMs) => sum + busyMs, 0),
    ownMs: (user + system) / 1000,
  };
}

/** Of Linux' clock that counts them. */
const tickMs = 10;

/**
 * How long each core that this process is held to was busy, in ms; undefined where the system does not tell. `cpus()` would ask each
 * core for its frequency too, and does not tell which cores they are.
 */
function linuxCores(): number[] | undefined {
  try {
    const allowed = /^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "";
    const ranges = allowed.split(",").map((range) => range.split("-").map(Number));
    const isAllowed = (core: number) => ranges.some(([first = 0, last = first]) => first <= core && core <= last);
    const busy: number[] = [];
    for (const [, core, counts = ""] of readFileSync("/proc/stat", "utf8").matchAll(/^cpu(\d+) (.+)$/gm)) {
      const [user = 0, nice = 0, system = 0, , , irq = 0, softIrq = 0] = counts.split(" ").map(Number);
      if (isAllowed(Number(core))) busy.push((user + nice + system + irq + softIrq) * tickMs);
    }
    return busy.length > 0 ? busy : undefined;
  } catch {
    return undefined;
  }
}

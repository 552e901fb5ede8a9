import { execFileSync } from "node:child_process";
import { availableParallelism, cpus } from "node:os";

/** The machine, the commit and the time, for the head of a result. */
export function describeRun(): string {
  const git = (...args: string[]): string => {
    try {
      return execFileSync("git", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    } catch {
      return "unknown";
    }
  };
  const changed = git("status", "--porcelain", "--untracked-files=no") === "" ? "" : " with changes";
  const cpu = cpus()[0]?.model.trim() ?? "unknown CPU";
  return `${availableParallelism()} cores of ${cpu}, Node ${process.versions.node}, commit ${git("rev-parse", "--short", "HEAD")}${changed}`;
}

/** A table in Markdown, numbers to the right. */
export function printTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const texts = [head, ...rows].map((row) => row.map(String));
  const widths = head.map((_, column) => Math.max(...texts.map((row) => (row[column] ?? "").length)));
  const line = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padStart(widths[i] ?? 0)).join(" | ")} |`;
  console.log(line(texts[0] as string[]));
  console.log(`| ${widths.map((width) => `${"-".repeat(width - 1)}:`).join(" | ")} |`);
  for (const row of texts.slice(1)) console.log(line(row));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** The value that `share` of all stay at or under: the nearest rank. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** A number among the benchmark's arguments. @throws RangeError for what is no whole number from 1 on. */
export function countArgument(name: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new RangeError(`Cannot run the benchmark: ${name} is "${text}", wanted a whole number from 1`);
}

/** Ids that differ from call to call and look like nothing, the same in every run. */
export class TokenSource {
  #state: number;

  constructor(
    private readonly vocabSize: number,
    seed = 1,
  ) {
    this.#state = seed >>> 0;
  }

  take(count: number): number[] {
    return Array.from({ length: count }, () => {
      // A linear congruential step; its upper bits are taken.
      this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
      return 16 + ((this.#state >>> 8) % (this.vocabSize - 16));
    });
  }

  /** Blocks of about 100 tokens that make up `total`. */
  passages(total: number, size = 100): number[][] {
    const blocks: number[][] = [];
    for (let left = total; left > 0; left -= size) blocks.push(this.take(Math.min(size, left)));
    return blocks;
  }
}
